# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From detected points to the candidates that are numbered.

A candidate is a detected body with the pedicles that belong to it, or a body
that only its pedicles speak of: at the end of a scan a body is often cut while
its pedicles are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment

from vf_jax.io.keypoints import BODY, LEFT, RIGHT, Keypoints

MAX_CANDIDATES = 40
MATCH_MM = 20.0  # a body nearer than this to a true one may be it (VID)

# Body to left and right pedicle, DICOM world: mean of VID is 15, 23, 3 mm.
_TO_PEDICLE = np.array([[15.0, 23.0, 3.0], [-15.0, 23.0, 3.0]])
_PEDICLE_MM = 25.0  # from where the pedicle is expected
_WIDTH_MM = np.array([28.0, 0.0, 0.0])  # right to left pedicle of a vertebra
_PAIR_MM = 20.0  # how far a pair may differ from that
_SAME_MM = 3.0  # two detections nearer than this are one
_OWN_MM = 8.0  # pedicles of a body that was detected itself
_FLOOR = 1e-3  # scores beyond it say no more


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
  """Possible bodies of one scan, from head to foot.

  Attributes:
    points: of the bodies, DICOM world, mm.
    pedicles: vectors from the body to its left and right pedicle; 0 if none.
    paired: which pedicles it has.
    scores: logits of cervical, thoracic, lumbar; 0 if the detector gave none.
    made: True for a body that was not detected itself.
  """

  points: Float64[np.ndarray, "points 3"]
  pedicles: Float64[np.ndarray, "points 2 3"]
  paired: Bool[np.ndarray, "points 2"]
  scores: Float64[np.ndarray, "points 3"]
  made: Bool[np.ndarray, " points"]

  def __len__(self) -> int:
    return len(self.points)

  def take(self, index: Int64[np.ndarray, " n"]) -> Candidates:
    """Takes some of the candidates.

    Args:
      index: of those wanted.

    Returns:
      The candidates in the order of the index.
    """
    return Candidates(
      **{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)}
    )


def find_candidates(keypoints: Keypoints) -> Candidates:
  """Finds the possible bodies of a scan.

  The order of the points does not matter.

  Args:
    keypoints: what was detected.

  Returns:
    At most `MAX_CANDIDATES`: beyond that, detected bodies go before others and
    surer ones before less sure ones.
  """
  bodies, logits = _bodies(keypoints)
  vectors = np.zeros((len(bodies), 2, 3))
  paired = np.zeros((len(bodies), 2), bool)
  lonely = []
  for side, kind in enumerate((LEFT, RIGHT)):
    points = keypoints.points[keypoints.kinds == kind]
    points = points[_distinct(points, _canonical(points))]
    owner = _assign(bodies + _TO_PEDICLE[side], points, _PEDICLE_MM)
    for body, point in owner:
      vectors[body, side] = points[point] - bodies[body]
      paired[body, side] = True
    lonely.append(np.delete(points, [point for _, point in owner], axis=0))
  rows = _bodies_of_pedicles(bodies, vectors, paired, lonely[0], lonely[1])
  extra = len(rows)
  made = Candidates(
    points=np.array([row[0] for row in rows]).reshape(-1, 3),
    pedicles=np.array([row[1] for row in rows]).reshape(-1, 2, 3),
    paired=np.array([row[2] for row in rows], bool).reshape(-1, 2),
    scores=np.zeros((extra, 3)),
    made=np.ones(extra, bool),
  )
  every = Candidates(
    points=np.concatenate([bodies, made.points]),
    pedicles=np.concatenate([vectors, made.pedicles]),
    paired=np.concatenate([paired, made.paired]),
    scores=np.concatenate([logits, made.scores]),
    made=np.concatenate([np.zeros(len(bodies), bool), made.made]),
  )
  if len(every) > MAX_CANDIDATES:
    rank = np.lexsort((-every.scores.max(axis=1), every.made))
    every = every.take(np.sort(rank[:MAX_CANDIDATES]))
  return every.take(_canonical(every.points))


def match(
  candidates: Candidates,
  levels: Int64[np.ndarray, " bodies"],
  bodies: Float64[np.ndarray, "bodies 3"],
) -> Int64[np.ndarray, " points"]:
  """Gives candidates the levels of true bodies, one to one.

  Args:
    candidates: of a scan.
    levels: of its true bodies.
    bodies: their positions.

  Returns:
    A level each, -1 for a false one; as many within `MATCH_MM` as possible,
    then the nearest, and a detected body rather than a made one.
  """
  target = np.full(len(candidates), -1, np.int64)
  apart = _apart(candidates.points, bodies)
  cost = apart + 3.0 * candidates.made[:, None]
  for candidate, body in _cheapest(cost, apart <= MATCH_MM):
    target[candidate] = levels[body]
  return target


