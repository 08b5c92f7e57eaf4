# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Does a mask lie on its image? From the headers, then from the bone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float64, Int64

from vf_jax.multispine.checks.findings import Finding
from vf_jax.multispine.shapes import labelled_points
from vf_jax.volume import Grid, Reorientation, Volume, axis_codes, reorient

_SAMPLE = 30_000
_LOW_HU, _HIGH_HU = -200.0, 800.0
_CLEARLY_HU = 100.0
_BONE_HU = 90.0
_SAME_MM = 1e-3
_SAME_VOXELS = 0.1  # what rounding in a header may move a corner by
_ALL = tuple(
  Reorientation((a, b, 3 - a - b), (f, g, h))
  for a, b in itertools.permutations(range(3), 2)
  for f, g, h in itertools.product((False, True), repeat=3)
)
_AS_STORED = Reorientation((0, 1, 2), (False, False, False))


@dataclasses.dataclass(frozen=True)
class Overlap:
  """How well a mask covers bone, turned in some way.

  Attributes:
    turn: of the array of the mask.
    hu: mean of the image under the mask, clipped to -200..800 HU.
  """

  turn: Reorientation
  hu: float


def check_alignment(image: Volume, labels: Volume) -> list[Finding]:
  """Compares the grids, and the mask with the bone it should cover.

  Args:
    image: CT, HU.
    labels: VerSe codes on the mask's own grid.

  Returns:
    Nothing if the mask lies on its image.
  """
  overlaps = rank_turns(image, labels)
  apart = image.grid.apart_mm(labels.grid)
  if apart <= _SAME_MM:
    return _check_bone(overlaps)
  if apart <= rounding_mm(image.grid):
    text = (
      f"the corners of the mask's grid lie up to {apart:.2g} mm off the"
      " image's, less than a tenth of a voxel: taken for rounding in a header."
    )
    return [Finding("note", "mask_rounded", text), *_check_bone(overlaps)]
  found = f"the mask is not on the image's grid: {_describe(image, labels)}."
  share, hu = _by_headers(image, labels)
  most = overlaps[0].hu if overlaps else -np.inf
  if most >= _BONE_HU and most - hu >= _CLEARLY_HU:
    against = f"{hu:.0f} HU where its header puts it"
    found += f" {_in_words(overlaps, against)}: the header is wrong."
    return [Finding("error", "mask_header", found)]
  if hu >= _BONE_HU:
    found += (
      f" By the headers {share:.0%} of it lie in the image and cover bone"
      f" ({hu:.0f} HU): it may be resampled."
    )
  else:
    found += " Neither by its header nor by its array does it cover bone."
  return [Finding("error", "mask_grid", found)]


def rounding_mm(grid: Grid) -> float:
  """How far off a grid may be and still be meant for this one.

  Headers hold single precision or rounded text; a shift below a tenth of a
  voxel moves no label to another voxel.

  Args:
    grid: of the image.

  Returns:
    A tenth of its smallest voxel edge, mm.
  """
  return _SAME_VOXELS * min(grid.spacing)


def turned_like(
  labels: Volume, grid: Grid, tolerance_mm: float = _SAME_MM
) -> Volume | None:
  """Turns a mask that was stored with other axes than its image.

  Args:
    labels: VerSe codes.
    grid: of the image.
    tolerance_mm: how far apart the grids' corners may lie.

  Returns:
    The mask on the grid; None if it is another one. No voxel is changed.
  """
  turned = reorient(labels, axis_codes(grid.affine))
  return turned if turned.grid.same_as(grid, tolerance_mm) else None


def rank_turns(image: Volume, labels: Volume) -> list[Overlap]:
  """Lays a mask's array on the image's array in all 48 ways.

  Args:
    image: CT, HU.
    labels: VerSe codes.

  Returns:
    Every way in which the shapes agree, the one with the most bone first.
  """
  points = _some_points(labels)
  if not len(points):
    return []
  shape = np.array(labels.voxels.shape)
  ranked = []
  for turn in _ALL:
    axes = list(turn.axes)
    if tuple(shape[axes].tolist()) != image.voxels.shape:
      continue
    there = points[:, axes]
    there = np.where(turn.flips, shape[axes] - 1 - there, there)
    ranked.append(Overlap(turn, _mean_hu(image, there)))
  return sorted(ranked, key=lambda overlap: -overlap.hu)


