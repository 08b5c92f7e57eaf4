# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From voxel outputs to instances: votes, centres, one spine, lesion boxes.

Every foreground voxel votes for the centre of its own body. Peaks of the votes
are bodies, and a voxel belongs to the body it votes for: no bone can end up in
two vertebrae. What votes past the ends of the spine is a piece of a vertebra
whose body lies outside the scan, or other bone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import ndimage
from scipy.spatial import KDTree

from vf_jax.config import PredictConfig
from vf_jax.infer.number_keypoints import number_keypoints
from vf_jax.infer.points import drop_small_components, find_peaks
from vf_jax.infer.sweep import LEAST_HEAT, Sweep
from vf_jax.model_config import STEM_STRIDE

__all__ = [
  "Instances",
  "PredictedLesion",
  "best_chain",
  "find_boxes",
  "find_instances",
  "find_lesions",
  "number_keypoints",
  "suppress",
]

_GATE_MM = 25.0  # a vote further from every centre belongs to none
_IRREGULAR = 0.15  # squared log gaps that leaving out a centre must save
_HALF = 0.65  # of its larger neighbour's bone; a half of a body has less
# Distance of neighbours, one missed one included: two lumbar gaps of 37 mm in a
# spine of 1.22 times the usual size (multispine/neighbours.py) are 91 mm.
_LINK_MM = (8.0, 95.0)
# Where the body beyond an end is looked for, as a share of the last gap. On 53
# phantoms, LIDC-IDRI-0001 and the demo 0.6 to 1.0 do the same to whole
# vertebrae (Dice 0.8845 to 0.8847); cut ones, 86, have 0.74 to 0.71, and 0.55
# without this.
_NEXT = 0.8
_LEAST_PIECE_ML = 0.5
_CANDIDATE = 0.01  # score of the least lesion box that is kept
_MAX_CANDIDATES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
  """Vertebrae before they have a level, from head to foot.

  Attributes:
    centres: body centres, voxels (depth, height, width).
    ids: 0 background, i + 1 for the i-th centre.
    warnings: sentences for people.
    pieces: whether the first and the last are pieces beyond the ends of the
      spine; where their bodies are is a guess, often outside the grid.
  """

  centres: Float[np.ndarray, "instances 3"]
  ids: UInt8[np.ndarray, "depth height width"]
  warnings: tuple[str, ...]
  pieces: tuple[bool, bool] = (False, False)

  @property
  def bodies(self) -> slice:
    """Places of all but the pieces."""
    above, below = self.pieces
    return slice(int(above), len(self.centres) - below)


def find_instances(
  sweep: Sweep, spacing_mm: float, config: PredictConfig
) -> Instances:
  """Groups foreground voxels by the body they vote for.

  Args:
    sweep: network outputs on the whole grid, its offsets by the threshold of
      `config`.
    spacing_mm: voxel edge, mm.
    config: thresholds.

  Returns:
    The instances that form one spine.
  """
  shape = sweep.probability.shape
  ids = np.zeros(shape, np.uint8)
  empty = Instances(centres=np.zeros((0, 3)), ids=ids, warnings=())
  points = np.argwhere(sweep.probability > config.threshold)
  if not len(points):
    return empty
  votes = points + sweep.offsets
  weights = sweep.probability[tuple(points.T)]
  centres = find_peaks(
    votes,
    weights,
    shape,
    config.vote_sigma_mm / spacing_mm,
    config.min_distance_mm / spacing_mm,
  )
  if not len(centres):
    return empty
  while True:
    owner, centres, volumes = _assign(
      votes, centres, spacing_mm, config.min_volume_ml
    )
    spine = best_chain(centres * spacing_mm, volumes)
    double = _doubled(centres[spine] * spacing_mm, volumes[spine])
    if double is None:
      break
    centres = np.delete(centres, spine[double], axis=0)
  rename = np.full(len(centres) + 1, -1)
  rename[spine] = np.arange(len(spine))
  notes: tuple[str, ...] = ()
  lost = len(centres) - len(spine)
  if lost:
    notes = (f"{lost} bone-like region(s) away from the spine were dropped.",)
  owner, centres, pieces = _part_ends(
    votes, rename[owner], centres[spine], spacing_mm
  )
  ids[tuple(points.T)] = owner + 1
  drop_small_components(ids)
  return Instances(centres=centres, ids=ids, warnings=notes, pieces=pieces)


