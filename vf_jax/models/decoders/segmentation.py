# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Segmentation decoder: no convolution at full resolution."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.models.layers import Dense
from vf_jax.ops.subvoxel import depth_to_space


class SubvoxelHead(nn.Module):
  """Emits the 4^3 block of every output from the features of its cell.

  The raw voxels of the cell join the features, so that edges stay sharp.

  Attributes:
    outputs: per voxel.
    stride: voxels per cell edge.
    hidden: width of the hidden layer.
    edge_gains: how many outputs, the first ones, also have gains on the voxels,
      one for each intensity window, that their cell chooses: a threshold of the
      cell's own, which draws edges inside a cell after few steps. 0 at
      initialisation.
    dtype: compute type; outputs are float32.
  """

  outputs: int
  stride: int
  hidden: int
  edge_gains: int = 0
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
    x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
    block = self.stride**3
    emitted = nn.Dense(self.outputs * block, dtype=jnp.float32, name="emit")(x)
    if self.edge_gains:
      emitted = emitted + self._edges(x, packed, block)
    return depth_to_space(emitted, self.stride)

  def _edges(self, x, packed, block: int):
    """Each output's gains of the cell, times the cell's voxels."""
    voxels = packed.reshape(*packed.shape[:-1], block, -1).astype(jnp.float32)
    windows = voxels.shape[-1]
    gains = nn.Dense(
      self.edge_gains * windows,
      dtype=jnp.float32,
      kernel_init=nn.initializers.zeros,
      name="gain",
    )(x)
    gains = gains.reshape(*gains.shape[:-1], windows, self.edge_gains)
    # Multiplied, not contracted: matrices so small would waste a matrix unit.
    edges = sum(
      voxels[..., k, None] * gains[..., None, k, :] for k in range(windows)
    )
    rest = self.outputs - self.edge_gains
    edges = jnp.pad(edges, [(0, 0)] * (edges.ndim - 1) + [(0, rest)])
    return edges.reshape(*x.shape[:-1], -1)
