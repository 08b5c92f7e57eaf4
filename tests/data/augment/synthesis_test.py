# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic intensities: plausible HU in the right places, never twice."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.data.augment.synthesis import paint
from vf_jax.labels import IGNORE
from vf_jax.multispine import tissues
from vf_jax.multispine.record import DEPTH_STEP_MM

SHAPE = (24, 28, 32)
LUNG, OUTSIDE, MUSCLE = (slice(0, 6), slice(6, 10), slice(10, 13))


@pytest.fixture(scope="module")
def patient():
  """Labels, tissue and depth: two vertebrae, a rib, lung, muscle and air."""
  labels = np.zeros(SHAPE, np.uint8)
  tissue = np.zeros(SHAPE, np.uint8)
  tissue[:, LUNG] = tissues.LUNG.code
  tissue[:, OUTSIDE] = tissues.OUTSIDE.code
  tissue[:, MUSCLE] = tissues.MUSCLE.code
  depth = np.zeros(SHAPE, np.float32)
  ramp = np.minimum(np.arange(1, 11), np.arange(10, 0, -1)) * 2 / DEPTH_STEP_MM
  for code, low in ((20, 0), (21, 12)):
    labels[low : low + 10, 16:26, 2:12] = code
  rib = (slice(2, 22), slice(16, 26), slice(20, 30))
  labels[:, 27] = IGNORE
  tissue[(labels > 0) & (labels != IGNORE)] = tissues.BONE.code
  tissue[rib] = tissues.BONE.code
  for low in (0, 12):
    depth[low : low + 10, 16:26, 2:12] = ramp[:, None, None]
  depth[rib] = 8.0
  return labels, tissue, depth


@pytest.fixture(scope="module")
def images(patient, quick):
  """The same patient painted with 60 keys."""
  many = quick(jax.vmap(paint, in_axes=(0, None, None, None)))
  keys = jax.random.split(jax.random.key(0), 60)
  return np.asarray(many(keys, *map(jnp.asarray, patient)))


def test_tissues_have_their_own_range(images):
  assert images.dtype == np.float32
  assert np.isfinite(images).all()
  for image in images:
    assert -905 - 60 < image[:, LUNG].mean() < -650 + 60
    assert -1040 < image[:, OUTSIDE].mean() < -980
    assert 30 - 10 < image[:, MUSCLE].mean() < 80 + 10
  means = images[:, :, LUNG].mean(axis=(1, 2, 3))
  assert np.std(means) == pytest.approx(250 / np.sqrt(12), rel=0.3)


def test_bone_has_a_shell_brighter_than_its_marrow(patient, images):
  labels, _, depth = patient
  bone = (labels > 0) & (labels != IGNORE)
  shell = images[:, bone & (depth * DEPTH_STEP_MM <= 2)].mean(axis=1)
  marrow = images[:, bone & (depth * DEPTH_STEP_MM >= 8)].mean(axis=1)
  assert (shell > marrow - 60).all()
  assert (marrow > -150).all()
  assert (marrow < 500).all()
  assert np.median(shell - marrow) > 80  # HU
  assert np.std(shell - marrow) > 50  # every patient differs


def test_vertebrae_of_one_patient_differ_a_little(patient, images):
  labels, _, depth = patient
  deep = depth * DEPTH_STEP_MM >= 8
  gaps = images[:, deep & (labels == 20)].mean(axis=1) - images[
    :, deep & (labels == 21)
  ].mean(axis=1)
  assert 25 < np.std(gaps) < 60  # 20 HU each, and texture


def test_unlabelled_soft_tissue_is_not_bone(patient, images):
  _, tissue, _ = patient
  unknown = images[:, tissue == tissues.UNKNOWN.code]
  assert unknown.mean() < 120
  assert (unknown > 450).mean() < 0.01
  assert np.std(unknown.mean(axis=1)) > 15
  # It is made of parts, not of one noise.
  assert np.median(unknown.std(axis=1)) > 20


def test_every_key_is_another_patient(patient, images, quick):
  again = quick(paint)(
    jax.random.split(jax.random.key(0), 60)[3], *map(jnp.asarray, patient)
  )
  np.testing.assert_allclose(again, images[3], atol=0.01)
  for first, second in itertools.pairwise(images):
    assert np.abs(first - second).mean() > 10
