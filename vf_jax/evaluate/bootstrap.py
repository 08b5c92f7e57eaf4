# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over patients, for statistics that take weights.

Vertebrae and scans of one patient are not independent, so whole patients are
drawn. A statistic gets a matrix of weights, one row a replicate: how often
each patient was drawn. Means and ratios are products of matrices then, and an
average precision is counted anew for all replicates at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float64, Num
from scipy import special

REPLICATES = 10_000
_BLOCK = 1 << 24

Method = Literal["BCa", "percentile"]
Statistic = Callable[
  [Num[np.ndarray, "replicates patients"]], Float64[np.ndarray, " replicates"]
]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A confidence interval, or why there is none.

  Attributes:
    low: lower end; NaN without an interval.
    high: upper end.
    note: what its reader should know, '' for nothing.
  """

  low: float
  high: float
  note: str = ""


def draw_patients(
  patients: int, replicates: int = REPLICATES, seed: int = 0
) -> Num[np.ndarray, "replicates patients"]:
  """Draws as many patients as there are, with replacement.

  The draws are those of `scipy.stats.bootstrap` with
  `rng=numpy.random.default_rng(seed)`.

  Args:
    patients: how many there are.
    replicates: how often to draw.
    seed: of the generator.

  Returns:
    How often each patient was drawn.
  """
  rng = np.random.default_rng(seed)
  drawn = rng.integers(0, patients, (replicates, patients))
  drawn += patients * np.arange(replicates)[:, None]
  counts = np.bincount(drawn.ravel(), minlength=replicates * patients)
  return counts.reshape(replicates, patients)


def bootstrap(
  statistic: Statistic,
  draws: Num[np.ndarray, "replicates patients"],
  *,
  confidence: int | float = 0.95,
  method: Method = "BCa",
) -> Interval:
  """Interval of a statistic over patients.

  Args:
    statistic: of weights.
    draws: of `draw_patients`; one set serves all statistics of a table.
    confidence: of the interval.
    method: 'BCa' corrects bias and skewness (acceleration by leaving out one
      patient at a time); 'percentile' is for statistics that a jackknife
      cannot judge, such as medians.

  Returns:
    The interval; none if all replicates are equal, or if the statistic does
    not exist once a patient is left out. Replicates without a value (no
    lesion was drawn) are left out, and the note says how many.

  Raises:
    ValueError: fewer than two patients.

  Source:
    Efron and Tibshirani, An Introduction to the Bootstrap, 14.3; equal to
    `scipy.stats.bootstrap`.
  """
  patients = draws.shape[1]
  if patients < 2:
    raise ValueError(f"{patients} patient(s): no interval over patients.")
  theta = float(statistic(np.ones((1, patients)))[0])
  values = _evaluate(statistic, draws)
  note = ""
  kept = values[~np.isnan(values)]
  if len(kept) < len(values):
    note = f"{len(values) - len(kept)} of {len(values)} replicates without it"
  if np.isnan(theta) or not len(kept):
    return Interval(np.nan, np.nan, "the statistic does not exist")
  if (kept == kept[0]).all():
    return Interval(np.nan, np.nan, "all replicates are equal")
  tail = (1 - confidence) / 2
  shares = np.array([tail, 1 - tail])
  if method == "BCa":
    left_out = statistic(1.0 - np.eye(patients))
    corrected = _correct(shares, theta, kept, left_out)
    if corrected is None:
      return Interval(np.nan, np.nan, "BCa needs every patient")
    shares = corrected
  low, high = _quantiles(kept, shares)
  return Interval(low, high, note)


def _evaluate(statistic, draws) -> Float64[np.ndarray, " replicates"]:
  rows = max(1, _BLOCK // draws.shape[1])
  return np.concatenate(
    [statistic(draws[i : i + rows]) for i in range(0, len(draws), rows)]
  )


def _correct(shares, theta, values, left_out):
  """Shares of the replicates that BCa reads; None if it cannot tell."""
  below = (values < theta).mean() + (values <= theta).mean()
  bias = special.ndtri(below / 2)
  away = left_out.mean() - left_out
  squares = (away**2).sum()
  if not np.isfinite(squares) or not np.isfinite(bias) or squares == 0:
    return None
  acceleration = (away**3).sum() / (6 * squares**1.5)
  z = bias + special.ndtri(shares)
  return special.ndtr(bias + z / (1 - acceleration * z))


def _quantiles(values, shares) -> tuple[float, float]:
  """Linear percentiles that may be infinite."""
  ordered = np.sort(values)
  place = shares * (len(ordered) - 1)
  first = np.floor(place).astype(int)
  low, high = ordered[first], ordered[np.minimum(first + 1, len(ordered) - 1)]
  with np.errstate(invalid="ignore"):
    between = low + (place - first) * (high - low)
  between = np.where((low == high) | (place == first), low, between)
  return float(between[0]), float(between[1])
