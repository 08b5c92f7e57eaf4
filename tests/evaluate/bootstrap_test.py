# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Intervals against SciPy, which draws the same resamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vf_jax.evaluate.bootstrap import bootstrap, draw_patients
from vf_jax.evaluate.metrics.detection import average_precision, pool_scans
from vf_jax.evaluate.summary import weighted_median

DICE = np.array(
  [0.91, 0.88, 0.95, 0.40, 0.93, 0.89, 0.97, 0.92, 0.86, 0.90, 0.94, 0.10]
)


def mean_of(values):
  # Not a product of matrices: ties must not depend on its rounding.
  return lambda weights: (weights * values).sum(axis=1) / len(values)


def scipy_interval(values, statistic=np.mean, seed=0, count=2000, **options):
  found = stats.bootstrap(
    (values,),
    statistic,
    n_resamples=count,
    rng=np.random.default_rng(seed),
    **options,
  ).confidence_interval
  return found.low, found.high


def test_golden_4():
  draws = draw_patients(12, 9_999, seed=0)
  found = bootstrap(mean_of(DICE), draws)
  assert (found.low, found.high) == pytest.approx((0.575, 0.913333), abs=1e-6)
  found = bootstrap(mean_of(DICE), draws, method="percentile")
  assert (found.low, found.high) == pytest.approx(
    (0.641667, 0.921667), abs=1e-6
  )
  assert mean_of(DICE)(draws).std(ddof=1) == pytest.approx(0.073359, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_scipy_agrees(seed, method):
  # Whole numbers: sums are exact in any order, and so are ties.
  values = np.round(100 * DICE)
  found = bootstrap(
    mean_of(values), draw_patients(12, 2000, seed), method=method
  )
  expected = scipy_interval(values, seed=seed, method=method)
  assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_scipy_agrees_about_average_precision():
  """Recomputed by SciPy on the resampled patients, one by one."""
  random = np.random.default_rng(5)
  scans = []
  for _ in range(15):
    right = random.random(4) < 0.5
    scores = -np.sort(-random.random(4))
    scans.append((scores, right, int(right.sum()) + int(random.integers(2))))
  pool = pool_scans(scans)

  def again(index):
    chosen = pool_scans([scans[int(i)] for i in index])
    return average_precision(chosen, chosen.ones())[0]

  found = bootstrap(
    lambda weights: average_precision(pool, weights), draw_patients(15, 400, 1)
  )
  expected = scipy_interval(
    np.arange(15), again, 1, 400, vectorized=False, method="BCa"
  )
  assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_equal_values_have_no_interval():
  found = bootstrap(mean_of(np.ones(5)), draw_patients(5, 200))
  assert math.isnan(found.low)
  assert math.isnan(found.high)
  assert "equal" in found.note


def test_one_patient_has_no_interval():
  with pytest.raises(ValueError, match="1 patient"):
    bootstrap(mean_of(np.ones(1)), draw_patients(1, 200))


def test_a_value_that_is_nan_gives_no_interval():
  values = np.array([0.1, 0.5, np.nan, 0.3])
  found = bootstrap(mean_of(values), draw_patients(4, 200))
  assert math.isnan(found.low)
  assert found.note


def test_replicates_without_a_lesion_are_left_out_and_told():
  count = np.array([2.0, 3.0, 0.0, 1.0, 0.0])
  hits = np.array([1.0, 3.0, 0.0, 0.0, 0.0])

  def recall(weights):
    size = weights @ count
    return weights @ hits / np.where(size > 0, size, np.nan)

  draws = draw_patients(5, 4000)
  found = bootstrap(recall, draws)
  empty = int((draws @ count == 0).sum())
  assert empty > 0
  assert f"{empty} of 4000" in found.note
  assert 0 <= found.low < found.high <= 1


def test_a_rate_that_hangs_on_one_patient_has_no_corrected_interval():
  def recall(weights):
    return weights[:, 0] / np.where(weights[:, 0] > 0, weights[:, 0], np.nan)

  assert math.isnan(bootstrap(recall, draw_patients(4, 500)).low)


def test_draws_are_resamples():
  draws = draw_patients(7, 500, seed=3)
  assert draws.shape == (500, 7)
  assert (draws.sum(axis=1) == 7).all()
  index = np.random.default_rng(3).integers(0, 7, (500, 7))
  np.testing.assert_array_equal(draws[42], np.bincount(index[42], minlength=7))


def test_weighted_median_is_the_median_of_repetitions():
  random = np.random.default_rng(0)
  values = np.sort(np.append(random.normal(size=20), [np.inf] * 4))
  owners = random.integers(0, 5, 24)
  weights = random.integers(0, 4, (100, 5))
  weights[0] = 0
  found = weighted_median(values, owners)(weights)
  assert math.isnan(found[0])
  for row, value in zip(weights[1:], found[1:]):
    repeated = np.repeat(values, row[owners])
    middle = np.sort(repeated)[[(len(repeated) - 1) // 2, len(repeated) // 2]]
    assert value == middle.mean()


def test_the_interval_of_a_median_may_be_infinite():
  values = np.array([1.0, 2.0, 3.0, np.inf, np.inf])
  statistic = weighted_median(values, np.arange(5))
  found = bootstrap(statistic, draw_patients(5, 1000), method="percentile")
  assert found.low == 1.0
  assert found.high == math.inf
