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

DEPTH_AXIS = "context"
"""Mesh axis over which the depth of features may be split."""

# Up to so many input channels the copies of 'channels' are cheap.
_FEW = 4
# Voxels of a batch below which Winograd's transforms cost what they save, and
# more to compile.
_MANY = 4096


def conv3d(
  x: Float[Array, "batch depth height width cin"],
  kernel: Float[Array, "kd kh kw cin cout"],
  implementation: Implementation | None = None,
) -> Float[Array, "batch depth height width cout"]:
  """Convolves with stride 1 and zero padding to the same size.

  Every implementation is the same sum up to the order of its terms, with
  gradients; `benchmarks/conv3d.py` compares their speed.

  Args:
    x: features.
    kernel: odd-sized in its three spatial axes.
    implementation: None chooses by backend, shape and mesh (that of
      `jax.set_mesh`): see `choose_implementation`.

  Returns:
    Features of the same spatial shape.

  Raises:
    ValueError: if a kernel axis is even, or the implementation is unknown or
      cannot convolve with this kernel.
  """
  if any(k % 2 == 0 for k in kernel.shape[:3]):
    raise ValueError(f"kernel {kernel.shape[:3]} must be odd in every axis")
  if implementation is None:
    mesh = jax.sharding.get_abstract_mesh()
    implementation = choose_implementation(
      jax.default_backend(),
      x.shape,
      kernel.shape,
      x.dtype,
      split=not mesh.empty and mesh.shape.get(DEPTH_AXIS, 1) > 1,
    )
  if implementation == "native":
    return lax.conv_general_dilated(
      x,
      kernel,
      (1, 1, 1),
      "SAME",
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
  if implementation == "taps":
    return depth_taps(x, kernel)
  if implementation == "channels":
    return depth_channels(x, kernel)
  if implementation == "winograd":
    return winograd(x, kernel)
  raise ValueError(
    f"implementation '{implementation}' is none of {get_args(Implementation)}"
  )


def choose_implementation(
  backend: str,
  shape: tuple[int, ...],
  kernel: tuple[int, ...],
  dtype: jnp.dtype,
  split: bool = False,
) -> Implementation:
  """The fastest exact formulation for a backend.

  GPU and TPU run the native operation. XLA:CPU is several times slower with
  it than with 2D convolutions, above all in the gradient. Winograd's
  transforms multiply by up to 8, which bfloat16 has no digits for.

  NOTE: XLA 0.10.2 partitions a native convolution wrongly, without a warning,
  when an axis that it slides along is split and another axis of the mesh
  replicates it or splits its channels: results and gradients come out two to
  five times too large. Taps slide along whole axes only.

  Args:
    backend: as `jax.default_backend()` names it.
    shape: of the features.
    kernel: shape of the kernel.
    dtype: of the features.
    split: whether the depth of the features is split over devices.

  Returns:
    The name of the implementation.
  """
  if backend != "cpu":
    return "taps" if split else "native"
  if kernel[3] <= _FEW:
    return "channels"
  voxels = math.prod(shape[:4])
  if kernel[0] == 3 and voxels >= _MANY and dtype == jnp.float32:
    return "winograd"
  return "taps"
