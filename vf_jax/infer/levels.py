# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Levels that the image and the geometry of real spines agree on.

The network has seen few real spines; what it reads from the image is combined
with what the distances between the bodies say, by the numbering that was
trained on two thousand annotated scans (`number_keypoints`).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Float, Int

from vf_jax.data.candidates import MAX_CANDIDATES, SCORE_FLOOR, Candidates, pad
from vf_jax.infer.number_keypoints import KeypointNumberer, load_numberer
from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.keypoint_numbering import (
  KeypointBatch,
  most_right,
  scan_confidence,
)

_REGION = np.array(["CTL".index(level.name[0]) for level in VERTEBRAE])
_TINY = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Numbering:
  """Levels of the bodies of one scan.

  Attributes:
    levels: index into `VERTEBRAE`, -1 = no vertebra.
    confidence: probability of each.
    abstained: True if every level may be one off: a person should decide.
  """

  levels: Int[np.ndarray, " points"]
  confidence: Float[np.ndarray, " points"]
  abstained: bool


def decide_levels(
  shares: Float[np.ndarray, "points outcomes"],
  points_mm: Float[np.ndarray, "points 3"],
  geometry: bool = True,
  numberer: KeypointNumberer | None = None,
) -> Numbering:
  """Decides the levels of a scan.

  The geometry gets positions and how cervical, thoracic or lumbar the image
  makes each body; within a region, the image's own preference multiplies in.

  Args:
    shares: probability of each level and, last, of no vertebra, by the image.
    points_mm: body centres from head to foot, (depth, height, width), mm; depth
      grows to the head, height to the front, width to the right.
    geometry: False trusts the image alone.
    numberer: of points; that of the package if None.

  Returns:
    The levels.
  """
  count = len(points_mm)
  if not count:
    return Numbering(np.zeros(0, int), np.zeros(0), True)
  numberer = numberer or _shipped()
  if geometry and count <= MAX_CANDIDATES:
    shares = _combine(shares, points_mm, numberer)
  slots = MAX_CANDIDATES * -(-count // MAX_CANDIDATES)
  rows = np.zeros((1, slots, shares.shape[1]), np.float32)
  rows[0, :count] = shares
  rows[0, count:, -1] = 1.0
  found = _most_right()(rows, np.arange(slots)[None] < count)
  levels, confidence = (np.asarray(x)[0, :count] for x in found)
  sure = scan_confidence(confidence[levels >= 0])
  return Numbering(
    levels.astype(int), confidence.astype(float), sure < numberer.threshold
  )


def _combine(shares, points_mm, numberer) -> Float[np.ndarray, "points states"]:
  """Product of what the geometry and, within regions, the image say."""
  image, rejected = shares[:, :-1], shares[:, -1:]
  region = np.stack(
    [image[:, _REGION == r].sum(axis=1) for r in range(3)], axis=1
  )
  odds = np.clip(region / (region.sum(axis=1, keepdims=True) + _TINY),
                 SCORE_FLOOR, 1 - SCORE_FLOOR)  # fmt: skip
  depth, height, width = points_mm.T
  count = len(points_mm)
  candidates = Candidates(
    points=np.stack([-width, -height, depth], axis=1).astype(np.float64),
    pedicles=np.zeros((count, 2, 3)),
    paired=np.zeros((count, 2), bool),
    scores=np.log(odds / (1 - odds)).astype(np.float64),
    made=np.zeros(count, bool),
  )
  batch = KeypointBatch(**pad([candidates], MAX_CANDIDATES))
  spine = numberer.shares(batch)[0, :count, :-1]
  within = image / (region[:, _REGION] + _TINY)
  both = (spine + _TINY) * (within + 1e-3)
  both *= (1 - rejected) / both.sum(axis=1, keepdims=True)
  return np.concatenate([both, rejected], axis=1)


@functools.cache
def _shipped() -> KeypointNumberer:
  return load_numberer()


@functools.cache
def _most_right():
  return jax.jit(most_right)
