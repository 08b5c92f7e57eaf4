# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the patient is painted: a coarse world of tissue, HU and bone depth.

Everything but vertebrae and sacrum is drawn at twice the final voxel edge.
Soft tissue needs no more, and the bones keep their outline because what is
kept of them is a distance, which interpolates smoothly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Num

from vf_jax.multispine import tissues
from vf_jax.multispine.tissues import Tissue

FAR_MM = 8.0
"""Bone depth is cut off this far outside."""

Box = tuple[slice, slice, slice]


class Canvas:
  """A coarse block of the world.

  Attributes:
    x, y, z: places of the voxels along right, anterior and superior, mm.
    step_mm: voxel edge.
    hu: mean HU of the soft tissue there.
    tissue: codes of `multispine.tissues`.
    bone: mm below the surface of a bone, negative outside, >= -FAR_MM.
    within: where `paint` may paint; None is everywhere.
  """

  def __init__(
    self,
    low_mm: Float[np.ndarray, " 3"],
    shape: tuple[int, int, int],
    step_mm: int | float,
  ):
    """Starts with air everywhere.

    Args:
      low_mm: centre of the first voxel.
      shape: voxels along x, y, z.
      step_mm: voxel edge.
    """
    self.x, self.y, self.z = (
      (low + step_mm * np.arange(n)).astype(np.float32)
      for low, n in zip(low_mm, shape)
    )
    self.step_mm = step_mm
    self.hu = np.full(shape, -1000.0, np.float32)
    self.tissue = np.full(shape, tissues.OUTSIDE.code, np.uint8)
    self.bone = np.full(shape, -FAR_MM, np.float32)
    self.within: Bool[np.ndarray, "x y z"] | None = None

  @property
  def shape(self) -> tuple[int, int, int]:
    """Voxels along x, y, z."""
    return self.x.size, self.y.size, self.z.size

  def box(
    self,
    low: Sequence[int | float] | Num[np.ndarray, " 3"],
    high: Sequence[int | float] | Num[np.ndarray, " 3"],
  ) -> Box | None:
    """Slices of what lies between two corners.

    Args:
      low: mm.
      high: mm.

    Returns:
      Three slices, None if nothing does.
    """
    cuts = []
    for axis, a, b in zip((self.x, self.y, self.z), low, high):
      start = int(np.searchsorted(axis, a))
      stop = int(np.searchsorted(axis, b, side="right"))
      if start >= stop:
        return None
      cuts.append(slice(start, stop))
    return cuts[0], cuts[1], cuts[2]

  def local(
    self, box: Box, centre: Sequence[int | float] | Num[np.ndarray, " 3"]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets from a point within a box, ready to broadcast.

    Args:
      box: slices.
      centre: mm.

    Returns:
      x, y and z, mm.
    """
    a, b, c = (np.float32(v) for v in centre)
    return (
      (self.x[box[0]] - a)[:, None, None],
      (self.y[box[1]] - b)[None, :, None],
      (self.z[box[2]] - c)[None, None, :],
    )

  def paint(
    self,
    box: Box,
    where: Bool[np.ndarray, "x y z"],
    tissue: Tissue,
    hu: int | float,
    only: Sequence[Tissue] | None = None,
  ) -> None:
    """Fills part of a box with a tissue.

    Args:
      box: slices.
      where: which of its voxels.
      tissue: class to set.
      hu: its mean.
      only: paint over these alone; over everything inside the body if None.
    """
    here = self.tissue[box]
    if self.within is not None:
      where = where & self.within[box]
    if only is None:
      where = where & (here != tissues.OUTSIDE.code)
    else:
      where = where & np.isin(here, [kind.code for kind in only])
    here[where] = tissue.code
    self.hu[box][where] = hu

  def ellipsoid(
    self,
    centre: Sequence[int | float] | Num[np.ndarray, " 3"],
    radii: Sequence[int | float] | Num[np.ndarray, " 3"],
    tissue: Tissue,
    hu: int | float,
    only: Sequence[Tissue] | None = None,
  ) -> None:
    """Paints an ellipsoid along the world's axes.

    Args:
      centre: mm.
      radii: mm.
      tissue: class to set.
      hu: its mean.
      only: see `paint`.
    """
    centre, radii = np.asarray(centre, float), np.asarray(radii, float)
    box = self.box(centre - radii, centre + radii)
    if box is not None:
      x, y, z = self.local(box, centre)
      a, b, c = (np.float32(r) for r in radii)
      inside = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
      self.paint(box, inside, tissue, hu, only)

  def tube(
    self,
    path: Num[np.ndarray, "points 3"],
    radii: Sequence[int | float] | Num[np.ndarray, " points"],
    tissue: Tissue,
    hu: int | float,
    only: Sequence[Tissue] | None = None,
  ) -> None:
    """Paints a round tube along a path.

    Args:
      path: mm; steps of at most a radius look smooth.
      radii: at every point, mm.
      tissue: class to set.
      hu: its mean.
      only: see `paint`.
    """
    for box, depth in self.capsules(path, radii, 0.0):
      self.paint(box, depth > 0, tissue, hu, only)

  def capsules(
    self,
    path: Num[np.ndarray, "points 3"],
    radii: Sequence[int | float] | Num[np.ndarray, " points"],
    reach: int | float,
    stretch: Sequence[int | float] = (1.0, 1.0, 1.0),
  ) -> Iterator[tuple[Box, Float32[np.ndarray, "x y z"]]]:
    """Goes along a path from segment to segment.

    Args:
      path: mm.
      radii: at every point, mm.
      reach: how far outside the depth is wanted, mm.
      stretch: of the section along x, y and z; depths along a stretched axis
        are then too small.

    Yields:
      Slices, and the depth below the surface of the segment in them.
    """
    radii = np.asarray(radii, float)
    wide = np.asarray(stretch, float)
    squeeze = (1 / wide).astype(np.float32)
    for a, b, r, s in zip(path, path[1:], radii, radii[1:]):
      grown = (max(r, s) + reach) * wide
      box = self.box(np.minimum(a, b) - grown, np.maximum(a, b) + grown)
      if box is None:
        continue
      x, y, z = (p * q for p, q in zip(self.local(box, a), squeeze))
      way = (b - a).astype(np.float32) * squeeze
      square = np.float32(max(way @ way, 1e-6))
      along = (x * (way[0] / square) + y * (way[1] / square)) + z * (
        way[2] / square
      )
      along = np.clip(along, 0, 1)
      apart = (x - along * way[0]) ** 2
      apart += (y - along * way[1]) ** 2
      apart += (z - along * way[2]) ** 2
      yield box, np.float32(r) + along * np.float32(s - r) - np.sqrt(apart)

  def bone_tube(
    self,
    path: Num[np.ndarray, "points 3"],
    radii: Sequence[int | float] | Num[np.ndarray, " points"],
    stretch: Sequence[int | float] = (1.0, 1.0, 1.0),
  ) -> None:
    """Adds a bone that follows a path.

    Args:
      path: mm.
      radii: at every point, mm.
      stretch: of its section along x, y and z.
    """
    for box, depth in self.capsules(path, radii, 4.0, stretch):
      self.add_bone(box, depth)

  def bone_ellipsoid(
    self,
    centre: Sequence[int | float] | Num[np.ndarray, " 3"],
    radii: Sequence[int | float] | Num[np.ndarray, " 3"],
    frame: Float[np.ndarray, "3 3"] | None = None,
  ) -> None:
    """Adds an ellipsoidal bone.

    Args:
      centre: mm.
      radii: along the columns of `frame`, mm.
      frame: unit columns; the world's axes if None.
    """
    centre, radii = np.asarray(centre, float), np.asarray(radii, float)
    frame = np.eye(3) if frame is None else frame
    reach = np.sqrt(((frame * radii) ** 2).sum(axis=1)) + 3
    box = self.box(centre - reach, centre + reach)
    if box is not None:
      x, y, z = self.local(box, centre)
      turn = (frame / radii).T.astype(np.float32)
      square = sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in turn)
      depth = (1 - np.sqrt(square)) * np.float32(radii.min())
      self.add_bone(box, depth)

  def add_bone(self, box: Box, depth: Float32[np.ndarray, "x y z"]) -> None:
    """Joins a bone with those that are there.

    Args:
      box: slices.
      depth: below its surface, mm.
    """
    here = self.bone[box]
    np.maximum(here, depth, out=here)


def smooth_noise(
  shape: tuple[int, ...], cell: int | float, rng: np.random.Generator
) -> Float32[np.ndarray, "*shape"]:
  """Unit-variance noise with features of about `cell` voxels.

  Args:
    shape: of the result.
    cell: voxels.
    rng: the draw.

  Returns:
    The noise.
  """
  noise = rng.standard_normal(
    [int((n - 1) / cell) + 2 for n in shape], dtype=np.float32
  )
  # From the last axis on, so that the largest steps run along memory.
  for axis in reversed(range(len(shape))):
    places = np.arange(shape[axis], dtype=np.float32) / np.float32(cell)
    low = places.astype(int)
    share = (places - low).reshape([-1] + [1] * (len(shape) - 1 - axis))
    start = noise.take(low, axis)
    noise = noise.take(low + 1, axis)
    noise -= start
    noise *= share
    noise += start
  # Linear interpolation of white noise keeps 2/3 of its variance an axis.
  return noise * np.float32(1.5 ** (len(shape) / 2))


def double(
  values: Float32[np.ndarray, "x y z"],
) -> Float32[np.ndarray, "u v w"]:
  """Interpolates to half the voxel edge, twice the voxels along each axis.

  Args:
    values: at the centres of the coarse voxels.

  Returns:
    Values at the centres of the fine ones; edges repeat.
  """
  for axis in (2, 1, 0):  # the largest step runs along memory
    shape = list(values.shape)
    shape[axis] *= 2
    result = np.empty(shape, np.float32)
    new, old = np.moveaxis(result, axis, 0), np.moveaxis(values, axis, 0)
    major = np.float32(0.75) * old
    minor = np.float32(0.25) * old
    np.add(major[1:], minor[:-1], out=new[2::2])
    np.add(major[:-1], minor[1:], out=new[1:-1:2])
    new[0], new[-1] = old[0], old[-1]
    values = result
  return values
