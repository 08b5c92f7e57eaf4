# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How many threads there are."""

from __future__ import annotations

import os

from vf_jax import threads


def test_cores_are_those_of_the_process_or_of_the_machine(monkeypatch):
  if hasattr(os, "sched_getaffinity"):
    assert threads.usable_cores() == len(os.sched_getaffinity(0))
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 7)
  assert threads.usable_cores() == 7
  monkeypatch.setattr(os, "cpu_count", lambda: None)
  assert threads.usable_cores() == 1


def test_a_pool_has_a_thread_a_core_at_most(monkeypatch):
  for cores, most, want in ((1, 4, 1), (3, 4, 3), (9, 4, 4)):
    monkeypatch.setattr(threads, "usable_cores", lambda cores=cores: cores)
    with threads.pool(most) as pool:
      assert pool._max_workers == want
