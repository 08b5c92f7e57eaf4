# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention for the caches of a CPU: a block of queries at a time.

All logits of 1,728 tokens and 4 heads are 48 MB, which leave the cache between
every two passes of a softmax. Here they stay in it and none is kept for the
gradients, which compute them anew.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_CACHED = 2**21  # logits, 8 MiB of them in fp32
_FEWEST = 64  # rows, below which matrix products are slow


def _block_size(tokens: int, maps: int) -> int:
  """Queries at a time: a divisor of `tokens`, so that blocks are equal."""
  most = max(_FEWEST, _CACHED // (tokens * maps))
  fits = [n for n in range(1, min(most, tokens) + 1) if tokens % n == 0]
  return fits[-1] if 2 * fits[-1] >= min(_FEWEST, tokens) else tokens


# Arrays below are (batch, heads, tokens, dim), and blocks of queries have the
# axis of blocks before that: batch and heads are never looped over, because
# they may be sharded. Legend of the products: b batch, h heads, q queries, k
# keys, d dim.
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def cpu_attention(
  query: Float[Array, "batch tokens heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
) -> Float[Array, "batch tokens heads dim"]:
  """Scaled dot-product attention, softmax in fp32.

  Args:
    query: queries.
    key: keys.
    value: values.

  Returns:
    The attended values, those of `jax.nn.dot_product_attention` up to the
    order of sums.
  """
  return _forward(query, key, value)[0]


def _forward(query, key, value):
  keys, values = _heads_first(key), _heads_first(value)

  def attend(block):
    logits = _product("bhqd,bhkd->bhqk", block, keys)
    highest = logits.max(axis=-1, keepdims=True)
    weight = jnp.exp(logits - highest)
    total = weight.sum(axis=-1, keepdims=True)
    out = _product("bhqk,bhkd->bhqd", weight.astype(values.dtype), values)
    return out / total, highest + jnp.log(total)

  out, log_total = jax.lax.map(attend, _to_blocks(_scaled(query)))
  saved = query, key, value, out, log_total
  return _from_blocks(out).astype(query.dtype), saved


def _backward(saved, grad):
  """Gradients from the weights computed anew, block by block."""
  query, key, value, out, log_total = saved
  keys, values = _heads_first(key), _heads_first(value)
  kind = query.dtype
  grads = _to_blocks(grad)
  mean = (grads * out).sum(axis=-1, keepdims=True)

  def step(totals, block):
    queries, grads, log_total, mean = block
    weight = jnp.exp(_product("bhqd,bhkd->bhqk", queries, keys) - log_total)
    change = _product("bhqd,bhkd->bhqk", grads, values) - mean
    change = (weight * change).astype(kind)
    of_key = _product("bhqk,bhqd->bhkd", change, queries)
    of_value = _product("bhqk,bhqd->bhkd", weight.astype(kind), grads)
    return (totals[0] + of_key, totals[1] + of_value), _product(
      "bhqk,bhkd->bhqd", change, keys
    )

  zeros = jnp.zeros(keys.shape, jnp.float32)
  (of_key, of_value), of_query = jax.lax.scan(
    step,
    (zeros, zeros),
    (_to_blocks(_scaled(query)), grads, log_total, mean),
  )
  of_query = _scaled(_from_blocks(of_query))
  return tuple(
    part.astype(kind)
    for part in (of_query, _heads_first(of_key), _heads_first(of_value))
  )


cpu_attention.defvjp(_forward, _backward)


def _scaled(query):
  return query * query.shape[-1] ** -0.5


def _heads_first(x):
  """Exchanges the axes of tokens and heads."""
  return x.swapaxes(1, 2)


def _to_blocks(x):
  """(batch, tokens, heads, dim) to (blocks, batch, heads, queries, dim)."""
  batch, tokens, heads, dim = x.shape
  size = _block_size(tokens, batch * heads)
  x = x.reshape(batch, tokens // size, size, heads, dim)
  return x.transpose(1, 0, 3, 2, 4)


def _from_blocks(x):
  """The inverse of `_to_blocks`."""
  blocks, batch, heads, size, dim = x.shape
  x = x.transpose(1, 0, 3, 2, 4)
  return x.reshape(batch, blocks * size, heads, dim)
