# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Detection against MONAI (nnDetection), picai, scikit-learn and by hand.

What other packages say is in golden.json.
"""

from __future__ import annotations

import json
import math
import pathlib

import drawn_pairs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.spatial.distance import cdist

from vf_jax.evaluate.metrics import detection
from vf_jax.evaluate.metrics.detection import (
  average_precision,
  box_iou,
  centre_nearness,
  froc,
  match_scan,
  pool_scans,
  precision_recall,
)

GOLDEN = json.loads(
  pathlib.Path(__file__).with_name("golden.json").read_text("utf-8")
)["detections"]
SCANS = {"golden": drawn_pairs.golden_scans()} | {
  str(seed): drawn_pairs.random_scans(12, seed) for seed in range(4)
}


def pooled(scans, least=0.1, similarity=box_iou):
  return pool_scans(
    [
      (scores, match_scan(scores, similarity(found, true), least), len(true))
      for scores, found, true in scans
    ]
  )


def ap(scans, least=0.1):
  pool = pooled(scans, least)
  return average_precision(pool, pool.ones())[0]


@pytest.mark.parametrize("name", SCANS)
def test_average_precision_is_that_of_monai(name):
  golden = GOLDEN[name]["monai"]
  scans = SCANS[name]
  several = [ap(scans, t) for t in np.linspace(0.1, 0.5, 9)]
  assert several[0] == pytest.approx(golden["AP_IoU_0.10"], abs=1e-9)
  assert several[-1] == pytest.approx(golden["AP_IoU_0.50"], abs=1e-9)
  assert np.mean(several) == pytest.approx(
    golden["mAP_IoU_0.10_0.50_0.05"], abs=1e-9
  )


@pytest.mark.parametrize("name", SCANS)
def test_average_precision_is_near_that_of_picai(name):
  """It integrates steps, without envelope and 101 points."""
  assert ap(SCANS[name]) == pytest.approx(GOLDEN[name]["picai"]["ap"], abs=0.05)


def plain_froc(scans, points):
  """As nnDetection does it, with NumPy's interpolation."""
  pool = pooled(scans)
  hits, wrong, fps, sens = 0, 0, [0.0], [0.0]
  for number, right in enumerate(pool.right):
    hits, wrong = hits + right, wrong + (not right)
    if number + 1 == len(pool.right) or (
      pool.scores[number + 1] < pool.scores[number]
    ):
      fps.append(wrong / len(scans))
      sens.append(hits / pool.lesions.sum())
  return np.interp(points, fps, sens)


@pytest.mark.parametrize("name", SCANS)
def test_froc_is_that_of_nndetection(name):
  pool = pooled(SCANS[name])
  found = froc(pool, pool.ones())[0]
  expected = plain_froc(SCANS[name], detection.FROC_POINTS)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCANS)
def test_froc_is_that_of_monai_and_picai(name):
  pool = pooled(SCANS[name])
  found = froc(pool, pool.ones())[0]
  np.testing.assert_allclose(found, GOLDEN[name]["froc_monai"], rtol=1e-12)
  # picai divides in float32.
  np.testing.assert_allclose(found, GOLDEN[name]["picai"]["froc"], rtol=1e-6)


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("package", ["picai", "sklearn"])
def test_precision_and_recall_agree(name, package):
  golden = GOLDEN[name][package]
  pool = pooled(SCANS[name])
  precision, recall = precision_recall(pool, pool.ones(), 0.5)
  assert precision[0] == pytest.approx(golden["precision"], rel=1e-12)
  assert recall[0] == pytest.approx(golden["recall"], rel=1e-12)


@pytest.mark.parametrize("name", SCANS)
def test_matches_by_centres_are_those_of_monai(name):
  """Its matching was given distances by SciPy instead of IoU."""
  for (scores, found, true), golden in zip(
    SCANS[name], GOLDEN[name]["near"], strict=True
  ):
    right = match_scan(scores, centre_nearness(found, true), -10)
    assert right.tolist() == golden


@pytest.mark.parametrize("name", SCANS)
def test_matches_by_centres_are_as_many_as_can_be(name):
  """No detection of these scans has two lesions nearby to choose from."""
  for scores, found, true in SCANS[name]:
    near = cdist(found.mean(axis=1), true.mean(axis=1)) <= 10
    most = near[optimize.linear_sum_assignment(near, maximize=True)].sum()
    right = match_scan(scores, centre_nearness(found, true), -10)
    assert right.sum() == most


