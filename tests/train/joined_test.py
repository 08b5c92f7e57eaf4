# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`vf-jax train --distributed`: real processes, one run over all devices."""

from __future__ import annotations

import re
import signal
import time

import jax
import pytest
from cluster import cluster
from processes import Process, records

from vf_jax.io.lock import sole_writer
from vf_jax.train.checkpoint import write_weights
from vf_jax.train.state import init_state

pytestmark = pytest.mark.multiprocess

MESHES = {
  "data": "--config.mesh.data=2",
  "context": "--config.mesh.context=2",
}


@pytest.fixture
def join(programs, tmp_path):
  """Starts two processes of one device each on one run."""
  started = []

  def join(mesh: str, *arguments: str, name: str = "run") -> list[Process]:
    pair = [
      Process(
        tmp_path / name,
        programs / f"joined{number}",
        "--distributed",
        MESHES[mesh],
        *arguments,
        **{**one, "JAX_NUM_CPU_DEVICES": "1"},
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",  # programs run once or twice
      )
      for number, one in enumerate(cluster(2))
    ]
    started.extend(pair)
    return pair

  # A shell has its background jobs ignore Ctrl-C, and these those they start.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield join
  signal.signal(signal.SIGINT, before)
  for process in started:
    process.popen.kill()
    process.popen.communicate()


def numbers(workdir):
  return {
    step: {name: float(value) for name, value in record.items()}
    for step, record in records(workdir).items()
  }


@pytest.mark.parametrize(
  "mesh",
  # The other way round: both processes hold the same crops.
  ["data", pytest.param("context", marks=pytest.mark.slow)],
)
def test_two_processes_train_as_one(
  mesh, uninterrupted, join, test_config, tmp_path
):
  # From weights that are just what would be drawn.
  weights = tmp_path / "weights"
  drawn = jax.jit(lambda: init_state(test_config).params)()
  write_weights(test_config, drawn, weights)
  pair = join(mesh, f"--config.train.init={weights}")
  assert [process.wait() for process in pair] == [0, 0], pair[0].stderr
  assert all("finished at step 20" in process.stdout for process in pair)
  expected, found = numbers(uninterrupted.workdir), numbers(tmp_path / "run")
  assert list(found) == list(expected)
  for step, record in expected.items():
    assert found[step] == pytest.approx(record, rel=2e-3, abs=1e-4)
  assert found[2] == pytest.approx(expected[2], rel=1e-4, abs=1e-6)
  # One of them writes and tells.
  assert "loss" in pair[0].stderr
  assert "loss" not in pair[1].stderr


@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_a_signal_to_one_stops_both_and_they_go_on(
  number, uninterrupted, join, tmp_path
):
  pair = join("data")
  pair[0].until_step(2)
  pair[1].popen.send_signal(number)
  assert [process.wait() for process in pair] == [130, 130], pair[1].stderr
  steps = {
    int(re.search(r"stopped, .* at step (\d+):", process.stdout)[1])
    for process in pair
  }
  (step,) = steps
  assert 2 <= step < 20
  assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
  again = join("data")
  assert [process.wait() for process in again] == [0, 0], again[0].stderr
  expected, found = numbers(uninterrupted.workdir), numbers(tmp_path / "run")
  assert found[20] == pytest.approx(expected[20], rel=2e-3, abs=1e-4)


def test_an_error_in_one_ends_both_soon(join, tmp_path):
  """Without the 300 s that JAX would have each wait for the other."""
  with sole_writer(tmp_path / "run"):
    pair = join("data")
    while "is being written by another run" not in pair[0].stderr:
      assert pair[0].popen.poll() is None, pair[0].stderr
      time.sleep(0.1)
    failed = time.monotonic()
    assert all(process.wait() for process in pair)
  assert time.monotonic() - failed < 30


def test_without_a_cluster_it_says_so_and_writes_nothing(programs, tmp_path):
  process = Process(tmp_path / "run", programs, "--distributed")
  assert process.wait() == 2
  (line,) = process.stderr.splitlines()
  assert line.startswith("vf-jax: --distributed finds no cluster (")
  assert "--shard" not in line  # which `train` does not have
  assert not (tmp_path / "run").exists()
