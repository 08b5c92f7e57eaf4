# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Another scanner for the same patient.

Kernel, slice thickness and voxel size are linear and separable, so all of them
together are one small matrix an axis. HU keep their meaning: air and water do
not move but by the small errors of calibration that real scanners show.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vf_jax.config import AugmentConfig
from vf_jax.ops.separable import apply_along_axes, gaussian

_GAMMA = 0.15  # standard deviation of the log exponent
_BONE_HU = 1500.0  # end of the range that the exponent bends
_GAIN = 0.06  # standard deviation
_OFFSET_HU = 15.0  # standard deviation
_KERNEL = 0.8  # largest standard deviation, voxels
_SLICE_MM = (3.0, 6.0)
_SLICE_AXES = (0.6, 0.1, 0.3)  # axial, coronal, sagittal stacks
_COARSER = (1.2, 2.0)  # times the voxel edge
_NOISE_HU = 90.0  # largest standard deviation
_GRAIN = (0.4, 1.0)  # standard deviation of a smooth grain, voxels


def rescan(
  key: Key[Array, ""],
  image: Float[Array, "depth height width"],
  spacing_mm: Float[Array, " 3"],
  strength: Float[Array, ""],
  edge_mm: float,
  config: AugmentConfig,
) -> tuple[Float[Array, "depth height width"], Float[Array, " 3"]]:
  """Passes an image through a random scanner.

  Args:
    key: of the draw.
    image: HU.
    spacing_mm: of the scan that it comes from, ascending.
    strength: of blur and noise: 1 for synthetic images, below for those that
      have a scanner's already.
    edge_mm: voxel edge of the image.
    config: chance of each effect.

  Returns:
    HU and the spacing, ascending, that such a scan would have.
  """
  draw, grain = _draw(key, config)
  image = _tone(draw, image, config)
  pitch, phase = _pitch(draw, edge_mm)
  if config.blur or config.slices or config.low_resolution:
    sigma = draw.chosen["blur"] * draw.sigma * _KERNEL * strength
    image = apply_along_axes(
      image,
      [
        jnp.matmul(
          thicken(n, pitch[axis], phase[axis]),
          gaussian(n, sigma[axis]),
          precision="highest",
        )
        for axis, n in enumerate(image.shape)
      ],
    )
  if config.noise:
    image = image + strength * _noise(grain, image.shape, pitch, phase, draw)
  return image, _spacing(spacing_mm, pitch * edge_mm, edge_mm)


def thicken(
  size: int, pitch: Float[Array, ""], phase: Float[Array, ""]
) -> Float[Array, "n n"]:
  """Slices of some thickness, read off at the voxels again.

  Args:
    size: voxels of the axis.
    pitch: thickness and distance of the slices, voxels, at least 1.
    phase: 0..1, where the first slice lies; pitch 1 and phase 0.5 give the
      identity.

  Returns:
    Rows that sum to 1.
  """
  place = jnp.arange(size, dtype=jnp.float32)
  middle = ((place + phase - 0.5) * pitch)[:, None]
  share = jnp.minimum(place[None, :] + 0.5, middle + pitch / 2) - jnp.maximum(
    place[None, :] - 0.5, middle - pitch / 2
  )
  share = jnp.maximum(share, 0.0)
  # A slice beyond the last voxel shows that voxel.
  beyond = (share.sum(axis=1, keepdims=True) < 1e-3) & (
    place[None, :] == size - 1
  )
  share = jnp.where(beyond, 1.0, share)
  slices = share / share.sum(axis=1, keepdims=True)
  return jnp.matmul(
    _between_slices(size, pitch, phase), slices, precision="highest"
  )


def _between_slices(size, pitch, phase):
  """Linear interpolation from slices to voxels."""
  place = jnp.arange(size, dtype=jnp.float32)
  at = jnp.clip(place / pitch - phase + 0.5, 0.0, size - 1.0)
  return jnp.maximum(1 - jnp.abs(at[:, None] - place[None, :]), 0.0)


