# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Vertebrae cut by the field of view, made alike across sources.

CTSpine1K and TotalSegmentator annotate them, VerSe does not. Where they are
bone without a label, losses and metrics must not count them as background:
the space of the one vertebra that lies cut beyond the last annotated one
becomes `labels.IGNORE`. Its level follows from its neighbour's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from vf_jax.labels import BY_CODE, BY_NAME, IGNORE, SACRUM, Level
from vf_jax.multispine.neighbours import (
  next_above,
  next_below,
  skipped,
  usual_distance,
)

Triple = tuple[float, float, float]
Contains = Callable[[np.ndarray], np.ndarray]

# Reach of a vertebra from its body's centre in an average adult, mm, with a
# margin of a tenth for the error of the axis: (to either side, to the front,
# to the back).
#
# Source: 29 annotated neighbours of sub-verse004, sub-verse010 and
# malekosh's sub-sample001, each predicted from the others by the axis below;
# for the neck, our estimate.
_REACH_MM = {
  "cervical": (42.0, 24.0, 66.0),
  "thoracic": (44.0, 28.0, 60.0),
  "lumbar": (58.0, 28.0, 84.0),
}
_CANAL_MM = 15.0  # behind the centre of a body the arch begins
_BODY_FROM = 0.25  # of the distance to the next centre: its endplate's rim
_ARCH_FROM_MM = -16.0  # how far its processes reach past our centre
_WIDENING = 0.15  # of the tube, for each mm beyond the next centre
_POOR_AXIS = 1.25  # wider if fewer than three centres give the bend
_WHOLE = 1.6  # its processes reach to 2.1 distances from our centre
_SPARE = 1.25
_SLAB = 32


@dataclasses.dataclass(frozen=True)
class FreeEnd:
  """One end of an annotation beyond which vertebrae go on.

  Attributes:
    end: 'top' or 'bottom'.
    last: the last annotated level there.
    next: the level beyond it.
    room_mm: length of the axis from half-way between the two to the border of
      the scan; negative if the border comes before.
    usual_mm: height of the next vertebra in this patient.
  """

  end: Literal["top", "bottom"]
  last: str
  next: str
  room_mm: float
  usual_mm: float

  @property
  def whole(self) -> bool:
    """Whether a whole vertebra with its processes would fit there."""
    return self.room_mm > _WHOLE * self.usual_mm


@dataclasses.dataclass(frozen=True, eq=False)
class _Axis:
  """The spine prolonged over one end, in mm RAS+."""

  end: FreeEnd
  level: Level
  origin: Float64[np.ndarray, " 3"]
  along: Float64[np.ndarray, " 3"]
  right: Float64[np.ndarray, " 3"]
  front: Float64[np.ndarray, " 3"]
  gap_mm: float
  reach_mm: float
  width: float  # of the tube over that of an average adult


