# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""3D convolution as 2D convolutions over shifted depths.

Depth is folded into the batch. XLA:CPU has a fast 2D convolution, none in 3D.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Features = Float[Array, "batch depth height width channel"]


@jax.custom_vjp
def convolve_slices(
  x: Features, kernel: Float[Array, "kh kw cin cout"]
) -> Float[Array, "batch depth height width cout"]:
  """Convolves every depth slice in 2D, zero padding to the same size.

  Args:
    x: features.
    kernel: odd-sized.

  Returns:
    Features of the same spatial shape.
  """
  out = lax.conv_general_dilated(
    x.reshape(-1, *x.shape[2:]),
    kernel,
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return out.reshape(*x.shape[:2], *out.shape[1:])


def _slices_forward(x, kernel):
  return convolve_slices(x, kernel), (x, kernel)


def _slices_backward(saved, grad):
  x, kernel = saved
  return (
    convolve_slices(grad, mirror(kernel)),
    kernel_gradient(x, grad, kernel.shape[:2]),
  )


convolve_slices.defvjp(_slices_forward, _slices_backward)


def kernel_gradient(
  x: Features,
  grad: Float[Array, "batch depth height width cout"],
  size: tuple[int, ...],
) -> Float[Array, "kh kw cin cout"]:
  """Gradient of `convolve_slices` with respect to its kernel.

  One matrix product over all voxels: features moved along width for every
  column of the kernel, gradients moved along height for every row. XLA's own
  form, a convolution with the channels as batch, spends on CPU more than half
  of its time on transposing its operands.

  Args:
    x: features that were convolved.
    grad: gradient with respect to the result.
    size: (kh, kw).

  Returns:
    The gradient.
  """
  kh, kw = size
  cin, cout = x.shape[-1], grad.shape[-1]
  # What made them must not be computed again for every move.
  x, grad = lax.optimization_barrier((x, grad))
  columns = _moved(x, axis=3, moves=[kw // 2 - k for k in range(kw)])
  rows = _moved(grad, axis=2, moves=[k - kh // 2 for k in range(kh)])
  product = lax.dot_general(
    columns.reshape(-1, kw * cin),
    rows.reshape(-1, kh * cout),
    (((0,), (0,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  product = product.reshape(kw, cin, kh, cout).transpose(2, 0, 1, 3)
  return product.astype(grad.dtype)


def _moved(x, axis: int, moves: list[int]):
  """Copies of the features, moved with zeros coming in, as channels."""
  copies = []
  for move in moves:
    sides = [(0, 0, 0)] * x.ndim
    sides[axis] = (move, -move, 0)
    copies.append(lax.pad(x, jnp.zeros((), x.dtype), sides) if move else x)
  return jnp.concatenate(copies, axis=-1) if len(copies) > 1 else copies[0]


def mirror(
  kernel: Float[Array, "*size cin cout"],
) -> Float[Array, "*size cout cin"]:
  """Turns a kernel to the one that carries gradients back to the features.

  Args:
    kernel: of a convolution, spatial axes first.

  Returns:
    The kernel flipped along its spatial axes, its channels exchanged.
  """
  spatial = tuple(range(kernel.ndim - 2))
  return jnp.flip(kernel, spatial).swapaxes(-1, -2)


@jax.custom_vjp
def depth_taps(
  x: Features, kernel: Float[Array, "kd kh kw cin cout"]
) -> Float[Array, "batch depth height width cout"]:
  """One 2D convolution a depth tap, summed.

  Args:
    x: features.
    kernel: odd-sized in its three spatial axes.

  Returns:
    Features of the same spatial shape.
  """
  return functools.reduce(
    jnp.add,
    [
      convolve_slices(shifted, kernel[tap])
      for tap, shifted in enumerate(_shifts(x, kernel.shape[0]))
    ],
  )


def _taps_forward(x, kernel):
  return depth_taps(x, kernel), (x, kernel)


def _taps_backward(saved, grad):
  x, kernel = saved
  taps = [
    kernel_gradient(shifted, grad, kernel.shape[1:3])
    for shifted in _shifts(x, kernel.shape[0])
  ]
  return depth_taps(grad, mirror(kernel)), jnp.stack(taps)


depth_taps.defvjp(_taps_forward, _taps_backward)


def depth_channels(
  x: Features, kernel: Float[Array, "kd kh kw cin cout"]
) -> Float[Array, "batch depth height width cout"]:
  """One 2D convolution with the depth taps as input channels.

  Copies the features once a tap: for few channels.

  Args:
    x: features.
    kernel: odd-sized in its three spatial axes.

  Returns:
    Features of the same spatial shape.
  """
  taps, height, width, cin, cout = kernel.shape
  return convolve_slices(
    jnp.concatenate(_shifts(x, taps), axis=-1),
    kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, taps * cin, cout),
  )


def _shifts(x, taps):
  """What every tap sees: the features, moved along depth."""
  reach = taps // 2
  padded = jnp.pad(x, [(0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)])
  return [
    lax.slice_in_dim(padded, tap, tap + x.shape[1], axis=1)
    for tap in range(taps)
  ]
