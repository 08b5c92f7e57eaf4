# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Peaks and connected parts of voxels that come as a list of points.

Vertebrae fill a hundredth of a scan. Nothing here is as large as the scan.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

_CHUNK = 1 << 21  # voxels of the smoothed votes that are made at a time
_TRUNCATE = 4.0
_FAINT = 0.08  # peaks below this share of the highest are none
_SMALL = 0.1  # share of the largest component of an instance


def find_peaks(
  votes: Float[np.ndarray, "points 3"],
  weights: Float[np.ndarray, " points"],
  shape: tuple[int, int, int],
  sigma: float,
  distance: float,
) -> Float[np.ndarray, "peaks 3"]:
  """Local maxima of the smoothed votes at least `distance` apart.

  Args:
    votes: positions; those outside `shape` are left out.
    weights: of the votes.
    shape: of the voxel grid.
    sigma: of the Gaussian that smooths the votes.
    distance: smallest distance of two peaks.

  Returns:
    Voxels, the strongest first.

  Units:
    Voxels throughout.
  """
  cells = np.round(votes).astype(np.int64)
  inside = ((cells >= 0) & (cells < shape)).all(axis=1)
  cells, weights = cells[inside], weights[inside]
  if not len(cells):
    return np.zeros((0, 3))
  radius = max(1, int(distance / 2))
  blur = int(_TRUNCATE * sigma + 0.5)
  low = np.maximum(cells.min(axis=0) - blur, 0)
  high = np.minimum(cells.max(axis=0) + blur + 1, shape)
  places, heights = [], []
  rows = max(1, _CHUNK // int(np.prod(high[1:] - low[1:])))
  for first in range(low[0], high[0], rows):
    stop = min(first + rows, high[0])
    # What the filters look at beyond the rows that are kept.
    begin = max(first - blur - radius, low[0])
    end = min(stop + blur + radius, high[0])
    corner = np.array([begin, *low[1:]])
    own = (cells[:, 0] >= begin) & (cells[:, 0] < end)
    heat = _smoothed(
      cells[own] - corner, weights[own], (end - begin, *high[1:] - low[1:]),
      sigma,
    )  # fmt: skip
    top = ndimage.maximum_filter(heat, size=2 * radius + 1)
    kept = slice(first - begin, stop - begin)
    found = np.argwhere((heat[kept] == top[kept]) & (heat[kept] > 0))
    heights.append(heat[kept][tuple(found.T)])
    places.append(found + np.array([first, *low[1:]]))
  return _apart(np.concatenate(places), np.concatenate(heights), distance)


def _smoothed(cells, weights, shape, sigma):
  """Histogram of votes on a box of voxels, smoothed."""
  flat = np.ravel_multi_index(tuple(cells.T), shape)
  heat = np.bincount(flat, weights=weights, minlength=int(np.prod(shape)))
  return ndimage.gaussian_filter(
    heat.reshape(shape).astype(np.float32), sigma, truncate=_TRUNCATE
  )


def _apart(places, heights, distance):
  """Peaks by falling height that keep their distance from higher ones."""
  high = heights > _FAINT * heights.max()
  places, heights = places[high], heights[high]
  kept = np.zeros((0, 3))
  for place in places[np.argsort(-heights, kind="stable")]:
    if (np.linalg.norm(kept - place, axis=1) >= distance).all():
      kept = np.append(kept, place[None], axis=0)
  return kept


def drop_small_components(ids: UInt8[np.ndarray, "*shape"]) -> None:
  """Clears the small components of instances, in place.

  Voxels that touch by a face, an edge or a corner are one component. One below
  a tenth of the largest of its instance is small.

  Args:
    ids: instance of each voxel, 0 is none.
  """
  for number, box in enumerate(ndimage.find_objects(ids), start=1):
    if box is None:
      continue
    own = ids[box] == number
    parts, _ = ndimage.label(own, np.ones((3,) * ids.ndim))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    ids[box][own & (sizes[parts] < _SMALL * sizes.max())] = 0
