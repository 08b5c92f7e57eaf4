# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Predicts a short and a long scan; prints the peaks of resident memory.

A process of its own, because a peak never falls. The network is a formula, so
that all memory is that of what is around it.

    long_scan.py FOLDER CONFIG_JSON
"""

from __future__ import annotations

import functools
import json
import pathlib
import resource
import sys

import numpy as np

from vf_jax.config import from_dict
from vf_jax.infer.cases import predict_file
from vf_jax.infer.network import Network
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.sweep import WindowOutputs
from vf_jax.io import nifti
from vf_jax.report.page import write_report
from vf_jax.scratch import empty, release, share_heaps
from vf_jax.volume import Grid

EDGE, PIXEL_MM = 320, 0.5
STEP_MM = 30.0


class Formula(Network):
  """Bone is what is dense, and votes for where it is; levels by number."""

  def forward(self, block, spacing):
    hu = block.astype(np.float32)
    cells = tuple(n // 4 for n in block.shape[1:])
    return WindowOutputs(
      logits=np.clip((hu - 200) / 20, -9, 9),
      offsets=np.zeros((*block.shape, 3), np.float32),
      lesions=np.full((len(block), *cells, 7), -5, np.float32),
    )

  def evidence(self, params, block, spacing, points, mask):
    return np.zeros((*mask.shape, 1), np.float32)

  def chain(self, params, rows, points_mm, mask):
    count = int(mask.sum())
    levels = np.full(mask.shape, -1)
    levels[0, :count] = np.arange(count) % 24
    return levels, np.ones(mask.shape, np.float32)


class Dense(Predictor):
  """The predictor around it."""

  @functools.cached_property
  def network(self):
    return Formula(self.config, self.params)


def make_scan(path: pathlib.Path, slices: int) -> None:
  """Writes a body of 0.5 mm voxels with a ball of bone every 30 mm."""
  shape = (EDGE, EDGE, slices)
  x, y = np.ogrid[:EDGE, :EDGE]
  away = np.hypot(x - EDGE / 2, y - EDGE / 2) * PIXEL_MM
  noise = np.random.default_rng(0).normal(0, 10, (EDGE, EDGE))
  voxels = empty(shape, np.int16)
  for place in range(slices):
    height = (place * PIXEL_MM) % STEP_MM - STEP_MM / 2
    hu = np.where(away < 70, 40.0, -1000.0) + noise
    hu[np.hypot(away, height) < 12] = 500
    voxels[:, :, place] = hu
    release(voxels)  # What is measured is the prediction.
  affine = np.diag([PIXEL_MM, PIXEL_MM, PIXEL_MM, 1.0])
  nifti.write(path, voxels, like=Grid(shape, affine))


def peak_mib() -> float:
  """Of resident memory.

  NOTE: on Linux `ru_maxrss` begins at what the process that started this one
  had in memory, which may be more than all that happens here.
  """
  if sys.platform == "darwin":
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
  status = pathlib.Path("/proc/self/status").read_text()
  (line,) = (row for row in status.splitlines() if row.startswith("VmHWM:"))
  return int(line.split()[1]) / (1 << 10)


def main() -> None:
  """Prints JSON."""
  folder = pathlib.Path(sys.argv[1])
  config = from_dict(json.loads(pathlib.Path(sys.argv[2]).read_text()))
  share_heaps()  # as the command does
  predictor = Dense(config=config, params={}, digest="0" * 64)
  found = []
  for slices in (192, 768):
    path = folder / f"s{slices}.nii"
    make_scan(path, slices)
    result = predict_file(predictor, path, folder / "out", write_report)
    path.unlink()
    found.append(
      {
        "slices": slices,
        "peak_mib": peak_mib(),
        "vertebrae": len(result.vertebrae),
        "volumes": [v.volume_ml for v in result.vertebrae],
      }
    )
    del result
  print(json.dumps(found))


if __name__ == "__main__":
  main()
