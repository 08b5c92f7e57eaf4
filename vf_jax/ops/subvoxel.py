# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Exchange between space and channels: r^3 voxels <-> channels."""

from __future__ import annotations

from jaxtyping import Array, Shaped


def space_to_depth(
  x: Shaped[Array, "batch depth height width channel"], factor: int
) -> Shaped[Array, "batch d h w packed"]:
  """Packs blocks of factor^3 voxels into channels, without communication.

  Args:
    x: features; every spatial axis a multiple of `factor`.
    factor: edge of the block in voxels.

  Returns:
    Features with `factor**3 * channel` channels; within a cell the order is
    (depth, height, width, channel), the inverse of `depth_to_space`.

  Raises:
    ValueError: if an axis is not a multiple of `factor`.
  """
  batch, depth, height, width, channel = x.shape
  if depth % factor or height % factor or width % factor:
    raise ValueError(
      f"spatial shape {x.shape[1:4]} is not a multiple of {factor}"
    )
  x = x.reshape(
    batch,
    depth // factor,
    factor,
    height // factor,
    factor,
    width // factor,
    factor,
    channel,
  )
  x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return x.reshape(*x.shape[:4], factor**3 * channel)


def depth_to_space(
  x: Shaped[Array, "batch d h w packed"], factor: int
) -> Shaped[Array, "batch depth height width channel"]:
  """Unpacks channels into blocks of factor^3 voxels.

  A Dense layer before it equals a transposed convolution with
  kernel = stride = factor, as matrix products only.

  Args:
    x: features with `factor**3 * channel` channels.
    factor: edge of the block in voxels.

  Returns:
    Features with `channel` channels at `factor` times the resolution.

  Raises:
    ValueError: if the channels are not a multiple of `factor**3`.
  """
  batch, depth, height, width, packed = x.shape
  if packed % factor**3:
    raise ValueError(f"{packed} channels are not a multiple of {factor}^3")
  x = x.reshape(
    batch, depth, height, width, factor, factor, factor, packed // factor**3
  )
  x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(
    batch, depth * factor, height * factor, width * factor, x.shape[-1]
  )
