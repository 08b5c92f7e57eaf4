# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Another scanner: every effect does what it is named after, and no more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.data.augment import intensity

SHAPE = (24, 20, 22)
SPACING = jnp.asarray([0.7, 0.8, 2.5])
KEYS = jax.random.split(jax.random.key(5), 200)


@pytest.fixture(scope="module")
def scans(quick, only):
  """Images and spacings of 200 scanners with some effects."""

  def run(image, strength=1.0, keys=KEYS, **effects):
    config = only(**effects)

    def one(key, image, strength):
      return intensity.rescan(key, image, SPACING, strength, 2.0, config)

    many = quick(jax.vmap(one, in_axes=(0, None, None)))
    found, spacing = many(
      keys, jnp.asarray(image, jnp.float32), jnp.float32(strength)
    )
    return np.asarray(found), np.asarray(spacing)

  return run


@pytest.fixture(scope="module")
def image():
  return np.random.default_rng(0).uniform(-1000, 1600, SHAPE)


def test_without_effects_nothing_changes(scans, image):
  found, spacing = scans(image)
  np.testing.assert_array_equal(
    found, np.broadcast_to(np.float32(image), found.shape)
  )
  np.testing.assert_array_equal(
    spacing, np.broadcast_to(SPACING, spacing.shape)
  )


def chosen(found, image):
  """The scans in which the effect came, which was to be two of three."""
  changed = (np.abs(found - image) > 1e-2).any(axis=(1, 2, 3))
  assert 0.53 < changed.mean() < 0.8
  return found[changed]


def test_noise_has_a_dose_and_a_grain(scans):
  flat = np.full(SHAPE, 100.0)
  everyone, _ = scans(flat, noise=2 / 3)
  found = chosen(everyone, flat)
  deviations = found.std(axis=(1, 2, 3))
  # The largest is 90 HU, and every dose as likely.
  assert deviations.mean() == pytest.approx(45, rel=0.15)
  assert deviations.max() == pytest.approx(90, rel=0.1)
  assert abs(found.mean() - 100) < 2
  neighbours = [np.corrcoef(f[1:].ravel(), f[:-1].ravel())[0, 1] for f in found]
  assert np.mean(np.abs(neighbours) < 0.06) == pytest.approx(0.5, abs=0.15)
  assert max(neighbours) > 0.5  # smooth kernels
  half, _ = scans(flat, strength=0.5, noise=2 / 3)
  np.testing.assert_allclose(half - 100, (everyone - 100) / 2, atol=1e-3)


def test_noise_of_thick_slices_is_that_of_few_slices(scans):
  found, spacing = scans(np.zeros(SHAPE), noise=1.0, slices=1.0)
  assert found.std(axis=(1, 2, 3)).mean() == pytest.approx(45, rel=0.2)
  assert (spacing[:, 2] > 2.5).all()
  likeness = []
  for axis in (1, 2, 3):
    first = np.take(found, range(1, 20), axis=axis).reshape(200, -1)
    second = np.take(found, range(19), axis=axis).reshape(200, -1)
    likeness.append([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second)])
  along = np.argmax(likeness, axis=0)
  shares = np.bincount(along, minlength=3) / 200
  np.testing.assert_allclose(shares, (0.6, 0.1, 0.3), atol=0.12)
  assert np.max(likeness, axis=0).mean() > 0.4


def test_thick_slices_smear_one_axis_and_say_so(scans):
  point = np.zeros(SHAPE)
  point[12, 10, 11] = 1000.0
  found, spacing = scans(point, slices=1.0)
  for scan, (fine, middle, coarse) in zip(found, spacing):
    smeared = [
      (scan != 0).any(axis=tuple({0, 1, 2} - {axis})).sum() > 1
      for axis in range(3)
    ]
    assert sum(smeared) == 1
    assert (fine, middle) == pytest.approx((0.7, 0.8))
    assert 3.0 <= coarse <= 6.0
    # Slices of coarse / 2 voxels dilute a voxel at least as much.
    assert scan.max() <= 1000 / (coarse / 2) + 1e-2
    assert scan.sum() == pytest.approx(1000, rel=0.5)
  _, spacing = scans(point, low_resolution=1.0)
  assert (spacing >= 2.4 - 1e-4).all()  # every edge, by 1.2 to 2 times
  assert (spacing <= 4.0).all()


