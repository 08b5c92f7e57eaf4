# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Gradients in bfloat16 are those of float32, parameter by parameter."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.models.layers import ConvBlock, Dense

CELLS = (1, 32, 24, 24)  # where sums in bfloat16 have stopped growing
WIDTH = 8


def _gradients(module, dtype, *arguments):
  """Gradients of a weighted sum, as float32 parameters receive them."""
  module = module.clone(dtype=dtype)
  params = module.init(jax.random.key(0), *arguments)
  # Away from zero, where the unit changes nothing and half of it no gradient.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = tree.unflatten(
    [
      x + 0.1 * jax.random.normal(k, x.shape)
      for x, k in zip(leaves, keys, strict=True)
    ]
  )

  @jax.jit
  def loss(params):
    out = module.apply(params, *arguments).astype(jnp.float32)
    return (out * (1 + 0.1 * jnp.sin(out))).sum()

  return jax.grad(loss)(params)


@pytest.mark.parametrize(
  ("module", "domain"),
  [(Dense(WIDTH), False), (ConvBlock(), True)],
  ids=["dense", "block"],
)
def test_no_gradient_is_summed_in_half_precision(module, domain):
  x = jax.random.normal(jax.random.key(2), (*CELLS, WIDTH))
  arguments = (x, jnp.ones((1, 4))) if domain else (x,)
  exact = _gradients(module, jnp.float32, *arguments)
  half = _gradients(module, jnp.bfloat16, *arguments)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(exact),
    jax.tree.leaves(half),
    strict=True,
  ):
    off = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert off < 0.03, jax.tree_util.keystr(path)


def test_dense_is_that_of_flax():
  x = jax.random.normal(jax.random.key(0), (3, 5))
  key = jax.random.key(1)
  ours, theirs = Dense(7), nn.Dense(7)
  params = ours.init(key, x)
  np.testing.assert_array_equal(
    params["params"]["kernel"], theirs.init(key, x)["params"]["kernel"]
  )
  np.testing.assert_array_equal(ours.apply(params, x), theirs.apply(params, x))
