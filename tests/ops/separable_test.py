# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Operators along axes, against scipy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vf_jax.ops.separable import apply_along_axes, gaussian


def test_operators_act_along_their_own_axis():
  rng = np.random.default_rng(3)
  image = rng.normal(size=(4, 5, 6)).astype(np.float32)
  d, h, w = (rng.normal(size=(n, n)).astype(np.float32) for n in image.shape)
  expected = np.einsum("dhw,ad,bh,cw->abc", image, d, h, w)
  found = apply_along_axes(
    jnp.asarray(image), [jnp.asarray(m) for m in (d, h, w)]
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_sigma_zero_is_the_identity():
  np.testing.assert_array_equal(gaussian(13, jnp.float32(0)), np.eye(13))


@pytest.mark.parametrize("sigma", [0.6, 1.3, 2.5])
def test_inside_it_is_the_blur_of_scipy(sigma):
  matrix = np.asarray(gaussian(61, sigma))
  np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
  point = np.eye(61)[30]
  expected = ndimage.gaussian_filter1d(point, sigma, truncate=10)
  np.testing.assert_allclose(matrix @ point, expected, atol=1e-6)


def test_at_the_border_what_lies_outside_does_not_count():
  matrix = np.asarray(gaussian(9, 2.0))
  share = np.exp(-0.5 * (np.arange(9) / 2.0) ** 2)
  np.testing.assert_allclose(matrix[0], share / share.sum(), rtol=1e-5)
