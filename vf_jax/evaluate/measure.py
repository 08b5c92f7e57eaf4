# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Everything that is measured of one case; means are taken elsewhere.

A vertebra that the prediction lacks has Dice 0, NSD 0 and infinite distances.
A predicted level that the reference lacks is superfluous, with two exceptions
which are *excused*, neither right nor wrong: a vertebra that the field of view
cuts, above the first or below the last level of the reference, because VerSe
and others do not annotate those; and one that lies, with half of its voxels or
more, where the reference knows nothing (code 255). The field of view may end
before the array does, at padding, which only the table of the prediction tells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from vf_jax.errors import InputError
from vf_jax.evaluate.annotation import (
  Annotation,
  read_prediction,
  read_reference,
)
from vf_jax.evaluate.cases import Pair
from vf_jax.evaluate.metrics.detection import (
  AP_IOU,
  MOST_PER_SCAN,
  NEAR_MM,
  box_iou,
  centre_nearness,
  match_scan,
)
from vf_jax.evaluate.metrics.identification import Identification, identify
from vf_jax.evaluate.metrics.overlap import (
  LabelOverlap,
  label_overlap,
  match_instances,
)
from vf_jax.evaluate.metrics.surface import surface_distances
from vf_jax.labels import BY_CODE, Level
from vf_jax.multispine.neighbours import skipped

VertebraState = Literal["found", "missed", "extra", "excused"]
CaseState = Literal["scored", "missing", "refused"]
_IN_UNKNOWN = 0.5


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
  """What is measured of a case.

  Attributes:
    tolerances_mm: of the surface Dice.
    count_cut: count predicted vertebrae as superfluous although the field of
      view cuts them, for references that annotate cut vertebrae.
  """

  tolerances_mm: tuple[float, ...] = (1.0, 2.0)
  count_cut: bool = False


MEASURE_DEFAULTS = MeasureOptions()


@dataclasses.dataclass(frozen=True)
class VertebraMeasures:
  """One level of one case.

  Attributes:
    code: VerSe code.
    state: whether reference and prediction have it.
    cut: whether the field of view cuts it in the reference; in the
      prediction, if the reference lacks it.
    true_ml: volume in the reference.
    predicted_ml: volume in the prediction.
    dice: with the predicted vertebra of the same level.
    nsd: surface Dice at each tolerance.
    hd_mm: Hausdorff distance.
    hd95_mm: its 95th percentile.
    assd_mm: mean distance of the surfaces.
    matched_code: level of the predicted vertebra that lies there, 0 if none.
    matched_dice: Dice with it, 0 if there is none.
    distance_mm: of its points; NaN if one is missing.
    has_point: whether the reference has a point of it.
    hit: identified, by VerSe's rule.
    strict_hit: by the strict rule.
  """

  code: int
  state: VertebraState
  cut: bool
  true_ml: float = 0.0
  predicted_ml: float = 0.0
  dice: float = 0.0
  nsd: tuple[float, ...] = ()
  hd_mm: float = math.inf
  hd95_mm: float = math.inf
  assd_mm: float = math.inf
  matched_code: int = 0
  matched_dice: float = 0.0
  distance_mm: float = math.nan
  has_point: bool = False
  hit: bool = False
  strict_hit: bool = False

  @property
  def level(self) -> str:
    """Its name."""
    return BY_CODE[self.code].name


@dataclasses.dataclass(frozen=True, eq=False)
class LesionMeasures:
  """The detections of one case by falling score.

  Attributes:
    scores: at most 100, as in nnDetection.
    right_iou: which found a lesion by IoU.
    right_near: which found one by the distance of centres.
    lesions: number of true ones.
  """

  scores: Float64[np.ndarray, " detections"]
  right_iou: Bool[np.ndarray, " detections"]
  right_near: Bool[np.ndarray, " detections"]
  lesions: int


