# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Reading a feature map at points between its cells."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sample_trilinear(
  features: Float[Array, "batch depth height width channel"],
  points: Float[Array, "batch points 3"],
) -> Float[Array, "batch points channel"]:
  """Interpolates features at fractional cell indices.

  Args:
    features: the map.
    points: (depth, height, width) indices of cell centres; points outside
      are moved to the border.

  Returns:
    Features at the points.
  """
  last = jnp.asarray([[[n - 1 for n in features.shape[1:4]]]])
  points = jnp.clip(points, 0.0, last.astype(points.dtype))
  low = jnp.floor(points).astype(jnp.int32)
  high = jnp.minimum(low + 1, last)
  weight = points - low

  def one(
    grid: Float[Array, "depth height width channel"], lo, hi, w
  ) -> Float[Array, "points channel"]:
    total = jnp.zeros((lo.shape[0], grid.shape[-1]), grid.dtype)
    for corner in range(8):
      pick = [(corner >> axis) & 1 for axis in range(3)]
      index = [hi[:, a] if pick[a] else lo[:, a] for a in range(3)]
      share = jnp.prod(
        jnp.stack([w[:, a] if pick[a] else 1 - w[:, a] for a in range(3)]),
        axis=0,
      )
      value = grid[index[0], index[1], index[2]]
      total = total + value * share[:, None].astype(grid.dtype)
    return total

  return jax.vmap(one)(features, low, high, weight)
