# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Back to the grid of the CT: the mask and what is measured under it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from vf_jax.infer.boxes import cut_box, label_boxes
from vf_jax.infer.decode import Instances
from vf_jax.infer.facts import (
  compare_neighbours,
  measure_vertebra,
  spine_directions,
)
from vf_jax.infer.result import Vertebra
from vf_jax.infer.windows import Sweep
from vf_jax.labels import VERTEBRAE
from vf_jax.volume import Grid, Volume, from_network, resample

_SLAB = 32  # native slices carried back at a time
_EXTEND_MM = 4.0  # how far a level reaches beyond the network's own voxels


def triple(values: Iterable[float]) -> tuple[float, float, float]:
  """Three numbers as plain floats, as the records hold them."""
  x, y, z = (float(v) for v in values)
  return x, y, z


def carry_back(
  outputs: Sweep,
  found: Instances,
  levels,
  grid: Grid,
  native: Grid,
  threshold: float,
) -> UInt8[np.ndarray, "x y z"]:
  """Mask on the native grid: smooth borders, one level per vertebra.

  The probability is interpolated linearly and cut at the threshold; the level
  comes from the nearest voxel that has one.

  Args:
    outputs: of the network, on `grid`.
    found: the instances.
    levels: index into `VERTEBRAE` of each instance, -1 = rejected.
    grid: of the network.
    native: of the CT, oblique or sheared as it may be.
    threshold: probability above which a voxel is vertebra.

  Returns:
    VerSe codes.
  """
  codes = np.array([0] + [VERTEBRAE[i].code if i >= 0 else 0 for i in levels])
  owner = codes.astype(np.uint8)[found.ids]
  probability: Float32[np.ndarray, "d h w"] = np.where(
    found.dropped | ((found.ids > 0) & (owner == 0)), 0.0, outputs.probability
  ).astype(np.float32)
  mask = np.zeros(native.shape, np.uint8)
  if not owner.any():
    return mask
  box = _bounds(owner > 0, margin=6)
  owner, probability = owner[box], probability[box]
  distance, nearest = ndimage.distance_transform_edt(
    owner == 0, sampling=grid.spacing, return_indices=True
  )
  owner = np.where(distance <= _EXTEND_MM, owner[tuple(nearest)], 0)
  corner = np.array([[side.start for side in box][::-1]], float)
  affine = grid.affine.copy()
  affine[:3, 3] = grid.to_world(corner)[0]
  part = Grid(owner.shape[::-1], affine)
  owner = np.ascontiguousarray(from_network(owner))
  probability = np.ascontiguousarray(from_network(probability))
  for first in range(0, native.shape[2], _SLAB):
    depth = min(_SLAB, native.shape[2] - first)
    affine = native.affine.copy()
    affine[:3, 3] = native.to_world(np.array([[0.0, 0.0, first]]))[0]
    slab = Grid((native.shape[0], native.shape[1], depth), affine)
    inside = resample(
      probability, part, slab, order=1, fill=0.0, antialias=False
    )
    named = resample(owner, part, slab, order=0, fill=0)
    mask[:, :, first : first + depth] = np.where(inside > threshold, named, 0)
  return mask


def _bounds(inside, margin: int) -> tuple[slice, ...]:
  sides = []
  for axis in range(3):
    line = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
    sides.append(
      slice(
        max(0, int(line[0]) - margin),
        min(inside.shape[axis], int(line[-1]) + margin + 1),
      )
    )
  return tuple(sides)


def measure(
  found: Instances, levels, confidence, mask, grid: Grid, volume: Volume
) -> list[Vertebra]:
  """Measures every vertebra on the native voxels, box by box.

  Args:
    found: the instances.
    levels: index into `VERTEBRAE` of each, -1 = rejected.
    confidence: of each level.
    mask: VerSe codes on the native grid.
    grid: of the network.
    volume: the CT, HU.

  Returns:
    Vertebrae from head to foot; one without a voxel has volume 0.
  """
  kept = [i for i, index in enumerate(levels) if index >= 0]
  centres = grid.to_world(found.centres[kept][:, ::-1].astype(float))
  ways = spine_directions(centres)
  boxes = label_boxes(mask)
  vertebrae = []
  for i, centre, way in zip(kept, centres, ways):
    level = VERTEBRAE[levels[i]]
    box = cut_box(mask, volume, level.code, boxes.get(level.code))
    vertebrae.append(
      measure_vertebra(box, level, triple(centre), float(confidence[i]), way)
    )
  return compare_neighbours(vertebrae)
