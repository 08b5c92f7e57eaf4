# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a reader should doubt, seen from the scan and from what was found.

Hints in words, never a reason to refuse. A scan that is mirrored left to right
is not among them: a spine is symmetric, and nothing else is looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
from jaxtyping import UInt8
from scipy import stats

from vf_jax.infer.boxes import Box
from vf_jax.infer.facts import BORDER_MM
from vf_jax.infer.result import Vertebra
from vf_jax.labels import BY_CODE
from vf_jax.models.decoders.keypoint_numbering import scan_confidence
from vf_jax.multispine.neighbours import skipped, usual_distance
from vf_jax.multispine.shapes import ends_of
from vf_jax.scratch import release, slabs
from vf_jax.volume import Grid, Volume

_THICK_MM = 5.0
_METAL_HU, _METAL_ML = 3000, 0.2
_NEAR_MM = 20.0
_FEW = 2
# Of the larger of two neighbours: one of 151 masks of phantoms and people holds
# such a pair.
_SMALL = 0.4
# Whole vertebrae have 1.4 ml or more from T1 down (demo, LIDC-IDRI-0001, three
# phantoms); pieces of the demo's hip have 1.35 ml or none.
_LEAST_CORE_ML = 1.4
# From T1 to L5 the centre of the body lies 9 to 14 mm before that of the whole
# vertebra (VerSe 004 and 010, and a whole spine of TPTBox). On the demo CT the
# first weights gave 8 to 11 mm, and 0 to 3 mm if it was turned back to front.
_AHEAD_MM = 4.0
_ENOUGH = 4
# Of the usual distance, by the median of the scan. Of 1,941 annotated scans
# (VID) 0.7 % have a wider gap, of those with a neck 8 %; if two neighbours are
# made one, 94 % have (with noise of 1.5 mm: 1.1 %, 12 %, 89 %).
_WIDE = 1.35
# Of 16,500 annotated distances 0.04 % are narrower (multispine/neighbours.py).
_NARROW = 0.65
# From C3 down vertebrae grow: in each of 222 masks of phantoms and people the
# logarithm of the volume does, by 0.007 a level or more.
_SHRINKS = -0.03
# Lower quartile of the bodies' confidences; docs/method.md says how it was set.
_ABSTAIN_BELOW = 0.75


def is_anchored(levels: Set[str]) -> bool:
  """Whether a scan shows where counting can begin.

  Neighbouring levels look alike; what tells them apart is where a region ends:
  the upper two, the first and the last rib, the sacrum. Both vertebrae at such
  a place have to be seen.

  Args:
    levels: that were given to the vertebrae of `to_count_from`.

  Returns:
    False if all levels may be shifted, however sure the network is.
  """
  ends = levels & {"C1", "C2", "L5", "L6"}
  first_rib = levels >= {"C7", "T1"}
  last_rib = "L1" in levels and levels & {"T11", "T12", "T13"}
  return bool(ends or first_rib or last_rib)


def to_count_from(
  grid: Grid, boxes: Mapping[int, Box], vertebrae: Sequence[Vertebra]
) -> list[Vertebra]:
  """Finds the vertebrae of which enough is seen to count from.

  Args:
    grid: of the scan.
    boxes: around each vertebra, in its voxels.
    vertebrae: of the scan.

  Returns:
    Whole ones, and those whose processes are cut at the sides alone: their
    whole body is in view and something above and below them.
  """
  ends = [
    (axis, max(1, int(BORDER_MM / grid.spacing[axis])))
    for axis in np.flatnonzero(ends_of(grid)).tolist()
  ]

  def is_inside(code: int) -> bool:
    return all(
      margin <= boxes[code][axis].start
      and boxes[code][axis].stop <= grid.shape[axis] - margin
      for axis, margin in ends
    )

  return [
    v
    for v in vertebrae
    if v.complete or ("core_ml" not in v.partial and is_inside(v.code))
  ]


def _sizes(vertebrae: Sequence[Vertebra]) -> list[float]:
  """Volumes, ml: of the cores if the field of view cuts one of them."""
  if all(v.complete for v in vertebrae):
    return [v.volume_ml for v in vertebrae]
  return [v.core_ml for v in vertebrae]


