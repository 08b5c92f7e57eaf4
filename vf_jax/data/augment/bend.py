# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A smooth random field on a crop: cubic B-splines on a coarse grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

STEP = 24
"""Voxels between control points."""

_VARIANCE = 151 / 315
"""Mean over a cell of the sum of squared weights, along one axis."""


def draw_bend(
  key: Key[Array, ""], crop: tuple[int, int, int], deviation: float
) -> Float[Array, "3 knots_d knots_h knots_w"]:
  """Draws the control points of a displacement.

  Args:
    key: of the draw.
    crop: voxels (depth, height, width).
    deviation: standard deviation of the displacement itself, voxels.

  Returns:
    Displacements at the control points, voxels.
  """
  knots = tuple(_knots(n) for n in crop)
  # Uniform, so that no bend is far beyond the deviation and none folds.
  reach = np.sqrt(3.0) * deviation / _VARIANCE**1.5
  return jax.random.uniform(key, (3, *knots), minval=-reach, maxval=reach)


def bend_everywhere(
  bend: Float[Array, "3 knots_d knots_h knots_w"], crop: tuple[int, int, int]
) -> Float[Array, "3 depth height width"]:
  """The displacement of every voxel.

  Args:
    bend: control points.
    crop: voxels (depth, height, width).

  Returns:
    Displacements, voxels.
  """
  d, h, w = (
    jnp.asarray(_weights(np.arange(n, dtype=np.float32), n, np)) for n in crop
  )
  # Depth last: what comes before it is small.
  field = jnp.einsum("cxyz,wz->cxyw", bend, w, precision="highest")
  field = jnp.einsum("cxyw,hy->cxhw", field, h, precision="highest")
  return jnp.einsum("cxhw,dx->cdhw", field, d, precision="highest")


def bend_at(
  bend: Float[Array, "3 knots_d knots_h knots_w"],
  crop: tuple[int, int, int],
  points: Float[Array, "points 3"],
) -> Float[Array, "points 3"]:
  """The displacement at some places.

  Args:
    bend: control points.
    crop: voxels (depth, height, width).
    points: in voxels of the crop; beyond it the displacement of its border
      goes on.

  Returns:
    Displacements, voxels.
  """
  d, h, w = (
    _weights(jnp.clip(points[:, axis], 0.0, n - 1.0), n, jnp)
    for axis, n in enumerate(crop)
  )
  return jnp.einsum("cxyz,px,py,pz->pc", bend, d, h, w, precision="highest")


def _knots(size: int) -> int:
  """Control points at -1, 0, ... steps that act between 0 and size - 1."""
  return (size - 1) // STEP + 4


def _weights(places, size, xp):
  """Weight of every control point at every place, (places, knots)."""
  knots = xp.arange(_knots(size), dtype=xp.float32)
  away = xp.abs(places[:, None] / STEP - (knots - 1)[None, :])
  near = 2 / 3 - away**2 + away**3 / 2
  far = xp.maximum(2 - away, 0) ** 3 / 6
  return xp.where(away < 1, near, far)
