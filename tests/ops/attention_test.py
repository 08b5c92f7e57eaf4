# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops import cpu_attention as module
from vf_jax.ops.attention import attention, rotary_angles, rotate


def _naive(q, k, v, mask=None):
  scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
  if mask is not None:
    scores = np.where(mask, scores, -1e30)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  return np.einsum("bhqk,bkhd->bqhd", scores / scores.sum(-1, keepdims=True), v)


def test_attention_equals_the_formula():
  q, k, v = (
    jax.random.normal(key, (2, 10, 3, 8))
    for key in jax.random.split(jax.random.key(0), 3)
  )
  near = np.abs(np.arange(10)[:, None] - np.arange(10)) <= 2
  mask = jnp.broadcast_to(near, (2, 1, 10, 10))
  np.testing.assert_allclose(attention(q, k, v), _naive(q, k, v), atol=1e-5)
  np.testing.assert_allclose(
    attention(q, k, v, mask), _naive(q, k, v, mask), atol=1e-5
  )


@pytest.mark.parametrize("tokens", [128, 130, 67])  # 2, 2 blocks, 1 block
def test_blocks_of_queries_change_nothing(monkeypatch, tokens):
  monkeypatch.setattr(module, "_CACHED", 1)
  shape = (2, tokens, 3, 8)
  q, k, v, weight = (
    jax.random.normal(key, shape)
    for key in jax.random.split(jax.random.key(0), 4)
  )

  def total(function, *arrays):
    return (function(*arrays) * weight).sum()

  found, expected = (
    jax.value_and_grad(total, argnums=(1, 2, 3))(function, q, k, v)
    for function in (attention, jax.nn.dot_product_attention)
  )
  # fp32 sums of up to 130 terms in another order.
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
  for ours, theirs in zip(found[1], expected[1]):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_bfloat16_stays_and_is_near_fp32():
  q, k, v = (
    jax.random.normal(key, (1, 64, 2, 8))
    for key in jax.random.split(jax.random.key(0), 3)
  )
  exact = attention(q, k, v)

  def run(*arrays):
    return attention(*(x.astype(jnp.bfloat16) for x in arrays))

  out, back = jax.vjp(run, q, k, v)
  assert out.dtype == jnp.bfloat16
  # 8 bits of a mantissa, over a softmax.
  np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=3e-2)
  wanted = jax.vjp(attention, q, k, v)[1](jnp.ones_like(exact))
  for ours, theirs in zip(back(jnp.ones_like(out)), wanted):
    np.testing.assert_allclose(ours, theirs, atol=6e-2)


def test_rotary_product_depends_on_relative_position_only():
  grid = (4, 3, 5)
  angles = rotary_angles(grid, 20)
  index = np.arange(60).reshape(grid)
  q, k = (
    np.asarray(jax.random.normal(key, (20,)))
    for key in jax.random.split(jax.random.key(0))
  )
  tokens = np.broadcast_to(q, (1, 60, 1, 20))
  keys = np.broadcast_to(k, (1, 60, 1, 20))
  q_turned = np.asarray(rotate(jnp.asarray(tokens), angles))[0, :, 0]
  k_turned = np.asarray(rotate(jnp.asarray(keys), angles))[0, :, 0]
  product = q_turned @ k_turned.T
  first = product[index[0, 0, 0], index[1, 1, 2]]
  second = product[index[2, 1, 2], index[3, 2, 4]]
  other = product[index[0, 0, 0], index[2, 1, 2]]
  np.testing.assert_allclose(first, second, rtol=1e-4)
  assert abs(first - other) > 1e-3


def _turned_one_by_one(x, grid):
  """Every token's channels as complex numbers, turned in plain loops.

  Pair i is (i, i + dim/2). The first third of the pairs belongs to depth, then
  height, then width; within a third frequencies fall from 1 towards 1/100.
  """
  half = x.shape[-1] // 2
  each = half // 3
  pairs = x[..., :half] + 1j * x[..., half:]
  out = pairs.copy()
  for token, place in enumerate(itertools.product(*map(range, grid))):
    for axis in range(3):
      for index in range(each):
        turn = np.exp(1j * place[axis] * 100 ** (-index / each))
        pair = axis * each + index
        out[:, token, :, pair] = turn * pairs[:, token, :, pair]
  return np.concatenate([out.real, out.imag], axis=-1)


@pytest.mark.parametrize("dim", [24, 20])  # 20: one pair is left unturned
def test_rotary_positions_turn_every_pair_of_every_token(dim):
  grid, rng = (2, 3, 4), np.random.default_rng(0)
  x, weight = rng.standard_normal((2, 2, 24, 3, dim))
  back = _turned_one_by_one(weight, grid)
  angles = rotary_angles(grid, dim)
  found, pull = jax.vjp(
    lambda y: rotate(y, angles), jnp.asarray(x, jnp.float32)
  )
  # Angles of up to 3 in fp32.
  np.testing.assert_allclose(found, _turned_one_by_one(x, grid), atol=2e-6)
  # The gradient turns the other way, so what was turned comes back.
  (gradient,) = pull(jnp.asarray(back, jnp.float32))
  np.testing.assert_allclose(gradient, weight, atol=2e-6)


def test_cudnn_is_never_silently_replaced():
  x = jnp.zeros((1, 4, 1, 8))
  with pytest.raises(ValueError, match="needs a GPU"):
    attention(x, x, x, implementation="cudnn")
