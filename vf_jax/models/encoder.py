# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Encoder: a convolutional stem at 1/4 resolution and a 3D transformer."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.models.layers import Dense, Domain, Modulate, add_bias, gated
from vf_jax.ops.attention import ATTENDED, rotary_angles, rotate
from vf_jax.ops.subvoxel import space_to_depth
from vf_jax.parallel.attention import Implementation, attend
from vf_jax.parallel.sharding import constrain, sharers

_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "names": jax.checkpoint_policies.save_only_these_names(ATTENDED),
  "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[ATTENDED],
    offload_src="device",
    offload_dst="pinned_host",
  ),
}
"""What the backward pass keeps of a block, by the names of `model.remat`."""


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
    return packed, Dense(self.channels, dtype=self.dtype, name="embed")(packed)


class Projections(nn.Module):
  """Queries, keys and values of all heads.

  Attributes:
    heads: attention heads.
    dtype: compute type; parameters are float32.
  """

  heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch tokens dim"]
  ) -> tuple[Float[Array, "batch tokens heads _"], ...]:
    """Returns queries, keys and values in the compute type."""
    batch, count, dim = x.shape
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (dim, 3 * dim)
    )
    bias = self.param("bias", nn.initializers.zeros, (3 * dim,))
    kernel = kernel.astype(self.dtype)
    each = dim // self.heads
    if sharers("heads") == 1:
      found = add_bias(x.astype(self.dtype) @ kernel, bias)
      found = found.reshape(batch, count, 3, self.heads, each)
      return found[:, :, 0], found[:, :, 1], found[:, :, 2]
    # All queries lie before all keys, and a device's share of that holds no
    # whole head. The kernel is brought in the order of heads, not the tokens.
    kernel = kernel.reshape(dim, 3, self.heads, each).swapaxes(1, 2)
    kernel = constrain(kernel.reshape(dim, 3 * dim), "embed", "heads")
    bias = bias.reshape(3, self.heads, each).swapaxes(0, 1).reshape(-1)
    found = add_bias(x.astype(self.dtype) @ kernel, bias)
    found = found.reshape(batch, count, self.heads, 3, each)
    found = constrain(found, "batch", "tokens", "heads", None, None)
    return found[..., 0, :], found[..., 1, :], found[..., 2, :]


class Block(nn.Module):
  """Pre-norm transformer block, modulated by the domain.

  Attributes:
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    implementation: attention implementation.
    stack: whether the tokens are returned twice, for the scan to stack.
    dtype: compute type.
  """

  heads: int
  mlp_ratio: int
  implementation: Implementation
  stack: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "batch tokens dim"],
    domain: Domain,
    angles: Float[Array, "tokens pairs"] | None,
  ) -> tuple[
    Float[Array, "batch tokens dim"], Float[Array, "batch tokens dim"] | None
  ]:
    """Returns the tokens, and what the scan stacks."""
    batch, count, dim = tokens.shape
    x = nn.LayerNorm(dtype=self.dtype, name="attn_norm")(tokens)
    x, gate = Modulate(name="attn_modulate")(x, domain)
    query, key, value = Projections(self.heads, dtype=self.dtype, name="qkv")(x)
    if angles is not None:
      query, key = rotate(query, angles), rotate(key, angles)
    x = attend(query, key, value, self.implementation)
    x = Dense(dim, dtype=self.dtype, name="proj")(x.reshape(batch, count, dim))
    tokens = tokens + gated(gate, x)
    x = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(tokens)
    x, gate = Modulate(name="mlp_modulate")(x, domain)
    x = Dense(self.mlp_ratio * dim, dtype=self.dtype, name="up")(x)
    x = Dense(dim, dtype=self.dtype, name="down")(nn.gelu(x))
    tokens = constrain(tokens + gated(gate, x), "batch", "tokens", None)
    return tokens, tokens if self.stack else None


class Transformer(nn.Module):
  """Blocks over the tokens of a 3D grid.

  Attributes:
    dim: width.
    depth: blocks.
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    implementation: attention implementation.
    positions: 'rotary', or 'learned' for grids of one shape.
    grid: tokens along (depth, height, width), for learned positions.
    taps: blocks (from 0) whose output is returned besides the last.
    scan: stacks the blocks' parameters and runs them by one scan.
    remat: see `ModelConfig`.
    dtype: compute type.
  """

  dim: int
  depth: int
  heads: int
  mlp_ratio: int
  implementation: Implementation
  positions: Literal["rotary", "learned"] = "rotary"
  grid: tuple[int, int, int] = (1, 1, 1)
  taps: tuple[int, ...] = ()
  scan: bool = True
  remat: str = "none"
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """Builds the layers."""
    self.embed = Dense(self.dim, dtype=self.dtype)
    if self.positions == "learned":
      self.places = self.param(
        "positions",
        nn.initializers.truncated_normal(0.02),
        (1, *self.grid, self.dim),
      )
    kind: type[nn.Module] = Block
    if self.remat != "none":
      kind = nn.remat(
        Block, prevent_cse=not self.scan, policy=_POLICIES[self.remat]
      )
    shape: dict[str, Any] = {
      "heads": self.heads,
      "mlp_ratio": self.mlp_ratio,
      "implementation": self.implementation,
      "stack": bool(self.taps),
      "dtype": self.dtype,
    }
    if self.scan:
      self.blocks = nn.scan(
        kind,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=self.depth,
      )(**shape)
    else:
      self.block = [
        kind(**shape, name=f"block{index}") for index in range(self.depth)
      ]
    self.norm = nn.LayerNorm(dtype=self.dtype)

  def tokenise(
    self, cells: Float[Array, "batch d h w channel"], factor: int
  ) -> Float[Array, "batch td th tw dim"]:
    """Merges `factor`^3 cells into a token.

    Args:
      cells: features, or voxels.
      factor: cells per token edge.

    Returns:
      Tokens on their grid.
    """
    tokens = self.embed(space_to_depth(cells, factor))
    if self.positions == "learned":
      tokens = tokens + self.places.astype(tokens.dtype)
    return tokens

  def __call__(
    self, tokens: Float[Array, "batch td th tw dim"], domain: Domain
  ) -> tuple[Float[Array, "batch td th tw dim"], ...]:
    """Attends over all tokens.

    Args:
      tokens: of `tokenise`.
      domain: embedding of the scan's domain.

    Returns:
      The tokens after the blocks in `taps`, and last the normalised output.
    """
    batch, depth, height, width, dim = tokens.shape
    flat = tokens.reshape(batch, depth * height * width, dim)
    flat = constrain(flat, "batch", "tokens", None)
    angles = None
    if self.positions == "rotary":
      angles = jnp.asarray(
        rotary_angles((depth, height, width), self.dim // self.heads)
      )
    if self.scan:
      flat, states = self.blocks(flat, domain, angles)
    else:
      states = []
      for block in self.block:
        flat, state = block(flat, domain, angles)
        states.append(state)
    flat = self.norm(flat)
    return tuple(
      state.reshape(tokens.shape)
      for state in (*(states[tap] for tap in self.taps), flat)
    )
