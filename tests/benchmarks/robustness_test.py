# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Changed scans stay scans: CT and reference fit, and tell what they should."""

from __future__ import annotations

import importlib
import types

import numpy as np
import pytest

from vf_jax.demo import DEMO_CT, reference_mask
from vf_jax.io import nifti
from vf_jax.volume import Volume

_BONE_HU = 150


@pytest.fixture(scope="module")
def robustness():
  return importlib.import_module("robustness")


@pytest.fixture(scope="module")
def scan(robustness):
  ct = nifti.read(DEMO_CT)
  volume = Volume(ct.voxels.astype(np.float32), ct.affine)
  return robustness.Scan(volume, reference_mask())


@pytest.mark.parametrize(
  "name",
  [
    "voxels of 1.5 mm", "slices of 5 mm", "axes stored as P S R",
    "prone, the header says supine", "only L3", "two metal rods in L3",
  ],
)  # fmt: skip
def test_the_reference_stays_on_the_bone(robustness, scan, name):
  changed = robustness.CHANGES[name](scan)
  assert changed.mask.shape == changed.ct.voxels.shape
  inside = changed.ct.voxels[changed.mask > 0].mean()
  assert inside > _BONE_HU > changed.ct.voxels[changed.mask == 0].mean()
  if name != "only L3":
    assert set(np.unique(changed.mask)) == set(np.unique(scan.mask))


def test_on_the_belly_twice_is_on_the_back(robustness, scan):
  once = robustness.prone(scan)
  twice = robustness.prone(once)
  start = robustness.stored_as("RAS")(scan)
  assert np.array_equal(twice.ct.voxels, start.ct.voxels)
  assert not np.array_equal(once.ct.voxels, start.ct.voxels)


def test_without_a_spine_there_is_none(robustness, scan):
  changed = robustness.without_spine(scan)
  assert not changed.mask.any()
  assert min(changed.mask.shape) > 10


def test_a_prediction_is_judged_by_instance_and_level(robustness, scan):
  """The reference, but L1 called L2 and L2 called L1, and L4 cut in two."""
  mask = scan.mask.copy()
  mask[scan.mask == 20], mask[scan.mask == 21] = 21, 20
  four = np.argwhere(mask == 23)
  mask[tuple(four[four[:, 2] > np.quantile(four[:, 2], 0.4)].T)] = 0
  found = types.SimpleNamespace(
    mask=mask, vertebrae=(), abstained=False, warnings=()
  )
  row = robustness.judge(lambda ct, case: found, scan)
  assert row["whole"] == 5
  assert row["found"] == 4
  assert row["right"] == 2
  assert 0.8 < row["dice"] < 1
