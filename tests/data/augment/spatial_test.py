# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One map for everything: voxels, labels, centres and boxes stay together."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vf_jax.data.augment import spatial

CROP, MARGIN = (40, 32, 36), 6
WINDOW = tuple(n + 2 * MARGIN for n in CROP)
MIDDLE = (np.array(CROP) - 1) / 2
SPACING = 2.0


@pytest.fixture(scope="module")
def draw(quick, only):
  """Poses and places of many keys: strongly turned and bent."""
  config = only(
    margin=MARGIN, rotate_deg=15.0, scale=0.2, elastic_mm=4.0, mirror=0.5
  )

  def one(key):
    pose = spatial.draw_pose(key, CROP, SPACING, config)
    return pose, spatial.source_places(pose, CROP)

  many = quick(jax.vmap(one))
  poses, places = many(jax.random.split(jax.random.key(3), 120))
  return poses, places


def pose_of(draw, i):
  return jax.tree.map(lambda leaf: leaf[i], draw[0])


def test_poses_are_similarities_spread_as_configured(draw):
  matrices = np.asarray(draw[0].matrix, float)
  scales = np.cbrt(np.abs(np.linalg.det(matrices)))
  mirrored = np.linalg.det(matrices) < 0
  angles = []
  for matrix, scale, mirror in zip(matrices, scales, mirrored):
    turn = matrix / scale
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    # A mirror turns width only: depth (head to foot) and height stay.
    turn[:, 2] *= -1 if mirror else 1
    assert turn[0, 0] > 0.5
    assert turn[1, 1] > 0.5
    angles.append(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
  # A normal cut off at two deviations keeps 0.88 of its deviation.
  assert np.std(np.log(scales)) == pytest.approx(0.2 * 0.88, rel=0.2)
  assert np.abs(np.log(scales)).max() <= 0.4 + 1e-5
  assert 0.35 < mirrored.mean() < 0.65
  # The length of three such angles: 1.6 deviations on average.
  assert np.rad2deg(np.mean(angles)) == pytest.approx(15 * 1.41, rel=0.15)
  shift = np.asarray(draw[0].centre) - MIDDLE - MARGIN
  assert np.abs(shift).max() <= 0.5
  assert shift.std() == pytest.approx(0.29, rel=0.15)


def test_places_follow_the_formula_of_a_pose(draw):
  for i in range(3):
    straight = dataclasses.replace(pose_of(draw, i), bend=None)
    places = np.asarray(spatial.source_places(straight, CROP))
    matrix, centre = np.asarray(straight.matrix), np.asarray(straight.centre)
    for voxel in ((0, 0, 0), (39, 0, 35), (11, 30, 2)):
      expected = matrix @ (np.array(voxel) - MIDDLE) + centre
      np.testing.assert_allclose(places[:, *voxel], expected, atol=1e-4)
    bent = np.asarray(draw[1][i]) - places
    assert 1 < bent.std() < 4  # 4 mm are 2 voxels


def test_points_go_where_the_voxels_go(draw, quick):
  """Carrying what a voxel shows must give that voxel back."""
  carry = quick(lambda pose, points: spatial.carry(pose, CROP, points))
  rng = np.random.default_rng(0)
  voxels = np.stack([rng.integers(0, n, 200) for n in CROP], axis=1)
  for i in range(40):
    shown = np.asarray(draw[1][i])[:, *voxels.T].T
    back = np.asarray(carry(pose_of(draw, i), jnp.asarray(shown)))
    assert np.linalg.norm(back - voxels, axis=1).max() < 0.05


@pytest.fixture(scope="module")
def pulled(draw, quick):
  """Balls of label and HU, resampled: (centres, image, labels) of a pose."""
  centres = np.array([(14, 12, 10), (26, 22, 30), (38, 14, 26), (30, 32, 14.0)])
  grid = np.indices(WINDOW)
  away = np.linalg.norm(grid[None] - centres[:, :, None, None, None], axis=1)
  labels = ((away <= 4) * np.arange(1, 5)[:, None, None, None]).sum(axis=0)
  image = 100 * np.clip(5 - away, 0, None).sum(axis=0)
  pull = quick(
    lambda pose, places: (
      spatial.carry(pose, CROP, jnp.asarray(centres, jnp.float32)),
      spatial.pull_linear(jnp.asarray(image, jnp.int16), places),
      spatial.pull_nearest(jnp.asarray(labels, jnp.uint8), places),
      spatial.in_sight(places, WINDOW),
    )
  )
  return [
    [np.asarray(a) for a in pull(pose_of(draw, i), draw[1][i])]
    for i in range(60)
  ]


def test_centres_follow_the_image_within_half_a_voxel(pulled):
  seen = 0
  for centres, image, labels, _ in pulled:
    for code, centre in enumerate(centres, start=1):
      if (centre < 8).any() or (centre > np.array(CROP) - 9).any():
        continue
      where = np.argwhere(labels == code)
      assert np.linalg.norm(where.mean(axis=0) - centre) < 0.5
      light = np.where(labels == code, image, 0)
      lit = np.indices(CROP).reshape(3, -1) @ light.ravel() / light.sum()
      assert np.linalg.norm(lit - centre) < 0.5
      seen += 1
  assert seen > 40


def test_no_label_is_invented(pulled):
  for _, _, labels, _ in pulled:
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 4}


