# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Distances between the surfaces of two masks.

Surfaces are those of `surfels`: the distance of every surfel of one mask to
the nearest surfel of the other, weighted by its area, as in
google-deepmind/surface-distance. A mask that is empty is at infinite distance
and has no surface in tolerance, so that a missed vertebra never improves a
mean; two empty masks have no distance at all (NaN).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import spatial

from vf_jax.evaluate.metrics.surfels import find_surfels, surfel_areas

_SLACK_MM = 1e-5
"""Headers keep the spacing in float32: 2 voxels of 0.8 mm are 1.6 mm."""


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceDistances:
  """Both directions, each sorted by distance.

  Attributes:
    from_prediction_mm: of surfels of the prediction to the truth; infinite if
      the truth is empty.
    prediction_mm2: their areas.
    from_truth_mm: of surfels of the truth to the prediction.
    truth_mm2: their areas.
  """

  from_prediction_mm: Float64[np.ndarray, " prediction"]
  prediction_mm2: Float64[np.ndarray, " prediction"]
  from_truth_mm: Float64[np.ndarray, " truth"]
  truth_mm2: Float64[np.ndarray, " truth"]

  def hausdorff(self, percent: int | float = 100) -> float:
    """Hausdorff distance, or a percentile of it.

    Args:
      percent: share of the area, in each direction, that is nearer; the
        larger of the two is the result. 95 for HD95.

    Returns:
      mm; infinite if one mask is empty, NaN if both are.
    """
    directions = (
      (self.from_prediction_mm, self.prediction_mm2),
      (self.from_truth_mm, self.truth_mm2),
    )
    found = [
      _percentile(distances, areas, percent)
      for distances, areas in directions
      if distances.size
    ]
    return max(found, default=math.nan)

  def symmetric_average(self) -> float:
    """ASSD: mean distance by area over both surfaces together.

    Returns:
      mm; infinite if one mask is empty, NaN if both are.
    """
    return _mean(
      np.concatenate([self.from_prediction_mm, self.from_truth_mm]),
      np.concatenate([self.prediction_mm2, self.truth_mm2]),
    )

  def surface_dice(self, tolerance_mm: int | float) -> float:
    """NSD: area of both surfaces within the tolerance, over their area.

    Args:
      tolerance_mm: distances up to it count as none.

    Returns:
      0..1; NaN if both masks are empty.
    """
    within = tolerance_mm + _SLACK_MM
    near = self.prediction_mm2[self.from_prediction_mm <= within].sum()
    near += self.truth_mm2[self.from_truth_mm <= within].sum()
    area = self.prediction_mm2.sum() + self.truth_mm2.sum()
    return float(near / area) if area else math.nan


def surface_distances(
  prediction: Bool[np.ndarray, "x y z"],
  truth: Bool[np.ndarray, "u v w"],
  steps_mm: Float64[np.ndarray, "3 3"],
) -> SurfaceDistances:
  """Measures the distances between the surfaces of two masks.

  What lies at the border of the arrays is closed there.

  Args:
    prediction: mask.
    truth: mask on the same grid.
    steps_mm: column i is the way from a voxel to its neighbour on array axis
      i: `np.diag(spacing)`, or the linear part of an affine, sheared or not.

  Returns:
    The distances.

  Raises:
    ValueError: if the shapes differ.
  """
  if prediction.shape != truth.shape:
    raise ValueError(f"shapes {prediction.shape} and {truth.shape} differ.")
  # Without its rotation the map is a diagonal, but for shear, and products
  # with whole voxels are as exact as they can be.
  upright = np.linalg.qr(steps_mm).R
  areas = surfel_areas(steps_mm)
  cells_p, codes_p = find_surfels(prediction)
  cells_t, codes_t = find_surfels(truth)
  shared_p, shared_t = _shared(cells_p, cells_t, prediction.shape)
  points_p, points_t = cells_p @ upright.T, cells_t @ upright.T
  return SurfaceDistances(
    *_sorted(_nearest(points_p, points_t, shared_p), areas[codes_p]),
    *_sorted(_nearest(points_t, points_p, shared_t), areas[codes_t]),
  )


def _shared(
  first: Int64[np.ndarray, "n 3"],
  second: Int64[np.ndarray, "m 3"],
  shape: tuple[int, ...],
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " m"]]:
  """Which cells are in both lists: they are at distance 0."""
  size = tuple(n + 1 for n in shape)
  one = np.ravel_multi_index(tuple((first + 1).T), size)
  other = np.ravel_multi_index(tuple((second + 1).T), size)
  return (
    np.isin(one, other, assume_unique=True),
    np.isin(other, one, assume_unique=True),
  )


def _nearest(points, targets, shared) -> Float64[np.ndarray, " points"]:
  """Distance to the nearest target.

  A tree of the surface is several times faster than distance maps of the box
  around both masks, as exact, and knows shear.
  """
  distances = np.zeros(len(points))
  if len(points) and not len(targets):
    distances[:] = np.inf
  elif not shared.all():
    tree = spatial.cKDTree(targets, balanced_tree=False, compact_nodes=False)
    distances[~shared] = tree.query(points[~shared])[0]
  return distances


def _sorted(distances, areas):
  order = np.argsort(distances, kind="stable")
  return distances[order], areas[order]


def _percentile(distances, areas, percent: int | float) -> float:
  shares = np.cumsum(areas) / areas.sum()
  index = np.searchsorted(shares, percent / 100)
  return float(distances[min(index, len(distances) - 1)])


def _mean(distances, areas) -> float:
  if not distances.size:
    return math.nan
  return float((distances * areas).sum() / areas.sum())