def test_golden_3():
  scans = SCANS["golden"]
  pool = pooled(scans)
  (_, first, lesions), (_, second, one), _ = scans
  assert box_iou(first, lesions)[:2, 0] == pytest.approx(
    (0.5736, 0.0640), abs=5e-5
  )
  assert box_iou(second, one)[0, 0] == pytest.approx(0.1765, abs=5e-5)
  assert ap(scans) == pytest.approx(0.5)
  assert ap(scans, 0.5) == pytest.approx(34 / 101)
  several = [ap(scans, t) for t in np.linspace(0.1, 0.5, 9)]
  assert np.mean(several) == pytest.approx(0.372937, abs=1e-6)
  curve = froc(pool, pool.ones())[0]
  assert curve == pytest.approx([1 / 3] * 3 + [2 / 3] * 4)
  assert curve.mean() == pytest.approx(0.523810, abs=1e-6)
  monai_points = froc(pool, pool.ones(), (0.25, 0.5, 1, 2, 4, 8))
  assert monai_points.mean() == pytest.approx(0.555556, abs=1e-6)
  precision, recall = precision_recall(pool, pool.ones(), 0.0)
  assert (precision[0], recall[0]) == pytest.approx((2 / 5, 2 / 3))
  precision, recall = precision_recall(pool, pool.ones(), 0.8)
  assert (precision[0], recall[0]) == pytest.approx((1 / 2, 1 / 3))


def test_each_lesion_is_found_once_and_the_best_free_one_is_taken():
  truth = drawn_pairs.as_boxes([[0, 0, 0, 10, 10, 10], [4, 0, 0, 14, 10, 10]])
  found = drawn_pairs.as_boxes(
    [[1, 0, 0, 11, 10, 10], [0, 0, 0, 10, 10, 10], [0, 0, 0, 10, 10, 10]]
  )
  scores = np.array([0.9, 0.8, 0.7])
  right = match_scan(scores, box_iou(found, truth), 0.1)
  assert right.tolist() == [True, True, False]
  # With a high threshold the second finds its lesion taken.
  right = match_scan(scores, box_iou(found, truth), 0.8)
  assert right.tolist() == [True, False, False]


def test_iou_of_one_is_found_at_a_threshold_of_one():
  boxes = drawn_pairs.as_boxes([[0.1, 0.2, 0.3, 7.7, 8.8, 9.9]])
  assert match_scan(np.ones(1), box_iou(boxes, boxes), 1.0).all()


def test_centres_find_a_small_lesion_that_iou_misses():
  truth = drawn_pairs.as_boxes([[0, 0, 0, 2, 2, 2]])
  found = drawn_pairs.as_boxes([[2, 0, 0, 4, 2, 2]])
  assert not match_scan(np.ones(1), box_iou(found, truth), 0.1).any()
  near = centre_nearness(found, truth)
  assert near.tolist() == [[-2.0]]
  assert match_scan(np.ones(1), near, -10).all()
  assert not match_scan(np.ones(1), near, -1.9).any()


def test_nothing_to_find_has_no_rate_and_nothing_found_is_zero():
  box = drawn_pairs.as_boxes([[0, 0, 0, 9, 9, 9]])
  none = drawn_pairs.as_boxes([])
  false_alarm = pooled([(np.ones(1), box, none)])
  silent = pooled([(np.zeros(0), none, box)])
  ones = np.ones((1, 1))
  assert math.isnan(average_precision(false_alarm, ones)[0])
  assert np.isnan(froc(false_alarm, ones)).all()
  precision, recall = precision_recall(false_alarm, ones, 0)
  assert precision[0] == 0
  assert math.isnan(recall[0])
  assert average_precision(silent, ones)[0] == 0
  assert (froc(silent, ones) == 0).all()
  precision, recall = precision_recall(silent, ones, 0)
  assert math.isnan(precision[0])
  assert recall[0] == 0


def test_a_scan_without_prediction_counts():
  scans = SCANS["0"]
  box = drawn_pairs.as_boxes([[0, 0, 0, 9, 9, 9]])
  missed = [*scans, (np.zeros(0), drawn_pairs.as_boxes([]), box)]
  assert ap(missed) < ap(scans)


@given(seed=st.integers(0, 1000))
def test_weights_are_repetitions(seed):
  """Counting with weights equals repeating the scans."""
  random = np.random.default_rng(seed)
  scans = drawn_pairs.random_scans(6, seed)
  weights = random.multinomial(6, np.full(6, 1 / 6), 2)
  pool = pooled(scans)
  for row, value, curve in zip(
    weights, average_precision(pool, weights), froc(pool, weights)
  ):
    repeated = [scan for scan, n in zip(scans, row) for _ in range(n)]
    other = pooled(repeated)
    np.testing.assert_allclose(
      value, average_precision(other, other.ones())[0], rtol=1e-12
    )
    np.testing.assert_allclose(curve, froc(other, other.ones())[0], rtol=1e-12)


def test_many_replicates_are_cut_into_chunks(monkeypatch):
  pool = pooled(SCANS["1"])
  weights = np.random.default_rng(0).integers(0, 3, (50, 12))
  whole = average_precision(pool, weights), froc(pool, weights)
  monkeypatch.setattr(detection, "_CHUNK", 40)
  np.testing.assert_array_equal(average_precision(pool, weights), whole[0])
  np.testing.assert_array_equal(froc(pool, weights), whole[1])


def test_recall_points_are_reached_as_floats_are():
  recall = np.arange(0, 301)[None] / np.arange(1, 301)[:, None]
  recall = np.minimum(recall, 1)
  np.testing.assert_array_equal(
    detection._recall_points_up_to(recall),
    np.searchsorted(detection._RECALL_POINTS, recall, side="right"),
  )