def find_outlier_vertebrae(
  vertebrae: Sequence[Vertebra], seen: Sequence[Vertebra]
) -> list[Vertebra]:
  """Finds what was counted as a vertebra and may be none.

  Args:
    vertebrae: from head to foot.
    seen: those of `to_count_from`.

  Returns:
    Those of `seen` that are far smaller than a neighbour of `seen`.
  """
  known = {v.code for v in seen}
  small = set()
  for pair in itertools.pairwise(vertebrae):
    whole = all(v.complete for v in pair)
    if not known >= {v.code for v in pair}:
      continue
    if not whole and any(v.level[0] == "C" for v in pair):
      continue  # cores of a neck hold a few voxels
    sizes = _sizes(pair)
    if min(sizes) < _SMALL * max(sizes):
      small.add(pair[int(np.argmin(sizes))].code)
  return [v for v in vertebrae if v.code in small]


def is_spineless(vertebrae: Sequence[Vertebra]) -> bool:
  """Whether what was found may be pieces of other bones, all of it.

  Args:
    vertebrae: of the scan.

  Returns:
    True if there are one or two below the neck and none shows the core of a
    vertebral body.
  """
  return 0 < len(vertebrae) <= _FEW and all(
    v.level[0] != "C" and not v.core_ml >= _LEAST_CORE_ML for v in vertebrae
  )


def find_wide_gaps(vertebrae: Sequence[Vertebra]) -> list[tuple[str, str]]:
  """Finds where a vertebra was missed, or two were taken for one.

  Args:
    vertebrae: from head to foot, with the levels that were given to them.

  Returns:
    Levels above and below every gap that is far wider than usual for these
    levels in this patient; none for fewer than five vertebrae.
  """
  gaps = _gaps(vertebrae)
  return [(a.level, b.level) for a, b, share in gaps if share > _WIDE]


def find_narrow_gaps(vertebrae: Sequence[Vertebra]) -> list[tuple[str, str]]:
  """Finds where levels were left out though nothing has room there.

  Args:
    vertebrae: from head to foot, with the levels that were given to them.

  Returns:
    Levels above and below every gap that is far narrower than the levels
    between them need in this patient; none for fewer than five vertebrae.
  """
  return [
    (a.level, b.level)
    for a, b, share in _gaps(vertebrae)
    if share < _NARROW and skipped(BY_CODE[a.code], BY_CODE[b.code])
  ]


def _gaps(
  vertebrae: Sequence[Vertebra],
) -> list[tuple[Vertebra, Vertebra, float]]:
  """Neighbours and their distance, as a share of what is usual here."""
  if len(vertebrae) <= _ENOUGH:
    return []
  pairs = list(itertools.pairwise(vertebrae))
  ratios = np.array(
    [
      math.dist(upper.centre_mm, lower.centre_mm)
      / usual_distance(BY_CODE[upper.code], BY_CODE[lower.code], "body")
      for upper, lower in pairs
    ]
  )
  shares = ratios / max(float(np.median(ratios)), 1e-6)
  return [(a, b, share) for (a, b), share in zip(pairs, shares.tolist())]


def is_upside_down(seen: Sequence[Vertebra]) -> bool:
  """Whether vertebrae grow towards the head.

  Args:
    seen: those of `to_count_from`, from head to foot as the file has it.

  Returns:
    True if the median slope of the logarithm of the volume says so; never for
    fewer than four below C2.
  """
  below = [v for v in seen if v.level not in ("C1", "C2")]
  whole = [v for v in below if v.complete]
  if len(whole) >= _ENOUGH:  # cores say less, above all in the neck
    below = whole
  sizes = _sizes(below)
  places = [(i, size) for i, size in enumerate(sizes) if size > 0]
  if len(places) < _ENOUGH:
    return False
  index, volumes = np.array(places).T
  return bool(stats.theilslopes(np.log(volumes), index).slope < _SHRINKS)


def is_back_to_front(
  grid: Grid,
  mask: UInt8[np.ndarray, "x y z"],
  boxes: Mapping[int, Box],
  seen: Sequence[Vertebra],
) -> bool:
  """Whether most bodies do not lie before their arches.

  Args:
    grid: of the mask.
    mask: VerSe codes.
    boxes: around each code of the mask.
    seen: vertebrae of `to_count_from`.

  Returns:
    What the median says; never True for fewer than four below the neck.
  """
  below = [v for v in seen if v.level[0] in "TL" and v.code in boxes]
  if len(below) < _ENOUGH:
    return False
  voxels = []
  for vertebra in below:
    box = boxes[vertebra.code]
    places = np.argwhere(mask[box] == vertebra.code)
    voxels.append(places.mean(axis=0) + [side.start for side in box])
    release(mask)
  centroids = grid.to_world(np.array(voxels))
  bodies = np.array([v.centre_mm for v in below])
  return bool(np.median(bodies[:, 1] - centroids[:, 1]) < _AHEAD_MM)


