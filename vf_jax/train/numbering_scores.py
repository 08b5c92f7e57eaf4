# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How good levels and their confidences are, scan by scan and all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vf_jax.data.candidates import MATCH_MM
from vf_jax.io.keypoints import Scan
from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.keypoint_numbering import scan_confidence

_NAMES = [level.name for level in VERTEBRAE]
_T11, _T12, _T13, _L1, _L6 = (
  _NAMES.index(name) for name in ("T11", "T12", "T13", "L1", "L6")
)


@dataclasses.dataclass(frozen=True, eq=False)
class ScanScore:
  """What became of one scan.

  Attributes:
    scan: its name.
    patient: whose.
    fold: the part it was held back in.
    true: bodies of the truth.
    hit: of these, with the same level predicted within `MATCH_MM`.
    confidence: of the whole scan.
    kept: confidence of each body that was kept.
    right: whether it was.
    variants: of T13, L6, absent T12, which the truth has.
    found: of these, which the prediction has.
    hard: the detector missed a true body or found one too many.
  """

  scan: str
  patient: str
  fold: int
  true: int
  hit: int
  confidence: float
  kept: Float64[np.ndarray, " bodies"]
  right: Bool[np.ndarray, " bodies"]
  variants: tuple[str, ...]
  found: tuple[str, ...]
  hard: bool

  @property
  def all_right(self) -> bool:
    """Every true body was hit, and nothing else was kept."""
    return self.hit == self.true and bool(self.right.all())


def score_scan(
  scan: Scan,
  levels: Int64[np.ndarray, " bodies"],
  points: Float64[np.ndarray, "bodies 3"],
  confidences: Float64[np.ndarray, " bodies"],
  fold: int = 0,
) -> ScanScore:
  """Compares the bodies that were kept with the truth.

  Args:
    scan: with its truth.
    levels: index into `VERTEBRAE` of each body that was kept.
    points: where, mm, DICOM world.
    confidences: how sure.
    fold: the part the scan was held back in.

  Returns:
    The comparison.
  """
  place = dict(zip(scan.levels.tolist(), scan.bodies))
  right = np.array(
    [
      level in place and np.linalg.norm(point - place[level]) <= MATCH_MM
      for level, point in zip(levels.tolist(), points)
    ],
    bool,
  )
  return ScanScore(
    scan=scan.name,
    patient=scan.patient,
    fold=fold,
    true=len(scan.levels),
    hit=len(set(levels[right].tolist())),
    confidence=scan_confidence(confidences),
    kept=np.asarray(confidences, np.float64),
    right=right,
    variants=_variants(scan.levels.tolist()),
    found=_variants(levels.tolist()),
    hard=_is_hard(scan),
  )


def identification_rate(scores: Sequence[ScanScore]) -> float:
  """Share of true bodies that were hit, all scans together.

  Args:
    scores: of the scans.

  Returns:
    0..1; NaN if there is no true body.
  """
  true = sum(score.true for score in scores)
  return sum(score.hit for score in scores) / true if true else float("nan")


def precision(scores: Sequence[ScanScore]) -> float:
  """Share of kept bodies that were right, all scans together.

  Args:
    scores: of the scans.

  Returns:
    0..1; NaN if no body was kept.
  """
  kept = sum(len(score.right) for score in scores)
  return sum(int(s.right.sum()) for s in scores) / kept if kept else np.nan