@dataclasses.dataclass(frozen=True, eq=False)
class CaseMeasures:
  """What was measured of a case.

  Attributes:
    name: of the case.
    patient: its patient.
    state: 'missing' and 'refused' predictions count as all missed.
    vertebrae: from head to foot; empty without a mask in the reference.
    spine_dice: of any vertebra against background, without what is excused
      there; NaN without a mask.
    identification: of the points; None without a mask.
    extra: superfluous levels, from head to foot.
    lesions: None if the reference says nothing of lesions.
    point_kinds: of prediction and reference.
    spacing_mm: of the reference's mask, the largest; NaN without one.
    notes: what its reader should know, in words.
  """

  name: str
  patient: str
  state: CaseState
  vertebrae: tuple[VertebraMeasures, ...]
  spine_dice: float
  identification: Identification | None
  extra: tuple[int, ...]
  lesions: LesionMeasures | None
  point_kinds: tuple[str, str]
  spacing_mm: float
  notes: tuple[str, ...]

  @property
  def true_vertebrae(self) -> tuple[VertebraMeasures, ...]:
    """Those whose mask the reference has, not only a point."""
    return tuple(v for v in self.vertebrae if v.true_ml > 0)

  @property
  def all_right(self) -> bool:
    """Whether every level is identified and none is superfluous."""
    id_ = self.identification
    return id_ is not None and not self.extra and id_.all_right


def measure_case(
  job: tuple[Pair, MeasureOptions],
) -> CaseMeasures:
  """Measures one case.

  Args:
    job: its files, and what to measure.

  Returns:
    The measures. A prediction that is refused counts as missed, and says why.

  Raises:
    InputError: if the reference is refused.
  """
  pair, options = job
  reference = read_reference(pair.reference)
  state: CaseState = "missing" if pair.missing else "scored"
  notes: tuple[str, ...] = ()
  try:
    prediction = read_prediction(pair.prediction, reference)
  except InputError as error:
    prediction = read_prediction(None, reference)
    state, notes = "refused", (str(error),)
  lesions = None
  if reference.lesions is not None:
    lesions = measure_lesions(prediction, reference)
  notes = (*notes, *reference.notes, *prediction.notes)
  measures = CaseMeasures(
    name=pair.reference.name,
    patient=pair.patient,
    state=state,
    vertebrae=(),
    spine_dice=math.nan,
    identification=None,
    extra=(),
    lesions=lesions,
    point_kinds=(prediction.point_kind, reference.point_kind),
    spacing_mm=math.nan,
    notes=notes,
  )
  if reference.labels is None:
    return measures
  return _with_vertebrae(measures, prediction, reference, options)


def _with_vertebrae(
  measures: CaseMeasures,
  prediction: Annotation,
  reference: Annotation,
  options: MeasureOptions,
) -> CaseMeasures:
  assert prediction.labels is not None, "it is on the reference's grid"
  assert reference.labels is not None, "the caller checked it"
  overlap = label_overlap(prediction.labels.voxels, reference.labels.voxels)
  excused = _excused(prediction, reference, overlap, options)
  # A true level without a point (cut, a fragment) is no part of the rates.
  pointless = set(reference.shapes) - set(reference.points)
  points = {
    code: point
    for code, point in prediction.points.items()
    if code not in excused | pointless
  }
  identification = identify(points, reference.points)
  there = set(reference.shapes) | set(reference.points)
  claimed = {int(c) for c in np.flatnonzero(overlap.predicted) if c}
  extra = (claimed | set(points)) - there - excused
  surfaces = _measure_surfaces(prediction, reference, options)
  pairs, dice = match_instances(overlap), overlap.dice()
  rows = []
  for code in sorted(there | extra | excused, key=lambda c: BY_CODE[c].order):
    state: VertebraState = "missed"
    if code not in there:
      state = "excused" if code in excused else "extra"
    elif overlap.predicted[code] or (
      code not in reference.shapes and code in points
    ):
      state = "found"
    own = reference if code in reference.shapes else prediction
    matched = pairs.get(code, (0, 0.0))[0]
    row = VertebraMeasures(
      code=code,
      state=state,
      cut=code in own.said_cut or (code in own.shapes and own.shapes[code].cut),
      true_ml=overlap.true[code] * reference.labels.grid.voxel_volume_ml,
      predicted_ml=overlap.predicted[code]
      * reference.labels.grid.voxel_volume_ml,
      dice=float(np.nan_to_num(dice[code, code])),
      nsd=(0.0,) * len(options.tolerances_mm),
      matched_code=matched,
      matched_dice=float(dice[matched, code]) if matched else 0.0,
      distance_mm=identification.distance_mm.get(code, math.nan),
      has_point=code in identification.truth,
      hit=code in identification.hits,
      strict_hit=code in identification.strict_hits,
    )
    rows.append(dataclasses.replace(row, **surfaces.get(code, {})))
  return dataclasses.replace(
    measures,
    vertebrae=tuple(rows),
    spine_dice=overlap.without_excess(excused).spine_dice(),
    identification=identification,
    spacing_mm=max(reference.labels.spacing),
    extra=tuple(sorted(extra, key=lambda c: BY_CODE[c].order)),
  )


