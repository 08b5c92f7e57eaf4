# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Modelled bones and discs around vertebrae that come without their CT."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vf_jax.labels import BY_NAME
from vf_jax.multispine.surroundings import model_bones, model_discs

SHAPE = (120, 110, 180)
SPACING = 2.0


def spine(*names: str):
  """Balls as vertebrae, the last 60 voxels above the floor."""
  labels = np.zeros(SHAPE, np.uint8)
  centres = {}
  place = np.indices(SHAPE)
  for i, name in enumerate(names):
    centre = (60.0 + 16 * (len(names) - 1 - i), 50.0, 90.0)
    away = np.sqrt(sum((p - c) ** 2 for p, c in zip(place, centre)))
    labels[away < 7] = BY_NAME[name].code
    centres[BY_NAME[name].code] = centre
  return labels, centres


def bones(labels, centres, seed=0):
  return model_bones(labels, centres, SPACING, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def lumbar():
  labels, centres = spine("L3", "L4", "L5")
  return labels, centres, bones(labels, centres)


def test_the_pelvis_lies_below_the_last_lumbar_vertebra(lumbar):
  _, centres, drawn = lumbar
  depth, height, _ = np.nonzero(drawn)
  assert depth.max() < centres[BY_NAME["L3"].code][0]  # the iliac crests
  middle = np.nonzero(drawn[:, :, 80:101])[0]
  assert middle.max() < centres[BY_NAME["L5"].code][0]
  middle = drawn[:60, 20:60, 80:101]
  assert middle.sum() * 0.008 > 20  # ml of sacrum in the midline
  # Both ilia, 4-10 cm to the side.
  left, right = (drawn[:, :, :70].sum(), drawn[:, :, 111:].sum())
  assert min(left, right) * 0.008 > 20
  assert abs(left - right) < 0.1 * max(left, right)
  assert height.min() < 50 - 20  # the sacrum turns to the back


def test_modelled_bone_keeps_away_from_vertebrae(lumbar):
  labels, centres, drawn = lumbar
  # A spinous process where the model has bone.
  touching = labels.copy()
  touching[45:56, 30:50, 85:96] = BY_NAME["L5"].code
  assert (drawn & (touching > 0)).any()
  again = bones(touching, centres)
  gap = ndimage.distance_transform_edt(touching == 0) * SPACING
  assert gap[again].min() > SPACING
  assert again.sum() > 0.7 * drawn.sum()


def test_no_pelvis_without_both_l4_and_l5():
  labels, centres = spine("L2", "L3", "L4")
  assert not bones(labels, centres).any()


def test_l6_moves_the_pelvis_down():
  five = spine("L4", "L5")
  six = spine("L4", "L5", "L6")
  below = [np.nonzero(bones(*case))[0].max() for case in (five, six)]
  # The last vertebra is at depth 60 in both: L6, not L5, bears the sacrum.
  assert abs(below[0] - below[1]) < 12
  assert not bones(*spine("L5", "L6")).any()


def test_ribs_leave_thoracic_vertebrae_on_both_sides():
  labels, centres = spine("T8")
  drawn = bones(labels, centres)
  _, height, width = np.nonzero(drawn)
  assert (width < 60).any()
  assert (width > 120).any()
  assert not drawn[:, :, 88:93].any()  # none through the middle
  assert height.min() < 50 - 8  # they start behind the body
  short = bones(*spine("T12"))
  assert 0 < short.sum() < 0.6 * drawn.sum()
  assert not bones(*spine("L2")).any()
  assert not bones(*spine("C4")).any()


def test_the_draw_depends_on_the_seed_only():
  labels, centres = spine("T8")
  first = bones(labels, centres, 1)
  np.testing.assert_array_equal(first, bones(labels, centres, 1))
  assert (first != bones(labels, centres, 2)).any()


def test_discs_lie_between_neighbours():
  centres = {20: (40.0, 50.0, 60.0), 21: (24.0, 50.0, 60.0)}
  discs = model_discs((60, 80, 100), centres, SPACING)
  assert discs[32, 50, 60]
  assert discs[32, 43, 60]
  assert not discs[32, 38, 60]  # radius 16 mm to the front and back
  assert discs[32, 50, 69]
  assert not discs[32, 50, 71]  # 20 mm to the side
  assert not discs[44:].any()
  assert not discs[:20].any()


def test_no_disc_across_a_missing_vertebra():
  far = {20: (50.0, 50.0, 60.0), 22: (19.0, 50.0, 60.0)}  # 62 mm
  assert not model_discs((60, 80, 100), far, SPACING).any()
  assert not model_discs((60, 80, 100), {20: far[20]}, SPACING).any()
