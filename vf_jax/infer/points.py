# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Peaks and connected parts of voxels that come as a list of points.

Vertebrae fill a hundredth of a scan. Nothing here is as large as the scan.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage, sparse
from scipy.sparse import csgraph

_CHUNK = 1 << 21  # voxels of the smoothed votes that are made at a time
_TRUNCATE = 4.0
_FAINT = 0.08  # peaks below this share of the highest are none
_SMALL = 0.1  # share of the largest part that makes a part more than crumbs


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


def is_fragment(
  points: Integer[np.ndarray, "points 3"],
  owner: Integer[np.ndarray, " points"],
  shape: tuple[int, int, int],
) -> Bool[np.ndarray, " points"]:
  """Tells which voxels lie in crumbs of their instance.

  Voxels that touch by a face, an edge or a corner are one part. A part below a
  tenth of the largest of its instance is a crumb.

  Args:
    points: voxels in the order of `np.argwhere`.
    owner: instance of each voxel, from 1; 0 is no instance.
    shape: of the voxel grid.

  Returns:
    Whether each voxel is in a crumb; never for owner 0.
  """
  # With a rim around the grid, no neighbour is found across its border.
  strides = np.array([(shape[1] + 2) * (shape[2] + 2), shape[2] + 2, 1])
  flat = (points + 1) @ strides
  pairs = []
  for step in itertools.product((-1, 0, 1), repeat=3):
    if step <= (0, 0, 0):
      continue
    wanted = flat + strides @ step
    place = np.minimum(np.searchsorted(flat, wanted), len(flat) - 1)
    both = np.flatnonzero((flat[place] == wanted) & (owner[place] == owner))
    pairs.append(np.stack([both, place[both]]))
  left, right = np.concatenate(pairs, axis=1)
  links = sparse.coo_array(
    (np.ones(len(left), bool), (left, right)), (len(flat), len(flat))
  )
  _, part = csgraph.connected_components(links, directed=False)
  sizes = np.bincount(part)[part]
  largest = np.zeros(int(owner.max(initial=0)) + 1)
  np.maximum.at(largest, owner, sizes)
  return (owner > 0) & (sizes < _SMALL * largest[owner])