@pytest.mark.parametrize("pitch", [1.0, 1.5, 2.0, 2.7])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.5, 0.99])
def test_slices_are_means_of_what_they_cover(pitch, phase):
  size = 17
  thicken = jax.jit(intensity.thicken, static_argnums=0)
  matrix = np.asarray(thicken(size, jnp.float32(pitch), jnp.float32(phase)))
  np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
  assert matrix.min() >= 0
  # Straight profiles stay straight away from the borders.
  ramp = matrix @ np.arange(size)
  inner = slice(4, -4)
  np.testing.assert_allclose(ramp[inner], np.arange(size)[inner], atol=0.35)
  # Independent: fine rectangles averaged into slices, slices interpolated.
  fine = np.repeat(np.eye(size), 400, axis=0)
  at = (np.arange(len(fine)) + 0.5) / 400 - 0.5
  middles = (np.arange(-1, size + 2) + phase - 0.5) * pitch
  slices = {
    m: fine[np.abs(at - m) <= pitch / 2].mean(axis=0)
    for m in middles
    if (np.abs(at - m) <= pitch / 2).any()
  }
  places = sorted(slices)
  for voxel in range(3, size - 3):
    low = max(m for m in places if m <= voxel + 1e-6)
    high = min((m for m in places if m > voxel + 1e-6), default=low)
    share = (voxel - low) / (high - low) if high > low else 0.0
    expected = (1 - share) * slices[low] + share * slices[high]
    np.testing.assert_allclose(matrix[voxel], expected, atol=0.01)


def test_pitch_one_is_the_identity():
  one = intensity.thicken(13, jnp.float32(1), jnp.float32(0.5))
  np.testing.assert_array_equal(one, np.eye(13))


def test_blur_keeps_the_mean(scans):
  edge = np.zeros(SHAPE)
  edge[12:] = 2000.0
  steps = []
  for scan in scans(edge, blur=2 / 3)[0]:
    profile = scan.mean(axis=(1, 2))
    assert profile[20] - profile[3] == pytest.approx(2000, rel=1e-3)
    steps.append((profile[12] - profile[11]) / 2000)
  # A third has none, and some of the others too little to be seen.
  assert 0.25 < np.mean(np.array(steps) > 0.9999) < 0.6
  assert max(steps) > 0.9  # some are sharp
  assert 0.4 < min(steps) < 0.6  # a deviation of 0.8 voxels leaves 0.47


def test_gamma_bends_bone_and_leaves_air_and_water(scans, image):
  found = chosen(scans(image, gamma=2 / 3)[0], image)
  soft = image <= 0
  np.testing.assert_allclose(
    found[:, soft],
    np.broadcast_to(image[soft], (len(found), soft.sum())),
    rtol=1e-5,
  )
  order = np.argsort(image.ravel())
  rising = np.diff(found.reshape(len(found), -1)[:, order], axis=1)
  assert rising.min() > -0.05  # no order of HU is turned around
  at = found.reshape(len(found), -1)[:, np.argmin(np.abs(image.ravel() - 300))]
  # 1500 * 0.2 ** e: a deviation of 0.15 of the log of e.
  assert np.std(np.log(at / 1500) / np.log(0.2)) == pytest.approx(0.15, rel=0.2)


def test_contrast_and_shift_are_small_errors_of_calibration(scans):
  flat = np.full(SHAPE, 1000.0)
  gains = chosen(scans(flat, contrast=2 / 3)[0], flat)[:, 0, 0, 0] / 1000
  assert np.std(gains) == pytest.approx(0.06, rel=0.2)
  assert np.mean(gains) == pytest.approx(1, abs=0.02)
  offsets = chosen(scans(flat, shift=2 / 3)[0], flat)[:, 0, 0, 0] - 1000
  assert np.std(offsets) == pytest.approx(15, rel=0.2)
  assert np.mean(offsets) == pytest.approx(0, abs=4)