@dataclasses.dataclass(frozen=True)
class _Draw:
  """All numbers of one scanner.

  Attributes:
    chosen: effect -> 1 or 0.
    gamma: log exponent, standard normal.
    gain: standard normal.
    offset: standard normal.
    sigma: kernel along each axis, 0..1; so are all that follow.
    phase: where the first slice of each axis lies.
    axis: which axis has thick slices.
    slices: their thickness.
    coarser: voxel edge.
    dose: of the noise.
    grain: its smoothness.
  """

  chosen: Mapping[str, Array]
  gamma: Array
  gain: Array
  offset: Array
  sigma: Array
  phase: Array
  axis: Array
  slices: Array
  coarser: Array
  dose: Array
  grain: Array


def _draw(key, config) -> tuple[_Draw, Array]:
  """Draws a scanner; the key that is left is for its noise."""
  chance, size, spread, rest = jax.random.split(key, 4)
  names = (
    "gamma", "contrast", "shift", "blur", "slices", "low_resolution", "noise",
  )  # fmt: skip
  shares = jnp.asarray([*(getattr(config, name) for name in names), 0.5])
  chosen = (jax.random.uniform(chance, shares.shape) < shares) * 1.0
  gamma, gain, offset = jax.random.normal(spread, (3,))
  u = jax.random.uniform(size, (11,))
  draw = _Draw(
    dict(zip((*names, "grain"), chosen)), gamma, gain, offset,
    u[:3], u[3:6], *u[6:],
  )  # fmt: skip
  return draw, rest


def _tone(draw, image, config):
  """Response of bone, gain and offset."""
  if config.gamma:
    exponent = jnp.exp(_GAMMA * draw.chosen["gamma"] * draw.gamma)
    bone = jnp.clip(image / _BONE_HU, 1e-6, 1.0)
    bent = _BONE_HU * jnp.exp(exponent * jnp.log(bone))
    inside = (image > 0) & (image < _BONE_HU) & (draw.chosen["gamma"] > 0)
    image = jnp.where(inside, bent, image)
  if config.contrast:
    image = image * (1 + _GAIN * draw.chosen["contrast"] * draw.gain)
  if config.shift:
    image = image + _OFFSET_HU * draw.chosen["shift"] * draw.offset
  return image


def _pitch(draw, edge_mm):
  """Thickness of slices along each axis in voxels, and where they begin."""
  axis = jnp.searchsorted(jnp.cumsum(jnp.asarray(_SLICE_AXES)), draw.axis)
  thick = _between(_SLICE_MM, draw.slices) / edge_mm
  thick = thick * (jnp.arange(3) == axis) * draw.chosen["slices"]
  coarse = _between(_COARSER, draw.coarser) * draw.chosen["low_resolution"]
  pitch = jnp.maximum(jnp.maximum(thick, coarse), 1.0)
  return pitch, jnp.where(pitch > 1, draw.phase, 0.5)


def _between(limits, share):
  return limits[0] + (limits[1] - limits[0]) * share


def _noise(key, shape, pitch, phase, draw):
  """Noise of unknown dose and grain, correlated between thick slices."""
  sigma = draw.chosen["grain"] * _between(_GRAIN, draw.grain)
  matrices = [
    jnp.matmul(
      _between_slices(n, pitch[axis], phase[axis]),
      gaussian(n, sigma),
      precision="highest",
    )
    for axis, n in enumerate(shape)
  ]
  # What the operators leave of the deviation of white noise.
  rest = functools.reduce(
    jnp.multiply, [jnp.sqrt((m**2).sum(axis=1).mean()) for m in matrices]
  )
  noise = apply_along_axes(jax.random.normal(key, shape), matrices)
  return draw.chosen["noise"] * _NOISE_HU * draw.dose / rest * noise


def _spacing(spacing_mm, pitch_mm, edge_mm):
  """Spacing of a scan that shows no more than is left.

  Slices thicker along one axis lengthen the longest edge only.
  """
  coarser = jnp.where(pitch_mm > edge_mm * 1.0001, pitch_mm, 0.0)
  return jnp.maximum(spacing_mm, jnp.sort(coarser))
