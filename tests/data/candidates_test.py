# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Bodies get their pedicles, lonely pedicles a body, and order is nothing."""

from __future__ import annotations

import pathlib

import numpy as np

from vf_jax.data.candidates import (
  MAX_CANDIDATES,
  Candidates,
  find_candidates,
  match,
  pad,
)
from vf_jax.io.keypoints import BODY, LEFT, RIGHT, Keypoints, read_archive

SAMPLE = pathlib.Path(__file__).parent / "keypoints" / "vid_sample.tar.xz"
_SIDES = {LEFT: (15.0, 23.0, 3.0), RIGHT: (-15.0, 23.0, 3.0)}


def _keypoints(rows):
  points = np.array([place for place, _, _ in rows], float).reshape(-1, 3)
  scores = np.array([score for _, _, score in rows], float).reshape(-1, 3)
  return Keypoints(points, np.array([kind for _, kind, _ in rows], int), scores)


def _vertebra(z, parts=(BODY, LEFT, RIGHT)):
  unknown = [np.nan] * 3
  rows = []
  for kind in parts:
    offset = _SIDES.get(kind, (0.0, 0.0, 0.0))
    scores = [0.1, 0.2, 0.9] if kind == BODY else unknown
    rows.append((np.add((0, 0, z), offset), kind, scores))
  return rows


def test_a_cut_body_is_placed_by_its_pedicles():
  rows = _vertebra(60, (LEFT, RIGHT)) + _vertebra(30) + _vertebra(0, (BODY,))
  found = find_candidates(_keypoints(rows))
  np.testing.assert_allclose(found.points[:, 2], [60, 30, 0], atol=1e-9)
  np.testing.assert_allclose(found.points[:, :2], 0, atol=1e-9)
  assert found.made.tolist() == [True, False, False]
  assert found.paired.tolist() == [[True] * 2, [True] * 2, [False] * 2]
  assert (found.scores[0] == 0).all()


def test_one_pedicle_is_enough():
  found = find_candidates(_keypoints(_vertebra(30, (RIGHT,)) + _vertebra(0)))
  np.testing.assert_allclose(found.points, [[0, 0, 30], [0, 0, 0]], atol=1e-9)
  assert found.paired[0].tolist() == [False, True]


def test_order_of_points_is_nothing():
  rng = np.random.default_rng(0)
  for scan in read_archive(SAMPLE):
    once = find_candidates(scan.detected)
    index = rng.permutation(len(scan.detected.points))
    seen = scan.detected
    mixed = Keypoints(seen.points[index], seen.kinds[index], seen.scores[index])
    again = find_candidates(mixed)
    for name in ("points", "pedicles", "paired", "scores", "made"):
      np.testing.assert_array_equal(getattr(once, name), getattr(again, name))


def test_doubled_and_far_too_many_points():
  many = [row for z in range(0, 3000, 30) for row in _vertebra(z)]
  found = find_candidates(_keypoints(many + many))
  assert len(found) == MAX_CANDIDATES
  assert not found.made.any()
  assert (np.diff(found.points[:, 2]) < 0).all()
  assert len(find_candidates(_keypoints(many[:6] * 3))) == 2
  assert len(find_candidates(_keypoints([]))) == 0


def test_truth_goes_to_one_candidate_and_rather_a_detected_one():
  points = np.array([[0, 0, 30], [0, 0, 0], [0, 0, -1.0], [0, 0, -60]])
  made = np.array([False, True, False, False])
  candidates = Candidates(
    points, np.zeros((4, 2, 3)), np.zeros((4, 2), bool), np.zeros((4, 3)), made
  )
  bodies = np.array([[0, 0, 32.0], [0, 0, 0], [0, 0, -90]])
  target = match(candidates, np.array([3, 4, 5]), bodies)
  assert target.tolist() == [3, -1, 4, -1]


def test_padding_keeps_every_field():
  scans = [find_candidates(s.detected) for s in read_archive(SAMPLE)]
  targets = [np.arange(len(scan)) for scan in scans]
  out = pad(scans, MAX_CANDIDATES, targets)
  assert out["mask"].sum(axis=1).tolist() == [len(scan) for scan in scans]
  for row, scan in enumerate(scans):
    own = slice(0, len(scan))
    np.testing.assert_allclose(
      np.diff(out["points"][row, own], axis=0),
      np.diff(scan.points, axis=0),
      atol=1e-3,
    )
    assert out["targets"][row, own].tolist() == list(range(len(scan)))
    assert (out["targets"][row, len(scan) :] == -1).all()
