"""The coarse canvas paints where it says, and doubles without a shift."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas, double, smooth_noise


@pytest.fixture
def canvas():
  made = Canvas(np.array([-30.0, -30.0, -30.0]), (31, 31, 31), 2.0)
  made.tissue[...] = tissues.FAT.code
  return made


def test_double_keeps_a_ramp_in_its_place():
  coarse = np.arange(6, dtype=np.float32)[:, None, None] * np.ones(
    (1, 4, 5), np.float32
  )
  fine = double(coarse)
  assert fine.shape == (12, 8, 10)
  expected = np.clip((np.arange(12) - 0.5) / 2, 0, 5)
  np.testing.assert_allclose(fine[:, 3, 4], expected, atol=1e-6)
  np.testing.assert_allclose(fine[:, 0, 0], fine[:, 7, 9], atol=1e-6)


def test_noise_has_unit_variance_and_repeats():
  one, other = (
    smooth_noise((60, 60, 60), 5, np.random.default_rng(0)) for _ in range(2)
  )
  np.testing.assert_array_equal(one, other)
  assert one.std() == pytest.approx(1, abs=0.15)
  assert np.abs(np.diff(one, axis=0)).mean() < 0.4


def test_an_ellipsoid_has_its_volume(canvas):
  canvas.ellipsoid((1, 0, 2), (20, 15, 10), tissues.ORGAN, 40.0)
  filled = (canvas.tissue == tissues.ORGAN.code).sum() * 8
  assert filled == pytest.approx(4 / 3 * np.pi * 3000, rel=0.06)
  assert (canvas.hu[canvas.tissue == tissues.ORGAN.code] == 40).all()


def test_paint_keeps_to_what_it_may_paint(canvas):
  canvas.tissue[:10] = tissues.OUTSIDE.code
  canvas.tissue[10:15] = tissues.LUNG.code
  canvas.within = np.zeros(canvas.shape, bool)
  canvas.within[:, :20] = True
  canvas.ellipsoid((0, 0, 0), (100, 100, 100), tissues.ORGAN, 40.0)
  assert (canvas.tissue[:10] == tissues.OUTSIDE.code).all()
  assert (canvas.tissue[10:, :20] == tissues.ORGAN.code).all()
  assert not (canvas.tissue[:, 20:] == tissues.ORGAN.code).any()
  canvas.within = None
  over = (tissues.FAT,)
  canvas.ellipsoid((0, 0, 0), (100, 100, 100), tissues.MUSCLE, 50.0, over)
  assert (canvas.tissue[15:, 20:] == tissues.MUSCLE.code).all()
  assert (canvas.tissue[10:15, 20:] == tissues.LUNG.code).all()


def test_a_bone_tube_is_as_deep_as_its_radius(canvas):
  canvas.bone_tube(np.array([[-20.0, 0, 0], [20.0, 0, 0]]), [5.0, 5.0])
  assert canvas.bone[15, 15, 15] == pytest.approx(5.0)
  assert canvas.bone[15, 17, 15] == pytest.approx(1.0)
  assert canvas.bone[15, 19, 15] == pytest.approx(-3.0)


def test_what_lies_elsewhere_changes_nothing(canvas):
  before = canvas.tissue.copy(), canvas.bone.copy()
  canvas.ellipsoid((500, 0, 0), (9, 9, 9), tissues.ORGAN, 40.0)
  canvas.bone_ellipsoid((500, 0, 0), (9, 9, 9))
  canvas.bone_tube(np.array([[500.0, 0, 0], [520.0, 0, 0]]), [5.0, 5.0])
  np.testing.assert_array_equal(canvas.tissue, before[0])
  np.testing.assert_array_equal(canvas.bone, before[1])
  assert canvas.box((500, 0, 0), (600, 1, 1)) is None
