# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Every case falls to one process of one run."""

from __future__ import annotations

import itertools

import jax

from vf_jax.parallel.processes import split_further


def test_a_lone_process_takes_the_share_of_its_run():
  assert split_further((2, 3)) == (2, 3)


def test_processes_of_all_runs_take_different_shares(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  shares = []
  for run, process in itertools.product((1, 2, 3), range(4)):
    monkeypatch.setattr(jax, "process_index", lambda index=process: index)
    shares.append(split_further((run, 3)))
  assert sorted(shares) == [(number, 12) for number in range(1, 13)]
