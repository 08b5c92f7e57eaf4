# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""UNETR's convolutional decoder: transformer states joined by skips.

Layer for layer what MONAI's UNETR does after its transformer. Convolutions
before a norm have no bias; the norms have no parameters.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vf_jax.errors import ConfigError
from vf_jax.model_config import UNETR_TOKEN as TOKEN
from vf_jax.models.layers import Conv3D, Domain, Modulate, gated
from vf_jax.ops.channels import join_channels
from vf_jax.ops.subvoxel import depth_to_space
from vf_jax.parallel.sharding import constrain

Features = Float[Array, "batch depth height width channel"]


def instance_norm(x: Features) -> Features:
  """Brings every channel of every sample to mean 0 and variance 1.

  Args:
    x: features.

  Returns:
    Normalised features in the type of `x`; statistics are fp32.
  """
  full = x.astype(jnp.float32)
  mean = full.mean(axis=(1, 2, 3), keepdims=True)
  centred = full - mean
  variance = jnp.square(centred).mean(axis=(1, 2, 3), keepdims=True)
  return (centred * lax.rsqrt(variance + 1e-5)).astype(x.dtype)


def _leaky_relu(x: Features) -> Features:
  return nn.leaky_relu(x, negative_slope=0.01)


class Upsample(nn.Module):
  """Transposed convolution with kernel = stride = 2 as a matrix product.

  Attributes:
    features: output channels.
    dtype: compute type; parameters are float32.
  """

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Features) -> Float[Array, "batch d h w out"]:
    """Returns features at twice the resolution."""
    # Every output voxel has one input voxel: the fan-in is its channels.
    x = nn.Dense(
      8 * self.features, use_bias=False, dtype=self.dtype, name="expand"
    )(x)
    return depth_to_space(x, 2)


class UnetBlock(nn.Module):
  """Two convolutions with instance norm and leaky ReLU.

  Attributes:
    features: output channels.
    residual: adds the input, projected where the channels differ.
    dtype: compute type.
  """

  features: int
  residual: bool
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Features, domain: Domain = None
  ) -> Float[Array, "batch depth height width out"]:
    """Returns the features after the block, its branch modulated."""
    convolution = functools.partial(
      Conv3D, self.features, use_bias=False, dtype=self.dtype
    )
    y = convolution(name="conv1")(x)
    y = _leaky_relu(instance_norm(y))
    y = convolution(name="conv2")(y)
    y = instance_norm(y)
    if domain is not None:
      y, gate = Modulate(name="modulate")(y, domain)
      y = gated(gate, y)
    if self.residual:
      if x.shape[-1] != self.features:
        x = instance_norm(
          nn.Dense(
            self.features, use_bias=False, dtype=self.dtype, name="project"
          )(x)
        )
      y = y + x.astype(y.dtype)
    return _leaky_relu(y)


class Ascent(nn.Module):
  """Brings a transformer state up to the resolution of its skip.

  Attributes:
    features: output channels.
    doublings: how often the resolution doubles, at least once.
    convolve: a UnetBlock after every doubling but the first.
    residual: whether that block is residual.
    dtype: compute type.
  """

  features: int
  doublings: int
  convolve: bool
  residual: bool
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Features) -> Float[Array, "batch d h w out"]:
    """Returns features at 2^doublings the resolution."""
    x = Upsample(self.features, dtype=self.dtype, name="up0")(x)
    for step in range(1, self.doublings):
      x = Upsample(self.features, dtype=self.dtype, name=f"up{step}")(x)
      if self.convolve:
        x = UnetBlock(
          self.features, self.residual, dtype=self.dtype, name=f"block{step}"
        )(x)
    return x


class Merge(nn.Module):
  """Doubles the resolution and joins a skip.

  Attributes:
    residual: whether the block after it is residual.
    dtype: compute type.
  """

  residual: bool
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch d h w channel"],
    skip: Float[Array, "batch depth height width out"],
    domain: Domain = None,
  ) -> Float[Array, "batch depth height width out"]:
    """Returns features with the shape of the skip."""
    features = skip.shape[-1]
    x = Upsample(features, dtype=self.dtype, name="up")(x)
    x = join_channels(x, skip.astype(x.dtype))
    block = UnetBlock(features, self.residual, dtype=self.dtype, name="block")
    return block(x, domain)


@flax.struct.dataclass
class Decoded:
  """What the convolutional decoder gives.

  Attributes:
    logits: per voxel, fp32.
    coarse: the same at 1/2 and 1/4 resolution, for deep supervision; empty
      without it.
    cells: features at 1/4 resolution, which other decoders read.
  """

  logits: Float[Array, "batch depth height width outputs"]
  coarse: tuple[Float[Array, "batch _ _ _ outputs"], ...]
  cells: Float[Array, "batch d h w channel"]


class UnetrDecoder(nn.Module):
  """From the image and four transformer states to logits per voxel.

  Attributes:
    classes: output channels.
    feature_size: channels at full resolution; they double with every halving.
    residual: residual blocks (MONAI's `res_block`).
    convolve: blocks on the way up of the states (MONAI's `conv_block`).
    deep_supervision: logits at 1/2 and 1/4 resolution too.
    dtype: compute type; logits are float32.

  Source:
    Hatamizadeh et al. 2022, UNETR (arXiv 2103.10504), figure 2.
  """

  classes: int
  feature_size: int = 16
  residual: bool = True
  convolve: bool = True
  deep_supervision: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: Features,
    states: tuple[Float[Array, "batch d h w dim"], ...],
    domain: Domain = None,
  ) -> Decoded:
    """Decodes.

    Args:
      image: the network's input, `TOKEN` times the states' resolution.
      states: four hidden states on the token grid, shallow to deep; the last
        is the normalised output of the transformer.
      domain: embedding of the scan's domain, which modulates the way up.

    Returns:
      Logits, and the features on the way to them.

    Raises:
      ConfigError: if the tokens are not of 16^3 voxels.
    """
    grid = tuple(side * TOKEN for side in states[-1].shape[1:4])
    if image.shape[1:4] != grid:
      raise ConfigError(
        f"image {image.shape[1:4]} and tokens {states[-1].shape[1:4]} do not "
        f"fit: the convolutional decoder needs tokens of {TOKEN}^3 voxels; "
        f"crop to {grid} or set token={TOKEN}"
      )
    kind: dict[str, Any] = {"residual": self.residual, "dtype": self.dtype}
    size = self.feature_size
    skips = [UnetBlock(size, **kind, name="encoder1")(image)]
    for level, state in enumerate(states[:-1]):
      skips.append(
        Ascent(
          size * 2 ** (level + 1),
          doublings=3 - level,
          convolve=self.convolve,
          **kind,
          name=f"encoder{level + 2}",
        )(state)
      )
    x, stages = states[-1], []
    for level in (3, 2, 1, 0):
      x = Merge(**kind, name=f"decoder{level + 2}")(x, skips[level], domain)
      x = constrain(x, "batch", "depth", None, None, None)
      stages.append(x)
    _, cells, half, full = stages
    coarse = []
    if self.deep_supervision:
      for name, stage in (("out_half", half), ("out_quarter", cells)):
        head = nn.Dense(self.classes, dtype=jnp.float32, name=name)
        coarse.append(head(stage))
    return Decoded(
      logits=nn.Dense(self.classes, dtype=jnp.float32, name="out")(full),
      coarse=tuple(coarse),
      cells=cells,
    )