def pad(
  scans: Sequence[Candidates],
  length: int,
  targets: Sequence[Int64[np.ndarray, " _"]] | None = None,
) -> dict[str, np.ndarray]:
  """Stacks scans into arrays of one shape, positions from each scan's middle.

  Args:
    scans: none longer than `length`.
    length: points of a row.
    targets: levels of the candidates.

  Returns:
    The fields of `KeypointBatch`.
  """
  count = len(scans)
  out = {
    "points": np.zeros((count, length, 3), np.float32),
    "pedicles": np.zeros((count, length, 2, 3), np.float32),
    "paired": np.zeros((count, length, 2), np.float32),
    "scores": np.zeros((count, length, 3), np.float32),
    "made": np.zeros((count, length), np.float32),
    "mask": np.zeros((count, length), bool),
    "targets": np.full((count, length), -1, np.int32),
  }
  for row, scan in enumerate(scans):
    own = slice(0, len(scan))
    if not len(scan):
      continue
    out["points"][row, own] = scan.points - scan.points.mean(axis=0)
    out["pedicles"][row, own] = scan.pedicles
    out["paired"][row, own] = scan.paired
    out["scores"][row, own] = scan.scores
    out["made"][row, own] = scan.made
    out["mask"][row, own] = True
    if targets is not None:
      out["targets"][row, own] = targets[row]
  return out


def _canonical(points: Float64[np.ndarray, "points 3"]) -> np.ndarray:
  """From head to foot; ties by y, then x, so that input order is nothing."""
  return np.lexsort((points[:, 0], points[:, 1], -points[:, 2]))


def _distinct(
  points: Float64[np.ndarray, "points 3"], order: np.ndarray
) -> Int64[np.ndarray, " kept"]:
  """Points that none earlier in the order is the same as."""
  kept: list[int] = []
  for i in order:
    if _apart(points[[i]], points[kept]).min(initial=np.inf) > _SAME_MM:
      kept.append(int(i))
  return np.array(kept, np.int64)


def _bodies(
  keypoints: Keypoints,
) -> tuple[Float64[np.ndarray, "points 3"], Float64[np.ndarray, "points 3"]]:
  """Detected bodies and their logits, doubled detections merged."""
  own = keypoints.kinds == BODY
  points, scores = keypoints.points[own], keypoints.scores[own]
  sure = np.clip(scores, _FLOOR, 1 - _FLOOR)
  logits = np.nan_to_num(np.log(sure) - np.log1p(-sure))
  best = -logits.max(axis=1, initial=-np.inf)
  order = np.lexsort((points[:, 0], points[:, 1], -points[:, 2], best))
  index = _distinct(points, order)
  index = index[_canonical(points[index])]
  return points[index], logits[index]


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.linalg.norm(a[:, None] - b[None], axis=-1)


def _assign(a: np.ndarray, b: np.ndarray, limit: float) -> list:
  """Pairs of points of two sets, one to one, none further than `limit`."""
  apart = _apart(a, b)
  return _cheapest(apart, apart <= limit)


def _cheapest(cost: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
  """The most pairs that are allowed, at the least cost."""
  rows, columns = linear_sum_assignment(np.where(allowed, cost - 1e3, 0.0))
  pairs = zip(rows.tolist(), columns.tolist())
  return [(i, j) for i, j in pairs if allowed[i, j]]


def _bodies_of_pedicles(bodies, vectors, paired, left, right) -> list:
  """Bodies where pedicles are that no body owns: position, vectors, sides."""

  def place(point, side):
    """Body of a pedicle, by what its neighbours look like."""
    own = np.flatnonzero(paired[:, side])
    if not len(own):
      return point - _TO_PEDICLE[side]
    near = np.argsort(np.abs(bodies[own, 2] - point[2]), kind="stable")[:2]
    return point - vectors[own[near], side].mean(axis=0)

  rows: list[tuple[Any, Any, list[bool]]] = []
  pairs = _assign(left, right + _WIDTH_MM, _PAIR_MM)
  for i, j in pairs:
    body = (place(left[i], 0) + place(right[j], 1)) / 2
    rows.append((body, [left[i] - body, right[j] - body], [True, True]))
  for side, points, used in (
    (0, left, {i for i, _ in pairs}),
    (1, right, {j for _, j in pairs}),
  ):
    for i in sorted(set(range(len(points))) - used):
      body = place(points[i], side)
      vector = np.zeros((2, 3))
      vector[side] = points[i] - body
      rows.append((body, vector, [side == 0, side == 1]))
  return [
    row
    for row in rows
    if _apart(row[0][None], bodies).min(initial=np.inf) > _OWN_MM
  ]
