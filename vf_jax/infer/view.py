# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What of a volume was scanned: it ends where slices of one value begin.

Scans are filled up to a common size, and pictures of patches to a cube. The
vertebrae beside such padding are cut as by the border of the volume.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Shaped

from vf_jax.scratch import empty, slabs
from vf_jax.volume import paste


def find_view(
  voxels: Shaped[np.ndarray, "x y z"],
) -> tuple[slice, slice, slice]:
  """Finds the box that padding leaves.

  Args:
    voxels: a CT.

  Returns:
    Slices of its axes, without those slices at their ends that hold one value
    each; all of the volume if every slice does.
  """
  depth = voxels.shape[2]
  first = _count(voxels[..., k] for k in range(depth))
  if first == depth:
    width, height, _ = voxels.shape
    return slice(0, width), slice(0, height), slice(0, depth)
  last = depth - _count(voxels[..., -1 - k] for k in range(depth))
  part = voxels[..., first:last]
  sides = [*part.shape[:2]] * 2  # slices of one value at each: x, y, -x, -y
  values = [part[0, 0, 0]] * 2 + [part[-1, -1, 0]] * 2
  for slab in slabs(part):
    if not any(sides):
      break
    for side, value in enumerate(values):
      lines = np.moveaxis(part[..., slab], side % 2, 0)
      lines = (lines[::-1] if side > 1 else lines)[: sides[side]]
      sides[side] = _length((lines == value).all(axis=(1, 2)))
  return (
    slice(sides[0], part.shape[0] - sides[2]),
    slice(sides[1], part.shape[1] - sides[3]),
    slice(first, last),
  )


def fill_up(
  mask: Shaped[np.ndarray, "u v w"],
  view: tuple[slice, slice, slice],
  shape: tuple[int, int, int],
) -> Shaped[np.ndarray, "x y z"]:
  """Puts a mask of the view back into the volume.

  Args:
    mask: of the view.
    view: from `find_view`.
    shape: of the volume.

  Returns:
    The mask of the volume, 0 in the padding; on the disk if large.
  """
  whole = empty(shape, mask.dtype)
  x, y, z = (side.start for side in view)
  for part in slabs(whole):
    whole[..., part] = 0
    paste(whole[..., part], mask, (x, y, z - part.start))
  return whole


def _count(slices: Iterable[np.ndarray]) -> int:
  """How many come before the first one of several values."""
  count = 0
  for one in slices:
    if one.min() != one.max():
      break
    count += 1
  return count


def _length(same: np.ndarray) -> int:
  """How many are true before the first that is not."""
  return int(np.argmin(np.append(same, False)))