def interval(
  scores: Sequence[ScanScore],
  measure: Callable[[Sequence[ScanScore]], float],
  draws: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """95 % interval by drawing patients with replacement.

  Args:
    scores: of all scans.
    measure: what is measured.
    draws: of the bootstrap.
    seed: of the draws.

  Returns:
    The bounds.
  """
  series: dict[str, list[ScanScore]] = {}
  for score in scores:
    series.setdefault(score.patient, []).append(score)
  patients = list(series.values())
  rng = np.random.default_rng(seed)
  values = []
  for _ in range(draws):
    chosen = rng.integers(len(patients), size=len(patients))
    values.append(measure([s for i in chosen for s in patients[i]]))
  low, high = np.nanpercentile(values, [2.5, 97.5])
  return float(low), float(high)


def reliability(
  confidence: Float64[np.ndarray, " bodies"],
  right: Bool[np.ndarray, " bodies"],
  bins: int = 15,
) -> tuple[float, list[dict[str, float | int]]]:
  """Expected calibration error, bins of equal width.

  Args:
    confidence: 0..1.
    right: whether the prediction was right.
    bins: their number.

  Returns:
    The error, and a row for every bin that is not empty.

  Source:
    Guo et al. 2017, On Calibration of Modern Neural Networks (equation 3).
  """
  if not len(confidence):
    return float("nan"), []
  place = np.clip((confidence * bins).astype(int), 0, bins - 1)
  rows, error = [], 0.0
  for i in range(bins):
    own = place == i
    if own.any():
      said, was = float(confidence[own].mean()), float(right[own].mean())
      error += own.mean() * abs(said - was)
      rows.append({"bodies": int(own.sum()), "confidence": said, "right": was})
  return float(error), rows


def coverage_curve(
  scores: Sequence[ScanScore],
  coverages: Sequence[float] = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5),
) -> list[dict[str, float]]:
  """What the surest share of scans reaches.

  Args:
    scores: of all scans.
    coverages: shares that are answered.

  Returns:
    Rows of coverage, the threshold of confidence, and what is reached.
  """
  order = sorted(scores, key=lambda s: (-s.confidence, s.scan))
  rows = []
  for coverage in coverages:
    kept = order[: max(1, round(coverage * len(order)))]
    rows.append(
      {
        "coverage": coverage,
        "threshold": kept[-1].confidence,
        "identification_rate": identification_rate(kept),
        "all_right": float(np.mean([s.all_right for s in kept])),
      }
    )
  return rows


def summarise(scores: Sequence[ScanScore]) -> dict[str, Any]:
  """Everything that is reported of scans that were held back.

  Args:
    scores: of all scans.

  Returns:
    JSON types.
  """
  kept = np.concatenate([s.kept for s in scores] or [np.zeros(0)])
  right = np.concatenate([s.right for s in scores] or [np.zeros(0, bool)])
  error, rows = reliability(kept, right)
  hard = [s for s in scores if s.hard]
  folds = sorted({s.fold for s in scores})
  variants = {}
  for name in ("T13", "L6", "absent T12"):
    own = [s for s in scores if name in s.variants]
    variants[name] = {
      "scans": len(own),
      "found": sum(name in s.found for s in own),
      "claimed_elsewhere": sum(
        name in s.found and name not in s.variants for s in scores
      ),
      "identification_rate": identification_rate(own) if own else None,
    }
  usual = [s for s in scores if not s.variants]
  return {
    "scans": len(scores),
    "patients": len({s.patient for s in scores}),
    "true_bodies": sum(s.true for s in scores),
    "identification_rate": identification_rate(scores),
    "identification_rate_95": interval(scores, identification_rate),
    "identification_rate_by_fold": [
      identification_rate([s for s in scores if s.fold == f]) for f in folds
    ],
    "usual_anatomy": {
      "scans": len(usual),
      "identification_rate": identification_rate(usual),
    },
    "hard": {
      "scans": len(hard),
      "identification_rate": identification_rate(hard),
    },
    "all_right": float(np.mean([s.all_right for s in scores])),
    "precision": precision(scores),
    "variants": variants,
    "calibration_error": error,
    "reliability": rows,
    "coverage": coverage_curve(scores),
  }


def _variants(levels: list[int]) -> tuple[str, ...]:
  found = [n for n, i in (("T13", _T13), ("L6", _L6)) if i in levels]
  if _T11 in levels and _L1 in levels and _T12 not in levels:
    found.append("absent T12")
  return tuple(found)


def _is_hard(scan: Scan) -> bool:
  """Detected bodies and true ones are not the same, one to one."""
  bodies = scan.detected.points[scan.detected.kinds == 0]
  if len(bodies) != len(scan.bodies):
    return True
  if not len(bodies):
    return False
  apart = np.linalg.norm(bodies[:, None] - scan.bodies[None], axis=-1)
  return not (
    (apart.min(axis=0) <= MATCH_MM).all()
    and (apart.min(axis=1) <= MATCH_MM).all()
  )
