# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention over a 3D grid of tokens, with rotary positions."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def attention(
  query: Float[Array, "batch tokens heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
  mask: Bool[Array, "batch 1 tokens tokens"] | None = None,
  implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "batch tokens heads dim"]:
  """Scaled dot-product attention, softmax in fp32.

  On a single CPU, 'xla' without a mask is computed for a block of queries at a
  time, so that their logits stay in the cache, with gradients of its own that
  keep no logits: exact up to the order of sums, in about half of the time.

  Args:
    query: queries.
    key: keys.
    value: values.
    mask: True where a query (third axis) may see a key (last axis).
    implementation: 'xla' everywhere, 'cudnn' on GPUs only; never silently
      replaced.

  Returns:
    The attended values.

  Raises:
    ValueError: if the implementation does not exist on this backend.
  """
  if implementation == "cudnn" and jax.default_backend() != "gpu":
    raise ValueError(
      f"attention implementation 'cudnn' needs a GPU, this is "
      f"'{jax.default_backend()}'; set model.attention='xla'"
    )
  if mask is None and implementation == "xla" and _on_one_cpu():
    return _attention_by_blocks(query, key, value)
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation=implementation
  )


def _on_one_cpu() -> bool:
  """Under a mesh tokens may be divided, and no loop must run over them."""
  alone = jax.sharding.get_abstract_mesh().empty
  return alone and jax.default_backend() == "cpu"


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
def _attention_by_blocks(query, key, value):
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


_attention_by_blocks.defvjp(_forward, _backward)


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


def rotary_angles(
  grid: tuple[int, int, int], head_dim: int
) -> Float[np.ndarray, "tokens pairs"]:
  """Angles of rotary positions on a (depth, height, width) grid.

  Each axis owns a third of the channel pairs; what is left over when
  `head_dim` is not a multiple of 6 stays unrotated.

  Args:
    grid: tokens along depth, height, width.
    head_dim: channels of one head.

  Returns:
    Radians for every token (depth outermost) and channel pair, fp32.

  Source:
    Su et al. 2021, RoFormer (arXiv 2104.09864), applied per axis.
  """
  per_axis = head_dim // 6
  frequencies = 100.0 ** (-np.arange(per_axis) / max(per_axis, 1))
  positions = np.stack(
    np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), axis=-1
  ).reshape(-1, 3)
  angles = positions[:, :, None] * frequencies
  angles = angles.reshape(len(positions), 3 * per_axis)
  rest = head_dim // 2 - 3 * per_axis
  return np.pad(angles, ((0, 0), (0, rest))).astype(np.float32)


def rotate(
  x: Float[Array, "batch tokens heads dim"],
  angles: Float[Array, "tokens pairs"] | Float[np.ndarray, "tokens pairs"],
) -> Float[Array, "batch tokens heads dim"]:
  """Turns channel pairs (i, i + dim/2) by the angles of their token.

  Args:
    x: queries or keys, even `dim`.
    angles: radians from `rotary_angles`.

  Returns:
    The rotated array in the dtype of `x`.
  """
  cos = jnp.cos(angles)[None, :, None, :].astype(x.dtype)
  sin = jnp.sin(angles)[None, :, None, :].astype(x.dtype)
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
