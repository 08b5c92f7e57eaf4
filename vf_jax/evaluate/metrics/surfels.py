# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Surface of a mask between its voxels: marching cubes in 2x2x2 cells.

A cell has one voxel centre at each corner. Where corners differ, the surface
crosses the cell through the middles of its edges; the area of that piece (a
surfel) is its weight in surface metrics. A cell is named by its code: bit
4 i + 2 j + k is set if corner (i, j, k) is inside.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
Point = tuple[float, ...]


def find_surfels(
  mask: Bool[np.ndarray, "x y z"],
) -> tuple[Int64[np.ndarray, "cells 3"], UInt8[np.ndarray, " cells"]]:
  """Finds the cells that the surface of a mask crosses.

  Args:
    mask: a mask; beyond its array there is background.

  Returns:
    For each cell its first corner, in voxels (-1 up to the last index), and
    its code.
  """
  x, y, z = mask.shape
  cells = np.zeros((x + 1, y + 1, z + 1), np.uint8)
  inside = mask.view(np.uint8)
  for bit, (i, j, k) in enumerate(_CORNERS):
    # The voxel at corner (i, j, k) of a cell stands that far behind it.
    place = (1 - i, 1 - j, 1 - k)
    part = tuple(slice(p, p + n) for p, n in zip(place, mask.shape))
    cells[part] |= inside << np.uint8(bit)
  # Unsigned numbers wrap: 0 (outside) and 255 (inside) become 255 and 254.
  found = np.nonzero((cells - np.uint8(1)) < 254)
  return np.stack(found, axis=1).astype(np.int64) - 1, cells[found]


def surfel_areas(
  steps_mm: Float64[np.ndarray, "3 3"],
) -> Float64[np.ndarray, " 256"]:
  """Area of the surface in a cell of every code.

  Args:
    steps_mm: column i is the way from a voxel to its neighbour on axis i, the
      linear part of an affine; axes may be sheared.

  Returns:
    mm^2 by code.

  Source:
    The rules of google-deepmind/surface-distance, derived anew: the triangles
    of marching cubes, see `_triangles`.
  """
  owners, normals = _surfel_normals()
  # An area vector turns with the cofactors of the map, not with the map.
  cofactors = np.linalg.det(steps_mm) * np.linalg.inv(steps_mm).T
  areas = np.linalg.norm(normals @ cofactors.T, axis=1)
  return np.bincount(owners, areas, minlength=256)


@functools.cache
def _surfel_normals() -> tuple[
  Int64[np.ndarray, " triangles"], Float64[np.ndarray, "triangles 3"]
]:
  """Code and area vector of every triangle in a unit cell."""
  owners, normals = [], []
  for code in range(256):
    for polygon in _polygons(code):
      for vector in _triangles(polygon):
        owners.append(code)
        normals.append(vector)
  return np.array(owners, np.int64), np.array(normals, np.float64)


def _polygons(code: int) -> list[list[Point]]:
  """Closed ways through edge middles, around the rarer kind of corners.

  On a face with two corners of each kind at opposite ends both joining and
  parting are possible; the rarer kind in the cell is parted.
  """
  inside = {c: bool(code >> bit & 1) for bit, c in enumerate(_CORNERS)}
  parted = sum(inside.values()) <= 4
  links: dict[Point, list[Point]] = {}
  for axis, side in itertools.product(range(3), (0, 1)):
    face = [
      (*turn[:axis], side, *turn[axis:])
      for turn in ((0, 0), (0, 1), (1, 1), (1, 0))
    ]
    for first, second in _crossings(face, inside, parted):
      links.setdefault(first, []).append(second)
      links.setdefault(second, []).append(first)
  polygons = []
  while links:
    way = [next(iter(links))]
    while way[-1] in links:
      # The last corner has no neighbour left, which ends the way.
      neighbours = links.pop(way[-1])
      way += [point for point in neighbours if point in links][:1]
    polygons.append(way)
  return polygons


def _crossings(face, inside, parted) -> list[tuple[Point, Point]]:
  """Lines that the surface draws on one face, between edge middles."""
  middles = [
    tuple((a + b) / 2 for a, b in zip(face[i], face[(i + 1) % 4]))
    for i in range(4)
  ]
  cut = [i for i in range(4) if inside[face[i]] != inside[face[(i + 1) % 4]]]
  if len(cut) == 2:
    return [(middles[cut[0]], middles[cut[1]])]
  if len(cut) == 4:
    # Around each corner of the kind that is parted.
    return [
      (middles[i - 1], middles[i])
      for i in range(4)
      if inside[face[i]] == parted
    ]
  return []


def _triangles(polygon: list[Point]) -> list[Float64[np.ndarray, " 3"]]:
  """Area vectors of the triangles of a polygon.

  Five and six corners need not lie in a plane, and then the area depends on
  the choice of triangles: of all choices the largest area is taken.
  """
  points = np.array(polygon)

  def choices(first: int, last: int) -> list[list[np.ndarray]]:
    if last - first < 2:
      return [[]]
    found = []
    for middle in range(first + 1, last):
      one = points[middle] - points[first]
      other = points[last] - points[first]
      vector = np.cross(one, other) / 2
      for left in choices(first, middle):
        for right in choices(middle, last):
          found.append([vector, *left, *right])
    return found

  return max(
    choices(0, len(points) - 1),
    key=lambda vectors: round(
      sum(float(np.linalg.norm(v)) for v in vectors), 9
    ),
  )
