# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Small spines as files: boxes of 12 x 12 x 16 mm, 20 mm apart."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from vf_jax.io import nifti
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.lesions import LesionRecord, write_lesions
from vf_jax.labels import BY_CODE
from vf_jax.volume import Grid

SPACING = (2.0, 2.0, 4.0)
SHAPE = (16, 18, 30)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = (-16, 5, 40)
GRID = Grid(SHAPE, AFFINE)
CODES = (24, 23, 22, 21, 20)  # L5 below, L1 above


def spine(codes=CODES, first=2, side=0):
  """A mask: one box a code from below, `first` and `side` in voxels."""
  mask = np.zeros(SHAPE, np.uint8)
  for number, code in enumerate(codes):
    low = first + 5 * number
    mask[5 + side : 11 + side, 6:12, max(low, 0) : low + 4] = code
  return mask


def middles(mask):
  """Level -> centre of its box, mm."""
  return {
    BY_CODE[code]: tuple(
      GRID.to_world(np.argwhere(mask == code).mean(axis=0)[None])[0].tolist()
    )
    for code in np.unique(mask).tolist()
    if code not in (0, 255)
  }


@dataclasses.dataclass
class Folder:
  """A folder that cases are written to."""

  root: pathlib.Path

  def add(
    self, name, mask=None, points="from mask", lesions=None, grid=GRID
  ) -> None:
    """Writes a case as `vf-jax predict` does."""
    folder = self.root / name
    folder.mkdir(parents=True, exist_ok=True)
    if mask is not None:
      nifti.write(folder / f"{name}_seg-vert_msk.nii.gz", mask, like=grid)
      if points == "from mask":
        points = middles(mask)
      if points is not None:
        path = folder / f"{name}_seg-vb_ctd.json"
        write_centroids(path, Centroids(points), grid)
    if lesions is not None:
      write_lesions(
        folder / f"{name}_lesions.json",
        [LesionRecord(c, (8.0,) * 3, s, None) for c, s in lesions],
      )
