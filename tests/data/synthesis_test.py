# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic intensities: plausible HU in the right places, never twice."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.data.synthesis import degrade, synthesize
from vf_jax.multispine import tissues
from vf_jax.multispine.store import DEPTH_STEP_MM

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
  tissue[labels > 0] = tissues.BONE.code
  tissue[rib] = tissues.BONE.code
  for low in (0, 12):
    depth[low : low + 10, 16:26, 2:12] = ramp[:, None, None]
  depth[rib] = 8.0
  return labels, tissue, depth


def paint(patient, seed):
  return synthesize(*patient, np.random.default_rng(seed))


def test_tissues_have_their_own_range(patient):
  for seed in range(12):
    image = paint(patient, seed)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert -905 - 60 < image[:, LUNG].mean() < -650 + 60
    assert -1040 < image[:, OUTSIDE].mean() < -980
    assert 30 - 10 < image[:, MUSCLE].mean() < 80 + 10


def test_bone_has_a_shell_brighter_than_its_marrow(patient):
  labels, _, depth = patient
  differences = []
  for seed in range(40):
    image = paint(patient, seed)
    bone = labels > 0
    shell = image[bone & (depth * DEPTH_STEP_MM <= 2)].mean()
    marrow = image[bone & (depth * DEPTH_STEP_MM >= 8)].mean()
    assert shell > marrow - 60
    assert -150 < marrow < 500
    differences.append(shell - marrow)
  assert np.median(differences) > 80  # HU
  assert np.std(differences) > 50  # every patient differs


def test_vertebrae_of_one_patient_differ_a_little(patient):
  labels, _, depth = patient
  deep = depth * DEPTH_STEP_MM >= 8
  gaps = []
  for seed in range(40):
    image = paint(patient, seed)
    gaps.append(
      image[deep & (labels == 20)].mean() - image[deep & (labels == 21)].mean()
    )
  assert 10 < np.std(gaps) < 70  # 20 HU each, and texture


def test_unlabelled_soft_tissue_is_not_bone(patient):
  _, tissue, _ = patient
  unknown = tissue == tissues.UNKNOWN.code
  means = [paint(patient, seed)[unknown] for seed in range(20)]
  assert np.mean([m.mean() for m in means]) < 120
  assert np.mean([(m > 450).mean() for m in means]) < 0.01
  assert np.std([m.mean() for m in means]) > 15


def test_same_rng_same_patient_and_scanner(patient):
  first, second = paint(patient, 3), paint(patient, 3)
  np.testing.assert_array_equal(first, second)
  assert np.abs(first - paint(patient, 4)).mean() > 10
  scan = [degrade(first, np.random.default_rng(s)) for s in (5, 5, 6)]
  np.testing.assert_array_equal(scan[0], scan[1])
  assert np.abs(scan[0] - scan[2]).mean() > 1


def test_the_scanner_adds_noise_and_contrast_in_proportion():
  flat = np.full((20, 20, 20), 1000.0, np.float32)
  levels = {}
  for strength in (0.0, 0.5, 1.0):
    noise, means = [], []
    for seed in range(60):
      image = degrade(flat, np.random.default_rng(seed), strength)
      assert image.dtype == np.float32
      noise.append(image.std())
      means.append(image.mean())
    levels[strength] = np.mean(noise)
    # A gain of 6 % and an offset of 15 HU.
    assert np.std(means) == pytest.approx(np.hypot(60, 15), rel=0.3)
    assert np.mean(means) == pytest.approx(1000, abs=25)
  assert levels[0.0] < 1e-2
  assert levels[1.0] == pytest.approx(0.8 * 45, rel=0.3)  # HU
  assert levels[0.5] == pytest.approx(levels[1.0] / 2, rel=0.1)


def test_blur_keeps_the_mean_and_softens_an_edge():
  edge = np.zeros((24, 24, 24), np.float32)
  edge[12:] = 2000.0
  steps = []
  for seed in range(40):
    image = degrade(edge, np.random.default_rng(seed), 0.5)
    profile = image.mean(axis=(1, 2))
    # Far from the edge nothing moves but gain and offset.
    span = profile[20] - profile[3]
    assert span == pytest.approx(2000, rel=0.25)
    steps.append((profile[12] - profile[11]) / span)
  assert max(steps) > 0.95  # some scans are sharp
  assert min(steps) < 0.6  # some have thick slices
