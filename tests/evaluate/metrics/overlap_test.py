# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Overlap against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vf_jax.evaluate.metrics.overlap import dice


def sets_dice(prediction, truth):
  """By sets of places, as in the definition."""
  p = set(map(tuple, np.argwhere(prediction)))
  t = set(map(tuple, np.argwhere(truth)))
  return 2 * len(p & t) / (len(p) + len(t))


@pytest.mark.parametrize(
  ("prediction", "truth", "share"),
  [
    ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),
    ([1, 1, 1, 1], [1, 0, 0, 0], 0.4),
    ([1, 0, 0, 0], [1, 1, 1, 1], 0.4),
    ([0, 1, 0, 1], [0, 1, 0, 1], 1.0),
    ([1, 0, 0, 0], [0, 0, 0, 1], 0.0),
    ([0, 0, 0, 0], [0, 0, 0, 1], 0.0),
  ],
)
def test_known_overlaps(prediction, truth, share):
  assert dice(np.array(prediction, bool), np.array(truth, bool)) == share


@given(seed=st.integers(0, 10_000), density=st.floats(0.1, 0.9))
def test_any_masks_in_three_dimensions(seed, density):
  random = np.random.default_rng(seed)
  prediction, truth = random.random((2, 4, 5, 3)) < density
  truth[0, 0, 0] = True
  share = dice(prediction, truth)
  assert share == pytest.approx(sets_dice(prediction, truth))
  assert share == dice(truth, prediction)


def test_two_empty_masks_have_no_overlap_to_speak_of():
  empty = np.zeros((3, 3), bool)
  assert math.isnan(dice(empty, empty))


def test_large_masks_do_not_overflow():
  """More voxels than a 16 or 32 bit float could count one by one."""
  mask = np.ones((300, 300, 300), bool)
  assert dice(mask, mask) == 1.0
