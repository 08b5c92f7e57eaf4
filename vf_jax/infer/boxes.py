# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Boxes around the vertebrae of a mask, and what a lesion box holds of them.

Everything works on parts of the mask: one slab of slices, or one box. Nothing
the size of the scan is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from vf_jax.infer.facts import VertebraBox
from vf_jax.scratch import release, slabs
from vf_jax.volume import Grid, Volume

_LEAST_BONE = 0.1  # of a box, that a vertebra fills to be the one it sits in

Box = tuple[slice, slice, slice]


def label_boxes(mask: UInt8[np.ndarray, "x y z"]) -> dict[int, Box]:
  """The smallest box around each code of a mask.

  Args:
    mask: VerSe codes.

  Returns:
    Code -> slices along the three axes, without background.
  """
  boxes: dict[int, Box] = {}
  for layers in slabs(mask):
    found = ndimage.find_objects(np.asarray(mask[..., layers]))
    for code, part in enumerate(found, start=1):
      if part is None:
        continue
      x, y, z = part
      z = slice(z.start + layers.start, z.stop + layers.start)
      old = boxes.get(code, (x, y, z))
      x, y, z = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(old, (x, y, z), strict=True)
      )
      boxes[code] = (x, y, z)
  return boxes


def cut_box(
  mask: UInt8[np.ndarray, "x y z"],
  volume: Volume,
  code: int,
  box: Box | None,
) -> VertebraBox:
  """Cuts one vertebra out of its scan.

  Args:
    mask: VerSe codes on the grid of the CT.
    volume: the CT, HU.
    code: of the vertebra.
    box: around it, of `label_boxes`; None if it has no voxel.

  Returns:
    The vertebra; its HU are a view of those of the CT.
  """
  if box is None:
    box = (slice(0, 1), slice(0, 1), slice(0, 1))
  start = np.array([[float(side.start) for side in box]])
  affine = volume.affine.copy()
  affine[:3, 3] = volume.grid.to_world(start)[0]
  own = np.asarray(mask[box]) == code
  return VertebraBox(
    mask=own,
    hu=np.asarray(volume.voxels[box]),
    grid=Grid(own.shape, affine),
    ends=tuple(
      (side.start, size - side.stop)
      for side, size in zip(box, mask.shape, strict=True)
    ),
  )


def locate_box(
  mask: UInt8[np.ndarray, "x y z"],
  grid: Grid,
  volumes_ml: Mapping[int, float],
  centre_mm: Sequence[float],
  size_mm: Sequence[float],
) -> tuple[int, float] | None:
  """Which vertebra a lesion box sits in, and how much of it the box holds.

  Args:
    mask: VerSe codes.
    grid: of the mask.
    volumes_ml: code -> volume of the vertebra.
    centre_mm: of the box, mm RAS+.
    size_mm: its edges along R, A, S.

  Returns:
    The code with most bone in the box, and the share of that vertebra in the
    box, 0..1; None if no vertebra fills a tenth of the box.
  """
  centre, half = np.array(centre_mm, float), np.array(size_mm, float) / 2
  corners = centre + half * list(itertools.product((-1, 1), repeat=3))
  places = grid.to_voxel(corners)
  first = np.maximum(np.ceil(places.min(axis=0) - 1e-6).astype(int), 0)
  last = np.floor(places.max(axis=0) + 1e-6).astype(int) + 1
  last = np.minimum(last, grid.shape)
  # A lesion thinner than a slice still lies in the slice nearest to it.
  nearest = np.clip(np.rint(grid.to_voxel(centre[None])[0]), -1, grid.shape)
  first = np.where(first >= last, nearest.astype(int), first)
  last = np.maximum(last, first + 1)
  if (first < 0).any() or (last > grid.shape).any():
    return None
  reach = np.maximum(half, np.array(grid.spacing).max() / 2)
  x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last))
  counts = np.zeros(256, np.int64)
  # Slice by slice: positions take a hundred times the memory of codes.
  for layer in range(z.start, z.stop):
    codes = np.asarray(mask[x, y, layer])
    where = np.argwhere(codes > 0)
    places = np.column_stack([where + first[:2], np.full(len(where), layer)])
    away = np.abs(grid.to_world(places) - centre)
    inside = (away <= reach + 1e-6).all(axis=1)
    counts += np.bincount(codes[tuple(where.T)][inside], minlength=256)
  release(mask)
  if not counts.any():
    return None
  code = int(counts.argmax())
  bone_mm3 = counts[code] * grid.voxel_volume_ml * 1000
  if bone_mm3 < _LEAST_BONE * float(np.prod(2 * reach)):
    return None
  whole = volumes_ml.get(code, 0.0)
  if whole <= 0:
    return None
  return code, min(1.0, counts[code] * grid.voxel_volume_ml / whole)
