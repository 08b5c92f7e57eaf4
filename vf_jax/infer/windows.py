# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Sliding windows over a whole CT: one compiled shape, blended by weight."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float32, Int16

from vf_jax.config import STEM_STRIDE
from vf_jax.hounsfield import AIR_HU

BONE_HU = 100.0
"""A window whose voxels all lie below this holds no bone and is skipped."""


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


Forward = Callable[[np.ndarray], WindowOutputs]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
  """Blended outputs over the whole grid.

  Attributes:
    probability: of vertebra.
    offsets: to the body centre, voxels.
    lesion_heat: probability of a lesion's centre, at 1/4 resolution.
    lesion_box: centre offset (cells) and log size (mm), at 1/4 resolution.
    windows: how many were run.
    skipped: how many held no bone.
  """

  probability: Float32[np.ndarray, "depth height width"]
  offsets: Float32[np.ndarray, "depth height width 3"]
  lesion_heat: Float32[np.ndarray, "d h w"]
  lesion_box: Float32[np.ndarray, "d h w 6"]
  windows: int
  skipped: int


def window_starts(size: int, window: int, overlap: float) -> list[int]:
  """First voxels of the windows along one axis.

  Args:
    size: voxels of the axis, at least `window`, a multiple of the stem stride.
    window: voxels of the window.
    overlap: share of a window that its neighbour covers again.

  Returns:
    Ascending starts on the cells of the stem; the last window ends at `size`.
  """
  if size < window or size % STEM_STRIDE:
    raise ValueError(f"axis of {size} voxels does not fit windows of {window}")
  stride = max(STEM_STRIDE, int(window * (1 - overlap)))
  count = -(-(size - window) // stride) + 1
  cells = np.linspace(0, (size - window) // STEM_STRIDE, count)
  return [round(cell) * STEM_STRIDE for cell in cells]


def pad_to_windows(
  image: Int16[np.ndarray, "depth height width"], crop: tuple[int, int, int]
) -> Int16[np.ndarray, "d h w"]:
  """Adds air behind each axis until windows fit.

  Args:
    image: HU.
    crop: window.

  Returns:
    An array of at least the window, a multiple of the stem stride.
  """
  pads = []
  for size, window in zip(image.shape, crop):
    whole = max(window, -(-size // STEM_STRIDE) * STEM_STRIDE)
    pads.append((0, whole - size))
  return np.pad(image, pads, constant_values=AIR_HU)


def blend_weight(crop: tuple[int, ...]) -> Float32[np.ndarray, "*crop"]:
  """Gaussian weight of a window, sigma an eighth of its edge.

  Args:
    crop: window.

  Returns:
    Weights in 0.001..1.

  Source:
    Isensee et al. 2021, nnU-Net.
  """
  total = np.ones((), np.float32)
  for size in crop:
    x = (np.arange(size) - (size - 1) / 2) / (size / 8)
    total = np.multiply.outer(total, np.exp(-0.5 * x**2))
  return np.maximum(total, 1e-3).astype(np.float32)


def sweep(
  image: Int16[np.ndarray, "depth height width"],
  forward: Forward,
  crop: tuple[int, int, int],
  overlap: float,
  batch: int,
) -> Sweep:
  """Runs the network over a whole CT.

  Args:
    image: HU on the network's grid.
    forward: runs exactly `batch` windows.
    crop: window.
    overlap: of neighbouring windows.
    batch: windows per call; the last call is filled up with air.

  Returns:
    Blended outputs on the grid of `image`.
  """
  padded = pad_to_windows(image, crop)
  cells = tuple(n // STEM_STRIDE for n in padded.shape)
  # Channels: weight, logit, offsets; and weight, 7 lesion channels.
  voxels = np.zeros((*padded.shape, 5), np.float32)
  lesions = np.zeros((*cells, 8), np.float32)
  weight = blend_weight(crop)
  cell_crop = tuple(n // STEM_STRIDE for n in crop)
  cell_weight = blend_weight(cell_crop)
  ran = skipped = 0
  pending: list[tuple[int, ...]] = []

  def flush() -> None:
    block = np.full((batch, *crop), AIR_HU, np.int16)
    for slot, start in enumerate(pending):
      block[slot] = padded[_box(start, crop)]
    outputs = forward(block)
    for slot, start in enumerate(pending):
      part = voxels[_box(start, crop)]
      part[..., 0] += weight
      part[..., 1] += weight * outputs.logits[slot]
      part[..., 2:] += weight[..., None] * outputs.offsets[slot]
      cell = tuple(v // STEM_STRIDE for v in start)
      part = lesions[_box(cell, cell_crop)]
      part[..., 0] += cell_weight
      part[..., 1:] += cell_weight[..., None] * outputs.lesions[slot]
    pending.clear()

  for start in _starts(padded.shape, crop, overlap):
    if padded[_box(start, crop)].max() < BONE_HU:
      skipped += 1
      continue
    pending.append(start)
    ran += 1
    if len(pending) == batch:
      flush()
  if pending:
    flush()
  inside = tuple(slice(n) for n in image.shape)
  seen = np.maximum(voxels[inside][..., :1], 1e-6)
  logit = voxels[inside][..., 1] / seen[..., 0]
  logit[voxels[inside][..., 0] == 0] = -30.0
  seen_cells = np.maximum(lesions[..., :1], 1e-6)
  heat = lesions[..., 1] / seen_cells[..., 0]
  heat[lesions[..., 0] == 0] = -30.0
  return Sweep(
    probability=_sigmoid(logit),
    offsets=voxels[inside][..., 2:] / seen,
    lesion_heat=_sigmoid(heat),
    lesion_box=lesions[..., 2:] / seen_cells,
    windows=ran,
    skipped=skipped,
  )


def _starts(shape, crop, overlap) -> Iterator[tuple[int, ...]]:
  axes = [window_starts(n, c, overlap) for n, c in zip(shape, crop)]
  return itertools.product(*axes)


def _box(start, size) -> tuple[slice, ...]:
  return tuple(slice(a, a + n) for a, n in zip(start, size))


def _sigmoid(x):
  return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)
