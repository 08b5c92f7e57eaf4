# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Overlap of masks, one pair at a time or all labels in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy import optimize

from vf_jax.volume import bounds

LEAST_IOU = 0.1

_BLOCK = 1 << 20
_LABELS = 256


def dice(
  prediction: Bool[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*other"]
) -> float:
  """2 |P and T| / (|P| + |T|).

  Args:
    prediction: mask.
    truth: mask on the same grid.

  Returns:
    0..1; NaN if both are empty.

  Raises:
    ValueError: if the shapes differ.
  """
  if prediction.shape != truth.shape:
    raise ValueError(f"shapes {prediction.shape} and {truth.shape} differ.")
  both = np.count_nonzero(prediction & truth)
  size = np.count_nonzero(prediction) + np.count_nonzero(truth)
  return 2 * both / size if size else float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelOverlap:
  """How often each predicted label meets each true one.

  Attributes:
    counts: voxels by (predicted, true) label; background is 0.
  """

  counts: Int64[np.ndarray, "256 256"]

  @property
  def predicted(self) -> Int64[np.ndarray, " 256"]:
    """Voxels of every predicted label."""
    return self.counts.sum(axis=1)

  @property
  def true(self) -> Int64[np.ndarray, " 256"]:
    """Voxels of every true label."""
    return self.counts.sum(axis=0)

  def dice(self) -> Float64[np.ndarray, "256 256"]:
    """Dice of every predicted with every true label; NaN if both are empty."""
    size = self.predicted[:, None] + self.true[None, :]
    return 2 * self.counts / np.where(size, size, np.nan)

  def iou(self) -> Float64[np.ndarray, "256 256"]:
    """Intersection over union likewise."""
    size = self.predicted[:, None] + self.true[None, :] - self.counts
    return self.counts / np.where(size, size, np.nan)

  def spine_dice(self) -> float:
    """Dice of any label against background; NaN if both are empty."""
    both = self.counts[1:, 1:].sum()
    size = self.predicted[1:].sum() + self.true[1:].sum()
    return float(2 * both / size) if size else float("nan")

  def without_excess(self, labels: Iterable[int]) -> LabelOverlap:
    """The same with what some predicted labels say of background left out.

    Args:
      labels: predicted ones.

    Returns:
      Another overlap.
    """
    counts = self.counts.copy()
    counts[list(labels), 0] = 0
    return LabelOverlap(counts)


def label_overlap(
  prediction: UInt8[np.ndarray, "x y z"], truth: UInt8[np.ndarray, "u v w"]
) -> LabelOverlap:
  """Counts the voxels of every pair of labels in one pass.

  Args:
    prediction: labels, 0 is background.
    truth: labels on the same grid.

  Returns:
    The counts, from which Dice and IoU of all pairs follow.

  Raises:
    ValueError: if the shapes differ.
  """
  if prediction.shape != truth.shape:
    raise ValueError(f"shapes {prediction.shape} and {truth.shape} differ.")
  counts = np.zeros(_LABELS * _LABELS, np.int64)
  box = bounds((prediction != 0) | (truth != 0))
  if box is not None:
    counts += _count_pairs(prediction[box], truth[box])
  pairs = counts.reshape(_LABELS, _LABELS)
  pairs[0, 0] += prediction.size - pairs.sum()
  return LabelOverlap(pairs)


def _count_pairs(prediction, truth) -> Int64[np.ndarray, " pairs"]:
  counts = np.zeros(_LABELS * _LABELS, np.int64)
  # Walking along memory, and in blocks, since bincount widens to 8 bytes.
  axes = np.argsort([-abs(s) for s in prediction.strides], kind="stable")
  prediction, truth = prediction.transpose(axes), truth.transpose(axes)
  rows = max(1, _BLOCK // max(1, prediction[0].size))
  for start in range(0, len(prediction), rows):
    part = slice(start, start + rows)
    codes = prediction[part].astype(np.uint16) * np.uint16(_LABELS)
    codes += truth[part]
    counts += np.bincount(codes.ravel(), minlength=_LABELS * _LABELS)
  return counts


def match_instances(overlap: LabelOverlap) -> dict[int, tuple[int, float]]:
  """Pairs true with predicted instances whatever their labels say.

  One to one, so that the sum of IoU is the largest possible; pairs below
  `LEAST_IOU` are none.

  Args:
    overlap: of two masks in which each label is one instance.

  Returns:
    True label -> predicted label and their IoU; unmatched ones are missing.
  """
  true = 1 + np.flatnonzero(overlap.true[1:])
  predicted = 1 + np.flatnonzero(overlap.predicted[1:])
  iou = overlap.iou()[np.ix_(predicted, true)]
  iou = np.where(iou >= LEAST_IOU, iou, 0.0)
  rows, columns = optimize.linear_sum_assignment(iou, maximize=True)
  return {
    int(true[j]): (int(predicted[i]), float(iou[i, j]))
    for i, j in zip(rows, columns)
    if iou[i, j] > 0
  }
