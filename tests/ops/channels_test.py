# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vf_jax.ops.channels import join_channels


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_joined_is_concatenated(backend, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  x, y = (
    jax.random.normal(jax.random.key(n), (2, 3, n), jnp.bfloat16)
    for n in (1, 4)
  )
  joined, back = jax.vjp(join_channels, x, y)
  np.testing.assert_array_equal(joined, jnp.concatenate([x, y], axis=-1))
  assert joined.dtype == jnp.bfloat16
  for gradient, part in zip(back(joined), (x, y), strict=True):
    np.testing.assert_array_equal(gradient, part)


def test_a_loop_and_a_product_read_the_same_array():
  def uses(x, y, kernel):
    both = join_channels(x, y)

    def add(number, total):
      return total + lax.dynamic_slice_in_dim(both, number, 8, axis=1)

    total = lax.fori_loop(0, 4, add, jnp.zeros((1, 8, 32, 32)))
    return total, both @ kernel

  x = jax.ShapeDtypeStruct((1, 32, 32, 16), jnp.float32)
  kernel = jax.ShapeDtypeStruct((32, 1), jnp.float32)
  program = jax.jit(uses).lower(x, x, kernel).compile()
  joined = 4 * 2 * x.size
  # A concatenation takes twice as much.
  assert program.memory_analysis().temp_size_in_bytes < 1.5 * joined