def _excused(
  prediction: Annotation,
  reference: Annotation,
  overlap: LabelOverlap,
  options: MeasureOptions,
) -> set[int]:
  """Predicted levels that the reference does not judge, see the module."""
  there = set(reference.shapes) | set(reference.points)
  orders = [BY_CODE[code].order for code in there]
  heights = [shape.centre_mm[2] for shape in reference.shapes.values()]
  heights += [point[2] for point in reference.points.values()]
  excused = set()
  for code, shape in prediction.shapes.items():
    if code in there:
      continue
    order, height = BY_CODE[code].order, shape.centre_mm[2]
    beyond = bool(orders) and (
      (order < min(orders) and height > max(heights))
      or (order > max(orders) and height < min(heights))
    )
    cut = shape.cut or _ends_at_padding(code, prediction, there)
    if beyond and cut and not options.count_cut:
      excused.add(code)
    assert prediction.labels is not None, "it has shapes"
    left = overlap.predicted[code] * prediction.labels.grid.voxel_volume_ml
    if reference.unknown is not None and (
      left <= (1 - _IN_UNKNOWN) * shape.volume_ml
    ):
      excused.add(code)
  return excused


def _ends_at_padding(
  code: int, prediction: Annotation, there: Collection[int]
) -> bool:
  """Whether the last level of a column is cut by the prediction's own word.

  NOTE: it is believed of one level at each end alone, which is next to those
  of the reference. Whatever else it claims, what is superfluous counts.
  """
  orders = [BY_CODE[other].order for other in prediction.shapes]
  level = BY_CODE[code]
  return (
    code in prediction.said_cut
    and level.order in (min(orders), max(orders))
    and any(_are_neighbours(level, BY_CODE[other]) for other in there)
  )


def _are_neighbours(one: Level, other: Level) -> bool:
  upper, lower = sorted((one, other), key=lambda level: level.order)
  return not skipped(upper, lower)


def _measure_surfaces(
  prediction: Annotation, reference: Annotation, options: MeasureOptions
) -> Mapping[int, dict]:
  """Surface metrics of every level that both have."""
  assert prediction.labels is not None, "it is on the reference's grid"
  assert reference.labels is not None, "the caller checked it"
  found = {}
  steps = reference.labels.affine[:3, :3]
  there = ndimage.find_objects(reference.labels.voxels)
  claimed = ndimage.find_objects(prediction.labels.voxels)
  for code, (box, other) in enumerate(zip(there, claimed), start=1):
    if box is None or other is None:
      continue
    crop = tuple(
      slice(min(a.start, b.start), max(a.stop, b.stop))
      for a, b in zip(box, other)
    )
    distances = surface_distances(
      prediction.labels.voxels[crop] == code,
      reference.labels.voxels[crop] == code,
      steps,
    )
    found[code] = {
      "nsd": tuple(
        distances.surface_dice(tolerance) for tolerance in options.tolerances_mm
      ),
      "hd_mm": distances.hausdorff(),
      "hd95_mm": distances.hausdorff(95),
      "assd_mm": distances.symmetric_average(),
    }
  return found


def measure_lesions(
  prediction: Annotation, reference: Annotation
) -> LesionMeasures:
  """Matches the lesion boxes of a case.

  Args:
    prediction: its boxes; without any, none was found.
    reference: the true boxes.

  Returns:
    The matches.
  """
  found = sorted(prediction.lesions or (), key=lambda box: -box.score)
  found = found[:MOST_PER_SCAN]
  scores = np.array([box.score for box in found], np.float64)
  boxes, truth = _corners(found), _corners(reference.lesions or ())
  return LesionMeasures(
    scores,
    match_scan(scores, box_iou(boxes, truth), AP_IOU),
    match_scan(scores, centre_nearness(boxes, truth), -NEAR_MM),
    len(truth),
  )


def _corners(boxes) -> Float64[np.ndarray, "boxes 2 3"]:
  centres = np.array([b.centre_mm for b in boxes], np.float64).reshape(-1, 3)
  halves = np.array([b.size_mm for b in boxes], np.float64).reshape(-1, 3) / 2
  return np.stack([centres - halves, centres + halves], axis=1)