def find_doubts(
  volume: Volume, boxes: Mapping[int, Box], vertebrae: Sequence[Vertebra]
) -> list[str]:
  """Looks for what makes a result doubtful, the levels apart.

  Args:
    volume: the CT, HU.
    boxes: around each vertebra, in its voxels.
    vertebrae: from head to foot.

  Returns:
    Sentences for people.
  """
  notes = []
  gap = max(volume.spacing)
  if gap >= _THICK_MM:
    notes.append(
      f"Voxels are {gap:.3g} mm long: borders and heights are coarse, and "
      "neighbours may run into each other."
    )
  metal = _metal_ml(volume, list(boxes.values()))
  if metal >= _METAL_ML:
    notes.append(
      f"{metal:.1f} ml near the spine are as dense as metal: the mask and the "
      "HU there may be wrong."
    )
  if 0 < len(vertebrae) <= _FEW:
    count = "One vertebra is" if len(vertebrae) == 1 else "Two vertebrae are"
    notes.append(
      f"{count} in view: the numbering has no further neighbours to rest on."
    )
  return notes


def find_level_doubts(
  grid: Grid,
  mask: UInt8[np.ndarray, "x y z"],
  boxes: Mapping[int, Box],
  vertebrae: Sequence[Vertebra],
) -> list[str]:
  """Looks for what makes every level doubtful: then the scan abstains.

  Args:
    grid: of the mask.
    mask: VerSe codes.
    boxes: around each code of the mask.
    vertebrae: from head to foot, with the levels that were given to them.

  Returns:
    Sentences for people; none for a scan without vertebrae.
  """
  if not vertebrae:
    return []
  notes = []
  seen = to_count_from(grid, boxes, vertebrae)
  if is_spineless(vertebrae):
    names = " and ".join(v.level for v in vertebrae)
    notes.append(
      "There may be no spine in this scan: the inside of a vertebral body was "
      f"not seen, and {names} may be another bone."
    )
  elif found := find_outlier_vertebrae(vertebrae, seen):
    names = ", ".join(v.level for v in found)
    notes.append(
      f"{names} may be no vertebra (far smaller than its neighbours): all "
      "levels may be shifted."
    )
  for above, below in find_wide_gaps(vertebrae):
    notes.append(
      f"Between {above} and {below} there is room for one more vertebra, or "
      "two were taken for one: levels may be shifted."
    )
  for above, below in find_narrow_gaps(vertebrae):
    notes.append(
      f"Between {above} and {below} there is no room for the levels that are "
      "left out: those above or below may be wrong."
    )
  if is_upside_down(seen):
    notes.append(
      "The vertebrae grow towards the head: check in the file which end is up. "
      "Every level may be wrong."
    )
  if is_back_to_front(grid, mask, boxes, seen):
    notes.append(
      "The vertebrae look turned back to front: check the orientation in the "
      "file. Every level may be wrong."
    )
  sure = scan_confidence(np.array([v.confidence for v in vertebrae]))
  if sure < _ABSTAIN_BELOW:
    notes.append(
      "The numbering of this scan is not sure: all levels may be shifted."
    )
  elif not is_anchored({v.level for v in seen}):
    notes.append(
      "No first or last rib, skull or sacrum with its neighbours is seen well "
      "enough to count from: all levels may be shifted."
    )
  return notes


def _metal_ml(volume: Volume, boxes: Sequence[Box]) -> float:
  """How much near the spine is denser than any bone."""
  if not boxes:
    return 0.0
  x, y, z_range = (
    slice(
      max(0, min(box[axis].start for box in boxes) - margin),
      max(box[axis].stop for box in boxes) + margin,
    )
    for axis, margin in enumerate(
      int(np.ceil(_NEAR_MM / size)) for size in volume.spacing
    )
  )
  near = volume.voxels[x, y, z_range]
  count = sum(
    int(np.count_nonzero(near[..., part] >= _METAL_HU)) for part in slabs(near)
  )
  return count * volume.grid.voxel_volume_ml