def ignore_unannotated_ends(
  labels: UInt8[np.ndarray, "depth height width"],
  spacing_mm: float,
  centres: Mapping[int, Triple],
  inside: Bool[np.ndarray, "depth height width"] | None = None,
) -> tuple[UInt8[np.ndarray, "depth height width"], tuple[FreeEnd, ...]]:
  """Takes the place of vertebrae that are cut and not annotated out of play.

  For sources that do not annotate 'cut_vertebrae'. From the last annotated
  vertebra the spine is prolonged with its bend, and what lies within reach of
  a vertebra and its processes around that axis becomes unknown, up to the
  border of the scan. Annotated voxels stay as they are. Nothing is done above
  C1, below L5 and L6, or if the sacrum is annotated.

  Args:
    labels: VerSe codes on a world-aligned RAS+ grid (depth up, height to the
      front, width to the right).
    spacing_mm: voxel edge, mm.
    centres: body centres, VerSe code -> voxels (depth, height, width).
    inside: where the array holds scan; all of it if None.

  Returns:
    New labels with 255 in the marked voxels, and the ends that were open;
    those with `whole` deserve a look.

  Raises:
    ValueError: `inside` is not of the shape of the labels.
  """
  if inside is not None and inside.shape != labels.shape:
    raise ValueError(f"inside {inside.shape} is not like {labels.shape}")
  points = {
    code: (w * spacing_mm, h * spacing_mm, d * spacing_mm)
    for code, (d, h, w) in centres.items()
  }
  codes = {int(c) for c in np.unique(labels)} & set(BY_CODE)
  for code in codes - set(points) - {SACRUM.code}:
    points[code] = _rough_centre(labels == code, spacing_mm)

  def contains(places: Float64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    index = np.rint(places[:, ::-1] / spacing_mm).astype(int)
    valid: np.ndarray = np.all((index >= 0) & (index < labels.shape), axis=1)
    if inside is not None:
      valid[valid] = inside[tuple(index[valid].T)]
    return valid

  result = labels.copy()
  axes = _axes({c: p for c, p in points.items() if c in codes}, codes, contains)
  for axis in axes:
    _mark(result, axis, spacing_mm, inside)
  return result, tuple(axis.end for axis in axes)


def find_open_ends(
  centres: Mapping[int, Triple], codes: set[int], contains: Contains
) -> tuple[FreeEnd, ...]:
  """Finds the ends of an annotation beyond which the spine goes on.

  Args:
    centres: VerSe code -> centre, mm RAS+.
    codes: every annotated level, with 26 if the sacrum is.
    contains: points `(n, 3)` in mm RAS+ -> whether each is in the scan.

  Returns:
    The upper end, then the lower end; without those that are known to end.
  """
  return tuple(axis.end for axis in _axes(centres, codes, contains))


def _rough_centre(mask, spacing_mm) -> Triple:
  """A body's centre for a vertebra that is too poor to have one."""
  d, h, w = (axis.mean() * spacing_mm for axis in np.nonzero(mask))
  return float(w), float(h + 10.0), float(d)


def _axes(centres, codes, contains) -> list[_Axis]:
  levels = sorted(
    (BY_CODE[c] for c in centres if c != SACRUM.code), key=lambda v: v.order
  )
  if not levels:
    return []
  points = np.array([centres[v.code] for v in levels], float)
  ratios = [
    np.linalg.norm(points[i] - points[i + 1])
    / usual_distance(levels[i], levels[i + 1], "body")
    for i in range(len(levels) - 1)
    if not skipped(levels[i], levels[i + 1])
  ]
  scale = float(np.clip(np.median(ratios), 0.6, 1.4)) if ratios else 1.0
  axes = []
  if (level := next_above(codes)) is not None:
    axes.append(_axis("top", levels, points, level, scale, contains))
  if (level := next_below(codes)) is not None:
    axes.append(
      _axis("bottom", levels[::-1], points[::-1], level, scale, contains)
    )
  return axes


def _axis(end, levels, points, level, scale, contains) -> _Axis:
  """Prolongs the spine; `levels` and `points` begin at the end in question."""
  along = _direction(points, up=end == "top")
  right = np.array([1.0, 0.0, 0.0])
  right -= along * (right @ along)
  right /= np.linalg.norm(right)
  front = np.cross(along, right)
  front *= np.sign(front[1]) or 1.0
  last = levels[0]
  upper, lower = (level, last) if end == "top" else (last, level)
  gap = usual_distance(upper, lower, "body") * scale
  if end == "top":
    rest = usual_distance(BY_NAME["C1"], last, "body") + 20.0
  else:
    rest = 2 * usual_distance(BY_NAME["L5"], BY_NAME["L6"], "body")
    rest += usual_distance(last, BY_NAME["L5"], "body")
  reach = _SPARE * scale * rest
  steps = np.arange(0.0, reach, 0.5)
  out = np.flatnonzero(~contains(points[0] + steps[:, None] * along))
  border = float(steps[out[0]]) if len(out) else float(steps[-1])
  facts = FreeEnd(end, last.name, level.name, border - gap / 2, gap)
  width = scale * (_POOR_AXIS if len(levels) < 3 else 1.0)
  return _Axis(facts, level, points[0], along, right, front, gap, reach, width)


def _direction(points, up) -> Float64[np.ndarray, " 3"]:
  """Where the spine goes on: its last step, bent as much as that one was."""
  straight = np.array([0.0, 0.0, 1.0 if up else -1.0])
  steps = [points[i] - points[i + 1] for i in range(min(len(points) - 1, 2))]
  steps = [s / n for s in steps if (n := np.linalg.norm(s)) > 1e-6]
  if not steps or steps[0] @ straight <= 0.3:
    return straight
  along = steps[0]
  if len(steps) == 2:
    along = along + 0.5 * (steps[0] - steps[1])
  return along / np.linalg.norm(along)


def _mark(labels, axis, spacing_mm, inside) -> None:
  """Writes IGNORE into the background around a prolonged axis, in place."""
  side, fore, back = (v * axis.width for v in _REACH_MM[axis.level.region])
  widest = side + fore + back + _WIDENING * axis.reach_mm
  low, high = _ARCH_FROM_MM, axis.reach_mm
  ends = axis.origin[2] + axis.along[2] * np.array([low, high])
  depth = np.array([ends.min() - widest, ends.max() + widest]) / spacing_mm
  first = int(np.clip(depth[0], 0, labels.shape[0]))
  last = int(np.clip(depth[1] + 1, 0, labels.shape[0]))
  height = np.arange(labels.shape[1], dtype=np.float32)[:, None] * spacing_mm
  width = np.arange(labels.shape[2], dtype=np.float32) * spacing_mm
  for start in range(first, last, _SLAB):
    slab = slice(start, min(start + _SLAB, last))
    up = np.arange(slab.start, slab.stop, dtype=np.float32)[:, None, None]
    away = (
      width - np.float32(axis.origin[0]),
      height - np.float32(axis.origin[1]),
      up * np.float32(spacing_mm) - np.float32(axis.origin[2]),
    )

    def project(direction, away=away):
      return sum(a * np.float32(v) for a, v in zip(away, direction))

    along, front = project(axis.along), project(axis.front)
    wider = _WIDENING * np.maximum(along - axis.gap_mm, 0)
    begin = np.where(
      front > -_CANAL_MM, _BODY_FROM * axis.gap_mm, _ARCH_FROM_MM
    )
    tube = (along > begin) & (along < high)
    tube &= (front < fore + wider) & (front > -back - wider)
    tube &= np.abs(project(axis.right)) < side + wider
    tube &= labels[slab] == 0
    if inside is not None:
      tube &= inside[slab]
    labels[slab][tube] = IGNORE
