# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Layers that several parts of VertebraFormer share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vf_jax.parallel.convolution import convolve

Domain = Float[Array, "batch domain"] | None


def add_bias(
  x: Float[Array, "*shape channel"], bias: Float[Array, " channel"]
) -> Float[Array, "*shape channel"]:
  """Adds a bias in float32 and returns to the type of `x`.

  In bfloat16 the gradient of a bias, a sum over all positions, would be summed
  in bfloat16 too, where it stops growing: 16 instead of 110 over 48^3 ones.

  Args:
    x: features in the compute type.
    bias: in float32.

  Returns:
    The sum in the type of `x`.
  """
  wide = bias.reshape((1,) * (x.ndim - 1) + (-1,))
  return (x.astype(jnp.float32) + wide).astype(x.dtype)


class Dense(nn.Module):
  """`nn.Dense`, with the bias added as `add_bias` does.

  Attributes:
    features: output channels.
    dtype: compute type; parameters are float32.
  """

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "*shape cin"]
  ) -> Float[Array, "*shape cout"]:
    """Returns the product plus bias in the compute type."""
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias)


class Conv3D(nn.Module):
  """3x3x3 convolution, stride 1, same size.

  Attributes:
    features: output channels.
    use_bias: whether a bias is added, as `add_bias` does.
    dtype: compute type; parameters are float32.
  """

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch depth height width cin"]
  ) -> Float[Array, "batch depth height width cout"]:
    """Returns the convolved features in the compute type."""
    kernel = self.param(
      "kernel",
      nn.initializers.he_normal(),
      (3, 3, 3, x.shape[-1], self.features),
    )
    x = convolve(x.astype(self.dtype), kernel)
    if not self.use_bias:
      return x
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return add_bias(x, bias)


class Modulate(nn.Module):
  """Scale, shift and gate drawn from the domain; identity at the start.

  With `domain=None` (modulation off) it has no parameters.

  It works in float32, for the reason of `add_bias`.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch *space channel"], domain: Domain
  ) -> tuple[
    Float[Array, "batch *space channel"], Float[Array, "batch *one channel"]
  ]:
    """Returns the modulated features and the gate of the residual branch."""
    channel = x.shape[-1]
    shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (channel,)
    if domain is None:
      return x, jnp.ones(shape)
    # Zero at the start: an untrained unit changes nothing.
    film = nn.Dense(
      3 * channel, kernel_init=nn.initializers.zeros, name="film"
    )(domain.astype(jnp.float32))
    scale, shift, gate = (
      part.reshape(shape) for part in jnp.split(film, 3, axis=-1)
    )
    return (x * (1 + scale) + shift).astype(x.dtype), 1 + gate


def gated(
  gate: Float[Array, "batch *one channel"],
  x: Float[Array, "batch *space channel"],
) -> Float[Array, "batch *space channel"]:
  """Applies the gate of `Modulate` to a residual branch.

  Args:
    gate: factors, float32.
    x: the branch.

  Returns:
    Their product in the type of `x`.
  """
  return (gate * x).astype(x.dtype)


class ConvBlock(nn.Module):
  """Pre-norm residual block of two convolutions, modulated by the domain.

  Attributes:
    dtype: compute type.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch depth height width channel"], domain: Domain
  ) -> Float[Array, "batch depth height width channel"]:
    """Returns the features with the block's residual added."""
    channel = x.shape[-1]
    y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    y, gate = Modulate(name="modulate")(y, domain)
    y = nn.gelu(Conv3D(channel, dtype=self.dtype, name="conv1")(y))
    y = Conv3D(channel, dtype=self.dtype, name="conv2")(y)
    return x + gated(gate, y)


def sinusoids(
  x: Float[Array, "*shape"], count: int, longest: float
) -> Float[Array, "*shape features"]:
  """Smooth features of a scalar: sines and cosines of `count` wavelengths.

  Args:
    x: values.
    count: wavelengths, from `longest` down to `longest / 2^(count-1)`.
    longest: largest wavelength in the unit of `x`.

  Returns:
    `2 * count` features.
  """
  waves = jnp.asarray(
    2 * np.pi / longest * 2.0 ** np.arange(count), dtype=x.dtype
  )
  phase = x[..., None] * waves.reshape((1,) * x.ndim + (-1,))
  return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


def unroll_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
  """Splits stacked blocks: parameters of `scan=True` -> `scan=False`.

  Args:
    params: of a transformer with `scan=True`.

  Returns:
    The same values as it names them with `scan=False`.
  """
  rest = {name: part for name, part in params.items() if name != "blocks"}
  depth = len(jax.tree.leaves(params["blocks"])[0])
  for index in range(depth):
    rest[f"block{index}"] = jax.tree.map(
      lambda leaf, i=index: leaf[i], params["blocks"]
    )
  return rest


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
  """Stacks blocks: parameters of `scan=False` -> `scan=True`.

  Args:
    params: of a transformer with `scan=False`.

  Returns:
    The same values as it names them with `scan=True`.
  """
  names = sorted(
    (name for name in params if re.fullmatch(r"block\d+", name)),
    key=lambda name: int(name.removeprefix("block")),
  )
  rest = {name: part for name, part in params.items() if name not in names}
  rest["blocks"] = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *(params[name] for name in names)
  )
  return rest
