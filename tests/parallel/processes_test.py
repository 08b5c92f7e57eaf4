# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Every case, and every row of a batch, falls to one process of one run."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import pytest

from vf_jax.config import MeshConfig
from vf_jax.errors import ConfigError
from vf_jax.parallel import sharding
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.processes import join, split_further

MESH = MeshConfig(data=1, fsdp=1, tensor=1, context=1)


def test_a_lone_process_takes_the_share_of_its_run():
  assert split_further((2, 3)) == (2, 3)


def test_processes_of_all_runs_take_different_shares(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  shares = []
  for run, process in itertools.product((1, 2, 3), range(4)):
    monkeypatch.setattr(jax, "process_index", lambda index=process: index)
    shares.append(split_further((run, 3)))
  assert sorted(shares) == [(number, 12) for number in range(1, 13)]


def test_who_joins_waits_at_its_exit_for_seconds(monkeypatch):
  seen = {}

  def newest(num_processes, process_id, shutdown_timeout_seconds=300):
    seen["newest"] = shutdown_timeout_seconds

  def other(num_processes, process_id):
    seen["other"] = (num_processes, process_id)

  for initialize in (newest, other):
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    join()
  assert seen == {"newest": 10, "other": (None, None)}


class _Rows:
  """Sharding of a batch over the devices of several processes."""

  def __init__(self, *rows):
    self._rows = rows

  def devices_indices_map(self, shape):
    del shape
    return {
      _Device(process, number): (slice(*place),)
      for process, places in enumerate(self._rows)
      for number, place in enumerate(places)
    }


class _Device(NamedTuple):
  process_index: int
  number: int


@pytest.mark.parametrize(
  ("rows", "read"),
  [
    ([[(None, None)]], ["01234567"]),  # one process
    ([[(None, None)], [(None, None)]], ["01234567"] * 2),  # all share crops
    ([[(0, 2), (2, 4)], [(4, 6), (6, 8)]], ["0123", "4567"]),
    ([[(0, 4), (0, 4)], [(4, 8), (4, 8)]], ["0123", "4567"]),
    # As the rings of a torus of TPUs lie.
    ([[(0, 2), (4, 6)], [(2, 4), (6, 8)]], ["0145", "2367"]),
    ([[(0, 2), (6, 8)], [(0, 2), (6, 8)], [(2, 6)]], ["0167"] * 2 + ["2345"]),
  ],
)
def test_a_process_reads_what_its_devices_hold(monkeypatch, rows, read):
  monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: _Rows(*rows))
  mesh = make_mesh(MESH)
  for process, own in enumerate(read):
    monkeypatch.setattr(jax, "process_index", lambda index=process: index)
    assert sharding.data_rows(mesh, 8) == tuple(map(int, own))


@pytest.mark.parametrize(
  "rows",
  [
    [[(0, 4), (2, 6)], [(4, 8)]],  # two processes share some rows
    [[(0, 2)], [(2, 8)]],  # one has more
  ],
)
def test_rows_that_are_no_share_are_refused(monkeypatch, rows):
  monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: _Rows(*rows))
  with pytest.raises(ConfigError, match="hold are no share of it"):
    sharding.data_rows(make_mesh(MESH), 8)
