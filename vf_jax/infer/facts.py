# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What is measured of one vertebra, from a box around it.

Definitions and limits: docs/method.md. A fact that the scan shows only in part
keeps its number and is listed in `partial` with the reason; one that cannot be
measured is NaN and listed too. None is ever a silent 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Num
from scipy import ndimage

from vf_jax.infer.body_frame import BodyFrame, find_frame, plates
from vf_jax.infer.result import Vertebra, heights_ratio
from vf_jax.labels import BY_CODE, Level
from vf_jax.multispine.neighbours import skipped
from vf_jax.volume import Grid

BORDER_MM = 1.5
"""Bone this close to the end of the scan is taken as cut.

Whole layers of voxels count, as many as this holds, but one at least.
"""
_RIM_MM = 2.5  # cortex and partial volume left out of the core, + half a voxel
_LEAST_CORE_ML = 0.2
_STRIP_MM = 5.0  # half the width of the strip in which heights are taken
_ODD_MM = 3.0
# Bands of the body's depth from its front, in which heights are taken.
_BANDS = {
  "height_anterior_mm": (0.05, 0.20),
  "height_middle_mm": (0.42, 0.58),
  "height_posterior_mm": (0.80, 0.95),
}
CORE = ("core_ml", "core_mean_hu", "core_median_hu")
# Ratio -> the heights of this vertebra that it is made of.
_RATIOS = {
  "wedge_ratio": ("height_anterior_mm", "height_posterior_mm"),
  "biconcave_ratio": ("height_middle_mm", "height_posterior_mm"),
  "crush_ratio": ("height_posterior_mm",),
}
HEIGHTS = (*_BANDS, *_RATIOS)
_NAN = float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class VertebraBox:
  """A vertebra cut out of its scan.

  Attributes:
    mask: of this vertebra alone.
    hu: the CT in the same box, HU.
    grid: of the box.
    ends: for each array axis, layers of the scan before and behind the box.
  """

  mask: Bool[np.ndarray, "x y z"]
  hu: Num[np.ndarray, "x y z"]
  grid: Grid
  ends: tuple[tuple[int, int], ...]


def measure_vertebra(
  box: VertebraBox,
  level: Level,
  centre_mm: tuple[float, float, float],
  confidence: float,
  spine_up: Float64[np.ndarray, " 3"],
) -> Vertebra:
  """Measures one vertebra.

  Args:
    box: the vertebra.
    level: its level; C1 has no body, the dens stands on that of C2.
    centre_mm: centre of its body, about, mm RAS+.
    confidence: of the level, 0..1.
    spine_up: direction of the spine here, towards the head.

  Returns:
    The vertebra without its crush ratio, which needs the neighbours.
  """
  where = np.argwhere(box.mask)
  count = len(where)
  values = box.hu[box.mask].astype(np.float64)
  cut = _at_ends(box, where)
  beyond = _is_beyond(box, centre_mm)
  vertebra = Vertebra(
    level=level.name,
    code=level.code,
    centre_mm=centre_mm,
    confidence=confidence,
    complete=not (beyond or cut.any()),
    volume_ml=count * box.grid.voxel_volume_ml,
    mean_hu=float(values.mean()) if count else _NAN,
  )
  partial: dict[str, str] = {}
  if not vertebra.complete:
    reason = "the border of the scan cuts the vertebra"
    partial |= dict.fromkeys(("volume_ml", "mean_hu"), reason)
  if level.name == "C1":
    partial |= dict.fromkeys((*CORE, *HEIGHTS), "C1 has no body")
    return dataclasses.replace(vertebra, partial=partial)
  if beyond:
    reason = "the middle of the body lies outside the scan"
    partial |= dict.fromkeys((*CORE, *HEIGHTS), reason)
    return dataclasses.replace(vertebra, partial=partial)
  frame = find_frame(box.mask, box.grid, np.array(centre_mm, float), spine_up)
  if frame is None:
    reason = "no body with a front and a canal behind it is in the mask"
    partial |= dict.fromkeys((*CORE, *HEIGHTS), reason)
    return dataclasses.replace(vertebra, partial=partial)
  points = box.grid.to_world(where)
  local = frame.to_local(points)
  body_cut = bool((local[cut, 1] >= frame.wall_mm).any())
  if body_cut:
    reason = "the border of the scan cuts the body"
    partial = dict.fromkeys((*partial, *CORE, *HEIGHTS), reason)
  body = frame.body()
  core = _core(frame, body, box.grid)
  inside = _lookup(core, frame, local)
  core_ml = float(inside.sum() * box.grid.voxel_volume_ml)
  means: dict[str, float] = {}
  if core_ml < _LEAST_CORE_ML:
    reason = f"less than {_LEAST_CORE_ML} ml lies inside the cortex"
    partial |= dict.fromkeys(CORE, reason)
  else:
    means = {
      "core_ml": core_ml,
      "core_mean_hu": float(values[inside].mean()),
      "core_median_hu": float(np.median(values[inside])),
    }
  heights: dict[str, float] = {}
  if level.name == "C2":
    partial |= dict.fromkeys(HEIGHTS, "the dens stands on the body of C2")
  else:
    heights = body_heights(frame, body)
    for name, height in heights.items():
      if not np.isfinite(height):
        reason = "the mask shows no end plates there"
        names = [name, *(r for r, of in _RATIOS.items() if name in of)]
        partial |= dict.fromkeys(names, reason)
  measures: dict[str, Any] = {**means, **heights, "partial": partial}
  return dataclasses.replace(vertebra, **measures)


