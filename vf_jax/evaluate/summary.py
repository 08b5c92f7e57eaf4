# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The numbers of a whole set, each with its interval and its definition."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float64, Num

from vf_jax.evaluate.bootstrap import (
  REPLICATES,
  Interval,
  Method,
  Statistic,
  bootstrap,
  draw_patients,
)
from vf_jax.evaluate.measure import (
  MEASURE_DEFAULTS,
  CaseMeasures,
  MeasureOptions,
)
from vf_jax.evaluate.metrics import detection
from vf_jax.evaluate.metrics.identification import HIT_MM
from vf_jax.evaluate.metrics.overlap import LEAST_IOU

_CHUNK = 1 << 22
_ALL_WHOLE = "over all true vertebrae together"
_SCANS = "mean over scans of the mean over true vertebrae"


@dataclasses.dataclass(frozen=True)
class SummaryOptions:
  """How a set is summed up.

  Attributes:
    replicates: of the bootstrap.
    seed: of its draws.
    lesion_score: operating point of precision and recall.
    missing_penalty_mm: distance that a missing vertebra counts with in the
      extra row `d_mean_penalised`; None leaves the row out.
  """

  replicates: int = REPLICATES
  seed: int = 0
  lesion_score: float = 0.5
  missing_penalty_mm: float | None = None


SUMMARY_DEFAULTS = SummaryOptions()


@dataclasses.dataclass(frozen=True)
class Measure:
  """One number.

  Attributes:
    name: its key.
    value: NaN if it does not exist.
    unit: 'mm' or ''.
    definition: what exactly it is.
    interval: over patients; None where none is asked for.
    method: of the interval.
    count: what it is made of, in words.
  """

  name: str
  value: float
  unit: str
  definition: str
  interval: Interval
  method: Method
  count: str


class _Table:
  """Collects measures; knows who is whose scan."""

  def __init__(self, cases: Sequence[CaseMeasures], options: SummaryOptions):
    self.cases = cases
    self.options = options
    self.rows: list[Measure] = []
    names = sorted({case.patient for case in cases})
    self.patients = {name: number for number, name in enumerate(names)}
    self.draws = draw_patients(len(names), options.replicates, options.seed)

  def owner(self, case: CaseMeasures) -> int:
    return self.patients[case.patient]

  def add(
    self,
    name: str,
    statistic: Statistic,
    definition: str,
    count: str,
    unit: str = "",
    method: Method = "BCa",
  ) -> None:
    patients = len(self.patients)
    value = float(statistic(np.ones((1, patients)))[0])
    interval = Interval(math.nan, math.nan, "one patient only")
    if patients > 1:
      interval = bootstrap(statistic, self.draws, method=method)
    self.rows.append(
      Measure(name, value, unit, definition, interval, method, count)
    )

  def ratio(
    self,
    parts: Iterable[tuple[CaseMeasures, float, float]],
  ) -> Statistic:
    """Sum of numerators by sum of denominators, given by case."""
    above, below = np.zeros((2, len(self.patients)))
    for case, numerator, denominator in parts:
      above[self.owner(case)] += numerator
      below[self.owner(case)] += denominator

    def statistic(weights):
      size = weights @ below
      return (weights @ above) / np.where(size > 0, size, np.nan)

    return statistic

  def mean(self, values: Iterable[tuple[CaseMeasures, float]]) -> Statistic:
    """Mean of a value by case; a case without one (NaN) is left out."""
    return self.ratio((c, v, 1.0) for c, v in values if not math.isnan(v))

  def median(self, values: Iterable[tuple[CaseMeasures, float]]) -> Statistic:
    """Median of values, infinite ones too, whatever case they are of."""
    rows = [(v, self.owner(c)) for c, v in values if not math.isnan(v)]
    rows.sort()
    ordered = np.array([value for value, _ in rows], np.float64)
    return weighted_median(ordered, np.array([o for _, o in rows], np.int64))


