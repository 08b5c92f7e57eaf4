# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where voxels are: shape and affine, axis codes and their permutations.

Reach for these names through `vf_jax.volume`, which gives them all.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Num, Shaped

from vf_jax.errors import InputError

_WORLD = ("LR", "PA", "IS")


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """Where the voxels of an array are: its shape and its affine.

  Attributes:
    shape: voxels along each array axis.
    affine: voxel positions to world, read-only float64.

  Raises:
    InputError: if the affine is not finite, singular or not affine.

  Units:
    The affine gives mm, RAS+.
  """

  shape: tuple[int, int, int]
  affine: Float64[np.ndarray, "4 4"]

  def __post_init__(self):
    shape = tuple(int(size) for size in self.shape)
    affine = np.array(self.affine, np.float64)
    if len(shape) != 3 or min(shape) < 0:
      raise InputError("grid", f"shape {shape} is not that of a volume.")
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
      raise InputError("grid", "the affine is not a finite 4x4 matrix.")
    if (affine[3] != (0, 0, 0, 1)).any():
      raise InputError("grid", "the last row of the affine is not 0 0 0 1.")
    if is_singular(affine):
      raise InputError("grid", "the affine is singular: some axis is flat.")
    affine.setflags(write=False)
    object.__setattr__(self, "shape", shape)
    object.__setattr__(self, "affine", affine)

  @property
  def spacing(self) -> tuple[float, float, float]:
    """Distance in mm between neighbours along each array axis."""
    x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
    return x, y, z

  @property
  def axis_codes(self) -> tuple[str, str, str]:
    """Closest anatomical direction of each array axis, as ('P', 'I', 'R')."""
    return axis_codes(self.affine)

  @property
  def voxel_volume_ml(self) -> float:
    """Volume of one voxel in millilitres, shear included."""
    return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

  def to_world(
    self, points: Num[np.ndarray, "points 3"]
  ) -> Float64[np.ndarray, "points 3"]:
    """Takes voxel positions to the world.

    Args:
      points: zero-based positions along the array axes; fractions allowed.

    Returns:
      The same points in the world.

    Units:
      Voxels in, mm RAS+ out.
    """
    return points @ self.affine[:3, :3].T + self.affine[:3, 3]

  def to_voxel(
    self, points: Num[np.ndarray, "points 3"]
  ) -> Float64[np.ndarray, "points 3"]:
    """Takes world points to voxel positions; the inverse of `to_world`.

    Args:
      points: points in the world.

    Returns:
      Zero-based positions along the array axes, with fractions.

    Units:
      mm RAS+ in, voxels out.
    """
    centred = (points - self.affine[:3, 3]).T
    return np.linalg.solve(self.affine[:3, :3], centred).T

  def outside_mm(
    self, places: Num[np.ndarray, "points 3"]
  ) -> Float64[np.ndarray, " points"]:
    """Tells how far points lie outside the outer faces of the voxels.

    Args:
      places: positions along the array axes, zero-based (`to_voxel`).

    Returns:
      Distances along the axes, 0 for points inside.

    Units:
      Voxels in, mm out.
    """
    beyond = np.maximum(-0.5 - places, places - (np.array(self.shape) - 0.5))
    return np.linalg.norm(np.maximum(beyond, 0) * self.spacing, axis=1)

  def same_as(self, other: Grid, atol: int | float = 1e-3) -> bool:
    """Tells whether two grids put every voxel at the same place.

    Args:
      other: the grid to compare with.
      atol: largest distance in mm that any corner voxel may be off.

    Returns:
      True if the shapes are equal and no voxel is further off than `atol`.
    """
    return self.apart_mm(other) <= atol

  def apart_mm(self, other: Grid) -> float:
    """Tells how far two grids put the same voxel apart at most.

    Args:
      other: the grid to compare with.

    Returns:
      The largest distance of two corner voxels, mm; infinite if the shapes
      differ.
    """
    if self.shape != other.shape:
      return math.inf
    corners = _corners(self.shape, margin=0.0)
    apart = self.to_world(corners) - other.to_world(corners)
    return float(np.linalg.norm(apart, axis=1).max())