def _part_ends(votes, owner, centres, spacing_mm):
  """Takes what votes for a body beyond an end of the spine as a piece of it.

  A peak outside the scan is never found, and what is in view of that vertebra
  would be its neighbour's, or nobody's.

  Args:
    votes: of the voxels.
    owner: place of their body, -1 = none.
    centres: of the bodies, from head to foot.
    spacing_mm: voxel edge, mm.

  Returns:
    Owners and centres with the pieces, and whether there is one at the first
    and at the last place.
  """
  count = len(centres)
  if count < 2:
    return owner, centres, (False, False)
  owner = np.where(owner < 0, -1, owner + 1)  # 0 is the piece above
  pieces = {}
  for place, end, next_to_it in ((0, 0, 1), (count + 1, -1, -2)):
    beyond = centres[end] + _NEXT * (centres[end] - centres[next_to_it])
    own = np.flatnonzero((owner == (1 if place == 0 else count)) | (owner < 0))
    away = np.linalg.norm(votes[own] - beyond, axis=1)
    nearer = away < np.linalg.norm(votes[own] - centres[end], axis=1)
    own = own[nearer & (away < _GATE_MM / spacing_mm)]
    if len(own) * spacing_mm**3 / 1000 >= _LEAST_PIECE_ML:
      owner[own] = place
      pieces[place] = np.median(votes[own], axis=0)
  above, below = 0 in pieces, count + 1 in pieces
  if not above:
    owner = np.where(owner < 0, -1, owner - 1)
  rows = dict(enumerate(centres, start=1)) | pieces
  return owner, np.array([rows[i] for i in sorted(rows)]), (above, below)


def _assign(votes, centres, spacing_mm, min_volume_ml):
  """Nearest centre of every vote; small instances are given up.

  The weakest goes first and its votes find another centre, so that two halves
  of one vertebra end as one.
  """
  voxel_ml = spacing_mm**3 / 1000
  none = len(centres)
  left = np.arange(none)
  owner = _nearest(votes, centres, left, spacing_mm)
  counts = np.bincount(owner, minlength=none + 1)
  while len(left) > 1:
    weakest = left[counts[left].argmin()]
    if counts[weakest] * voxel_ml >= min_volume_ml:
      break
    left = left[left != weakest]
    homeless = np.flatnonzero(owner == weakest)
    moved = _nearest(votes[homeless], centres, left, spacing_mm)
    owner[homeless] = moved
    counts += np.bincount(moved, minlength=none + 1)
    counts[weakest] = 0
  rename = np.full(none + 1, len(left))
  rename[left] = np.arange(len(left))
  owner, centres, counts = rename[owner], centres[left], counts[left]
  volumes = counts * voxel_ml
  refined = np.array(
    [
      np.median(votes[owner == i], axis=0) if counts[i] else centres[i]
      for i in range(len(centres))
    ]
  )
  if volumes.max() < min_volume_ml:
    return np.full(len(votes), 0), np.zeros((0, 3)), np.zeros(0)
  return owner, refined, volumes


def _nearest(votes, centres, left, spacing_mm):
  """Index of the nearest of some centres, `len(centres)` beyond the gate."""
  _, place = KDTree(centres[left]).query(
    votes, distance_upper_bound=_GATE_MM / spacing_mm
  )
  return np.append(left, len(centres))[place]


def _doubled(
  centres_mm: Float[np.ndarray, "points 3"],
  volumes_ml: Float[np.ndarray, " points"],
) -> int | None:
  """A centre that divides one body in two, if there is any.

  Bodies grow slowly along the spine, so gaps change slowly. Without a centre
  that does not belong there the gaps become regular; it also holds less bone
  than its neighbours. A collapsed vertebra is small, but leaves a hole.
  """
  gaps = np.linalg.norm(np.diff(centres_mm, axis=0), axis=1)
  best, worst = None, _IRREGULAR
  for j in range(len(centres_mm)):
    sides = gaps[max(0, j - 3) : max(0, j - 1)], gaps[j + 1 : j + 3]
    beside = np.delete(volumes_ml[max(0, j - 1) : j + 2], min(j, 1))
    if sum(map(len, sides)) < 2 or volumes_ml[j] > _HALF * beside.max():
      continue
    # Between both sides: gaps of a neck are narrower than those of a chest.
    usual = np.exp(np.mean([np.log(np.median(s)) for s in sides if len(s)]))
    gain = sum(np.log(gaps[max(0, j - 1) : j + 1] / usual) ** 2)
    if 0 < j < len(gaps):
      whole = np.linalg.norm(centres_mm[j + 1] - centres_mm[j - 1])
      gain -= np.log(whole / usual) ** 2
    if gain > worst:
      best, worst = j, gain
  return best


