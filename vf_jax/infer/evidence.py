# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the network says at body centres of a whole CT, a window at a time.

Neighbouring bodies share a window: at 2 mm lumbar ones in pairs, those of the
chest and the neck by three and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16

from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.windows import padded_shape, run_ahead, take_window
from vf_jax.scratch import release, trim

Forward = Callable[
  [
    Int16[np.ndarray, "batch d h w"],
    Float32[np.ndarray, "batch slots 3"],
    Bool[np.ndarray, "batch slots"],
  ],
  Float32[np.ndarray, "batch slots channel"],
]
"""Runs a batch of windows; several threads call it. Gets HU, points in
voxels of their window, and which of them are real."""

SLOTS = 8  # points of a window at most
_SPREAD = 1 / 4  # of the window: how far its points lie apart at most


def gather_evidence(
  image: Int16[np.ndarray, "depth height width"],
  centres: Float[np.ndarray, "points 3"],
  forward: Forward,
  crop: tuple[int, int, int],
  batch: int,
  in_flight: int,
) -> Float32[np.ndarray, "points channel"]:
  """Reads the network's features at body centres.

  Args:
    image: HU on the network's grid.
    centres: (depth, height, width), voxels, from head to foot; one at least.
    forward: runs exactly `batch` windows; called from `in_flight` threads.
    crop: window.
    batch: windows per call; the last call is filled up with air.
    in_flight: calls at a time.

  Returns:
    Features of each centre.
  """
  groups = group_centres(centres, crop)
  last = np.subtract(padded_shape(image.shape, crop), crop)

  def run(some: Sequence[slice]) -> list[np.ndarray]:
    block = np.full((batch, *crop), AIR_HU, np.int16)
    points = np.zeros((batch, SLOTS, 3), np.float32)
    mask = np.zeros((batch, SLOTS), bool)
    for place, group in enumerate(some):
      own = centres[group]
      middle = (own.min(axis=0) + own.max(axis=0)) / 2
      start = np.round(middle - np.array(crop) / 2).astype(int)
      start = np.clip(start, 0, last)
      block[place] = take_window(image, start.tolist(), crop)
      points[place, : len(own)] = own - start
      mask[place, : len(own)] = True
    release(image)
    found = np.asarray(forward(block, points, mask))
    return [rows[real] for rows, real in zip(found, mask)]

  batches = [groups[i : i + batch] for i in range(0, len(groups), batch)]
  rows = [
    part for parts in run_ahead(run, batches, in_flight) for part in parts
  ]
  trim()
  return np.concatenate(rows)


def group_centres(
  centres: Float[np.ndarray, "points 3"], crop: tuple[int, int, int]
) -> list[slice]:
  """Divides a spine into as few windows as its bodies need.

  Args:
    centres: (depth, height, width), voxels, from head to foot.
    crop: window.

  Returns:
    Runs of neighbours, each in a box of 1/4 of the window's edges and no more
    than `SLOTS`.
  """
  most = _SPREAD * np.array(crop)
  groups: list[slice] = []
  first = 0
  for stop in range(1, len(centres) + 1):
    if stop < len(centres) and stop - first < SLOTS:
      wider = centres[first : stop + 1]
      if (np.ptp(wider, axis=0) <= most).all():
        continue
    groups.append(slice(first, stop))
    first = stop
  return groups
