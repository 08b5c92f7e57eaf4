# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Smooth random fields on a crop: texture, blobs, bumps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


def draw_knots(
  key: Key[Array, ""],
  shape: tuple[int, ...],
  fields: Sequence[tuple[int, float]],
) -> list[Float[Array, "count knots_d knots_h knots_w"]]:
  """Numbers at the knots of fields.

  One draw, because each large one takes a second to compile. They are uniform
  with unit deviation, which is enough: what is seen are sums of eight.

  Args:
    key: of the draw.
    shape: of the crop.
    fields: (count, smallest cell in voxels) of each group of fields.

  Returns:
    The numbers of each group.
  """
  shapes = [
    (count, *(int(n / cell) + 2 for n in shape)) for count, cell in fields
  ]
  ends = np.cumsum([np.prod(s) for s in shapes])
  reach = np.sqrt(3.0)
  flat = jax.random.uniform(key, (int(ends[-1]),), minval=-reach, maxval=reach)
  parts = jnp.split(flat, [int(end) for end in ends[:-1]])
  return [part.reshape(s) for part, s in zip(parts, shapes)]


def smooth(
  knots: Float[Array, "count knots_d knots_h knots_w"],
  shape: tuple[int, ...],
  cell: float | Float[Array, ""],
) -> Float[Array, "count depth height width"]:
  """Fields of unit deviation with features of about `cell` voxels.

  Args:
    knots: of `draw_knots`.
    shape: of the crop.
    cell: voxels between knots, at least the cell that they were drawn for.

  Returns:
    The fields.
  """
  weights, rest = [], jnp.ones(())
  for n, count in zip(shape, knots.shape[1:]):
    at = jnp.arange(n, dtype=jnp.float32) / cell
    away = at[:, None] - jnp.arange(count, dtype=jnp.float32)[None, :]
    weight = jnp.maximum(1 - jnp.abs(away), 0.0)
    rest = rest * jnp.sqrt((weight**2).sum(axis=1).mean())
    weights.append(weight)
  d, h, w = weights
  # Depth last: what comes before it is small.
  field = jnp.einsum("cxyz,wz->cxyw", knots / rest, w, precision="highest")
  field = jnp.einsum("cxyw,hy->cxhw", field, h, precision="highest")
  return jnp.einsum("cxhw,dx->cdhw", field, d, precision="highest")
