# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Identification: VerSe's own cases, its own code in words, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial

from vf_jax.evaluate.metrics.identification import identify

TRUTH = {20: (0, 0, 0), 21: (0, 30, 0), 22: (0, 60, 0), 23: (0, 90, 0)}
TRUTH = {code: tuple(map(float, point)) for code, point in TRUTH.items()}


def moved(x=0.0, y=0.0, only=TRUTH):
  return {
    code: (p[0] + x, p[1] + y, p[2]) if code in only else p
    for code, p in TRUTH.items()
  }


def without(*codes):
  return {code: point for code, point in TRUTH.items() if code not in codes}


# Name -> prediction, hits of 4: those of `get_hits` of anjany/verse, executed,
# and strict ones, worked out by hand (no package at hand has that rule).
GOLDEN = {
  "perfect": (TRUTH, 4, 4),
  "shifted by one level": ({c + 1: p for c, p in TRUTH.items()}, 0, 0),
  "14 mm along the spine": (moved(y=14), 4, 4),
  "16 mm along the spine": (moved(y=16), 1, 1),
  "20 mm to the side": (moved(x=20.0), 4, 4),
  "20.0001 mm to the side": (moved(x=20.0001), 0, 0),
  "one missing": (without(22), 3, 3),
  "only 21, 16 mm off": ({21: (0.0, 46.0, 0.0)}, 1, 0),
  "21 and 22 16 mm off": (
    {21: (0.0, 46.0, 0.0), 22: (0.0, 76.0, 0.0)}, 1, 0,
  ),
  "21 and 22 swapped": (TRUTH | {21: TRUTH[22], 22: TRUTH[21]}, 2, 2),
  "extra 24 on 23": (TRUTH | {24: TRUTH[23]}, 4, 4),
  "empty": ({}, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_verse_golden_table(name):
  prediction, hits, strict = GOLDEN[name]
  found = identify(prediction, TRUTH)
  assert (len(found.hits), len(found.strict_hits)) == (hits, strict)
  assert (found.rate, found.strict_rate) == (hits / 4, strict / 4)


def get_hits(prediction, truth):
  """VerSe's rule once more, as its code goes: arrays of 28 with NaN."""
  arrays = np.full((2, 28, 3), np.nan)
  for array, points in zip(arrays, (prediction, truth)):
    for code, point in points.items():
      array[code - 1] = point
  both = np.flatnonzero(~np.isnan(arrays).any(axis=(0, 2)))
  if not len(both):
    return 0
  first, second = arrays[:, both]
  apart = np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=2))
  nearest = np.argmin(apart, axis=1)
  nearest[np.min(apart, axis=1) > 20.0] = -1
  return int((nearest == np.arange(len(both))).sum())


SCANS = st.integers(0, 100_000)


def random_scan(seed):
  random = np.random.default_rng(seed)
  first = random.integers(1, 20)
  truth = {
    int(c): (0.0, 5.0, 24.0 * i) for i, c in enumerate(range(first, first + 6))
  }
  prediction = {
    code + int(random.random() < 0.2): tuple(
      float(v) for v in np.add(point, random.normal(0, 9, 3))
    )
    for code, point in truth.items()
    if random.random() < 0.8
  }
  return prediction, truth


@given(seed=SCANS)
def test_verse_code_agrees(seed):
  prediction, truth = random_scan(seed)
  assert len(identify(prediction, truth).hits) == get_hits(prediction, truth)


@given(seed=SCANS)
def test_strict_hits_are_those_of_a_search_tree(seed):
  prediction, truth = random_scan(seed)
  codes = [*truth, None]  # None: no true point within reach
  reach = np.nextafter(20.0, 21.0)
  _, nearest = spatial.KDTree(list(truth.values())).query(
    np.reshape(list(prediction.values()), (-1, 3)), distance_upper_bound=reach
  )
  hits = [c for c, place in zip(prediction, nearest) if c == codes[place]]
  assert list(identify(prediction, truth).strict_hits) == sorted(hits)


@given(seed=SCANS)
def test_strict_hits_are_hits_and_never_more_with_a_vertebra_less(seed):
  prediction, truth = random_scan(seed)
  found = identify(prediction, truth)
  assert set(found.strict_hits) <= set(found.hits)
  for code in prediction:
    fewer = {c: p for c, p in prediction.items() if c != code}
    less = identify(fewer, truth)
    assert less.strict_rate <= found.strict_rate
    assert len(less.missing) >= len(found.missing)


def test_a_missed_neighbour_takes_the_hit_in_the_strict_rule_alone():
  found = identify({21: (0.0, 46.0, 0.0)}, TRUTH)
  assert found.hits == (21,)
  assert found.strict_hits == ()
  assert found.missing == (20, 22, 23)


def test_distances_missing_and_extra():
  found = identify(
    without(20) | {21: (3.0, 34.0, 0.0), 25: (0.0, 0.0, 0.0)}, TRUTH
  )
  assert found.distance_mm == {21: 5.0, 22: 0.0, 23: 0.0}
  assert found.mean_distance_mm == pytest.approx(5 / 3)
  assert found.missing == (20,)
  assert found.extra == (25,)
  assert found.precision == 3 / 4
  assert not found.all_right


def test_all_right_needs_every_level_and_none_too_many():
  assert identify(TRUTH, TRUTH).all_right
  assert not identify(TRUTH | {24: (0.0, 120.0, 0.0)}, TRUTH).all_right
  assert not identify(without(23), TRUTH).all_right
  assert not identify(moved(y=16), TRUTH).all_right


def test_nan_is_absent():
  nowhere = (math.nan, math.nan, math.nan)
  found = identify(TRUTH | {22: nowhere}, TRUTH | {20: nowhere})
  assert found.truth == (21, 22, 23)
  assert found.missing == (22,)
  assert found.extra == (20,)


def test_nothing_true_has_no_rate():
  for prediction in ({}, TRUTH):
    found = identify(prediction, {})
    assert math.isnan(found.rate)
    assert math.isnan(found.mean_distance_mm)
  assert math.isnan(identify({}, TRUTH).precision)
  assert math.isnan(identify({}, TRUTH).mean_distance_mm)