def best_chain(
  centres_mm: Float[np.ndarray, "points 3"],
  volumes_ml: Float[np.ndarray, " points"],
) -> list[int]:
  """The chain of bodies that explains most bone.

  Neighbours lie 8-95 mm apart and more along the body's axis than across it.

  Args:
    centres_mm: (depth, height, width), mm; depth grows towards the head.
    volumes_ml: bone of each.

  Returns:
    Indices from head to foot.
  """
  order = np.argsort(-centres_mm[:, 0], kind="stable")
  value = np.minimum(volumes_ml, 60.0)
  best = value.copy()
  back = np.full(len(order), -1)
  for n, j in enumerate(order):
    for i in order[:n]:
      step = centres_mm[j] - centres_mm[i]
      length = np.linalg.norm(step)
      across = np.linalg.norm(step[1:])
      if not _LINK_MM[0] <= length <= _LINK_MM[1]:
        continue
      if across > 8.0 + 1.2 * abs(step[0]):
        continue
      if best[i] + value[j] > best[j]:
        best[j], back[j] = best[i] + value[j], i
  if not len(order):
    return []
  chain = [int(np.argmax(best))]
  while back[chain[-1]] >= 0:
    chain.append(int(back[chain[-1]]))
  return chain[::-1]


@dataclasses.dataclass(frozen=True)
class PredictedLesion:
  """A lesion that the network found, on its grid.

  Attributes:
    centre: voxels (depth, height, width).
    size_mm: edge lengths along (depth, height, width).
    score: 0..1.
  """

  centre: tuple[float, float, float]
  size_mm: tuple[float, float, float]
  score: float


def find_boxes(
  sweep: Sweep, least: float, spacing_mm: float
) -> list[PredictedLesion]:
  """Lesion boxes that are reported, and candidates up to a hundred boxes.

  Args:
    sweep: network outputs.
    least: score of a box that is reported.
    spacing_mm: voxel edge, mm.

  Returns:
    Boxes by falling score that hardly overlap.
  """
  kept: list[PredictedLesion] = []
  found = find_lesions(sweep, min(least, _CANDIDATE))
  for box in suppress(found, spacing_mm):
    if box.score < least and len(kept) >= _MAX_CANDIDATES:
      break
    kept.append(box)
  return kept


def find_lesions(sweep: Sweep, threshold: float) -> list[PredictedLesion]:
  """Peaks of the lesion heat map as boxes; `suppress` thins them out.

  Args:
    sweep: network outputs.
    threshold: smallest score, `LEAST_HEAT` at least.

  Returns:
    Boxes by falling score.
  """
  heat: Float32[np.ndarray, "d h w"] = sweep.lesion_heat
  top = ndimage.maximum_filter(heat, size=3)
  least = max(threshold, LEAST_HEAT)
  cells = np.argwhere((heat == top) & (heat >= least))
  scores = heat[tuple(cells.T)]
  kept: list[PredictedLesion] = []
  for cell, score in sorted(
    zip(cells, scores), key=lambda item: -float(item[1])
  ):
    box = sweep.lesion_box[tuple(cell)]
    centre = (cell + box[:3] + 0.5) * STEM_STRIDE - 0.5
    size = np.exp(np.clip(box[3:], 0.0, 5.0))
    kept.append(
      PredictedLesion(
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        size_mm=(float(size[0]), float(size[1]), float(size[2])),
        score=float(score),
      )
    )
  return kept


def suppress(
  boxes: Sequence[PredictedLesion], spacing_mm: float, overlap: float = 0.1
) -> Iterator[PredictedLesion]:
  """3D non-maximum suppression, as far as somebody asks.

  Args:
    boxes: by falling score.
    spacing_mm: voxel edge, mm.
    overlap: largest intersection over union of two kept boxes.

  Yields:
    The kept boxes.
  """
  middle = np.array([box.centre for box in boxes]).reshape(-1, 3) * spacing_mm
  size = np.array([box.size_mm for box in boxes]).reshape(-1, 3)
  low, high, whole = middle - size / 2, middle + size / 2, size.prod(axis=1)
  kept: list[int] = []
  for n, box in enumerate(boxes):
    edges = np.minimum(high[kept], high[n]) - np.maximum(low[kept], low[n])
    shared = np.maximum(edges, 0).prod(axis=1)
    if (shared <= overlap * (whole[kept] + whole[n] - shared)).all():
      kept.append(n)
      yield box
