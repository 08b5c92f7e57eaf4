# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""3D convolution whose formulation depends on the backend."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vf_jax.ops.depth_taps import depth_channels, depth_taps
from vf_jax.ops.winograd import winograd

Implementation = Literal["native", "taps", "channels", "winograd"]
"""'native': the 3D operation; 'taps': one 2D convolution a depth tap, summed;
'channels': one 2D convolution, depth taps as input channels; 'winograd': six
2D convolutions for four depths instead of twelve."""

# Up to so many input channels the copies of 'channels' are cheap.
_FEW = 4
# Voxels of a batch below which Winograd's transforms cost what they save, and
# more to compile.
_MANY = 1500


def conv3d(
  x: Float[Array, "batch depth height width cin"],
  kernel: Float[Array, "kd kh kw cin cout"],
  implementation: Implementation | None = None,
  halo: int = 0,
) -> Float[Array, "batch rows height width cout"]:
  """Convolves with stride 1 and zero padding to the same size.

  Every implementation is the same sum up to the order of its terms, with
  gradients; `benchmarks/conv3d.py` compares their speed.

  Args:
    x: features.
    kernel: odd-sized in its three spatial axes.
    implementation: None chooses by backend and shape: see
      `choose_implementation`.
    halo: 0, or half the kernel's depth: so many rows at either end of `x` are
      seen, and the result does not hold them.

  Returns:
    Features of the same spatial shape, but for the halo.

  Raises:
    ValueError: if a kernel axis is even, the halo is neither, or the
      implementation is unknown or cannot convolve with this kernel.
  """
  if any(k % 2 == 0 for k in kernel.shape[:3]):
    raise ValueError(f"kernel {kernel.shape[:3]} must be odd in every axis")
  if halo not in (0, kernel.shape[0] // 2):
    raise ValueError(f"a halo of {halo} does not fit {kernel.shape[:3]}")
  if implementation is None:
    implementation = choose_implementation(
      jax.default_backend(), x.shape, kernel.shape, x.dtype
    )
  if implementation == "native":
    sides = [(k // 2, k // 2) for k in kernel.shape[:3]]
    return lax.conv_general_dilated(
      x,
      kernel,
      (1, 1, 1),
      [(0, 0), *sides[1:]] if halo else sides,
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
  if implementation == "taps":
    out = depth_taps(x, kernel)
  elif implementation == "channels":
    out = depth_channels(x, kernel)
  elif implementation == "winograd":
    out = winograd(x, kernel)
  else:
    raise ValueError(
      f"implementation '{implementation}' is none of {get_args(Implementation)}"
    )
  return out[:, halo:-halo] if halo else out


def choose_implementation(
  backend: str,
  shape: tuple[int, ...],
  kernel: tuple[int, ...],
  dtype: jnp.dtype,
) -> Implementation:
  """The fastest exact formulation for a backend.

  GPU and TPU run the native operation. XLA:CPU is several times slower with
  it than with 2D convolutions, above all in the gradient. Winograd's
  transforms multiply by up to 8, which bfloat16 has no digits for.

  Args:
    backend: as `jax.default_backend()` names it.
    shape: of the features.
    kernel: shape of the kernel.
    dtype: of the features.

  Returns:
    The name of the implementation.
  """
  if backend != "cpu":
    return "native"
  if kernel[3] <= _FEW:
    return "channels"
  voxels = math.prod(shape[:4])
  if kernel[0] == 3 and voxels >= _MANY and dtype == jnp.float32:
    return "winograd"
  return "taps"
