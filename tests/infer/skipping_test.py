# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Skipping windows without bone does not change the mask of a real CT."""

from __future__ import annotations

import numpy as np

from vf_jax.demo import DEMO_CT
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer import windows
from vf_jax.infer.predictor import load
from vf_jax.io import nifti
from vf_jax.volume import network_grid


def test_skipped_windows_hold_no_voxel_of_the_mask(monkeypatch):
  """The lumbar spine of the demo, the belly and the air in front of it."""
  predictor = load()
  config = predictor.config
  volume = nifti.read(DEMO_CT)
  grid = network_grid(volume.grid, config.model.spacing_mm)
  image = predictor.network.show(volume, grid)
  depth, height, width = config.model.crop
  part = np.full((depth, 3 * height, width), AIR_HU, np.int16)
  body = image[40 : 40 + depth, 12:, 64 : 64 + width]
  part[:, : body.shape[1]] = body
  spacing = np.array([3.0, 3.0, 3.0], np.float32)
  some = predictor.network.sweep(part, spacing)
  monkeypatch.setattr(windows, "BONE_HU", -np.inf)
  every = predictor.network.sweep(part, spacing)
  assert every.skipped == 0
  assert some.skipped >= 2
  assert some.windows + some.skipped == every.windows
  threshold = config.predict.threshold
  mask = every.probability > threshold
  assert mask.sum() * config.model.spacing_mm**3 / 1000 > 10
  np.testing.assert_array_equal(some.probability > threshold, mask)
  np.testing.assert_array_equal(some.offsets, every.offsets)
