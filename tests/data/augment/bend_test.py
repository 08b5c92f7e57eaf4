# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The bend: as strong as told, smooth, and the same wherever it is asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.data.augment.bend import STEP, bend_at, bend_everywhere, draw_bend

CROP = (49, 40, 30)  # one axis ends on a control point


@pytest.fixture(scope="module")
def fields(quick):
  """Control points and displacements of many draws of 2 voxels."""

  def draw(key):
    bend = draw_bend(key, CROP, 2.0)
    return bend, bend_everywhere(bend, CROP)

  bends, fields = quick(jax.vmap(draw))(jax.random.split(jax.random.key(0), 60))
  return np.asarray(bends), np.asarray(fields)


def test_displacements_have_the_deviation_asked_for(fields):
  _, found = fields
  assert found.shape == (60, 3, *CROP)
  assert found.std() == pytest.approx(2.0, rel=0.1)
  assert abs(found.mean()) < 0.3
  # The same at the border as in the middle.
  assert found[:, :, 0, 0, 0].std() == pytest.approx(2.0, rel=0.35)
  assert found[:, :, -1, -1, -1].std() == pytest.approx(2.0, rel=0.35)


def test_it_is_too_smooth_to_fold(fields):
  _, found = fields
  for axis in (2, 3, 4):
    slope = np.abs(np.diff(found, axis=axis))
    assert slope.max() < 0.6  # of 1, where a fold begins
    # And it does bend within the crop.
    assert np.ptp(found, axis=axis).mean() > 1


def test_places_between_voxels_belong_to_the_same_field(fields, quick):
  bends, found = fields
  at = quick(lambda bend, points: bend_at(bend, CROP, points))
  points = np.array([(0, 0, 0), (48, 39, 29), (24, 24, 24), (7, 30, 11)])
  for bend, field in zip(bends[:4], found[:4]):
    exact = at(jnp.asarray(bend), jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(exact, field[:, *points.T].T, atol=1e-4)
    step = np.array([1, 0, 0])
    half = at(jnp.asarray(bend), jnp.asarray(points[2:] + step / 2, "f4"))
    low, high = (field[:, *p.T] for p in (points[2:], points[2:] + step))
    # A curve bends away from its chord by an eighth of its curvature.
    np.testing.assert_allclose(half, (low + high).T / 2, atol=2e-2)
    beyond = at(jnp.asarray(bend), jnp.asarray([(90.0, -5.0, 29.0)]))
    np.testing.assert_allclose(beyond[0], field[:, 48, 0, 29], atol=1e-4)


@pytest.mark.parametrize("size", [STEP, STEP + 1, 3 * STEP + 1])
def test_control_points_reach_over_both_ends(size):
  bend = jax.eval_shape(
    lambda k: draw_bend(k, (size, 8, 8), 1.0), jax.random.key(0)
  )
  points = jnp.asarray([(0.0, 0, 0), (size - 1.0, 7, 7), (size / 2, 3, 3)])
  # Weights of all control points add up to 1 everywhere.
  field = bend_at(jnp.ones(bend.shape), (size, 8, 8), points)
  np.testing.assert_allclose(field, 1, rtol=1e-5)
