# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Lesion boxes: average precision, FROC, precision and recall.

Detections of each scan are matched to its lesions alone; a `Pool` then holds
what counting over scans needs. All curves are computed for many weightings of
the scans at once: ones give the plain result, the multiplicities of a resample
its bootstrap replicate, ones without a patient its jackknife value.

Source: `nndet/evaluator/detection/{coco,froc,matching}.py` of nnDetection,
which `monai.apps.detection.metrics` and COCO share. Unlike there, scans
without any prediction count, and without a lesion in the truth every rate is
NaN instead of -1 or 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int64, Num

AP_IOU = 0.1
NEAR_MM = 10.0
MOST_PER_SCAN = 100
FROC_POINTS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives a scan at which sensitivity is read."""

_RECALL_POINTS = np.linspace(0, 1, 101)
_CHUNK = 1 << 15  # elements of a work array, so that all stay in the cache

Weights = Num[np.ndarray, "replicates scans"]


def box_iou(
  first: Float64[np.ndarray, "n 2 3"], second: Float64[np.ndarray, "m 2 3"]
) -> Float64[np.ndarray, "n m"]:
  """Intersection over union of axis-aligned boxes.

  Args:
    first: lower and upper corner of each box, mm.
    second: likewise.

  Returns:
    By pair, 0..1.
  """
  low = np.maximum(first[:, None, 0], second[None, :, 0])
  high = np.minimum(first[:, None, 1], second[None, :, 1])
  both = np.clip(high - low, 0, None).prod(axis=2)
  size = (first[:, 1] - first[:, 0]).prod(axis=1)[:, None]
  other = (second[:, 1] - second[:, 0]).prod(axis=1)[None, :]
  return both / (size + other - both)


def centre_nearness(
  first: Float64[np.ndarray, "n 2 3"], second: Float64[np.ndarray, "m 2 3"]
) -> Float64[np.ndarray, "n m"]:
  """Minus the distance of centres: the larger, the better, as with IoU.

  One voxel of shift takes all IoU from a lesion of four; its centre stays.

  Args:
    first: lower and upper corner of each box, mm.
    second: likewise.

  Returns:
    By pair, mm, 0 or less.
  """
  apart = first.mean(axis=1)[:, None] - second.mean(axis=1)[None, :]
  return -np.linalg.norm(apart, axis=2)


def match_scan(
  scores: Float64[np.ndarray, " detections"],
  similarity: Float64[np.ndarray, "detections lesions"],
  least: int | float,
) -> Bool[np.ndarray, " detections"]:
  """Tells which detections of a scan are right.

  Greedy: by falling score each takes the best lesion that is still free, of
  equally good ones the last. A second detection of a lesion is wrong.

  Args:
    scores: sorted, falling.
    similarity: `box_iou` or `centre_nearness`.
    least: similarity that a match needs.

  Returns:
    True for each detection that found a lesion.
  """
  least = min(least, 1 - 1e-10)  # an IoU of 1 may come out a little less
  right = np.zeros(len(scores), bool)
  free = np.ones(similarity.shape[1], bool)
  for number, row in enumerate(similarity):
    open_to = np.flatnonzero(free & (row >= least))
    if open_to.size:
      best = open_to[np.flatnonzero(row[open_to] == row[open_to].max())[-1]]
      free[best] = False
      right[number] = True
  return right


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """Matched detections of all scans by falling score.

  Attributes:
    scores: of every detection, falling.
    right: whether it found a lesion.
    scan: index of its scan.
    lesions: true lesions of every scan.
  """

  scores: Float64[np.ndarray, " detections"]
  right: Bool[np.ndarray, " detections"]
  scan: Int64[np.ndarray, " detections"]
  lesions: Int64[np.ndarray, " scans"]

  def ones(self) -> Weights:
    """The weighting that counts every scan once."""
    return np.ones((1, len(self.lesions)))


def pool_scans(
  scans: Sequence[
    tuple[Float64[np.ndarray, " _"], Bool[np.ndarray, " _"], int]
  ],
) -> Pool:
  """Joins scans.

  Args:
    scans: scores, whether right, and number of true lesions of each.

  Returns:
    The pool; equal scores keep the order of the scans.
  """
  sizes = [len(scores) for scores, _, _ in scans]
  scores = np.concatenate([np.zeros(0), *(s for s, _, _ in scans)])
  right = np.concatenate([np.zeros(0, bool), *(r for _, r, _ in scans)])
  order = np.argsort(-scores, kind="stable")
  return Pool(
    scores[order],
    right[order],
    np.repeat(np.arange(len(scans)), sizes)[order],
    np.array([count for _, _, count in scans], np.int64),
  )


def average_precision(
  pool: Pool, weights: Weights
) -> Float64[np.ndarray, " replicates"]:
  """AP: precision, made monotone, read at recall 0, 0.01 ... 1, and averaged.

  Args:
    pool: matched detections.
    weights: how often each scan counts.

  Returns:
    0..1 for each weighting; NaN without a lesion.
  """
  # Precision only falls between two right detections, so that the curve and
  # its envelope are known from its values at the right ones.
  # Lists run from the lowest score up, as the envelope does.
  at = np.flatnonzero(pool.right)
  of_hits, of_seen = (table[:, ::-1] for table in _tables(pool, at))

  def read(weights):
    lesions = (weights @ pool.lesions.astype(np.float32)).astype(np.float64)
    hits = (weights @ of_hits).astype(np.float64)
    seen = (weights @ of_seen).astype(np.float64)
    envelope = hits / np.maximum(seen, 1, out=seen)
    np.maximum.accumulate(envelope, axis=1, out=envelope)
    hits /= np.maximum(lesions, 1)[:, None]
    gained = _recall_points_up_to(hits)
    gained[:, :-1] -= gained[:, 1:]
    total = np.einsum("rt,rt->r", envelope, gained) / len(_RECALL_POINTS)
    return np.where(lesions > 0, total, np.nan)

  return _in_chunks(read, weights, len(at))


def _recall_points_up_to(
  recall: Float64[np.ndarray, "replicates right"],
) -> Float64[np.ndarray, "replicates right"]:
  """How many of the 101 points each recall has reached.

  Equal to `searchsorted(points, recall, 'right')` to the last bit: points and
  recalls are rounded differently, 0.57 does not reach point 57.
  """
  last = len(_RECALL_POINTS) - 1
  # Points are whole multiples of one number, rounded once: so are these.
  below = np.floor(recall * last + 1e-9)
  return below + (below * _RECALL_POINTS[1] <= recall)


def froc(
  pool: Pool,
  weights: Weights,
  points: Sequence[int | float] = FROC_POINTS,
) -> Float64[np.ndarray, "replicates points"]:
  """Sensitivity at given false positives per scan.

  Between two thresholds the curve is a straight line, beyond the last it is
  flat.

  Args:
    pool: matched detections.
    weights: how often each scan counts.
    points: false positives per scan.

  Returns:
    0..1 by weighting and point; NaN without a lesion. Its mean is the score.
  """
  # Detections of equal score lie on one side of every threshold.
  ends = np.flatnonzero(np.diff(pool.scores, append=-np.inf))
  of_hits, of_seen = _tables(pool, ends)

  def read(weights):
    hits = (weights @ of_hits).astype(np.float64)
    seen = (weights @ of_seen).astype(np.float64)
    start = np.zeros((len(weights), 1))
    hits = np.concatenate([start, hits], axis=1)
    wrong = np.concatenate([start, seen], axis=1) - hits
    scans = weights.sum(axis=1, keepdims=True).astype(np.float64)
    lesions = (weights @ pool.lesions.astype(np.float32)).astype(np.float64)
    found = np.stack(
      [_interpolate(point * scans, wrong, hits) for point in points], axis=1
    )
    return found / np.where(lesions > 0, lesions, np.nan)[:, None]

  return _in_chunks(read, weights, len(ends) + 1)


def _interpolate(at, xs, ys):
  """`np.interp` for every row; of equal xs the last counts."""
  rows = np.arange(len(xs))
  left = (xs <= at).sum(axis=1) - 1
  right = np.minimum(left + 1, xs.shape[1] - 1)
  x0, x1 = xs[rows, left], xs[rows, right]
  y0, y1 = ys[rows, left], ys[rows, right]
  part = (at[:, 0] - x0) / np.where(x1 > x0, x1 - x0, np.inf)
  return y0 + part * (y1 - y0)


def precision_recall(
  pool: Pool, weights: Weights, least_score: int | float
) -> tuple[
  Float64[np.ndarray, " replicates"], Float64[np.ndarray, " replicates"]
]:
  """Precision and recall of the detections above a score.

  Args:
    pool: matched detections.
    weights: how often each scan counts.
    least_score: the operating point.

  Returns:
    Precision, NaN without a detection, and recall, NaN without a lesion.
  """
  kept = pool.scores >= least_score
  size = len(pool.lesions)
  seen = weights @ np.bincount(pool.scan[kept], minlength=size)
  hits = weights @ np.bincount(pool.scan[kept & pool.right], minlength=size)
  lesions = weights @ pool.lesions
  return (
    hits / np.where(seen > 0, seen, np.nan),
    hits / np.where(lesions > 0, lesions, np.nan),
  )


def _tables(
  pool: Pool, ends: Int[np.ndarray, " ends"]
) -> list[Float32[np.ndarray, "scans ends"]]:
  """Right and all detections of each scan down to each of some places.

  Weights times these count over scans. Whole numbers below 2^24 are exact in
  single precision, whose products are twice as fast.
  """
  size = len(pool.lesions), len(ends)
  # The first of `ends` at or below each detection; the rest is seen by none.
  slot = np.searchsorted(ends, np.arange(len(pool.scores)))
  inside = slot < len(ends)
  counted = []
  for kept in (inside & pool.right, inside):
    table = np.zeros(size, np.float32)
    np.add.at(table, (pool.scan[kept], slot[kept]), 1)
    counted.append(np.cumsum(table, axis=1))
  return counted


def _in_chunks(read, weights: Weights, width: int):
  """Keeps the work arrays small whatever the number of replicates."""
  rows = max(1, _CHUNK // max(1, width))
  weights = np.asarray(weights, np.float32)
  return np.concatenate(
    [read(weights[i : i + rows]) for i in range(0, len(weights), rows)]
  )
