# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A spine in two pictures: sagittal and coronal, bent to follow the bodies.

A flat slice leaves a scoliotic spine after a few levels. These views sample
the CT on a curved surface through the body centres instead (curved planar
reformation): the sagittal view follows x(z), the coronal view y(z). The
surface bends only *across* the picture and is unrolled: columns stay y or x,
rows are equal steps along the curve, so that lengths in the surface are true
and every body is seen at its full height.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Num, UInt8
from scipy import interpolate, ndimage

from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.result import CaseResult, Lesion, Vertebra
from vf_jax.scratch import release
from vf_jax.volume import Grid, Volume

_WINDOW_HU = (-250.0, 900.0)
# How far a view reaches beyond the body centres: bodies, spinous processes
# and a hand's breadth of what lies around them.
_IN_FRONT_MM, _BEHIND_MM, _BESIDE_MM, _ABOVE_MM = 65.0, 85.0, 75.0, 45.0
_MOST_PIXELS = 2400
_POINTS = 1 << 11  # sampled at a time: each may touch four pages of the CT
_SMOOTH_MM = 4.0  # standard deviation of the smoothing along the curve


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """One curved picture of a spine, head up.

  Attributes:
    name: `sagittal` or `coronal`.
    grey: CT through a bone window, row 0 at the head.
    codes: VerSe codes of the mask, 0 elsewhere.
    step_mm: edge of the square pixels.
    left_mm: A (sagittal) or R (coronal) of the centres of column 0; both
      fall towards the right of the picture.
    depth_mm: for each row, where the surface lies on the axis one cannot see:
      R (sagittal) or A (coronal).
    heights_mm: for each row, the S of the surface; neighbouring rows are
      `step_mm` apart along the curve.
  """

  name: str
  grey: UInt8[np.ndarray, "rows columns"]
  codes: UInt8[np.ndarray, "rows columns"]
  step_mm: float
  left_mm: float
  depth_mm: Float64[np.ndarray, " rows"]
  heights_mm: Float64[np.ndarray, " rows"]

  @property
  def axis(self) -> int:
    """The RAS axis along the columns: A (1) or R (0)."""
    return 1 if self.name == "sagittal" else 0

  @property
  def letters(self) -> tuple[str, str]:
    """The directions at the left and at the right edge of the picture."""
    return ("A", "P") if self.name == "sagittal" else ("R", "L")

  @property
  def size_mm(self) -> tuple[float, float]:
    """Width and height of the picture, from pixel edge to pixel edge."""
    rows, columns = self.grey.shape
    return columns * self.step_mm, rows * self.step_mm

  def place(self, point_mm: Sequence[float]) -> tuple[float, float]:
    """Where in the picture a point is seen.

    A point beside the surface is seen at the nearest place of the curve.

    Args:
      point_mm: R, A, S.

    Returns:
      Distance from the left and from the top edge of the picture.

    Units:
      mm RAS+ in, mm out.
    """
    half = self.step_mm / 2
    return (
      self.left_mm - float(point_mm[self.axis]) + half,
      self._row_of(float(point_mm[1 - self.axis]), float(point_mm[2])) + half,
    )

  def _row_of(self, across_mm: float, height_mm: float) -> float:
    """Way along the curve from row 0 to the nearest place of a point, mm."""
    away = np.stack([across_mm - self.depth_mm, height_mm - self.heights_mm])
    near = int((away**2).sum(axis=0).argmin())
    first = min(max(near - 1, 0), max(len(self.depth_mm) - 3, 0))
    last = min(first + 2, len(self.depth_mm) - 1)
    way = np.array(
      [
        self.depth_mm[last] - self.depth_mm[first],
        self.heights_mm[last] - self.heights_mm[first],
      ]
    )
    length = float(np.linalg.norm(way))
    along = way / length if length > 0 else np.array([0.0, -1.0])
    return near * self.step_mm + float(away[:, near] @ along)

  def cuts(self, lesion: Lesion) -> bool:
    """Whether the surface passes through the box of a lesion.

    Args:
      lesion: the box.

    Returns:
      False if the box lies before or behind the surface.
    """
    level = (
      np.abs(self.heights_mm - lesion.centre_mm[2]) <= lesion.size_mm[2] / 2
    )
    across = 1 - self.axis
    apart = np.abs(self.depth_mm - lesion.centre_mm[across])
    return bool((apart[level] <= lesion.size_mm[across] / 2).any())


