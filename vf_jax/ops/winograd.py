# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""3D convolution with three depth taps by Winograd's F(4, 3) along depth.

Four depths of the result need six 2D convolutions instead of twelve. The
transforms before and after them only add whole slices. In float32 the error
is a few units of 1e-6 of the largest value, as much as other orders of the
sum give.

Source:
  Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks
  (arXiv 1509.09308), section 4.1 and, for F(4, 3), 4.3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from vf_jax.ops.depth_taps import convolve_slices, kernel_gradient, mirror

Volume = Float[Array, "batch depth height width channel"]

_OUT = 4
# Depths that a tile of the result depends on = products a tile.
_IN = 6
# Features from which on steps are taken: smaller ones are not what a program
# needs most memory for, and are faster at once.
_LARGE_BYTES = 64 << 20
# Of the features that a step reads: their combinations stay in the caches.
_STEP_BYTES = 5 << 20

# Products x depths seen.
_FROM_INPUT = np.array(
  [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
  ]
)
# Products x taps.
_FROM_KERNEL = np.array(
  [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
  ]
)
# Depths of the result x products.
_TO_OUTPUT = np.array(
  [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
  ]
)


@jax.custom_vjp
def winograd(
  x: Volume, kernel: Float[Array, "kd kh kw cin cout"]
) -> Float[Array, "batch depth height width cout"]:
  """Convolves with stride 1 and zero padding to the same size.

  Where no gradient is asked for it goes through the depth of large features in
  steps: the six combinations of all depths, more than twice as large as `x`,
  never exist at once.

  Args:
    x: features.
    kernel: three taps in depth, odd-sized in height and width.

  Returns:
    Features of the same spatial shape.

  Raises:
    ValueError: if the kernel does not have three taps in depth.
  """
  depth, rows = x.shape[1], _rows_of_a_step(x)
  if x.size * x.dtype.itemsize < _LARGE_BYTES or rows + _OUT > depth:
    return _forward(x, kernel)[0]

  def step(number, out):
    # The last step may do again what the one before it did.
    first = jnp.minimum(number * rows, depth - rows)
    part = _convolve(_take(x, first - 1, rows + _OUT), kernel)
    return lax.dynamic_update_slice_in_dim(out, part, first, axis=1)

  # Of a constant XLA would hold the memory from the start of the program.
  out = jnp.broadcast_to(
    x[:1, :1, :1, :1, :1], (*x.shape[:-1], kernel.shape[-1])
  )
  return lax.fori_loop(0, -(-depth // rows), step, out)


def _rows_of_a_step(x):
  """Depths of the result, whole tiles."""
  tile = _OUT * x[:, 0].size * x.dtype.itemsize
  return _OUT * max(1, _STEP_BYTES // tile)


def _take(x, first, count):
  """Depths from `first` on; zeros outside `x`."""
  near = jnp.clip(first, 0, x.shape[1] - count)
  seen = lax.dynamic_slice_in_dim(x, near, count, axis=1)
  seen = _pad_depth(seen, 1, count)
  return lax.dynamic_slice_in_dim(seen, first - near + 1, count, axis=1)


def _forward(x, kernel):
  return _convolve(_pad_to_tiles(x), kernel)[:, : x.shape[1]], (x, kernel)


def _convolve(seen, kernel):
  """All tiles at once.

  Args:
    seen: depths from one before the first tile to three behind the last.
    kernel: as in `winograd`.

  Returns:
    The depths of the tiles.
  """
  if kernel.shape[0] != 3:
    raise ValueError(f"winograd needs 3 depth taps, not {kernel.shape[0]}")
  products = [
    convolve_slices(part, weights)
    for part, weights in zip(_split(seen), _combine(_FROM_KERNEL, kernel))
  ]
  tiles = jnp.stack(_combine(_TO_OUTPUT, products), axis=2)
  return tiles.reshape(seen.shape[0], -1, *tiles.shape[3:])


def _backward(saved, grad):
  """The transpose of every step, on the same six products."""
  x, kernel = saved
  batch, depth = x.shape[:2]
  tiles = -(-depth // _OUT)
  padded = _pad_depth(grad, 0, tiles * _OUT - depth)
  padded = padded.reshape(batch, tiles, _OUT, *grad.shape[2:])
  grads = _combine(_TO_OUTPUT.T, [padded[:, :, i] for i in range(_OUT)])
  weights = [
    kernel_gradient(part, g, kernel.shape[1:3])
    for part, g in zip(_split(_pad_to_tiles(x)), grads)
  ]
  seen = _combine(
    _FROM_INPUT.T,
    [
      convolve_slices(g, mirror(k))
      for g, k in zip(grads, _combine(_FROM_KERNEL, kernel))
    ],
  )
  # A tile's last two depths are the first two of the next.
  rows = [_pad_depth(part, 0, 1) for part in seen[:_OUT]]
  for place in range(_OUT, _IN):
    rows[place - _OUT] += _pad_depth(seen[place], 1, 0)
  whole = jnp.stack(rows, axis=2).reshape(batch, -1, *x.shape[2:])
  return whole[:, 1 : depth + 1], jnp.stack(_combine(_FROM_KERNEL.T, weights))


winograd.defvjp(_forward, _backward)


def _pad_to_tiles(x):
  """One depth before the first tile, at least one behind the last."""
  depth = x.shape[1]
  return _pad_depth(x, 1, (-(-depth // _OUT) + 1) * _OUT - depth - 1)


def _split(seen):
  """The six combinations of the depths that a tile sees, over all tiles."""
  parts = seen.reshape(seen.shape[0], -1, _OUT, *seen.shape[2:])
  tiles = parts.shape[1] - 1
  return _combine(
    _FROM_INPUT,
    [parts[:, i // _OUT : i // _OUT + tiles, i % _OUT] for i in range(_IN)],
  )


def _combine(matrix, parts):
  """Rows of a matrix times arrays; zeros and ones cost nothing."""
  out = []
  for row in matrix:
    total = None
    for factor, part in zip(row, parts):
      if factor:
        term = part if factor == 1 else float(factor) * part
        total = term if total is None else total + term
    out.append(total)
  return out


def _pad_depth(x, before, after):
  return lax.pad(
    x,
    jnp.zeros((), x.dtype),
    [(0, 0, 0), (before, after, 0), *((0, 0, 0),) * (x.ndim - 2)],
  )
