# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Convolution on a mesh: every device convolves its own depths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vf_jax.ops.conv3d import conv3d
from vf_jax.parallel.sharding import LOGICAL, divide, sharers


def convolve(
  x: Float[Array, "batch depth height width cin"],
  kernel: Float[Array, "kd kh kw cin cout"],
) -> Float[Array, "batch depth height width cout"]:
  """Convolves with stride 1 and zero padding to the same size.

  Devices that share the depth hand their neighbours the rows that these reach.
  XLA, left alone, would do so only with one sample a group of devices, and
  would divide the native operation wrongly.

  Args:
    x: features.
    kernel: odd-sized in its three spatial axes; cast to the type of `x`. Where
      depth is shared its gradient is summed over devices in its own type.

  Returns:
    Features of the same spatial shape.

  Raises:
    ValueError: if a kernel axis is even.
  """
  devices, reach = sharers("depth"), kernel.shape[0] // 2
  if devices == 1:
    return conv3d(x, kernel.astype(x.dtype))
  if x.shape[1] % devices or x.shape[1] // devices < reach:
    # NOTE: XLA 0.10.2 partitions a native convolution wrongly, without a
    # warning, when an axis that it slides along is split and another axis of
    # the mesh replicates it or splits its channels: results and gradients come
    # out two to five times too large. Taps slide along whole axes only.
    return conv3d(x, kernel.astype(x.dtype), "taps")
  mesh = jax.sharding.get_abstract_mesh()
  share = divide(mesh, x.shape, ("batch", "depth"))
  varying = tuple(
    name
    for axes in share
    for name in ((axes,) if isinstance(axes, str) else axes or ())
  )

  def own(x, kernel):
    kernel = lax.pcast(kernel, varying, to="varying")
    x = _with_halo(x, reach, devices)
    return conv3d(x, kernel.astype(x.dtype), halo=reach)

  return jax.shard_map(own, in_specs=(share, P()), out_specs=share)(x, kernel)


def _with_halo(x, reach: int, devices: int):
  """Adds the rows of the neighbours, zeros at both ends of the whole depth."""
  if not reach:
    return x
  axis = LOGICAL["depth"]
  down = [(place, place + 1) for place in range(devices - 1)]
  up = [(place + 1, place) for place in range(devices - 1)]
  before = lax.ppermute(x[:, -reach:], axis, down)
  behind = lax.ppermute(x[:, :reach], axis, up)
  return jnp.concatenate([before, x, behind], axis=1)
