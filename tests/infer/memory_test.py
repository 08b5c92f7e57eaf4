# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the number of slices (docs/operations.md).

The full size, with the network, is `benchmarks/scan_length.py`.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vf_jax.scratch import ON_DISK

ROOT = pathlib.Path(__file__).parents[2]
CEILING = 1.15
# What docs/operations.md states for 512 x 512 pixels and 1,200 slices of 1 mm,
# with the network: this scan has a quarter of the voxels, a third the length.
CEILING_MIB = 717


def test_four_times_the_slices_take_no_more_memory(test_config, tmp_path):
  config = tmp_path / "config.json"
  config.write_text(json.dumps(test_config.to_dict()))
  done = subprocess.run(
    [
      sys.executable,
      str(pathlib.Path(__file__).with_name("long_scan.py")),
      str(tmp_path),
      str(config),
    ],
    env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  short, long = json.loads(done.stdout.splitlines()[-1])
  # What one array too many would add, 150 MiB, must not go unseen.
  assert long["slices"] * 320 * 320 * 2 > 2 * ON_DISK
  assert long["peak_mib"] <= CEILING * short["peak_mib"]
  assert long["peak_mib"] <= CEILING_MIB
  ball = 4 / 3 * np.pi * 12**3 / 1000
  for found in (short, long):
    whole = found["slices"] * 0.5 / 30
    assert abs(found["vertebrae"] - whole) <= 1
    inner = found["volumes"][1:-1]
    assert inner == pytest.approx([ball] * len(inner), rel=0.12)
