# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Vertebrae of which the scan shows a piece: their bodies lie outside.

The network cannot tell their level, their neighbours can: what the border of
the scan cuts beyond L1 is T12. Whether it may be T13 the scan does not show.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from vf_jax.infer.facts import BORDER_MM
from vf_jax.infer.native import Region
from vf_jax.labels import BY_NAME, VERTEBRAE
from vf_jax.multispine.shapes import ends_of
from vf_jax.volume import Grid

_UPWARD = -1
_RARE = {BY_NAME["T13"].order, BY_NAME["L6"].order}
_ATLAS = BY_NAME["C1"].order
_LAST = {BY_NAME["L5"].order, BY_NAME["L6"].order}  # then comes the sacrum


def add_pieces(
  region: Region,
  pieces: tuple[bool, bool],
  levels: Int[np.ndarray, " bodies"],
  confidence: Float[np.ndarray, " bodies"],
  grid: Grid,
  scan: Grid,
) -> tuple[
  Int[np.ndarray, " instances"], Float[np.ndarray, " instances"], list[str]
]:
  """Adds the pieces of `Instances` to the levels of its bodies.

  Args:
    region: of the instances, on `grid`.
    pieces: whether the first and the last of them are pieces.
    levels: as for `name_pieces`.
    confidence: as for `name_pieces`.
    grid: of the network.
    scan: of the CT, oblique as it may be.

  Returns:
    As `name_pieces`.
  """
  last = len(levels) + sum(pieces)
  above, below = (
    touches_end(region, number, grid, scan) if is_piece else None
    for is_piece, number in zip(pieces, (1, last))
  )
  return name_pieces(levels, confidence, (above, below))


def name_pieces(
  levels: Int[np.ndarray, " bodies"],
  confidence: Float[np.ndarray, " bodies"],
  cut: tuple[bool | None, bool | None],
) -> tuple[
  Int[np.ndarray, " instances"], Float[np.ndarray, " instances"], list[str]
]:
  """Adds the pieces at both ends to the levels of the bodies.

  Args:
    levels: index into `VERTEBRAE` of each body from head to foot, -1 =
      rejected.
    confidence: of each.
    cut: of the piece above the first and of that below the last body: whether
      an end of the scan cuts it; None if there is no piece.

  Returns:
    Both with the pieces, each as sure as its neighbour; one that is no vertebra
    has -1. And sentences for people.
  """
  notes = []
  for side, step in ((0, _UPWARD), (-1, -_UPWARD)):
    if cut[side] is None or not len(levels):
      continue
    level = _beside(int(levels[side]), step)
    # Above C2 nothing else can be, cut or not.
    if level >= 0 and not cut[side] and level != _ATLAS:
      beside = VERTEBRAE[int(levels[side])].name
      notes.append(
        f"Bone {'below' if side else 'above'} {beside} that no end of the scan "
        "cuts was left out."
      )
      level = -1
    place = len(levels) if side else 0
    levels = np.insert(levels, place, level)
    confidence = np.insert(confidence, place, confidence[side])
  return levels, confidence, notes


def _beside(level: int, step: int) -> int:
  """The usual next level; -1 beside what is none, skull and sacrum."""
  if level < 0 or (step > 0 and level in _LAST):
    return -1
  level += step
  while level in _RARE:
    level += step
  return level if 0 <= level < len(VERTEBRAE) else -1


def touches_end(region: Region, number: int, grid: Grid, scan: Grid) -> bool:
  """Whether an instance reaches an end of the scan, towards head or feet.

  Args:
    region: of the instances, on `grid`.
    number: of the instance in its ids.
    grid: of the network.
    scan: of the CT, oblique as it may be.

  Returns:
    True if a voxel of it lies at such a border.
  """
  places = np.argwhere(region.ids == number) + region.start
  voxels = scan.to_voxel(grid.to_world(places[:, ::-1].astype(float)))
  near_mm = BORDER_MM + grid.spacing[0] / 2
  for axis in np.flatnonzero(ends_of(scan)).tolist():
    layers = max(1, math.ceil(near_mm / scan.spacing[axis]))
    line = voxels[:, axis]
    if (line < layers).any() or (line > scan.shape[axis] - 1 - layers).any():
      return True
  return False