def spine_views(
  volume: Volume, result: CaseResult, step_mm: float | None = None
) -> tuple[View, View]:
  """Makes the sagittal and the coronal view of a case.

  Only the two surfaces are sampled, straight from the native grid through its
  full affine, so nothing the size of the scan is made.

  Args:
    volume: the CT, HU.
    result: its prediction, on the same grid.
    step_mm: edge of a pixel; by default the finest spacing of the CT, within
      0.5..1 mm. A view of more than 2400 pixels gets larger ones.

  Returns:
    The sagittal and the coronal view, of equal height.

  Raises:
    InputError: the mask is not on the grid of the CT, or there is no voxel.
  """
  grid = volume.grid
  if min(grid.shape) == 0:
    raise InputError(result.case, f"a CT of shape {grid.shape} has no voxels.")
  if result.mask.shape != grid.shape or not result.grid.same_as(grid):
    raise InputError(
      result.case,
      f"the mask ({result.mask.shape}) is not on the grid of the CT"
      f" ({grid.shape}).",
      "draw a result over the very CT it was predicted from.",
    )
  spine = _body_centres(result.vertebrae)
  low, high = _crop(*_field(grid), spine, result.lesions)
  if step_mm is None:
    step_mm = min(max(min(grid.spacing), 0.5), 1.0)
  step_mm = max(step_mm, float((high - low).max()) / _MOST_PIXELS)
  columns = [_pixel_centres(low[i], high[i], step_mm) for i in range(2)]
  curves = [
    _curve(spine, axis, low[2], high[2], (low + high)[axis] / 2, step_mm)
    for axis in (0, 1)
  ]
  rows = max(len(curve) for curve in curves)
  sagittal, coronal = (
    _make_view(
      name,
      volume.voxels,
      result.mask,
      grid,
      columns_mm=columns[axis],
      curve_mm=_lengthen(curves[1 - axis], rows, step_mm),
      step_mm=step_mm,
    )
    for name, axis in (("sagittal", 1), ("coronal", 0))
  )
  return sagittal, coronal


def _make_view(
  name: str,
  voxels: Num[np.ndarray, "x y z"],
  mask: UInt8[np.ndarray, "x y z"],
  grid: Grid,
  *,
  columns_mm: Float64[np.ndarray, " columns"],
  curve_mm: Float64[np.ndarray, "rows 2"],
  step_mm: float,
) -> View:
  axis = 1 if name == "sagittal" else 0
  points = np.empty((len(curve_mm), len(columns_mm), 3))
  points[..., axis] = columns_mm
  points[..., 1 - axis] = curve_mm[:, :1]
  points[..., 2] = curve_mm[:, 1:]
  hu, codes = _sample(voxels, mask, grid, points)
  low, high = _WINDOW_HU
  share = (np.nan_to_num(hu, nan=AIR_HU) - low) / (high - low)
  return View(
    name=name,
    grey=np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8),
    codes=codes,
    step_mm=step_mm,
    left_mm=float(columns_mm[0]),
    depth_mm=curve_mm[:, 0],
    heights_mm=curve_mm[:, 1],
  )


def _sample(
  voxels: Num[np.ndarray, "x y z"],
  mask: UInt8[np.ndarray, "x y z"],
  grid: Grid,
  points_mm: Float64[np.ndarray, "rows columns 3"],
) -> tuple[
  Float32[np.ndarray, "rows columns"], UInt8[np.ndarray, "rows columns"]
]:
  """CT (linear) and mask (nearest) at points; air and 0 outside the grid."""
  where = grid.to_voxel(points_mm.reshape(-1, 3))
  last = np.array(grid.shape) - 1
  # Voxels are boxes: the outer half of the outermost ones is still inside.
  inside = ((where > -0.5 - 1e-6) & (where < last + 0.5 + 1e-6)).all(axis=1)
  where = np.clip(where, 0, last)
  hu = np.empty(len(where), np.float32)
  codes = np.empty(len(where), np.uint8)
  for first in range(0, len(where), _POINTS):
    part = slice(first, first + _POINTS)
    ndimage.map_coordinates(voxels, where[part].T, hu[part], order=1)
    codes[part] = mask[tuple(np.rint(where[part]).astype(np.intp).T)]
    release(voxels, mask)
  shape = points_mm.shape[:2]
  return (
    np.where(inside, hu, np.float32(AIR_HU)).reshape(shape),
    np.where(inside, codes, np.uint8(0)).reshape(shape),
  )


