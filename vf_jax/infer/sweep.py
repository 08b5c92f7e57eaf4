# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What VertebraFormer says of a whole CT, in as little memory as it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float16, Float32, Int16

from vf_jax.infer.windows import blend, padded_shape, plan_windows
from vf_jax.model_config import STEM_STRIDE
from vf_jax.scratch import empty, release

LEAST_HEAT = 1e-3
"""Probability below which no cell tells of a lesion."""

_UNSEEN = -30.0  # logit where no window was run
_SLAB = 1 / 3  # of a window; what is shorter is mirrored


@dataclasses.dataclass(frozen=True, eq=False)
class WindowOutputs:
  """What the network says of a batch of windows, as host arrays.

  Attributes:
    logits: vertebra logits.
    offsets: to the body centre, voxels.
    lesions: heat logit, centre offset (cells) and log size (mm) at 1/4
      resolution, 7 channels.
  """

  logits: Float32[np.ndarray, "batch depth height width"]
  offsets: Float32[np.ndarray, "batch depth height width 3"]
  lesions: Float32[np.ndarray, "batch d h w 7"]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
  """Blended outputs over the whole grid.

  Attributes:
    probability: of vertebra; on the disk if large.
    offsets: to the body centre, voxels; of the voxels whose probability is
      above the threshold only, in the order of `np.argwhere`.
    lesion_heat: probability that the cell lies in a lesion, at 1/4 resolution.
    lesion_box: centre offset (cells) and log size (mm), at 1/4 resolution; 0
      where the heat is below `LEAST_HEAT`.
    windows: how many were run.
    skipped: how many held no bone.
  """

  probability: Float16[np.ndarray, "depth height width"]
  offsets: Float32[np.ndarray, "points 3"]
  lesion_heat: Float32[np.ndarray, "d h w"]
  lesion_box: Float32[np.ndarray, "d h w 6"]
  windows: int
  skipped: int


def sweep(
  image: Int16[np.ndarray, "depth height width"],
  forward: Callable[[np.ndarray], WindowOutputs],
  crop: tuple[int, int, int],
  overlap: float,
  batch: int,
  threshold: float,
  in_flight: int = 1,
) -> Sweep:
  """Runs the network over a whole CT.

  Args:
    image: HU on the network's grid.
    forward: runs exactly `batch` windows; called from `in_flight` threads.
    crop: window.
    overlap: of neighbouring windows.
    batch: windows per call; the last call is filled up with air.
    threshold: probability above which the offsets of a voxel are kept.
    in_flight: calls at a time.

  Returns:
    Blended outputs on the grid of `image`.
  """

  def arrays(block):
    found = forward(block)
    return found.logits[..., None], found.offsets, found.lesions

  depth, height, width = image.shape
  cells = tuple(n // STEM_STRIDE for n in padded_shape(image.shape, crop))
  probability = empty(image.shape, np.float16, "C")
  probability[...] = 0
  heat = np.zeros(cells, np.float32)
  box = np.zeros((*cells, 6), np.float32)
  offsets = [np.zeros((0, 3), np.float32)]
  windows = plan_windows(_mirror_slab(image, crop), crop, overlap)
  for slab in blend(windows, arrays, batch, in_flight):
    logits, moves, lesions = slab.maps
    inside = (slice(max(0, depth - slab.start)), slice(height), slice(width))
    rows = slice(slab.start, slab.start + len(logits))
    part = probability[rows]
    part[...] = _sigmoid(logits[..., 0], slab.seen[0])[inside]
    offsets.append(moves[inside][part > threshold])
    release(probability)
    first = slab.start // STEM_STRIDE
    rows = slice(first, first + len(lesions))
    heat[rows] = _sigmoid(lesions[..., 0], slab.seen[2])
    warm = heat[rows] >= LEAST_HEAT
    # Pages of which nothing is written take no memory.
    box[rows][warm] = lesions[..., 1:][warm]
  # Mirror images have lesions, too.
  for axis, voxels in enumerate(image.shape):
    np.moveaxis(heat, axis, 0)[-(-voxels // STEM_STRIDE) :] = 0
  return Sweep(
    probability=probability,
    offsets=np.concatenate(offsets),
    lesion_heat=heat,
    lesion_box=box,
    windows=len(windows.starts),
    skipped=windows.skipped,
  )


def _mirror_slab(image, crop):
  """Fills windows up with mirror images where a scan is a thin slab.

  In windows that are mostly air the network finds less of the vertebrae. What
  tells their levels still sees air: mirrored ribs and sacra would mislead.
  """
  more = [
    (0, edge - n if n < _SLAB * edge else 0)
    for n, edge in zip(image.shape, crop, strict=True)
  ]
  return np.pad(image, more, "symmetric") if np.any(more) else image


def _sigmoid(logits, seen):
  logits = np.where(seen, np.clip(logits, -30, 30), _UNSEEN)
  return (1 / (1 + np.exp(-logits))).astype(np.float32)
