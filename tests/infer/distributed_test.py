# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`vf-jax predict --distributed`, in processes that meet over localhost."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import signal
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from cluster import alone, cluster

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = pathlib.Path(__file__).with_name("quick_command.py")


@pytest.fixture
def start(test_config, tmp_path):
  """Starts the command on three CTs, with variables of the environment."""
  config = tmp_path / "config.json"
  config.write_text(json.dumps(test_config.to_dict()))
  hu = np.random.default_rng(0).normal(0, 50, (6, 6, 8)).astype(np.int16)
  for name in "abc":
    image = nibabel.Nifti1Image(hu, np.diag([3.0, 3, 3, 1]))
    nibabel.save(image, tmp_path / f"{name}.nii")
  started = []

  def start(*arguments, **variables):
    process = subprocess.Popen(
      [
        *(sys.executable, str(COMMAND), str(config), "predict"),
        *("a.nii", "b.nii", "c.nii", "--out", "out", *arguments),
      ],
      env={
        **alone(),
        **{"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        **variables,
      },
      cwd=tmp_path,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.multiprocess
def test_two_processes_divide_the_cases(start, tmp_path):
  pair = [start("--distributed", **one) for one in cluster(2)]
  for process, mine in zip(pair, ("ac", "b")):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.findall(r"(\w): L3", out) == list(mine)
  with (tmp_path / "out" / "summary.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [(row["case"], row["state"]) for row in rows] == [
    ("a", "done"), ("b", "done"), ("c", "done")
  ]  # fmt: skip


@pytest.mark.multiprocess
def test_none_waits_for_the_slowest_and_each_can_be_stopped(start):
  one, two = cluster(2)
  first = start("--distributed", **one)
  second = start("--distributed", LOADING_SECONDS="600", **two)
  _, err = first.communicate(timeout=120)
  assert first.returncode == 0, err
  assert second.poll() is None
  second.send_signal(signal.SIGTERM)
  _, err = second.communicate(timeout=60)
  assert (second.returncode, err) == (130, "vf-jax: interrupted\n")


def test_without_a_cluster_it_says_so(start):
  process = start("--distributed")
  _, err = process.communicate(timeout=120)
  assert process.returncode == 2
  (line,) = err.splitlines()
  assert line.startswith("vf-jax: --distributed finds no cluster (")
  assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in line