def weighted_median(
  ordered: Float64[np.ndarray, " values"], owners: Num[np.ndarray, " values"]
) -> Statistic:
  """A median that counts each value as often as its owner was drawn.

  Args:
    ordered: values, rising, perhaps infinite.
    owners: index of the patient of each.

  Returns:
    The statistic; NaN where nothing was drawn.
  """

  def read(weights):
    if not len(ordered):
      return np.full(len(weights), np.nan)
    upto = np.cumsum(weights[:, owners], axis=1)
    total = upto[:, -1]
    # Where nothing was drawn the index runs over; the value is not used.
    middles = [
      ordered[(upto <= np.floor(rank)[:, None]).sum(axis=1) % len(ordered)]
      for rank in ((total - 1) / 2, total / 2)
    ]
    with np.errstate(invalid="ignore"):
      halfway = (middles[0] + middles[1]) / 2
    return np.where(total > 0, halfway, np.nan)

  def statistic(weights):
    rows = max(1, _CHUNK // max(1, len(ordered)))
    parts = range(0, len(weights), rows)
    return np.concatenate([read(weights[i : i + rows]) for i in parts])

  return statistic


def summarise(
  cases: Sequence[CaseMeasures],
  options: SummaryOptions = SUMMARY_DEFAULTS,
  measured: MeasureOptions = MEASURE_DEFAULTS,
) -> tuple[Measure, ...]:
  """Sums up a set.

  Args:
    cases: what was measured.
    options: how to sum up.
    measured: how the cases were measured.

  Returns:
    The measures; those of vertebrae, of levels, of lesions, as far as the
    references say something of them.
  """
  table = _Table(cases, options)
  with_masks = [c for c in cases if c.identification is not None]
  with_lesions = [c for c in cases if c.lesions is not None]
  if with_masks:
    _add_masks(table, with_masks, measured)
    _add_levels(table, with_masks)
  if with_lesions:
    _add_lesions(table, with_lesions)
  return tuple(table.rows)


def _add_masks(
  table: _Table, cases: Sequence[CaseMeasures], measured: MeasureOptions
) -> None:
  bones = [(c, v) for c in cases for v in c.true_vertebrae]
  scans = [c for c in cases if c.true_vertebrae]
  count = f"{len(bones)} vertebrae, {len(scans)} scans"

  def over_scans(value: Callable) -> Statistic:
    return table.mean(
      (c, float(np.mean([value(v) for v in c.true_vertebrae]))) for c in scans
    )

  table.add(
    "dice",
    over_scans(lambda v: v.dice),
    f"{_SCANS} of Dice with the same predicted level; missed = 0",
    count,
  )
  whole = [(c, [v.dice for v in c.true_vertebrae if not v.cut]) for c in scans]
  table.add(
    "dice_whole",
    table.mean((c, float(np.mean(dice))) for c, dice in whole if dice),
    "the same over vertebrae that the field of view does not cut",
    f"{sum(len(dice) for _, dice in whole)} vertebrae",
  )
  table.add(
    "dice_instance",
    over_scans(lambda v: v.matched_dice),
    f"{_SCANS} of Dice with the predicted vertebra that lies there, whatever "
    f"its level (one to one, IoU >= {LEAST_IOU:g}); missed = 0",
    count,
  )
  table.add(
    "dice_spine",
    table.mean((c, c.spine_dice) for c in cases),
    "mean over scans of Dice of any vertebra against background, on the "
    "reference's grid; both empty = left out (VerSe's notebook: at 1 mm, and "
    "counts 1)",
    f"{len(cases)} scans",
  )
  for number, tolerance in enumerate(measured.tolerances_mm):
    table.add(
      f"nsd_{tolerance:g}mm",
      over_scans(lambda v, n=number: v.nsd[n]),
      f"{_SCANS} of the share of surface area within {tolerance:g} mm "
      "(surface-distance); missed = 0",
      count,
    )
  for name, words in (
    ("hd95_mm", "95th percentile of the surface distance, worse direction"),
    ("hd_mm", "largest surface distance"),
    ("assd_mm", "mean surface distance by area, both surfaces together"),
  ):
    table.add(
      f"{name.removesuffix('_mm')}_median",
      table.median((c, getattr(v, name)) for c, v in bones),
      f"median {_ALL_WHOLE} of the {words}; missed = infinite",
      count,
      "mm",
      "percentile",
    )
  table.add(
    "missed",
    table.ratio((c, v.state == "missed", 1) for c, v in bones),
    f"share {_ALL_WHOLE} without a voxel of the same predicted level",
    count,
  )


def _add_levels(table: _Table, cases: Sequence[CaseMeasures]) -> None:
  ids = [(c, c.identification) for c in cases if c.identification is not None]
  points = sum(len(i.truth) for _, i in ids)
  count = f"{points} points, {len(ids)} scans"
  missing = sum(len(i.missing) for _, i in ids)
  extra = sum(len(c.extra) for c in cases)
  excused = sum(v.state == "excused" for c in cases for v in c.vertebrae)
  nearest = f"nearest true level is its own and at most {HIT_MM:g} mm away"
  table.add(
    "id_rate_verse",
    table.ratio((c, len(i.hits), len(i.truth)) for c, i in ids),
    f"share of true points: {nearest}; nearest among levels in both (VerSe)",
    count,
  )
  table.add(
    "id_rate_strict",
    table.ratio((c, len(i.strict_hits), len(i.truth)) for c, i in ids),
    f"the same, nearest among all true levels; {missing} missing points are "
    "no hits",
    count,
  )
  table.add(
    "id_precision",
    table.ratio((c, len(i.hits), len(i.predicted)) for c, i in ids),
    "VerSe's hits by predicted levels",
    f"{sum(len(i.predicted) for _, i in ids)} predicted points",
  )
  bones = [(c, v) for c in cases for v in c.true_vertebrae]
  table.add(
    "id_accuracy",
    table.ratio((c, v.matched_code == v.code, 1) for c, v in bones),
    f"share {_ALL_WHOLE} where the predicted vertebra that lies there (one to "
    f"one, IoU >= {LEAST_IOU:g}) has the right level; unmatched = wrong",
    f"{len(bones)} vertebrae",
  )
  table.add(
    "all_levels_right",
    table.mean((c, float(c.all_right)) for c, i in ids if i.truth),
    "share of scans where every true point is hit (strict) and no level is "
    f"superfluous ({extra} are; {excused} excused: cut by the field of view "
    "or where the reference knows nothing)",
    f"{sum(bool(i.truth) for _, i in ids)} scans",
  )
  table.add(
    "d_mean",
    table.ratio(
      (c, math.fsum(i.distance_mm.values()), len(i.distance_mm)) for c, i in ids
    ),
    "mean distance of predicted to true points over levels in both; "
    f"{missing} missing and {extra} superfluous levels do not enter",
    f"{points - missing} points",
    "mm",
  )
  penalty = table.options.missing_penalty_mm
  if penalty is not None:
    table.add(
      "d_mean_penalised",
      table.ratio(
        (
          c,
          math.fsum(i.distance_mm.values()) + penalty * len(i.missing),
          len(i.truth),
        )
        for c, i in ids
      ),
      f"the same over all true points, {penalty:g} mm for each missing one",
      count,
      "mm",
    )
  table.add(
    "d_median",
    table.median(
      (c, i.distance_mm.get(code, math.inf)) for c, i in ids for code in i.truth
    ),
    "median of the same over all true points; missing = infinite",
    count,
    "mm",
    "percentile",
  )


def _add_lesions(table: _Table, cases: Sequence[CaseMeasures]) -> None:
  owners = np.array([table.owner(case) for case in cases])
  found = [case.lesions for case in cases if case.lesions is not None]
  true = sum(one.lesions for one in found)
  count = f"{true} lesions, {len(found)} scans"
  least = table.options.lesion_score
  for suffix, rule, right in (
    ("iou", f"IoU >= {detection.AP_IOU:g}", "right_iou"),
    ("near", f"centres within {detection.NEAR_MM:g} mm", "right_near"),
  ):
    pool = detection.pool_scans(
      [(one.scores, getattr(one, right), one.lesions) for one in found]
    )

    def by_scan(read, pool=pool) -> Statistic:
      return lambda weights: read(pool, weights[:, owners])

    table.add(
      f"lesion_ap_{suffix}",
      by_scan(detection.average_precision),
      f"average precision, {rule}, 101 recall points, scans pooled "
      "(nnDetection, COCO)",
      count,
    )
    table.add(
      f"lesion_froc_{suffix}",
      by_scan(lambda p, w: detection.froc(p, w).mean(axis=1)),
      f"mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives a scan, "
      f"{rule}",
      count,
    )
    for part, name, words in (
      (0, "precision", "detections that found a lesion"),
      (1, "recall", "lesions that were found"),
    ):
      table.add(
        f"lesion_{name}_{suffix}",
        by_scan(
          lambda p, w, n=part: detection.precision_recall(p, w, least)[n]
        ),
        f"share of {words} at score >= {least:g}, {rule}",
        count,
      )
