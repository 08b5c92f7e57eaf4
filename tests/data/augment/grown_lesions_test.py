# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Grown lesions: in bone only, seen, boxed tightly, as often as asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.data.augment.lesions import SLOTS, grow, wear_joints
from vf_jax.labels import IGNORE

EDGE_MM = 2.0
SHAPE = (32, 28, 24)
MARROW_HU = 180.0
TRIES = 60
ALWAYS = jnp.float32(1)


@pytest.fixture(scope="module")
def labels():
  """Two vertebrae; what lies beside them is unknown."""
  found = np.zeros(SHAPE, np.uint8)
  found[2:14, 6:22, 4:20] = 20
  found[16:30, 6:22, 4:20] = 21
  found[:, 24:] = IGNORE
  return found


@pytest.fixture(scope="module")
def grown(labels, quick):
  """Images, boxes and which lesions exist, of `TRIES` keys."""
  bone = (labels > 0) & (labels != IGNORE)
  image = jnp.where(bone, MARROW_HU, 40.0)
  many = quick(
    jax.vmap(lambda key: grow(key, image, jnp.asarray(labels), EDGE_MM, ALWAYS))
  )
  found = many(jax.random.split(jax.random.key(0), TRIES))
  return np.asarray(image), *map(np.asarray, found)


def test_nothing_but_vertebrae_changes(labels, grown):
  before, images, _, _ = grown
  bone = (labels > 0) & (labels != IGNORE)
  assert (images[:, ~bone] == before[~bone]).all()
  assert np.isfinite(images).all()


def test_boxes_hold_all_that_changed_and_no_more(grown):
  before, images, boxes, real = grown
  single = np.flatnonzero(real.sum(axis=1) == 1)
  assert len(single) > 10
  for n in single:
    (box,) = boxes[n][real[n]]
    changed = np.argwhere(images[n] != before)
    first, last = changed.min(axis=0), changed.max(axis=0)
    np.testing.assert_allclose(box[:3], (first + last) / 2)
    np.testing.assert_allclose(box[3:], (last - first + 1) * EDGE_MM)


def test_edges_are_of_the_lengths_of_small_and_large_lesions(grown):
  _, _, boxes, real = grown
  edges = boxes[real][:, 3:]
  low, high = np.percentile(edges, (5, 95))
  # Here a vertebra, which a lesion does not leave, is 24 to 32 mm long.
  assert 6 <= low <= 10
  assert 26 <= high <= 34
  assert edges.max() > 28


def test_lesions_are_seen_and_of_several_kinds(grown):
  before, images, _, real = grown
  lytic = dense = 0
  for image, there in zip(images, real):
    change = image - before
    if there.any():
      assert np.abs(change).max() >= 60
    lytic += (change < -80).sum() > 10
    dense += (change > 120).sum() > 10
  assert lytic > TRIES / 5
  assert dense > TRIES / 5


def test_slots_without_a_lesion_are_empty(grown):
  _, _, boxes, real = grown
  assert boxes.shape == (TRIES, SLOTS, 6)
  assert (boxes[~real] == 0).all()
  assert 1 < real.sum(axis=1).max() <= SLOTS
  # The first nearly always; a few are too small or too pale to be one.
  assert real[:, 0].mean() > 0.6


def test_none_without_a_chance_or_a_vertebra(labels, quick):
  image = jnp.full(SHAPE, MARROW_HU)
  run = quick(lambda key, codes, c: grow(key, image, codes, EDGE_MM, c))
  for codes, chance in ((labels, 0 * ALWAYS), (np.zeros_like(labels), ALWAYS)):
    key = jax.random.key(1)
    same, _, real = run(key, jnp.asarray(codes), chance)
    assert not np.asarray(real).any()
    np.testing.assert_array_equal(same, image)


def test_lesions_come_as_often_as_asked(labels, quick):
  image, codes = jnp.full(SHAPE, 600.0), jnp.asarray(labels)
  chance = jnp.float32(0.3)
  many = quick(
    jax.vmap(lambda key: grow(key, image, codes, EDGE_MM, chance)[2])
  )
  real = many(jax.random.split(jax.random.key(5), 400))
  share = np.asarray(real).any(axis=1).mean()
  assert 0.2 < share < 0.36  # some are too small or too pale


def test_a_lesion_stays_in_one_vertebra(quick):
  codes = np.zeros(SHAPE, np.uint8)
  codes[2:16, 6:22, 4:20] = 20
  codes[16:30, 6:22, 4:20] = 21  # touching
  image, codes = jnp.full(SHAPE, MARROW_HU), jnp.asarray(codes)
  many = quick(jax.vmap(lambda key: grow(key, image, codes, EDGE_MM, ALWAYS)))
  images, _, real = map(np.asarray, many(jax.random.split(jax.random.key(2), 40)))
  single = np.flatnonzero(real.sum(axis=1) == 1)
  assert len(single) > 5
  for n in single:
    assert len(set(np.asarray(codes)[images[n] != MARROW_HU])) == 1


@pytest.fixture(scope="module")
def body_and_plate():
  codes = np.zeros(SHAPE, np.uint8)
  codes[4:20, 4:20, 4:20] = 20  # a body of 64 blocks
  codes[24:28, :, :] = 20  # a plate of 42, as thick as an arch
  return jnp.asarray(codes)


def test_lesions_prefer_bodies(body_and_plate, quick):
  image = jnp.full(SHAPE, MARROW_HU)
  many = quick(
    jax.vmap(lambda key: grow(key, image, body_and_plate, EDGE_MM, ALWAYS))
  )
  _, boxes, real = map(
    np.asarray, many(jax.random.split(jax.random.key(3), 200))
  )
  plate = boxes[real][:, 0] > 22
  assert 0 < plate.mean() < 0.25  # 0.4 if all places were as likely


def test_joints_are_dense_and_prefer_arches(body_and_plate, quick):
  image = jnp.full(SHAPE, MARROW_HU)
  many = quick(
    jax.vmap(lambda key: wear_joints(key, image, body_and_plate, EDGE_MM))
  )
  worn = np.asarray(many(jax.random.split(jax.random.key(4), 100)))
  assert (worn[:, np.asarray(body_and_plate) == 0] == MARROW_HU).all()
  plate, body = (np.abs(worn[:, at] - MARROW_HU) > 100 for at in (
    np.s_[24:28], np.s_[4:20]))
  assert 0.5 < plate.any(axis=(1, 2, 3)).mean() < 0.95
  assert body.any(axis=(1, 2, 3)).mean() < 0.4
  assert (worn - MARROW_HU).max() > 500
  assert (worn - MARROW_HU).min() > -450  # grain of what is moth-eaten
