# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""All labels at once against one pair at a time, SimpleITK and search."""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import drawn_pairs
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from vf_jax.evaluate.metrics.overlap import (
  LabelOverlap,
  dice,
  label_overlap,
  match_instances,
)

GOLDEN = json.loads(
  pathlib.Path(__file__).with_name("golden.json").read_text("utf-8")
)["surfaces"]


@pytest.mark.parametrize("name", GOLDEN)
def test_dice_of_four_packages(name):
  prediction, truth, _ = drawn_pairs.surface_pairs()[name]
  found = dice(prediction, truth)
  for package in ("surface-distance", "monai", "medpy"):
    assert found == pytest.approx(GOLDEN[name][package]["dice"], rel=1e-6)
  measure = sitk.LabelOverlapMeasuresImageFilter()
  measure.Execute(
    *(
      sitk.GetImageFromArray(mask.astype(np.uint8))
      for mask in (prediction, truth)
    )
  )
  assert found == pytest.approx(measure.GetDiceCoefficient(), rel=1e-9)


def test_golden_1():
  prediction, truth, _ = drawn_pairs.golden_pair()
  assert truth.sum() == 2357
  assert prediction.sum() == 2622
  assert (prediction & truth).sum() == 2158
  assert dice(prediction, truth) == pytest.approx(0.866841, abs=1e-6)


def test_shapes_must_agree():
  with pytest.raises(ValueError, match="differ"):
    dice(np.ones((2, 2), bool), np.ones((1, 2), bool))
  with pytest.raises(ValueError, match="differ"):
    label_overlap(np.ones((2, 2, 1), np.uint8), np.ones((1, 2, 1), np.uint8))


@given(seed=st.integers(0, 1000), order=st.sampled_from("CF"))
def test_every_pair_at_once(seed, order):
  random = np.random.default_rng(seed)
  labels = random.choice([0, 0, 0, 3, 20, 255], (2, 6, 7, 5)).astype(np.uint8)
  prediction, truth = (np.array(mask, order=order) for mask in labels)
  found = label_overlap(prediction, truth)
  assert found.counts.sum() == truth.size
  for p, t in itertools.product((0, 3, 20, 255), repeat=2):
    one, other = prediction == p, truth == t
    assert found.counts[p, t] == (one & other).sum()
    assert found.dice()[p, t] == pytest.approx(dice(one, other))
    iou = (one & other).sum() / (one | other).sum()
    assert found.iou()[p, t] == pytest.approx(iou)
  assert found.spine_dice() == pytest.approx(dice(prediction > 0, truth > 0))


def test_empty_masks():
  empty = np.zeros((3, 4, 5), np.uint8)
  found = label_overlap(empty, empty)
  assert found.counts[0, 0] == 60
  assert math.isnan(found.spine_dice())
  assert np.isnan(found.dice()[1:, 1:]).all()
  assert match_instances(found) == {}


@given(seed=st.integers(0, 1000))
def test_instances_are_paired_for_the_largest_sum(seed):
  random = np.random.default_rng(seed)
  counts = np.zeros((256, 256), np.int64)
  counts[np.ix_([0, 4, 5, 6], [0, 7, 8, 9])] = random.integers(0, 60, (4, 4))
  overlap = LabelOverlap(counts)
  found = match_instances(overlap)
  iou = np.where(overlap.iou() >= 0.1, overlap.iou(), 0)
  best = max(
    sum(iou[p, t] for p, t in zip(order, (7, 8, 9)))
    for order in itertools.permutations((4, 5, 6))
  )
  assert sum(value for _, value in found.values()) == pytest.approx(best)
  assert len({p for p, _ in found.values()}) == len(found)


def test_a_shift_by_one_level_is_matched_by_place():
  truth = np.zeros((3, 3, 40), np.uint8)
  for number in range(4):
    truth[:, :, 10 * number : 10 * number + 9] = 20 + number
  prediction = np.where(truth > 0, truth + 1, 0).astype(np.uint8)
  found = match_instances(label_overlap(prediction, truth))
  assert {t: p for t, (p, _) in found.items()} == {
    t: t + 1 for t in range(20, 24)
  }
