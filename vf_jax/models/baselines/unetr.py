# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""UNETR: a vision transformer with a convolutional decoder of skips."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.errors import ConfigError
from vf_jax.models.decoders.unetr import TOKEN, UnetrDecoder
from vf_jax.models.layers import Dense
from vf_jax.ops.attention import attention
from vf_jax.ops.subvoxel import space_to_depth

_EPSILON = 1e-5


class Block(nn.Module):
  """Pre-norm transformer block as MONAI's: exact GELU, epsilon 1e-5.

  Attributes:
    heads: attention heads.
    mlp_dim: hidden width of the MLP.
    qkv_bias: whether queries, keys and values have a bias.
    implementation: attention implementation.
    dtype: compute type.
  """

  heads: int
  mlp_dim: int
  qkv_bias: bool
  implementation: Literal["xla", "cudnn"]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "batch tokens dim"]
  ) -> tuple[
    Float[Array, "batch tokens dim"], Float[Array, "batch tokens dim"]
  ]:
    """Returns the tokens twice: to go on with, and for the scan to stack."""
    batch, count, dim = tokens.shape
    x = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="attn_norm")(
      tokens
    )
    qkv = nn.Dense(
      3 * dim, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv"
    )(x)
    qkv = qkv.reshape(batch, count, 3, self.heads, dim // self.heads)
    x = attention(
      qkv[:, :, 0],
      qkv[:, :, 1],
      qkv[:, :, 2],
      implementation=self.implementation,
    ).reshape(batch, count, dim)
    tokens = tokens + Dense(dim, dtype=self.dtype, name="proj")(x)
    x = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="mlp_norm")(
      tokens
    )
    x = Dense(self.mlp_dim, dtype=self.dtype, name="up")(x)
    x = nn.gelu(x, approximate=False)
    tokens = tokens + Dense(dim, dtype=self.dtype, name="down")(x)
    return tokens, tokens


class Unetr(nn.Module):
  """UNETR with the layers of MONAI 1.6, for crops of one fixed shape.

  A patch embedding by convolution and by perceptron are the same matrix
  product here; only the order of the weights differs, which
  `monai_unetr.params_from_monai` takes care of.

  Attributes:
    classes: output channels.
    feature_size: channels at full resolution.
    dim: width of the transformer.
    depth: blocks.
    heads: attention heads.
    mlp_dim: hidden width of the MLP.
    taps: blocks (from 0) whose output the decoder sees, besides the last.
    residual: residual blocks in the decoder.
    convolve: blocks on the way up of the states.
    qkv_bias: whether queries, keys and values have a bias.
    scan: stacks the blocks' parameters and runs them by one scan.
    remat: 'none' or 'full'.
    implementation: attention implementation.
    dtype: compute type; logits are float32.

  Source:
    Hatamizadeh et al. 2022, UNETR (arXiv 2103.10504).
  """

  classes: int
  feature_size: int = 16
  dim: int = 768
  depth: int = 12
  heads: int = 12
  mlp_dim: int = 3072
  taps: tuple[int, int, int] = (3, 6, 9)
  residual: bool = True
  convolve: bool = True
  qkv_bias: bool = False
  scan: bool = True
  remat: Literal["none", "full"] = "none"
  implementation: Literal["xla", "cudnn"] = "xla"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "batch depth height width channel"]
  ) -> Float[Array, "batch depth height width classes"]:
    """Segments a crop.

    Args:
      image: intensities, as normalised as the training saw them.

    Returns:
      Logits per voxel.

    Raises:
      ConfigError: if the shape, the heads or the taps do not fit.
    """
    self._check(image.shape[1:4])
    tokens = Dense(self.dim, dtype=self.dtype, name="embed")(
      space_to_depth(image, TOKEN)
    )
    batch, *grid, dim = tokens.shape
    tokens = tokens.reshape(batch, -1, dim)
    positions = self.param(
      "positions",
      nn.initializers.truncated_normal(0.02),
      (1, tokens.shape[1], dim),
    )
    tokens = tokens + positions.astype(self.dtype)
    last, states = self._blocks(tokens)
    last = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(last)
    return UnetrDecoder(
      classes=self.classes,
      feature_size=self.feature_size,
      residual=self.residual,
      convolve=self.convolve,
      dtype=self.dtype,
      name="decoder",
    )(
      image,
      tuple(
        state.reshape(batch, *grid, dim)
        for state in (*(states[tap] for tap in self.taps), last)
      ),
    ).logits

  def _blocks(self, tokens):
    """Returns the last state and, by block, all of them."""
    block = Block
    if self.remat == "full":
      block = nn.remat(Block, prevent_cse=not self.scan)
    kind = {
      "heads": self.heads,
      "mlp_dim": self.mlp_dim,
      "qkv_bias": self.qkv_bias,
      "implementation": self.implementation,
      "dtype": self.dtype,
    }
    if self.scan:
      return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=self.depth,
      )(**kind, name="blocks")(tokens)
    states = []
    for index in range(self.depth):
      tokens, state = block(**kind, name=f"block{index}")(tokens)
      states.append(state)
    return tokens, states

  def _check(self, shape: tuple[int, ...]) -> None:
    if any(side % TOKEN for side in shape):
      raise ConfigError(
        f"crop {shape} is not a multiple of the token of {TOKEN}^3 voxels; "
        f"crop to multiples of {TOKEN}"
      )
    if self.dim % self.heads:
      raise ConfigError(
        f"dim={self.dim} is not a multiple of heads={self.heads}; change one"
      )
    if not all(0 <= tap < self.depth for tap in self.taps):
      raise ConfigError(
        f"taps={self.taps} name blocks that depth={self.depth} does not have; "
        "raise depth or lower the taps"
      )
