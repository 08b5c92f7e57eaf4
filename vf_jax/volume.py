# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A volume of voxels that knows where it is: reorient, resample, crop.

Array axes are `(x, y, z)` as stored in the file; the affine takes voxel
positions to the world in millimetres, RAS+ (right, anterior, superior
positive). The network's `(depth, height, width)` order is made here, by
`to_network`, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Integer, Shaped
from scipy import ndimage

from vf_jax.errors import InputError
from vf_jax.grid import (
  Grid,
  Reorientation,
  axis_codes,
  is_singular,
  network_grid,
)
from vf_jax.hounsfield import HounsfieldCheck, judge_hounsfield
from vf_jax.resampling import antialias_sigma, resample_indices

__all__ = [
  "Grid",
  "HounsfieldCheck",
  "Reorientation",
  "Source",
  "Volume",
  "axis_codes",
  "bounds",
  "check_hounsfield",
  "crop",
  "from_network",
  "is_singular",
  "network_grid",
  "paste",
  "reorient",
  "resample",
  "to_canonical",
  "to_network",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """What the file said, so that results can be written in its geometry.

  Attributes:
    path: the file or folder.
    format: 'nifti1', 'nifti2', 'dicom', ...
    dtype: name of the stored dtype, as 'int16'.
    byte_order: 'little' or 'big'.
    slope: stored value times slope plus intercept is the voxel value.
    intercept: see `slope`.
    form: where the affine is from: 'sform', 'qform', 'assumed', 'dicom'.
    spatial_unit: 'mm', 'metre', 'micron' or 'unknown', as in the file.
    warnings: the faults found, in words.
    grid: the native grid, as read; None if the source has none.
    header: the raw header bytes, for a writer to copy the geometry from.
    intact: whether the stored geometry is free of faults, so that a copy of
      it means to every reader what it meant to us.
  """

  path: str
  format: str
  dtype: str = ""
  byte_order: str = "little"
  slope: float = 1.0
  intercept: float = 0.0
  form: str = "sform"
  spatial_unit: str = "mm"
  warnings: tuple[str, ...] = ()
  grid: Grid | None = None
  header: bytes = dataclasses.field(default=b"", repr=False)
  intact: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
  """Voxels with their place in the world.

  Attributes:
    voxels: values (HU for CT, label numbers for masks), axes `(x, y, z)`.
    affine: voxel positions to world.
    source: the file it was read from, if any.
    native: the grid this volume is a pure reorientation of, so that the way
      back restores the native affine to the bit; None if it is itself.

  Raises:
    InputError: if the voxels are not 3D or the affine is unusable.

  Units:
    The affine gives mm, RAS+.
  """

  voxels: Shaped[np.ndarray, "x y z"]
  affine: Float64[np.ndarray, "4 4"]
  source: Source | None = None
  native: Grid | None = None

  def __post_init__(self):
    name = self.source.path if self.source else "volume"
    if np.ndim(self.voxels) != 3:
      raise InputError(name, f"{np.ndim(self.voxels)}D array, 3D expected.")
    try:
      grid = Grid(self.voxels.shape, self.affine)
    except InputError as error:
      raise InputError(name, error.fault, error.fix) from None
    object.__setattr__(self, "affine", grid.affine)

  @property
  def grid(self) -> Grid:
    """Shape and affine."""
    return Grid(self.voxels.shape, self.affine)

  @property
  def spacing(self) -> tuple[float, float, float]:
    """Distance in mm between neighbours along each array axis."""
    return self.grid.spacing

  @property
  def axis_codes(self) -> tuple[str, str, str]:
    """Closest anatomical direction of each array axis, as ('P', 'I', 'R')."""
    return axis_codes(self.affine)

  @property
  def warnings(self) -> tuple[str, ...]:
    """Faults found when the source was read."""
    return self.source.warnings if self.source else ()


def to_canonical(volume: Volume) -> Volume:
  """Turns a volume to RAS+ array order without touching a voxel.

  Args:
    volume: any volume.

  Returns:
    The volume as a view with axes towards right, anterior and superior.
  """
  return reorient(volume, "RAS")


def reorient(volume: Volume, codes: Sequence[str]) -> Volume:
  """Permutes and flips array axes; the world stays where it is.

  A volume that was reoriented and comes back has its first affine again to
  the bit, because affines are always made from the native one.

  Args:
    volume: any volume.
    codes: directions wanted, as 'PIR' or ('P', 'I', 'R').

  Returns:
    A volume whose voxels are a view of the given one's.

  Raises:
    InputError: if the codes are not three different directions.
  """
  native = volume.native or volume.grid
  turn = Reorientation.between(volume.axis_codes, codes)
  grid = Reorientation.between(native.axis_codes, codes).apply_grid(native)
  return dataclasses.replace(
    volume,
    voxels=turn.apply(volume.voxels),
    affine=grid.affine,
    native=None if grid is native else native,
  )


def resample(
  voxels: Shaped[np.ndarray, "x y z"],
  source: Grid,
  target: Grid,
  *,
  order: int = 1,
  fill: int | float | np.number = 0,
  antialias: bool = True,
  clip: tuple[int, int] | None = None,
) -> Shaped[np.ndarray, "u v w"]:
  """Carries an array from one grid to another through the full affine.

  Args:
    voxels: the array on `source`.
    source: grid of `voxels`, oblique or sheared as it may be.
    target: grid of the result.
    order: 0 for labels (nearest voxel, no label is invented), 1 for HU
      (linear).
    fill: value outside the source; -1024 for HU. Target voxels up to half a
      voxel outside the outermost centres take the edge value instead.
    antialias: blur along each source axis that the target samples more
      coarsely, see `resampling.antialias_sigma`; order 1 only.
    clip: limits, within int16, that values are clipped to before they are
      sampled, slab by slab; order 1 only.

  Returns:
    An array of the same dtype, of int16 if clipped, in Fortran order, on the
    disk if large (`scratch.empty`); integers are rounded and saturate.

  Raises:
    InputError: if shape and grid disagree, the order is not 0 or 1, the
      dtype is not real or `fill` does not fit it.
  """
  if voxels.shape != source.shape:
    raise InputError(
      "resample", f"array {voxels.shape} is not on grid {source.shape}."
    )
  if order not in (0, 1):
    raise InputError("resample", f"order {order} is not 0 or 1.")
  _check_fill(fill, voxels.dtype)
  index_map = np.linalg.solve(source.affine, target.affine)
  blur = antialias and order == 1
  return resample_indices(
    voxels,
    index_map,
    target.shape,
    order=order,
    fill=fill,
    sigma=antialias_sigma(index_map) if blur else (0.0, 0.0, 0.0),
    clip=clip,
  )


def crop(
  volume: Volume,
  start: Sequence[int] | Integer[np.ndarray, "axes=3"],
  shape: Sequence[int],
  fill: int | float | np.number,
) -> Volume:
  """Cuts a box out of a volume; what lies outside is padded.

  Args:
    volume: any volume.
    start: first voxel of the box; may be negative or beyond the end.
    shape: size of the box.
    fill: value of the padding; -1024 for HU, 0 for labels.

  Returns:
    The box with its own affine. A view if nothing had to be padded.

  Raises:
    InputError: if `fill` does not fit the dtype.

  Units:
    Voxels.
  """
  _check_fill(fill, volume.voxels.dtype)
  begin, size = tuple(map(int, start)), tuple(map(int, shape))
  affine = volume.affine.copy()
  affine[:3, 3] += affine[:3, :3] @ np.array(begin, np.float64)
  inner, outer = _overlap(volume.voxels.shape, size, begin)
  voxels = volume.voxels[inner]
  if voxels.shape != size:
    padded = np.full(size, fill, volume.voxels.dtype)
    padded[outer] = voxels
    voxels = padded
  return dataclasses.replace(volume, voxels=voxels, affine=affine, native=None)


def bounds(mask: Bool[np.ndarray, "x y z"]) -> tuple[slice, ...] | None:
  """Finds the smallest box around a mask.

  Args:
    mask: any array of truths.

  Returns:
    A slice an axis; None if nothing is true.
  """
  found = ndimage.find_objects(mask.view(np.uint8))
  return found[0] if found else None


def paste(
  target: Shaped[np.ndarray, "x y z"],
  patch: Shaped[np.ndarray, "u v w"],
  start: Sequence[int] | Integer[np.ndarray, "axes=3"],
) -> Shaped[np.ndarray, "x y z"]:
  """Writes a box back into an array in place; the undoing of `crop`.

  Args:
    target: the array to write into.
    patch: the box; parts outside `target` are dropped.
    start: where its first voxel goes, as given to `crop`.

  Returns:
    `target`.

  Units:
    Voxels.
  """
  begin = tuple(map(int, start))
  inner, outer = _overlap(target.shape, patch.shape, begin)
  target[inner] = patch[outer]
  return target


def _overlap(whole, box, start):
  """Slices of the part common to an array and a box, in each of the two."""
  inner, outer = [], []
  for n, m, a in zip(whole, box, start, strict=True):
    low, high = min(max(a, 0), n), max(min(a + m, n), 0)
    high = max(low, high)
    inner.append(slice(low, high))
    outer.append(slice(low - a, high - a) if high > low else slice(0, 0))
  return tuple(inner), tuple(outer)


def _check_fill(fill: int | float | np.number, dtype: np.dtype[Any]) -> None:
  """Refuses a fill value that the dtype would change."""
  if dtype.kind not in "biuf":
    raise InputError("array", f"dtype {dtype} is not one of real numbers.")
  if dtype.kind == "f":
    return
  low, high = (
    (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
  )
  if fill != int(fill) or not low <= fill <= high:
    raise InputError(
      "array",
      f"fill {fill} cannot be held by {dtype}.",
      "use a value of the array's own range, 0 for labels.",
    )


def to_network(
  array: Shaped[np.ndarray, "x y z *rest"],
) -> Shaped[np.ndarray, "z y x *rest"]:
  """Array axes `(x, y, z)` to the network's `(depth, height, width)`.

  Args:
    array: volume order; further axes (channels) stay last.

  Returns:
    A view: depth is z, height is y, width is x.
  """
  return array.swapaxes(0, 2)


def from_network(
  array: Shaped[np.ndarray, "z y x *rest"],
) -> Shaped[np.ndarray, "x y z *rest"]:
  """The inverse of `to_network`.

  Args:
    array: network order; further axes stay last.

  Returns:
    A view in volume order.
  """
  return array.swapaxes(0, 2)


def check_hounsfield(volume: Volume) -> HounsfieldCheck:
  """Judges whether the voxels are Hounsfield units, from their histogram.

  Args:
    volume: a CT, before any windowing.

  Returns:
    The verdict, in words too, and the offset that would mend it.

  Units:
    HU.
  """
  return judge_hounsfield(volume.voxels)
