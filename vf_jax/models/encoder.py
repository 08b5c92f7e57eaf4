# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Encoder: a convolutional stem at 1/4 resolution and a 3D transformer."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vf_jax.models.layers import Domain, Modulate
from vf_jax.ops.attention import attention, rotary_angles, rotate
from vf_jax.ops.subvoxel import space_to_depth


def intensity_windows(
  image: Float[Array, "batch depth height width"],
) -> Float[Array, "batch depth height width 2"]:
  """HU in two windows, about -1..1: the whole bone range and soft tissue.

  Args:
    image: HU.

  Returns:
    Channels (bone window -1000..1500 HU, soft window -150..450 HU).
  """
  bone = jnp.clip(image, -1000.0, 1500.0) / 1000.0
  soft = (jnp.clip(image, -150.0, 450.0) - 150.0) / 300.0
  return jnp.stack([bone, soft], axis=-1)


class Stem(nn.Module):
  """Packs 4^3 voxels into a cell and mixes neighbouring cells.

  Attributes:
    channels: features per cell.
    stride: voxels per cell edge.
    dtype: compute type.
  """

  channels: int
  stride: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "batch depth height width"]
  ) -> tuple[Float[Array, "batch d h w packed"], Float[Array, "batch d h w c"]]:
    """Returns the packed voxels and the embedded cells."""
    packed = space_to_depth(intensity_windows(image), self.stride)
    packed = packed.astype(self.dtype)
    return packed, nn.Dense(self.channels, dtype=self.dtype, name="embed")(
      packed
    )


class Block(nn.Module):
  """Pre-norm transformer block, modulated by the domain.

  Attributes:
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    implementation: attention implementation.
    dtype: compute type.
  """

  heads: int
  mlp_ratio: int
  implementation: Literal["xla", "cudnn"]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "batch tokens dim"],
    domain: Domain,
    angles: Float[Array, "tokens pairs"],
  ) -> tuple[Float[Array, "batch tokens dim"], None]:
    """Returns the tokens (and nothing for the scan to stack)."""
    batch, count, dim = tokens.shape
    x = nn.LayerNorm(dtype=self.dtype, name="attn_norm")(tokens)
    x, gate = Modulate(dtype=self.dtype, name="attn_modulate")(x, domain)
    qkv = nn.Dense(3 * dim, dtype=self.dtype, name="qkv")(x)
    qkv = qkv.reshape(batch, count, 3, self.heads, dim // self.heads)
    query, key = rotate(qkv[:, :, 0], angles), rotate(qkv[:, :, 1], angles)
    x = attention(query, key, qkv[:, :, 2], implementation=self.implementation)
    x = nn.Dense(dim, dtype=self.dtype, name="proj")(
      x.reshape(batch, count, dim)
    )
    tokens = tokens + gate * x
    x = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(tokens)
    x, gate = Modulate(dtype=self.dtype, name="mlp_modulate")(x, domain)
    x = nn.Dense(self.mlp_ratio * dim, dtype=self.dtype, name="up")(x)
    x = nn.Dense(dim, dtype=self.dtype, name="down")(nn.gelu(x))
    return tokens + gate * x, None


class Transformer(nn.Module):
  """Blocks over the tokens of a 3D grid, run by one scan.

  Attributes:
    dim: width.
    depth: blocks.
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    implementation: attention implementation.
    remat: 'none' or 'full'.
    dtype: compute type.
  """

  dim: int
  depth: int
  heads: int
  mlp_ratio: int
  implementation: Literal["xla", "cudnn"]
  remat: str
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    cells: Float[Array, "batch d h w channel"],
    factor: int,
    domain: Domain,
  ) -> Float[Array, "batch td th tw dim"]:
    """Merges `factor`^3 cells into a token and attends over all tokens.

    Args:
      cells: features at 1/4 resolution.
      factor: cells per token edge.
      domain: embedding of the scan's domain.

    Returns:
      Tokens on their grid.
    """
    merged = space_to_depth(cells, factor)
    tokens = nn.Dense(self.dim, dtype=self.dtype, name="embed")(merged)
    batch, *grid, dim = tokens.shape
    tokens = tokens.reshape(batch, int(np.prod(grid)), dim)
    angles = jnp.asarray(rotary_angles(tuple(grid), self.dim // self.heads))
    block = Block
    if self.remat == "full":
      block = nn.remat(Block, prevent_cse=False)
    tokens, _ = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=self.depth,
    )(
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      implementation=self.implementation,
      dtype=self.dtype,
      name="blocks",
    )(tokens, domain, angles)
    tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens)
    return tokens.reshape(batch, *grid, dim)
