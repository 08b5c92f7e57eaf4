# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops.subvoxel import depth_to_space, space_to_depth


def test_round_trip_is_exact():
  x = jax.random.normal(jax.random.key(0), (2, 8, 4, 12, 3))
  np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 4), 4), x)


def test_voxel_order_within_a_cell():
  x = jnp.arange(4 * 4 * 4, dtype=jnp.float32).reshape(1, 4, 4, 4, 1)
  packed = space_to_depth(x, 4)
  np.testing.assert_array_equal(packed.ravel(), np.arange(64))


def test_dense_equals_transposed_convolution():
  a, b = jax.random.split(jax.random.key(1))
  x = jax.random.normal(a, (1, 3, 2, 4, 5))
  dense = jax.random.normal(b, (5, 2**3 * 7))
  kernel = dense.reshape(5, 2, 2, 2, 7).transpose(1, 2, 3, 0, 4)
  theirs = jax.lax.conv_transpose(
    x,
    kernel[::-1, ::-1, ::-1],
    (2, 2, 2),
    "VALID",
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    transpose_kernel=False,
  )
  # A strided transposed convolution in JAX correlates, so the kernel is
  # flipped to lay its taps out in the order of the block.
  np.testing.assert_allclose(depth_to_space(x @ dense, 2), theirs, atol=1e-5)


def test_shapes_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="multiple of 4"):
    space_to_depth(jnp.zeros((1, 6, 4, 4, 1)), 4)
  with pytest.raises(ValueError, match="multiple of 2"):
    depth_to_space(jnp.zeros((1, 2, 2, 2, 12)), 2)