@dataclasses.dataclass(frozen=True)
class Reorientation:
  """A permutation and flips of array axes.

  Attributes:
    axes: result axis i is source axis `axes[i]`.
    flips: whether result axis i runs backwards.
  """

  axes: tuple[int, int, int]
  flips: tuple[bool, bool, bool]

  @classmethod
  def between(cls, old: Sequence[str], new: Sequence[str]) -> Reorientation:
    """Finds the way from one set of axis codes to another.

    Args:
      old: codes of the source axes, as 'PIR' or ('P', 'I', 'R').
      new: codes wanted.

    Returns:
      The reorientation.

    Raises:
      InputError: if either is not a set of three different directions.
    """
    old_axes, old_up = _parse_codes(old)
    new_axes, new_up = _parse_codes(new)
    axes = tuple(old_axes.index(axis) for axis in new_axes)
    flips = tuple(old_up[axes[i]] != new_up[i] for i in range(3))
    return cls(axes, flips)  # type: ignore[arg-type]

  def apply(
    self, array: Shaped[np.ndarray, "x y z *rest"]
  ) -> Shaped[np.ndarray, "u v w *rest"]:
    """Reorients an array; further axes ride along.

    Args:
      array: in source order.

    Returns:
      A view.
    """
    rest = tuple(range(3, array.ndim))
    return array.transpose(self.axes + rest)[self._slices]

  def apply_grid(self, grid: Grid) -> Grid:
    """Gives the grid of `apply(array)` for an array on `grid`.

    Args:
      grid: the source grid.

    Returns:
      The grid that puts every voxel where it was.
    """
    if self == Reorientation((0, 1, 2), (False, False, False)):
      return grid
    affine = np.eye(4)
    affine[:3, 3] = grid.affine[:3, 3]
    for i, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
      column = grid.affine[:3, axis]
      affine[:3, i] = -column if flip else column
      if flip:
        affine[:3, 3] += column * (grid.shape[axis] - 1)
    x, y, z = self.axes
    return Grid((grid.shape[x], grid.shape[y], grid.shape[z]), affine)

  @property
  def _slices(self) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)


def oriented_affine(
  codes: Sequence[str], spacing: Sequence[float] | Num[np.ndarray, "axes=3"]
) -> Float64[np.ndarray, "4 4"]:
  """Makes an affine of axis codes and voxel sizes, nothing oblique.

  Args:
    codes: direction of each array axis, as 'LPS'.
    spacing: voxel size along each array axis, mm.

  Returns:
    Voxel positions to world, mm RAS+; the first voxel is at the origin.

  Raises:
    InputError: if the codes are not three different directions.
  """
  turn = Reorientation.between("RAS", codes)
  affine = np.zeros((4, 4))
  affine[3, 3] = 1
  for column, (row, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
    affine[row, column] = -spacing[column] if flip else spacing[column]
  return affine


def axis_codes(affine: Float64[np.ndarray, "4 4"]) -> tuple[str, str, str]:
  """Names the closest anatomical direction of each array axis.

  Args:
    affine: voxel positions to world, RAS+.

  Returns:
    Three letters out of R/L, A/P and S/I, each pair once.
  """
  columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  best = max(
    itertools.permutations(range(3)), key=lambda axes: _rank(columns, axes)
  )
  x, y, z = (
    _WORLD[axis][int(columns[axis, i] > 0)] for i, axis in enumerate(best)
  )
  return x, y, z


def _rank(columns, axes):
  """Fit of an assignment of world axes; equal for every order and flip.

  NOTE: `fsum` does not depend on the order of its terms, and the second score
  settles exact 45 degree ties by signs that no flip changes; otherwise a
  reorientation and its way back could disagree about the codes.
  """
  fit = [abs(columns[axis, i]) for i, axis in enumerate(axes)]
  tie = [
    columns[axis, i] * columns[(axis + 1) % 3, i] for i, axis in enumerate(axes)
  ]
  return min(fit) > 0, round(math.fsum(fit), 9), round(math.fsum(tie), 9)


def _parse_codes(codes):
  """Splits axis codes into world axes and signs."""
  text = "".join(codes).upper()
  axes = tuple(
    next((i for i, pair in enumerate(_WORLD) if c in pair), -1) for c in text
  )
  if sorted(axes) != [0, 1, 2]:
    raise InputError(
      "axis codes",
      f"{text!r} does not name three different directions.",
      "use one of R/L, one of A/P and one of S/I, as in 'RAS' or 'PIR'.",
    )
  return axes, tuple(c in "RAS" for c in text)


def is_singular(affine: Float[np.ndarray, "4 4"]) -> bool:
  """Tells whether the affine flattens some direction.

  Args:
    affine: voxel positions to world; finite.

  Returns:
    True if a column is zero or the columns are nearly in one plane.
  """
  norms = np.linalg.norm(affine[:3, :3], axis=0)
  if not (norms > 0).all():
    return True
  return bool(abs(np.linalg.det(affine[:3, :3] / norms)) < 1e-4)


def network_grid(grid: Grid, spacing_mm: int | float) -> Grid:
  """The isotropic world-aligned RAS+ grid that covers a volume.

  The network sees every scan upright and with the same voxel size, however
  oblique or sheared (gantry tilt) it was stored.

  Args:
    grid: the native grid.
    spacing_mm: edge of the cubic voxels.

  Returns:
    The smallest such grid around all native voxels (their full extent, not
    only their centres), centred on them.

  Units:
    mm.
  """
  corners = grid.to_world(_corners(grid.shape, margin=0.5))
  low, high = corners.min(axis=0), corners.max(axis=0)
  # The slack keeps rounding of the affine from adding an empty layer.
  sizes = np.maximum(np.ceil((high - low) / spacing_mm - 1e-3), 1)
  affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
  affine[:3, 3] = (low + high) / 2 - (sizes - 1) / 2 * spacing_mm
  x, y, z = sizes.astype(int).tolist()
  return Grid((x, y, z), affine)


def _corners(shape, margin):
  """The eight corners of an array in voxels, `margin` beyond its centres."""
  return np.array(
    list(itertools.product(*((-margin, size - 1 + margin) for size in shape)))
  )