def body_heights(
  frame: BodyFrame, body: Bool[np.ndarray, "right front up"]
) -> dict[str, float]:
  """Anterior, middle and posterior height of a body.

  Means over the columns of a strip of 10 mm along the midline, in bands of the
  depth: 5-20 %, 42-58 % and 80-95 % from the front; columns more than 3 mm off
  their median are left out.

  Args:
    frame: the vertebra.
    body: its body, of `frame.body()`.

  Returns:
    Column name -> height, mm; NaN where half the columns are empty.
  """
  lower, upper = plates(frame, body)
  tall = upper - lower
  strip = np.abs(frame.nodes_mm(0)) <= _STRIP_MM
  share = (frame.front_mm - frame.nodes_mm(1)) / frame.depth_mm
  heights = {}
  for name, (first, last) in _BANDS.items():
    columns = tall[np.ix_(strip, (share >= first) & (share <= last))]
    seen = columns[np.isfinite(columns)]
    enough = columns.size and len(seen) >= columns.size / 2
    # The mean takes out the steps of the voxels, the bound osteophytes.
    usual = seen[np.abs(seen - np.median(seen)) <= _ODD_MM] if enough else seen
    heights[name] = float(usual.mean()) if enough else _NAN
  return heights


def spine_directions(
  centres_mm: Float64[np.ndarray, "vertebrae 3"],
) -> Float64[np.ndarray, "vertebrae 3"]:
  """Direction of the spine at each body, towards the head.

  Args:
    centres_mm: body centres from head to foot.

  Returns:
    Unit vectors: between the two neighbours, at the ends towards the one
    neighbour; straight up for a single body.
  """
  if len(centres_mm) < 2:
    return np.tile([0.0, 0.0, 1.0], (len(centres_mm), 1))
  padded = np.concatenate([centres_mm[:1], centres_mm, centres_mm[-1:]])
  ways = padded[:-2] - padded[2:]
  lengths = np.linalg.norm(ways, axis=1, keepdims=True)
  return np.where(lengths > 1.0, ways / np.maximum(lengths, 1e-6), (0, 0, 1.0))


def compare_neighbours(vertebrae: Sequence[Vertebra]) -> list[Vertebra]:
  """Sets the crush ratio of every vertebra.

  Args:
    vertebrae: of one spine, from head to foot.

  Returns:
    The same with `crush_ratio`: posterior height over the mean of those of
    the next level above and below, as far as they are there and measured in
    full.
  """
  heights = [
    _NAN if "height_posterior_mm" in v.partial else v.height_posterior_mm
    for v in vertebrae
  ]
  beside = [
    not skipped(BY_CODE[upper.code], BY_CODE[lower.code])
    for upper, lower in itertools.pairwise(vertebrae)
  ]
  rated = []
  for i, vertebra in enumerate(vertebrae):
    near = [
      heights[j]
      for j, gap in ((i - 1, i - 1), (i + 1, i))
      if 0 <= gap < len(beside) and beside[gap] and np.isfinite(heights[j])
    ]
    if near:
      crush = heights_ratio(vertebra.height_posterior_mm, float(np.mean(near)))
      rated.append(dataclasses.replace(vertebra, crush_ratio=crush))
      continue
    reason = {"crush_ratio": "no neighbour is measured in full"}
    partial = reason | dict(vertebra.partial)
    rated.append(dataclasses.replace(vertebra, partial=partial))
  return rated


def _core(frame: BodyFrame, body, grid: Grid):
  """The body without its rim; of several parts the largest."""
  rim = _RIM_MM + max(grid.spacing) / 2
  deep = ndimage.distance_transform_edt(np.pad(body, 1)) * frame.step_mm
  # The nearest node outside lies half a step beyond the surface.
  deep = deep[1:-1, 1:-1, 1:-1] - frame.step_mm / 2
  parts, count = ndimage.label(deep > rim)
  if count < 2:
    return parts > 0
  sizes = np.bincount(parts.ravel())
  sizes[0] = 0
  return parts == sizes.argmax()


def _lookup(core, frame: BodyFrame, local):
  """Whether each local point lies in the core."""
  shape = np.array(core.shape)
  index = np.rint(local / frame.step_mm).astype(int) + shape // 2
  near = ((index >= 0) & (index < shape)).all(axis=1)
  inside = np.zeros(len(local), bool)
  inside[near] = core[tuple(index[near].T)]
  return inside


def _is_beyond(box: VertebraBox, centre_mm) -> bool:
  """Whether a point lies outside the scan."""
  place = box.grid.to_voxel(np.array([centre_mm], float))[0]
  before, behind = np.array(box.ends).T
  low, high = -before - 0.5, np.array(box.mask.shape) + behind - 0.5
  return bool(((place < low) | (place > high)).any())


def _at_ends(box: VertebraBox, where) -> Bool[np.ndarray, " voxels"]:
  """Which voxels lie at an end of the scan."""
  cut = np.zeros(len(where), bool)
  for axis, (before, behind) in enumerate(box.ends):
    layers = max(1, int(BORDER_MM / box.grid.spacing[axis]))
    cut |= where[:, axis] < layers - before
    cut |= where[:, axis] >= box.mask.shape[axis] + behind - layers
  return cut
