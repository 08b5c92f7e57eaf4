# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Statistics of a window that tell how it was scanned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_HU = (-1000.0, 1400.0, 25)  # lowest and highest centre, number of bins
_CURVATURE = (0.0, 7.0, 11)  # log(1 + HU)
_BODY_HU = -500.0  # below lies air: around the body, in it, and padding
_SOFT_HU = (-200.0, 300.0)
_METAL_HU = 500.0  # beside soft tissue: cortical bone and screws
_SPACING_MM = (0.2, 10.0)


def describe(
  image: Float[Array, "batch depth height width"],
  spacing_mm: Float[Array, "batch 3"],
) -> Float[Array, "batch descriptor"]:
  """Statistics of the scanner rather than of the anatomy's place.

  Curvature along an axis (the second difference) is noise and kernel where
  tissue is soft, and flat anatomy cancels in it. The three axes are kept apart
  because slices are thicker than pixels. An eighth of the voxels is read.

  Args:
    image: HU.
    spacing_mm: spacing of the scan before resampling, ascending order, mm.

  Returns:
    Square roots of soft histograms (HU inside the body, curvature of soft
    tissue along each axis) and half the log spacing. All of them vary about
    as much from scan to scan.
  """
  image = image.astype(jnp.float32)
  middle = image[_every_second(0)]
  # The last layers have no neighbour behind them. They are masked, not cut
  # off: windows that are divided among devices stay evenly divided.
  inner = jnp.ones(middle.shape, bool)
  for axis in (1, 2, 3):
    place = jax.lax.broadcasted_iota(jnp.int32, middle.shape, axis)
    inner &= place < middle.shape[axis] - 1
  body = inner & (middle > _BODY_HU)
  soft = inner & (middle > _SOFT_HU[0]) & (middle < _SOFT_HU[1])
  parts = [_histogram(middle, body, _HU)]
  for axis in (1, 2, 3):
    before = image[_every_second(axis)]
    before = jax.lax.slice_in_dim(before, 0, middle.shape[axis], axis=axis)
    after = jnp.roll(before, -1, axis=axis)
    counts = soft
    for other in (before, after):
      counts &= (other > _BODY_HU) & (other < _METAL_HU)
    bend = jnp.log1p(jnp.abs(before - 2.0 * middle + after))
    parts.append(_histogram(bend, counts, _CURVATURE))
  spacing = jnp.log(jnp.clip(spacing_mm, *_SPACING_MM).astype(jnp.float32))
  return jnp.concatenate([*parts, 0.5 * spacing], axis=1)


def _every_second(even: int) -> tuple[slice, ...]:
  """Odd places along all axes of space, but even ones along axis `even`."""
  first = [0 if axis == even else 1 for axis in (1, 2, 3)]
  return (slice(None), *(slice(start, None, 2) for start in first))


def _histogram(
  values: Float[Array, "batch d h w"],
  counts: Bool[Array, "batch d h w"],
  bins: tuple[float, float, int],
) -> Float[Array, "batch bins"]:
  """Square roots of the shares of linear bins; 0 where nothing counts.

  Values beyond the ends go to the last bins.
  """
  low, high, number = bins
  centres = jnp.linspace(low, high, number)[None, :, None]
  values = jnp.clip(values.reshape(values.shape[0], 1, -1), low, high)
  weight = counts.astype(jnp.float32).reshape(values.shape)
  away = jnp.abs(values - centres) * ((number - 1) / (high - low))
  share = (jnp.maximum(0.0, 1.0 - away) * weight).sum(axis=2)
  return jnp.sqrt(share / (weight.sum(axis=2) + 1.0))
