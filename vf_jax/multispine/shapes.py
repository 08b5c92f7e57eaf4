# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Sizes, pieces and borders of the vertebrae of a mask.

Everything is computed on the list of labelled voxels, about one in a hundred,
so that a whole-body mask takes a second or two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from scipy import ndimage, spatial

from vf_jax.labels import CODES
from vf_jax.volume import Grid, Volume

_END_COSINE = 0.5
_END_MM2, _SIDE_MM2 = 4.0, 150.0
_DENSE_VOXELS = 8_000_000
_NEAR_SAMPLE = 20_000
_PIECES = 50


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of a vertebra that does not touch its largest part.

  Attributes:
    volume_ml: its volume.
    apart_mm: shortest distance to the largest part.
    centre_mm: its centre of mass, mm RAS+.
  """

  volume_ml: float
  apart_mm: float
  centre_mm: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Shape:
  """One level of a mask.

  Attributes:
    code: VerSe code.
    volume_ml: of all its voxels.
    centre_mm: centre of mass, mm RAS+.
    pieces: what does not touch the largest part, the largest first, at most
      fifty.
    end_mm2: area at the borders of the array towards head and feet.
    side_mm2: area at the other borders.
  """

  code: int
  volume_ml: float
  centre_mm: tuple[float, float, float]
  pieces: tuple[Piece, ...]
  end_mm2: float
  side_mm2: float

  @property
  def cut(self) -> bool:
    """Whether the field of view cuts it.

    Towards head and feet any contact counts. A narrow field that clips the
    tips of the transverse processes leaves a vertebra whole.
    """
    return self.end_mm2 >= _END_MM2 or self.side_mm2 >= _SIDE_MM2


@dataclasses.dataclass(frozen=True, eq=False)
class Shapes:
  """All levels of a mask.

  Attributes:
    levels: VerSe code -> its shape, by rising code.
    contacts: pairs of codes, the smaller first -> area they share, mm^2.
  """

  levels: Mapping[int, Shape]
  contacts: Mapping[tuple[int, int], float]


def measure_shapes(labels: Volume) -> Shapes:
  """Measures every level of a mask.

  Args:
    labels: VerSe codes; codes from 29 on (255, unknown) are passed over.

  Returns:
    The shapes and the areas in which they touch.
  """
  voxels = np.asarray(labels.voxels)
  points = labelled_points(voxels)
  codes = voxels[tuple(points.T)].astype(np.int64)
  grid = labels.grid
  areas = _face_areas(grid)
  ends = ends_of(grid)
  border = np.zeros((2, CODES))
  contacts = np.zeros((CODES, CODES))
  for axis in range(3):
    for step in (-1, 1):
      there = points.copy()
      there[:, axis] += step
      valid = (there[:, axis] >= 0) & (there[:, axis] < grid.shape[axis])
      counts = np.bincount(codes[~valid], minlength=CODES)
      border[0 if ends[axis] else 1] += counts * areas[axis]
      if step == 1:
        other = voxels[tuple(there[valid].T)].astype(np.int64)
        mine = codes[valid]
        touch = (other != mine) & (other > 0) & (other < CODES)
        pair = mine[touch] * CODES + other[touch]
        pairs = np.bincount(pair, minlength=CODES * CODES)
        contacts += pairs.reshape(CODES, CODES) * areas[axis]
  contacts = np.triu(contacts + contacts.T)
  order = np.argsort(codes, kind="stable")
  limits = np.searchsorted(codes[order], np.arange(CODES + 1))
  levels = {}
  for code in range(1, CODES):
    own = points[order[limits[code] : limits[code + 1]]]
    if len(own):
      end, side = border[:, code].tolist()
      levels[code] = _measure(code, own, grid, end, side)
  return Shapes(
    MappingProxyType(levels),
    MappingProxyType(
      {
        (a, b): float(contacts[a, b])
        for a, b in np.argwhere(contacts > 0).tolist()
      }
    ),
  )


def labelled_points(
  voxels: UInt8[np.ndarray, "x y z"],
) -> Int64[np.ndarray, "points 3"]:
  """Finds the voxels of vertebrae, walking through the memory as it lies.

  Args:
    voxels: VerSe codes; codes from 29 on (255, unknown) are passed over.

  Returns:
    Zero-based places along the array axes.
  """
  axes = np.argsort([-abs(stride) for stride in voxels.strides], kind="stable")
  walk = voxels.transpose(axes)
  found = np.stack(np.nonzero((walk > 0) & (walk < CODES)), axis=1)
  return found[:, np.argsort(axes)].astype(np.int64, copy=False)


def ends_of(grid: Grid) -> Bool[np.ndarray, " 3"]:
  """Which borders of an array lie towards head and feet.

  Args:
    grid: of the array.

  Returns:
    For each array axis whether the normal of the borders across it is within
    60 degrees of the patient's long axis.
  """
  rows = np.linalg.inv(grid.affine[:3, :3])
  normals = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return np.abs(normals[:, 2]) > _END_COSINE


def _face_areas(grid: Grid) -> list[float]:
  """Area of a voxel's face across each array axis, mm^2."""
  columns = grid.affine[:3, :3].T
  return [
    float(np.linalg.norm(np.cross(columns[a - 2], columns[a - 1])))
    for a in range(3)
  ]


def _measure(
  code: int,
  points: Int64[np.ndarray, "n 3"],
  grid: Grid,
  end_mm2: float,
  side_mm2: float,
) -> Shape:
  voxel_ml = grid.voxel_volume_ml
  return Shape(
    code=code,
    volume_ml=len(points) * voxel_ml,
    centre_mm=_mean_mm(points, grid),
    pieces=_pieces(points, grid),
    end_mm2=end_mm2,
    side_mm2=side_mm2,
  )


def _mean_mm(
  points: Int64[np.ndarray, "n 3"], grid: Grid
) -> tuple[float, float, float]:
  x, y, z = grid.to_world(points.mean(axis=0)[None])[0].tolist()
  return x, y, z


def _pieces(points: Int64[np.ndarray, "n 3"], grid: Grid) -> tuple[Piece, ...]:
  """The parts but the largest.

  NOTE: one stray voxel makes the box of a level as large as the scan. Such a
  box is labelled at lower resolution, where parts must be a few voxels apart.
  """
  low = points.min(axis=0)
  size = points.max(axis=0) - low + 1
  step = max(1, math.ceil((float(np.prod(size)) / _DENSE_VOXELS) ** (1 / 3)))
  places = tuple(((points - low) // step).T)
  box = np.zeros(tuple(((size - 1) // step + 1).tolist()), bool)
  box[places] = True
  parts, count = ndimage.label(box, np.ones((3, 3, 3)))
  if count == 1:
    return ()
  part_of = parts[places]
  sizes = np.bincount(part_of, minlength=count + 1)
  ranked = np.argsort(-sizes[1:], kind="stable") + 1
  main = points[part_of == ranked[0]]
  thin = main[:: max(1, len(main) // _NEAR_SAMPLE)]
  tree = spatial.cKDTree(grid.to_world(thin))
  pieces = []
  for part in ranked[1 : 1 + _PIECES].tolist():
    own = points[part_of == part]
    some = own[:: max(1, len(own) // 2000)]
    apart, _ = tree.query(grid.to_world(some))
    pieces.append(
      Piece(
        volume_ml=len(own) * grid.voxel_volume_ml,
        apart_mm=float(apart.min()),
        centre_mm=_mean_mm(own, grid),
      )
    )
  return tuple(pieces)
