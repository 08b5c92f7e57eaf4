# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Back to the grid of the CT: the mask, what is measured under it, lesions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float16, Int, UInt8
from scipy import ndimage

from vf_jax import threads
from vf_jax.infer.boxes import Box, cut_box, locate_box
from vf_jax.infer.decode import Instances, PredictedLesion
from vf_jax.infer.facts import (
  compare_neighbours,
  measure_vertebra,
  spine_directions,
)
from vf_jax.infer.result import Lesion, Vertebra
from vf_jax.infer.sweep import Sweep
from vf_jax.labels import BY_CODE, VERTEBRAE
from vf_jax.scratch import empty, release, slabs
from vf_jax.volume import Grid, Volume, bounds, from_network, resample

_MEASURING = 4  # vertebrae at a time
_CHUNK = 1 << 20  # voxels of the network's grid worked on at a time
_EXTEND_MM = 4.0  # how far a level reaches beyond the network's own voxels


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
  """Three numbers as plain floats, as the records hold them."""
  x, y, z = (float(v) for v in values)
  return x, y, z


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
  """The part of the network's grid that holds all instances, and their rims.

  Attributes:
    start: its first voxel (depth, height, width).
    ids: as in `Instances`.
    probability: of vertebra.
  """

  start: tuple[int, int, int]
  ids: UInt8[np.ndarray, "depth height width"]
  probability: Float16[np.ndarray, "depth height width"]


def cut_out(outputs: Sweep, found: Instances) -> Region:
  """Copies what `carry_back` needs, so that all else can be let go of.

  Args:
    outputs: of the network.
    found: the instances, on the same grid.

  Returns:
    The region; of no voxel if there is no instance.
  """
  if not len(found.centres):
    none = np.zeros((0, 0, 0))
    return Region((0, 0, 0), none.astype(np.uint8), none.astype(np.float16))
  tight = bounds(found.ids > 0)
  assert tight is not None  # a centre is of some voxels
  box = tuple(slice(max(0, s.start - 6), s.stop + 6) for s in tight)
  depth, height, width = (side.start for side in box)
  return Region(
    (depth, height, width),
    found.ids[box].copy(),
    outputs.probability[box].copy(),
  )


def carry_back(
  region: Region,
  levels: Int[np.ndarray, " instances"],
  grid: Grid,
  native: Grid,
  threshold: float,
) -> UInt8[np.ndarray, "x y z"]:
  """Mask on the native grid: smooth borders, one level per vertebra.

  The probability is interpolated linearly and cut at the threshold; the level
  comes from the nearest voxel that has one.

  Args:
    region: of the instances, on `grid`.
    levels: index into `VERTEBRAE` of each instance, -1 = rejected.
    grid: of the network.
    native: of the CT, oblique or sheared as it may be.
    threshold: probability above which a voxel is vertebra.

  Returns:
    VerSe codes; on the disk if large (`scratch.empty`).
  """
  codes = np.array([0] + [VERTEBRAE[i].code if i >= 0 else 0 for i in levels])
  mask = empty(native.shape, np.uint8)
  if not codes.any():
    for part in slabs(mask):
      mask[..., part] = 0
    return mask
  owner = codes.astype(np.uint8)[region.ids]
  # What was foreground but belongs to no vertebra, or to a rejected one.
  lost = (region.probability > threshold) & (owner == 0)
  probability = region.probability.astype(np.float32)
  probability[lost] = 0
  named = _extend(owner, grid.spacing)
  corner = np.array([region.start[::-1]], float)
  affine = grid.affine.copy()
  affine[:3, 3] = grid.to_world(corner)[0]
  part_grid = Grid(owner.shape[::-1], affine)
  for part in slabs(mask):
    affine = native.affine.copy()
    affine[:3, 3] = native.to_world(np.array([[0.0, 0.0, part.start]]))[0]
    depth = part.stop - part.start
    slab = Grid((native.shape[0], native.shape[1], depth), affine)
    inside = resample(
      from_network(probability),
      part_grid,
      slab,
      order=1,
      fill=0.0,
      antialias=False,
    )
    codes = resample(from_network(named), part_grid, slab, order=0, fill=0)
    codes[inside <= threshold] = 0
    mask[..., part] = codes
  return mask


def _extend(
  owner: UInt8[np.ndarray, "depth height width"],
  spacing: tuple[float, float, float],
) -> UInt8[np.ndarray, "depth height width"]:
  """Gives voxels within reach of a level that level, a few rows at a time."""
  named = owner.copy()
  halo = int(_EXTEND_MM / spacing[2]) + 1
  rows = max(1, _CHUNK // owner[0].size)
  for first in range(0, len(owner), rows):
    begin = max(0, first - halo)
    near = owner[begin : first + rows + halo]
    if not near.any():
      continue
    distance, nearest = ndimage.distance_transform_edt(
      near == 0, sampling=spacing[::-1], return_indices=True
    )
    levels = np.where(distance <= _EXTEND_MM, near[tuple(nearest)], 0)
    own = levels[first - begin :][:rows]
    named[first : first + len(own)] = own
  return named


def measure(
  centres: Float[np.ndarray, "instances 3"],
  levels: Int[np.ndarray, " instances"],
  confidence: Float[np.ndarray, " instances"],
  mask: UInt8[np.ndarray, "x y z"],
  boxes: Mapping[int, Box],
  grid: Grid,
  volume: Volume,
) -> list[Vertebra]:
  """Measures every vertebra on the native voxels, box by box.

  Args:
    centres: body centres, voxels of `grid` (depth, height, width).
    levels: index into `VERTEBRAE` of each, -1 = rejected.
    confidence: of each level, 0..1.
    mask: VerSe codes on the native grid.
    boxes: around each code of the mask.
    grid: of the network.
    volume: the CT, HU.

  Returns:
    Vertebrae from head to foot; one without a voxel has volume 0.
  """
  kept = [i for i, index in enumerate(levels) if index >= 0]
  places = grid.to_world(centres[kept][:, ::-1].astype(float))
  ways = spine_directions(places)

  def one(i, place, way) -> Vertebra:
    level = VERTEBRAE[levels[i]]
    box = cut_box(mask, volume, level.code, boxes.get(level.code))
    vertebra = measure_vertebra(
      box, level, _triple(place), float(confidence[i]), way
    )
    release(mask, volume.voxels)
    return vertebra

  with threads.pool(_MEASURING) as pool:
    return compare_neighbours(list(pool.map(one, kept, places, ways)))


def place_lesions(
  boxes: Sequence[PredictedLesion],
  grid: Grid,
  mask: UInt8[np.ndarray, "x y z"],
  native: Grid,
  vertebrae: Sequence[Vertebra],
) -> list[Lesion]:
  """Carries lesion boxes into the world, with the level they lie in.

  Args:
    boxes: on the network's grid.
    grid: of the network.
    mask: VerSe codes on the native grid.
    native: of the CT.
    vertebrae: those of the mask.

  Returns:
    The lesions whose centres lie inside the scan.
  """
  volumes = {v.code: v.volume_ml for v in vertebrae}
  lesions = []
  for box in boxes:
    centre = _triple(grid.to_world(np.array([box.centre[::-1]]))[0])
    place = np.round(native.to_voxel(np.array([centre]))[0])
    if (place < 0).any() or (place >= native.shape).any():
      continue
    size = _triple(box.size_mm[::-1])
    home = locate_box(mask, native, volumes, centre, size)
    lesions.append(
      Lesion(
        centre_mm=centre,
        size_mm=size,
        score=box.score,
        level=BY_CODE[home[0]].name if home else None,
        share=home[1] if home else None,
      )
    )
  return lesions
