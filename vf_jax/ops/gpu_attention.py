# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU that keeps its logits on the chip.

Logits of 1728 tokens and 12 heads are 143 MB a crop in fp32, and XLA writes and
reads them several times a block. Here a block of queries meets one block of
keys after another, with a softmax that is corrected as larger logits come, and
the backward pass makes the logits anew. Compiled by Triton, for NVIDIA's GPUs
from Ampere on. TPUs have more memory on the chip and a simpler kernel of their
own, `tpu_attention`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from vf_jax.ops.attention import ATTENDED
from vf_jax.ops.tpu_attention import product

try:
  # NOTE: deprecated from JAX 0.12 on in favour of one for Hopper and later.
  from jax.experimental.pallas import triton
except ImportError:
  triton = None  # type: ignore[assignment]

_AMPERE = 8.0  # compute capability
_WIDEST_BYTES = 256  # of a head: more does not fit a multiprocessor
_BLOCK = 64  # queries or keys that a program takes at a time
_NARROWEST = 16  # edge of the least product
_LOG2_E = math.log2(math.e)


def why_not(dim: int, dtype: jnp.dtype) -> str:
  """Why this process's GPU cannot run the kernels.

  Args:
    dim: channels of a head.
    dtype: of queries, keys and values.

  Returns:
    Words; none if it can.
  """
  if triton is None:
    return "this JAX has no Triton any more, use 0.10 to 0.12"
  width = max(_NARROWEST, pl.next_power_of_2(dim)) * jnp.dtype(dtype).itemsize
  if width > _WIDEST_BYTES:
    return f"{dim} channels a head in {jnp.dtype(dtype)} are too wide for it"
  device = jax.local_devices()[0]
  # Absent where a program is compiled for a GPU that is not here.
  capability = getattr(device, "compute_capability", str(_AMPERE))
  try:
    able = float(capability) >= _AMPERE
  except ValueError:  # no NVIDIA
    able = False
  return "" if able else f"{device.device_kind} is no NVIDIA Ampere or newer"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gpu_attention(
  query: Float[Array, "batch queries heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
  interpret: bool = False,
) -> Float[Array, "batch queries heads dim"]:
  """Scaled dot-product attention over all tokens, softmax in fp32.

  Tokens are filled up to blocks of 64 and the channels of a head to a power of
  two; 1728 tokens of 64 channels need neither.

  Args:
    query: queries.
    key: keys.
    value: values.
    interpret: runs the kernel's steps as ordinary operations, on any backend.

  Returns:
    The attended values; for `jax.checkpoint` they have the name `ATTENDED`.

  Source:
    Dao 2023, FlashAttention-2 (arXiv 2307.08691).
  """
  return _forward(query, key, value, interpret)[0]


def _forward(query, key, value, interpret):
  operands = [_fill(x) for x in (query, key, value)]
  out, lse = _call(
    functools.partial(_forward_kernel, **_constants(query, key)),
    operands,
    ("block", "whole", "whole"),
    ("block", "row"),
    operands[0],
    interpret,
  )
  # All that a backward pass needs of this kernel.
  out = checkpoint_name(out, ATTENDED)
  lse = checkpoint_name(lse, ATTENDED)
  return _cut(out, query), (query, key, value, out, lse)


def _backward(interpret, saved, grad):
  query, key, value, out, lse = saved
  constants = _constants(query, key)
  q, k, v, g = (_fill(x) for x in (query, key, value, grad))
  # What the shares of a query's row gain in the mean.
  mean = jnp.einsum(
    "bqhd,bqhd->bhq", out, g, preferred_element_type=jnp.float32
  )
  (dq,) = _call(
    functools.partial(_query_kernel, **constants),
    (q, k, v, g, lse, mean),
    ("block", "whole", "whole", "block", "row", "row"),
    ("block",),
    q,
    interpret,
  )
  dk, dv = _call(
    functools.partial(_key_kernel, **constants),
    (q, k, v, g, lse, mean),
    ("whole", "block", "block", "whole", "whole row", "whole row"),
    ("block", "block"),
    k,
    interpret,
  )
  return _cut(dq, query), _cut(dk, key), _cut(dv, value)


gpu_attention.defvjp(_forward, _backward)


def _constants(query, key):
  return {"scale": query.shape[-1] ** -0.5, "tokens": key.shape[1]}


def _fill(x):
  """Adds zeros to tokens and channels until blocks are full.

  Queries of zeros attend to all keys alike, and with gradients of zeros they
  add nothing to those of keys and values. Keys of zeros are masked.
  """
  _, count, _, dim = x.shape
  width = max(_NARROWEST, pl.next_power_of_2(dim))
  return jnp.pad(x, ((0, 0), (0, -count % _BLOCK), (0, 0), (0, width - dim)))


def _cut(x, like):
  return x[:, : like.shape[1], :, : like.shape[3]]


def _call(kernel, operands, kinds, results, like, interpret):
  """Runs a kernel for each block of `like`'s tokens, sample and head.

  Arrays (batch, tokens, heads, dim) come as a "block" or "whole", arrays
  (batch, heads, tokens) as a "row" of the block or the "whole row".
  """
  batch, count, heads, dim = like.shape
  place = {
    "block": ((None, _BLOCK, None, dim), lambda i, b, h: (b, i, h, 0)),
    "row": ((None, None, _BLOCK), lambda i, b, h: (b, h, i)),
  }

  def spec(kind, x):
    if kind in place:
      return pl.BlockSpec(*place[kind])
    if kind == "whole":
      shape = (None, x.shape[1], None, dim)
      return pl.BlockSpec(shape, lambda i, b, h: (b, 0, h, 0))
    return pl.BlockSpec((None, None, x.shape[2]), lambda i, b, h: (b, h, 0))

  shapes = {
    "block": jax.ShapeDtypeStruct(like.shape, like.dtype),
    "row": jax.ShapeDtypeStruct((batch, heads, count), jnp.float32),
  }
  return pl.pallas_call(
    kernel,
    grid=(count // _BLOCK, batch, heads),
    in_specs=[spec(*pair) for pair in zip(kinds, operands, strict=True)],
    out_specs=[pl.BlockSpec(*place[kind]) for kind in results],
    out_shape=[shapes[kind] for kind in results],
    compiler_params=triton.CompilerParams(
      num_warps=4 if dim <= 64 else 8, num_stages=2
    ),
    interpret=interpret,
  )(*operands)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, lse_ref, *, scale, tokens):
  query = q_ref[...]

  def meet(i, carry):
    top, total, out = carry
    rows = pl.ds(i * _BLOCK, _BLOCK)
    logits = _logits(query, k_ref[rows, :], i, scale, tokens)
    peak = jnp.maximum(top, logits.max(axis=1))
    share, fade = jnp.exp2(logits - peak[:, None]), jnp.exp2(top - peak)
    value = v_ref[rows, :]
    met = product(share.astype(value.dtype), value, 1, 0)
    total = total * fade + share.sum(axis=1)
    return peak, total, out * fade[:, None] + met

  top, total, out = jax.lax.fori_loop(
    0,
    pl.cdiv(tokens, _BLOCK),
    meet,
    (
      jnp.full((_BLOCK,), -jnp.inf, jnp.float32),
      jnp.zeros((_BLOCK,), jnp.float32),
      jnp.zeros(query.shape, jnp.float32),
    ),
  )
  out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
  lse_ref[...] = top + jnp.log2(total)


def _query_kernel(
  q_ref, k_ref, v_ref, g_ref, lse_ref, mean_ref, dq_ref, *, scale, tokens
):
  query, grad, lse, mean = q_ref[...], g_ref[...], lse_ref[...], mean_ref[...]

  def meet(i, dq):
    rows = pl.ds(i * _BLOCK, _BLOCK)
    key, value = k_ref[rows, :], v_ref[rows, :]
    share = jnp.exp2(_logits(query, key, i, scale, tokens) - lse[:, None])
    d_logits = share * (product(grad, value, 1, 1) - mean[:, None])
    return dq + product(d_logits.astype(key.dtype), key, 1, 0)

  dq = jax.lax.fori_loop(
    0, pl.cdiv(tokens, _BLOCK), meet, jnp.zeros(query.shape, jnp.float32)
  )
  dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


def _key_kernel(
  q_ref, k_ref, v_ref, g_ref, lse_ref, mean_ref, dk_ref, dv_ref, *, scale,
  tokens,
):  # fmt: skip
  key, value = k_ref[...], v_ref[...]
  place = pl.program_id(0)

  def meet(i, carry):
    dk, dv = carry
    rows = pl.ds(i * _BLOCK, _BLOCK)
    query, grad = q_ref[rows, :], g_ref[rows, :]
    logits = _logits(query, key, place, scale, tokens)
    share = jnp.exp2(logits - lse_ref[rows][:, None])
    d_share = product(grad, value, 1, 1)
    d_logits = share * (d_share - mean_ref[rows][:, None])
    dk += product(d_logits.astype(query.dtype), query, 0, 0)
    dv += product(share.astype(grad.dtype), grad, 0, 0)
    return dk, dv

  zeros = jnp.zeros(key.shape, jnp.float32)
  count = q_ref.shape[0] // _BLOCK
  dk, dv = jax.lax.fori_loop(0, count, meet, (zeros, zeros))
  dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


def _logits(query, key, number, scale, tokens):
  """Logits to the base of 2 against a block of keys, its zeros masked."""
  logits = product(query, key, 1, 1) * (scale * _LOG2_E)
  if tokens % _BLOCK == 0:
    return logits
  place = number * _BLOCK + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  return jnp.where(place < tokens, logits, -jnp.inf)