def _some_points(labels: Volume) -> Int64[np.ndarray, "points 3"]:
  points = labelled_points(labels.voxels)
  return points[:: max(1, len(points) // _SAMPLE)]


def _mean_hu(image: Volume, places: Int64[np.ndarray, "points 3"]) -> float:
  hu = image.voxels[tuple(places.T)].astype(np.float64)
  hu = np.clip(np.nan_to_num(hu, nan=_LOW_HU), _LOW_HU, _HIGH_HU)
  return float(hu.mean())


def _by_headers(image: Volume, labels: Volume) -> tuple[float, float]:
  """Share of the mask that lies in the image by the headers, and its HU."""
  points = _some_points(labels)
  if not len(points):
    return 0.0, _LOW_HU
  there = image.grid.to_voxel(labels.grid.to_world(points))
  index = np.rint(there).astype(np.int64)
  inside = ((index >= 0) & (index < image.grid.shape)).all(axis=1)
  if not inside.any():
    return 0.0, _LOW_HU
  return float(inside.mean()), _mean_hu(image, index[inside])


def _check_bone(overlaps: list[Overlap]) -> list[Finding]:
  """Judges a mask whose header agrees with that of the image."""
  if not overlaps:
    return []
  hu = _hu_of(overlaps, _AS_STORED)
  assert hu is not None, "equal grids have equal shapes"
  if overlaps[0].hu >= _BONE_HU and not _is_near(overlaps, _AS_STORED):
    against = f"{hu:.0f} HU as it is stored"
    text = f"the mask lies beside the bone. {_in_words(overlaps, against)}."
    return [Finding("error", "mask_turned", text)]
  if hu < _BONE_HU:
    text = f"the mean under the mask is {hu:.0f} HU, less than bone has."
    return [Finding("warning", "mask_off_bone", text)]
  return []


def _hu_of(overlaps: list[Overlap], turn: Reorientation) -> float | None:
  return next((o.hu for o in overlaps if o.turn == turn), None)


def _is_near(overlaps: list[Overlap], turn: Reorientation) -> bool:
  """Whether a turn covers about as much bone as the best one."""
  hu = _hu_of(overlaps, turn)
  return hu is not None and overlaps[0].hu - hu < _CLEARLY_HU


def _in_words(overlaps: list[Overlap], against: str) -> str:
  """What turn of the array would bring the mask onto bone."""
  best = overlaps[0]
  steps = []
  if best.turn.axes != _AS_STORED.axes:
    steps.append(f"its axes taken in the order {best.turn.axes}")
  flipped = [str(i) for i, flip in enumerate(best.turn.flips) if flip]
  if flipped:
    steps.append(f"axis {' and '.join(flipped)} reversed")
  text = f"With {' and then '.join(steps) or 'the array as it is'}, on the"
  text += f" image's header, it covers bone: {best.hu:.0f} HU against {against}"
  if len(overlaps) > 1 and best.hu - overlaps[1].hu < _CLEARLY_HU:
    text += " (another turn is nearly as good: look at it)"
  return text


def _letters(volume: Volume) -> str:
  return "".join(volume.axis_codes)


def _describe(image: Volume, labels: Volume) -> str:
  """In what two grids differ, and by how much."""
  ours, theirs = labels.grid, image.grid
  parts = []
  if ours.shape != theirs.shape:
    parts.append(f"shape {ours.shape} instead of {theirs.shape}")
  if ours.axis_codes != theirs.axis_codes:
    parts.append(f"axes {_letters(labels)} instead of {_letters(image)}")
  spacing = [np.array(grid.spacing) for grid in (ours, theirs)]
  if not np.allclose(spacing[0], spacing[1], rtol=1e-3):
    shown = [" x ".join(f"{v:.4g}" for v in row) for row in spacing]
    parts.append(f"spacing {shown[0]} instead of {shown[1]} mm")
  middle = [_middle(grid) for grid in (ours, theirs)]
  away = float(np.linalg.norm(middle[0] - middle[1]))
  if away > 0.05:
    parts.append(f"its middle lies {away:.1f} mm away")
  apart = ours.apart_mm(theirs)
  return "; ".join(parts) or f"its corners lie up to {apart:.2f} mm away"


def _middle(grid: Grid) -> Float64[np.ndarray, " 3"]:
  return grid.to_world((np.array(grid.shape, float)[None] - 1) / 2)[0]
