# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Both ways of predicting are told apart, and nothing is changed for good."""

from __future__ import annotations

import importlib
import types

import numpy as np
import pytest

from vf_jax.infer import windows


@pytest.fixture(scope="module")
def skipping():
  return importlib.import_module("skipping")


def test_what_skipping_changes_is_counted(skipping):
  usual = windows.BONE_HU

  def predictor(path):
    skips = np.isfinite(windows.BONE_HU)
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[0] = 20
    if skips:
      mask[0, 0, 0] = 21
    counts = {"run": 7 - 2 * skips, "skipped": int(2 * skips)}
    return types.SimpleNamespace(mask=mask, run={"windows": counts})

  assert skipping.compare(predictor, "a.nii.gz") == {
    "shape": [2, 3, 4], "run": 5, "skipped": 2, "vertebra_voxels": 12,
    "differ": 1,
  }  # fmt: skip
  assert windows.BONE_HU == usual
