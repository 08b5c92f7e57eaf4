# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Segmentation decoder: matrix products only at full resolution."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.ops.subvoxel import depth_to_space


class SubvoxelHead(nn.Module):
  """Emits the 4^3 block of every output from the features of its cell.

  The raw voxels of the cell join the features, so that edges stay sharp.

  Attributes:
    outputs: per voxel.
    stride: voxels per cell edge.
    hidden: width of the hidden layer.
    dtype: compute type; outputs are float32.
  """

  outputs: int
  stride: int
  hidden: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    features: Float[Array, "batch d h w channel"],
    packed: Float[Array, "batch d h w voxels"],
  ) -> Float[Array, "batch depth height width outputs"]:
    """Returns the outputs of every voxel."""
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(features)
    x = jnp.concatenate([x, packed.astype(x.dtype)], axis=-1)
    x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
    block = self.stride**3
    x = nn.Dense(self.outputs * block, dtype=jnp.float32, name="emit")(x)
    return depth_to_space(x, self.stride)