def test_resampling_is_that_of_scipy(draw, quick):
  rng = np.random.default_rng(1)
  image = rng.integers(-1000, 2000, WINDOW).astype(np.int16)
  linear, nearest = quick(spatial.pull_linear), quick(spatial.pull_nearest)
  for i in range(4):
    places = np.asarray(draw[1][i])
    inside = np.asarray(spatial.in_sight(draw[1][i], WINDOW))
    size = np.reshape(WINDOW, (3, 1, 1, 1))
    expected = ((places >= -0.5) & (places < size - 0.5)).all(axis=0)
    np.testing.assert_array_equal(inside, expected)
    for order, pull in ((1, linear), (0, nearest)):
      found = np.asarray(pull(jnp.asarray(image), draw[1][i]), float)
      exact = ndimage.map_coordinates(
        image.astype(float), places, order=order, mode="nearest"
      )
      if order:
        np.testing.assert_allclose(found[inside], exact[inside], atol=0.2)
      else:  # but for ties of rounding
        assert (found == exact)[inside].mean() > 0.9999


def test_a_pose_that_does_nothing_changes_nothing(quick):
  rng = np.random.default_rng(2)
  image = jnp.asarray(rng.integers(-1000, 2000, WINDOW).astype(np.int16))
  pose = spatial.Pose(
    jnp.eye(3), jnp.asarray(MIDDLE + MARGIN, jnp.float32), None
  )
  places = spatial.source_places(pose, CROP)
  inner = tuple(slice(MARGIN, MARGIN + n) for n in CROP)
  for pull in (spatial.pull_linear, spatial.pull_nearest):
    np.testing.assert_array_equal(quick(pull)(image, places), image[inner])
  assert spatial.in_sight(places, WINDOW).all()


def test_a_mirror_turns_left_and_right_only(quick, only):
  config = only(mirror=1.0, margin=0)
  image = jnp.arange(np.prod(CROP)).reshape(CROP)
  boxes = jnp.asarray([[5.0, 6, 7, 4, 5, 6]])

  def turned(key):
    pose = spatial.draw_pose(key, CROP, SPACING, config)
    pose = dataclasses.replace(pose, centre=jnp.asarray(MIDDLE, jnp.float32))
    return (
      spatial.pull_nearest(image, spatial.source_places(pose, CROP)),
      spatial.carry_boxes(pose, CROP, boxes),
    )

  found, carried = quick(turned)(jax.random.key(0))
  np.testing.assert_array_equal(found, image[:, :, ::-1])
  np.testing.assert_allclose(carried, [[5, 6, 35 - 7, 4, 5, 6]], atol=1e-4)


def test_boxes_turn_and_scale_with_their_lesion(draw, quick):
  """Against the voxels of ellipsoids that fill the boxes."""
  edges = np.array([10.0, 14.0, 20.0]) * SPACING  # mm
  centre = np.array(WINDOW) / 2
  grid = np.indices(WINDOW)
  radius = (edges / SPACING / 2).reshape(3, 1, 1, 1)
  inside = (((grid - centre.reshape(3, 1, 1, 1)) / radius) ** 2).sum(axis=0)
  inside = jnp.asarray(inside, jnp.float32)
  pull = quick(
    lambda pose, places: (
      spatial.carry_boxes(
        pose, CROP, jnp.asarray([[*centre, *edges]], jnp.float32)
      ),
      spatial.pull_linear(inside, places),
    )
  )
  errors = []
  for i in range(40):
    pose = dataclasses.replace(pose_of(draw, i), bend=None)
    boxes, shown = pull(pose, spatial.source_places(pose, CROP))
    where = np.argwhere(np.asarray(shown) <= 1)
    low, high = where.min(axis=0), where.max(axis=0)
    if (low < 1).any() or (high > np.array(CROP) - 2).any():
      continue
    box = np.asarray(boxes[0])
    np.testing.assert_allclose((low + high) / 2, box[:3], atol=1.01)
    errors.append((high - low + 1) * SPACING - box[3:])
  assert len(errors) > 15
  assert np.abs(errors).max() < 2 * SPACING  # a voxel on each side
  assert np.abs(np.mean(errors, axis=0)).max() < 0.5 * SPACING
