# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from vf_jax.ops.sample import sample_trilinear


def test_equals_scipy_and_clamps_at_the_border():
  rng = np.random.default_rng(0)
  grid = rng.normal(size=(2, 5, 6, 4, 3)).astype(np.float32)
  points = rng.uniform(-1, 6, size=(2, 20, 3)).astype(np.float32)
  ours = jax.jit(sample_trilinear)(jnp.asarray(grid), jnp.asarray(points))
  for b in range(2):
    for c in range(3):
      theirs = ndimage.map_coordinates(
        grid[b, ..., c], points[b].T, order=1, mode="nearest"
      )
      np.testing.assert_allclose(ours[b, :, c], theirs, atol=1e-5)