def _field(
  grid: Grid,
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
  """The RAS box around all voxels of a grid, their full extent, mm."""
  corners = grid.to_world(
    np.array(
      list(itertools.product(*((-0.5, size - 0.5) for size in grid.shape)))
    )
  )
  return corners.min(axis=0), corners.max(axis=0)


def _crop(
  low: Float64[np.ndarray, " 3"],
  high: Float64[np.ndarray, " 3"],
  spine: Float64[np.ndarray, "vertebrae 3"],
  lesions: Sequence[Lesion],
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
  """Cuts the field down to the spine and the lesions; all of it if no spine."""
  if len(spine) == 0:
    return low, high
  below = np.array([_BESIDE_MM, _BEHIND_MM, _ABOVE_MM])
  above = np.array([_BESIDE_MM, _IN_FRONT_MM, _ABOVE_MM])
  first, last = spine.min(axis=0) - below, spine.max(axis=0) + above
  for lesion in lesions:
    half = np.array(lesion.size_mm) / 2 + 5.0
    first = np.fmin(first, np.array(lesion.centre_mm) - half)
    last = np.fmax(last, np.array(lesion.centre_mm) + half)
  first, last = np.maximum(low, first), np.minimum(high, last)
  outside = first >= last
  return np.where(outside, low, first), np.where(outside, high, last)


def _pixel_centres(
  low: float, high: float, step_mm: float
) -> Float64[np.ndarray, " pixels"]:
  """Falling positions of pixel centres that fill low..high, mm."""
  count = max(1, int(np.ceil((high - low) / step_mm - 1e-3)))
  slack = count * step_mm - (high - low)
  return high + slack / 2 - step_mm * (np.arange(count) + 0.5)


def _body_centres(
  vertebrae: Sequence[Vertebra],
) -> Float64[np.ndarray, "vertebrae 3"]:
  """Centres from foot to head, mm; those within 1 mm of height become one."""
  centres = np.array([v.centre_mm for v in vertebrae], np.float64)
  centres = centres.reshape(-1, 3)
  centres = centres[np.isfinite(centres).all(axis=1)]
  centres = centres[np.argsort(centres[:, 2], kind="stable")]
  new = np.diff(centres[:, 2], prepend=-np.inf) > 1.0
  parts = np.split(centres, np.flatnonzero(new)[1:])
  return np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(
    -1, 3
  )


def _curve(
  spine: Float64[np.ndarray, "vertebrae 3"],
  axis: int,
  low_mm: float,
  high_mm: float,
  fallback_mm: float,
  step_mm: float,
) -> Float64[np.ndarray, "rows 2"]:
  """R or A, and S, of the spine at equal steps along its curve, from above."""
  fine = _pixel_centres(low_mm, high_mm, step_mm / 4)
  if len(spine) < 2:
    across = np.full(
      len(fine), float(spine[0, axis]) if len(spine) else fallback_mm
    )
  else:
    heights = spine[:, 2]
    # PCHIP does not overshoot: a missed vertebra cannot throw the surface out
    # of the spine between its neighbours.
    smooth = interpolate.PchipInterpolator(heights, spine[:, axis])
    across = smooth(np.clip(fine, heights[0], heights[-1]))
    across = ndimage.gaussian_filter1d(
      across, _SMOOTH_MM / (step_mm / 4), mode="nearest"
    )
  # The way along the curve from the upper edge, where its first pixel begins.
  ways = np.hypot(np.diff(across), np.diff(fine))
  along = step_mm / 8 + np.concatenate([[0.0], np.cumsum(ways)])
  total = along[-1] + step_mm / 8
  count = max(1, int(np.ceil(total / step_mm - 1e-3)))
  places = (total - count * step_mm) / 2 + step_mm * (np.arange(count) + 0.5)
  curve = np.stack(
    [np.interp(places, along, across), np.interp(places, along, fine)], axis=1
  )
  # Beyond its ends the curve goes on straight down and up.
  curve[:, 1] += np.clip(along[0] - places, 0, None)
  curve[:, 1] -= np.clip(places - along[-1], 0, None)
  return curve


def _lengthen(
  curve_mm: Float64[np.ndarray, "rows 2"], rows: int, step_mm: float
) -> Float64[np.ndarray, "more_rows 2"]:
  """The curve going on straight down, so that both views are equally high."""
  more = np.repeat(curve_mm[-1:], rows - len(curve_mm), axis=0)
  more[:, 1] -= step_mm * np.arange(1, len(more) + 1)
  return np.concatenate([curve_mm, more])
