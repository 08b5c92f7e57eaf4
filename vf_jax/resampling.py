# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Resampling of an array through an affine map, in bounded memory.

Knows arrays and index maps only; grids and millimetres are in `volume.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.sparse
from jaxtyping import Bool, Float64, Shaped

from vf_jax import threads
from vf_jax.scratch import empty, release, slabs

# A target voxel this close to the half-voxel rim still counts as inside.
_RIM = 1e-6
# Off-diagonal terms that move no voxel by more than this are rounding noise.
_STRAIGHT = 1e-4
_BRICK = 64
_SLAB_VOXELS = 1 << 19
_TRUNCATE = 4.0
_THREADS = 2  # each holds a slab or a brick, with what it is blurred from


def antialias_sigma(
  index_map: Float64[np.ndarray, "4 4"],
) -> tuple[float, float, float]:
  """Gaussian width for each source axis that a coarser target asks for.

  A target step of `r` source voxels needs the signal to be blurred until its
  point spread is as wide as the target's: `sqrt(r**2 - 1)` of full width at
  half maximum, nothing when the target is finer.

  Args:
    index_map: from target voxel positions to source voxel positions.

  Returns:
    Standard deviations along the source axes.

  Units:
    Source voxels.

  Source:
    Cardoso et al., "Scale factor point spread function matching: beyond
    aliasing in image resampling", MICCAI 2015.
  """
  steps = np.linalg.norm(index_map[:3, :3], axis=1)
  fwhm = np.sqrt(np.maximum(steps**2 - 1.0, 0.0))
  # A step 2 % longer than a voxel is spacing rounding, not down-sampling.
  fwhm = np.where(steps < 1.02, 0.0, fwhm)
  x, y, z = (fwhm / (2 * math.sqrt(2 * math.log(2)))).tolist()
  return x, y, z


def resample_indices(
  voxels: Shaped[np.ndarray, "x y z"],
  index_map: Float64[np.ndarray, "4 4"],
  shape: tuple[int, int, int],
  *,
  order: int,
  fill: int | float | np.number,
  sigma: tuple[float, float, float] = (0.0, 0.0, 0.0),
  clip: tuple[int, int] | None = None,
) -> Shaped[np.ndarray, "u v w"]:
  """Samples `voxels` at `index_map @ (u, v, w, 1)` for every target voxel.

  Maps that are a permutation and a scaling of the axes are done one axis at
  a time with sparse weights; all others brick by brick. Neither ever holds a
  second volume in floating point.

  Args:
    voxels: the source array; any real dtype, any strides.
    index_map: from target voxel positions to source voxel positions.
    shape: of the result.
    order: 0 takes the nearest voxel, 1 interpolates linearly.
    fill: value of target voxels further than half a voxel outside the
      outermost source centres; nearer ones take the edge value.
    sigma: Gaussian blur of the source before it is sampled (order 1 only).
    clip: limits, within int16, that the source is clipped to before it is
      sampled (order 1 only).

  Returns:
    An array of the dtype of `voxels`, of int16 if clipped, in Fortran order,
    on the disk if large (`scratch.empty`); integers are rounded and saturate.

  Units:
    Voxels throughout.
  """
  dtype = voxels.dtype if clip is None else np.dtype(np.int16)
  result = empty(shape, dtype)
  for part in slabs(result):
    result[..., part] = fill
  if 0 in voxels.shape or 0 in shape:
    return result
  straight = _straighten(voxels, index_map, shape, sigma)
  if straight is not None:
    _resample_straight(result, *straight, order=order, clip=clip)
    return result

  def fill_brick(brick) -> None:
    _resample_brick(result, brick, voxels, index_map, order, sigma, clip)
    release(voxels, result)

  _in_threads(fill_brick, list(_bricks(shape)))
  return result


def _straighten(voxels, index_map, shape, sigma):
  """Transposes the source so that the map is diagonal, or returns None."""
  linear = index_map[:3, :3]
  axes = tuple(int(axis) for axis in np.argmax(np.abs(linear), axis=0))
  if sorted(axes) != [0, 1, 2]:
    return None
  linear = linear[list(axes)]
  reach = np.abs(linear) * (np.asarray(shape) - 1)
  if (reach - np.diag(np.diag(reach))).max() > _STRAIGHT:
    return None
  positions = [
    linear[i, i] * np.arange(shape[i]) + index_map[axes[i], 3] for i in range(3)
  ]
  return voxels.transpose(axes), positions, [sigma[axis] for axis in axes]


def _resample_straight(result, voxels, positions, sigma, *, order, clip):
  """Fills `result` where each target axis follows one source axis."""
  inside = []
  for axis, position in enumerate(positions):
    size = voxels.shape[axis]
    kept = (position >= -0.5 - _RIM) & (position <= size - 0.5 + _RIM)
    hits = np.flatnonzero(kept)
    if not hits.size:
      return
    # The kept positions are one run, because the map is monotonic.
    inside.append(slice(int(hits[0]), int(hits[-1]) + 1))
    positions[axis] = position[inside[-1]]
  target = result[tuple(inside)]
  if order == 0:
    target[...] = voxels[
      np.ix_(
        *(_nearest(p, n) for p, n in zip(positions, voxels.shape, strict=True))
      )
    ]
    return
  weights = [
    _weights(position, size, width).astype(_working_dtype(result.dtype))
    for position, size, width in zip(
      positions, voxels.shape, sigma, strict=True
    )
  ]
  # Slabs along the axis that is slowest in memory touch fewest pages.
  axis = int(np.argmax(np.abs(voxels.strides)))
  plane = max(
    voxels.size // voxels.shape[axis], target.size // target.shape[axis]
  )
  step = max(1, _SLAB_VOXELS // plane)

  def fill_slab(start) -> None:
    rows = weights[axis][start : start + step]
    low, high = int(rows.indices.min()), int(rows.indices.max()) + 1
    slab = _working(voxels[_part(axis, low, high)], clip)
    own = [*weights]
    own[axis] = rows[:, low:high]
    for along in (2, 0, 1):
      slab = _along(own[along], slab, along)
    target[_part(axis, start, start + step)] = _cast(slab, result.dtype)
    release(voxels, result)

  _in_threads(fill_slab, range(0, target.shape[axis], step))


def _in_threads(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
  """Does parts of a work of which none touches the others' results."""
  if len(parts) == 1:
    work(parts[0])
    return
  with threads.pool(_THREADS) as pool:
    list(pool.map(work, parts))  # raises what a part raised


def _part(axis: int, start: int, stop: int) -> tuple[slice, ...]:
  """Index of some rows of one axis."""
  return (*(slice(None),) * axis, slice(start, stop))


def _working(voxels, clip):
  """Voxels in the floating point of the work."""
  if clip is not None:
    # Copies one slab; integers are clipped as such, exactly.
    voxels = np.clip(voxels, *clip).astype(np.int16)
  return voxels.astype(_working_dtype(voxels.dtype))


def _weights(position, size, width):
  """Rows of linear interpolation of the blurred, edge-clamped signal."""
  position = np.clip(position, 0, size - 1)
  # The last pair is (size - 2, size - 1), so that the upper tap exists.
  left = np.minimum(np.floor(position).astype(np.int64), max(size - 2, 0))
  right = position - left
  radius = int(_TRUNCATE * width + 0.5) if width > 0 else 0
  taps = np.arange(-radius, radius + 1)
  kernel = np.exp(-0.5 * (taps / width) ** 2) if radius else np.ones(1)
  kernel /= kernel.sum()
  columns = left[:, None] + np.arange(-radius, radius + 2)
  values = np.zeros(columns.shape)
  values[:, :-1] += (1 - right)[:, None] * kernel
  values[:, 1:] += right[:, None] * kernel
  rows = np.broadcast_to(np.arange(len(position))[:, None], columns.shape)
  entries = (rows.ravel(), np.clip(columns, 0, size - 1).ravel())
  return scipy.sparse.csr_array(
    (values.ravel(), entries), shape=(len(position), size)
  )


def _along(matrix, slab, axis):
  """Multiplies one axis of `slab` by a sparse matrix."""
  front = np.moveaxis(slab, axis, 0)
  flat = np.ascontiguousarray(front).reshape(front.shape[0], -1)
  product = matrix @ flat
  return np.moveaxis(product.reshape(-1, *front.shape[1:]), 0, axis)


def _bricks(shape: tuple[int, int, int]) -> Iterator[tuple[slice, ...]]:
  """Cuts an array of `shape` into boxes that fit the cache."""
  yield from itertools.product(
    *(
      [slice(i, min(i + _BRICK, size)) for i in range(0, size, _BRICK)]
      for size in shape
    )
  )


def _resample_brick(result, brick, voxels, index_map, order, sigma, clip):
  """Fills one box of `result` through a map of any obliqueness."""
  ranges = np.ix_(*(np.arange(part.start, part.stop) for part in brick))
  positions = [
    sum(index_map[axis, i] * ranges[i] for i in range(3)) + index_map[axis, 3]
    for axis in range(3)
  ]
  inside = _inside(positions, voxels.shape)
  if not inside.any():
    return
  target = result[brick]
  if order == 0:
    nearest = [
      _nearest(position[inside], size)
      for position, size in zip(positions, voxels.shape, strict=True)
    ]
    target[inside] = voxels[tuple(nearest)]
    return
  low, high = [], []
  for position, size, width in zip(positions, voxels.shape, sigma, strict=True):
    halo = int(_TRUNCATE * width + 0.5) + 1
    kept = np.clip(position[inside], 0, size - 1)
    low.append(max(0, math.floor(kept.min()) - halo))
    high.append(min(size, math.ceil(kept.max()) + halo + 1))
  block = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
  block = _working(block, clip)
  for axis, width in enumerate(sigma):
    if width > 0:
      block = scipy.ndimage.gaussian_filter1d(
        block, width, axis, mode="nearest", truncate=_TRUNCATE
      )
  start = np.array([part.start for part in brick], np.float64)
  values = scipy.ndimage.affine_transform(
    block,
    index_map[:3, :3],
    index_map[:3, :3] @ start + index_map[:3, 3] - low,
    output_shape=target.shape,
    order=1,
    mode="nearest",
    prefilter=False,
  )
  target[inside] = _cast(values[inside], result.dtype)


def _inside(
  positions: list[np.ndarray], shape: tuple[int, ...]
) -> Bool[np.ndarray, "u v w"]:
  """Positions within half a voxel of the outermost centres."""
  inside = np.ones(positions[0].shape, bool)
  for position, size in zip(positions, shape, strict=True):
    inside &= (position >= -0.5 - _RIM) & (position <= size - 0.5 + _RIM)
  return inside


def _nearest(position: np.ndarray, size: int) -> np.ndarray:
  """Index of the nearest centre; halves go up, as in ITK."""
  return np.clip(np.floor(position + 0.5).astype(np.int64), 0, size - 1)


def _working_dtype(dtype: np.dtype) -> type[np.floating]:
  """The narrowest float that holds every value of `dtype` exactly enough."""
  return np.float32 if dtype.itemsize <= 2 or dtype == "f4" else np.float64


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Rounds and saturates to `dtype`."""
  if dtype.kind == "f":
    return values.astype(dtype, copy=False)
  if dtype.kind == "b":
    return values >= 0.5
  limits = np.iinfo(dtype)
  low, high = values.dtype.type(limits.min), values.dtype.type(limits.max)
  # The limits of 64 bits are not floats; round those towards zero.
  if int(high) > limits.max:
    high = np.nextafter(high, values.dtype.type(0))
  return np.clip(np.rint(values), low, high).astype(dtype)
