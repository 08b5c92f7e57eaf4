# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops.conv3d import conv3d


def _native(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 4, 3), (1, 7, 2, 9)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 5), (5, 1, 1)])
def test_equals_native_convolution(shape, kernel):
  a, b = jax.random.split(jax.random.key(0))
  x = jax.random.normal(a, (*shape, 4))
  w = jax.random.normal(b, (*kernel, 4, 6))

  def total(f):
    return lambda x, w: (jnp.sin(f(x, w))).sum()

  np.testing.assert_allclose(conv3d(x, w), _native(x, w), atol=1e-4)
  ours = jax.grad(total(conv3d), argnums=(0, 1))(x, w)
  theirs = jax.grad(total(_native), argnums=(0, 1))(x, w)
  for one, other in zip(ours, theirs):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_even_kernel_is_refused():
  with pytest.raises(ValueError, match="odd"):
    conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((2, 3, 3, 1, 1)))
