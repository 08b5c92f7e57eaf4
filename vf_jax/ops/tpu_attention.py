# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention on a TPU that keeps its logits on the chip.

Logits of 1728 tokens and 12 heads are 143 MB a crop, of 13824 tokens 9 GB, and
XLA writes and reads them several times a block. Here a block of queries meets
all keys in the chip's own memory and only queries, keys, values and the result
cross to the outside; the backward pass makes the logits anew, in one kernel.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

_LANES = 128
_ROWS = 16  # of a tile in bf16
_LOGITS_BYTES = 4 * 2**20  # of one block of queries; about six live at once
_VMEM_BYTES = 100 * 2**20  # v5e and v6e have 128 MiB


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def tpu_attention(
  query: Float[Array, "batch queries heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
  interpret: bool = False,
) -> Float[Array, "batch queries heads dim"]:
  """Scaled dot-product attention over all tokens, softmax in fp32.

  Args:
    query: queries, taken at once if few, else in equal blocks of a multiple of
      16, for which zeros may be added behind the last.
    key: keys.
    value: values.
    interpret: runs the kernel's steps as ordinary operations, on any backend.

  Returns:
    The attended values.
  """
  return _forward(query, key, value, interpret)[0]


def _forward(query, key, value, interpret):
  layout = _Layout(query.shape, key.shape[1])
  out = layout.call(
    _forward_kernel,
    [layout.pack(x) for x in (layout.fill(query), key, value)],
    results=("block",),
    flops=4,
    interpret=interpret,
  )
  out = layout.unpack(out[0])[:, : query.shape[1]]
  return out, (query, key, value)


def _backward(interpret, saved, grad):
  query, key, value = saved
  layout = _Layout(query.shape, key.shape[1])
  operands = layout.fill(query), key, value, layout.fill(grad)
  grads = layout.call(
    _backward_kernel,
    [layout.pack(x) for x in operands],
    results=("block", "all", "all"),
    flops=10,
    interpret=interpret,
  )
  of_query, of_key, of_value = (layout.unpack(x) for x in grads)
  return of_query[:, : query.shape[1]], of_key, of_value


tpu_attention.defvjp(_forward, _backward)


class _Layout:
  """How heads lie in the lanes of the chip.

  Where heads fill 128 lanes evenly they stay side by side, as the projections
  leave them, and a kernel takes the heads of 128 lanes at once: masking the
  others costs nothing, because a matrix unit is 128 wide anyhow. Otherwise
  each head is laid out by itself.
  """

  def __init__(self, shape, tokens):
    _, queries, heads, dim = self.shape = shape
    self.tokens = tokens
    self.packed = (heads * dim) % _LANES == 0 and _LANES % dim == 0
    self.width = _LANES if self.packed else dim
    fits = max(1, _LOGITS_BYTES // (4 * tokens * _ROWS)) * _ROWS
    blocks = -(-queries // fits)
    rows = -(-queries // (blocks * _ROWS)) * _ROWS
    self.block = rows if blocks > 1 else queries
    self.filled = blocks * self.block

  def fill(self, x):
    """Adds queries of zeros until blocks are equal.

    They attend to all keys alike, and with gradients of zeros they add nothing
    to those of keys and values.
    """
    missing = self.filled - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))

  def pack(self, x):
    batch, count, heads, dim = x.shape
    if self.packed:
      return x.reshape(batch, count, heads * dim)
    return x.swapaxes(1, 2).reshape(batch * heads, count, dim)

  def unpack(self, x):
    batch, _, heads, dim = self.shape
    if self.packed:
      return x.reshape(batch, -1, heads, dim)
    return x.reshape(batch, heads, -1, dim).swapaxes(1, 2)

  def call(self, kernel, operands, results, flops, interpret):
    """Runs a kernel over samples, groups of heads and blocks of queries.

    Operands are queries, keys, values and what else comes in blocks of
    queries; `results` are made a "block" of queries or "all" keys at a time.
    """
    batch, _, heads, dim = self.shape
    samples, _, width = operands[0].shape
    size = {"block": self.block, "all": self.tokens}
    like = {"block": operands[0], "all": operands[1]}
    place = {
      "block": lambda sample, group, block: (sample, block, group),
      "all": lambda sample, group, block: (sample, 0, group),
    }

    def spec(kind):
      return pl.BlockSpec((1, size[kind], self.width), place[kind])

    kinds = ("block", "all", "all", "block")[: len(operands)]
    whole = "all" in results
    order = ("parallel", "parallel", "arbitrary" if whole else "parallel")
    return pl.pallas_call(
      functools.partial(kernel, dim=dim),
      grid=(samples, width // self.width, self.filled // self.block),
      in_specs=[spec(kind) for kind in kinds],
      out_specs=[spec(kind) for kind in results],
      out_shape=[
        jax.ShapeDtypeStruct(like[kind].shape, like[kind].dtype)
        for kind in results
      ],
      scratch_shapes=[
        pltpu.VMEM((self.tokens, self.width), jnp.float32)
        for kind in results
        if kind == "all"
      ],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=order, vmem_limit_bytes=_VMEM_BYTES
      ),
      cost_estimate=pl.CostEstimate(
        flops=flops * batch * heads * dim * self.filled * self.tokens,
        transcendentals=batch * heads * self.filled * self.tokens,
        bytes_accessed=sum(x.nbytes for x in operands)
        + sum(like[kind].nbytes for kind in results),
      ),
      interpret=interpret,
    )(*operands)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, *, dim):
  query, key, value = q_ref[0], k_ref[0], v_ref[0]
  out = jnp.zeros(query.shape, jnp.float32)
  for mine in _heads(query.shape[-1], dim):
    share = _share(_only(mine, query), key, dim).astype(value.dtype)
    out += _only(mine, product(share, value, 1, 0))
  out_ref[0] = out.astype(out_ref.dtype)


def _backward_kernel(
  q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum, *, dim
):
  query, key, value, grad = q_ref[0], k_ref[0], v_ref[0], g_ref[0]

  @pl.when(pl.program_id(2) == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  dq = jnp.zeros(query.shape, jnp.float32)
  for mine in _heads(query.shape[-1], dim):
    own_query, own_grad = _only(mine, query), _only(mine, grad)
    share = _share(own_query, key, dim)
    dv_sum[...] += product(share.astype(grad.dtype), own_grad, 0, 0)
    d_share = product(own_grad, value, 1, 1)
    mean = (d_share * share).sum(axis=1, keepdims=True)
    d_logits = (share * (d_share - mean) * dim**-0.5).astype(key.dtype)
    dq += _only(mine, product(d_logits, key, 1, 0))
    dk_sum[...] += product(d_logits, own_query, 0, 0)
  dq_ref[0] = dq.astype(dq_ref.dtype)

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    dk_ref[0] = dk_sum[...].astype(dk_ref.dtype)
    dv_ref[0] = dv_sum[...].astype(dv_ref.dtype)


def _heads(width, dim):
  """For each head of a group, which lanes are its own; None for all."""
  if width == dim:
    return [None]
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1)
  return [
    (lane >= start) & (lane < start + dim) for start in range(0, width, dim)
  ]


def _only(mine, x):
  if mine is None:
    return x
  return jnp.where(mine, x, jnp.zeros((), x.dtype))


def _share(query, key, dim):
  """Softmax of the logits, fp32."""
  logits = product(query, key, 1, 1) * dim**-0.5
  logits = jnp.exp(logits - logits.max(axis=1, keepdims=True))
  return logits / logits.sum(axis=1, keepdims=True)


def product(
  left: Array, right: Array, left_axis: int, right_axis: int
) -> Float[Array, "rows columns"]:
  """Matrix product inside a kernel, summed in fp32.

  Args:
    left: matrix.
    right: matrix.
    left_axis: of `left`, summed over.
    right_axis: of `right`, summed over.

  Returns:
    The product, fp32.
  """
  return jax.lax.dot_general(
    left,
    right,
    (((left_axis,), (right_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
