# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Pairs of masks and detections that tests and golden values share."""

from __future__ import annotations

import numpy as np


def ellipsoid(shape, spacing, centre, radii):
  """Voxels within an ellipsoid; centre in voxels, radii in mm."""
  places = np.indices(shape, float)
  parts = [
    ((p - c) * s / r) ** 2 for p, c, s, r in zip(places, centre, spacing, radii)
  ]
  return sum(parts) <= 1


def golden_pair():
  """Golden 1 of the reference: prediction, truth, spacing."""
  shape, spacing = (40, 40, 20), (0.8, 0.8, 2.0)
  truth = ellipsoid(shape, spacing, (20, 20, 10), (10, 8, 9))
  prediction = ellipsoid(shape, spacing, (21, 19, 10.5), (10, 8, 10))
  prediction[5:7, 5:7, 3:5] = True
  return prediction, truth, spacing


def surface_pairs():
  """Name -> prediction, truth, spacing."""
  pairs = {"golden": golden_pair()}
  shape = (24, 30, 18)
  for name, spacing in (
    ("cubic", (1.0, 1.0, 1.0)),
    ("thick", (0.5, 0.5, 3.0)),
    ("odd", (1.3, 0.7, 2.1)),
  ):
    middle = np.array(shape) / 2
    radii = np.array(shape) * spacing / 3
    truth = ellipsoid(shape, spacing, middle, radii)
    away = middle + np.array([1, -2, 1])
    prediction = ellipsoid(shape, spacing, away, radii * 0.9)
    # Holes, specks and steps, so that every code of a cell occurs.
    random = np.random.default_rng(7)
    prediction ^= random.random(shape) < 0.03
    pairs[name] = prediction, truth, spacing
  # What ends at the border of the array is closed there.
  border = np.zeros((8, 9, 10), bool)
  border[:4, 2:, :] = True
  pairs["border"] = border, np.roll(border, 2, axis=0), (1.0, 2.0, 0.5)
  one, other = np.zeros((2, 24, 20, 20), bool)
  one[13, 10, 10] = other[10, 10, 10] = True
  pairs["single"] = one, other, (0.8, 0.8, 2.0)
  # Voxels so small that it hardly matters where in them the surface lies.
  shape, spacing = (60, 56, 58), (0.5, 0.5, 0.5)
  truth = ellipsoid(shape, spacing, (30, 28, 29), (11, 9, 10))
  prediction = ellipsoid(shape, spacing, (34, 25, 31), (10.2, 8.4, 9.3))
  pairs["smooth"] = prediction, truth, spacing
  return pairs


def golden_scans():
  """Golden 3: scores, detections and lesions of three scans, x1y1z1x2y2z2."""
  detections = [
    [[11, 11, 11, 21, 21, 21], [10, 10, 10, 14, 14, 14],
     [60, 60, 60, 70, 70, 70]],
    [[12, 5, 5, 22, 15, 15]],
    [[1, 1, 1, 4, 4, 4]],
  ]  # fmt: skip
  lesions = [
    [[10, 10, 10, 20, 20, 20], [40, 40, 40, 46, 46, 46]],
    [[5, 5, 5, 15, 15, 15]],
    [],
  ]
  scores = [[0.9, 0.8, 0.6], [0.7], [0.75]]
  return [
    (np.array(s), as_boxes(d), as_boxes(t))
    for s, d, t in zip(scores, detections, lesions)
  ]


def random_scans(count, seed):
  """Scans with lesions found, missed and invented; scores differ."""
  random = np.random.default_rng(seed)
  scans = []
  for _ in range(count):
    corner = random.uniform(0, 200, (random.integers(0, 5), 3))
    size = random.uniform(5, 30, corner.shape)
    truth = np.concatenate([corner, corner + size], axis=1)
    near = truth + random.normal(0, 3, truth.shape)
    near = near[random.random(len(near)) < 0.8]
    low = random.uniform(0, 200, (random.integers(0, 6), 3))
    wrong = np.concatenate([low, low + 15], axis=1)
    found = np.concatenate([near, near[:1] + 1, wrong])
    found[:, 3:] = np.maximum(found[:, 3:], found[:, :3] + 1)
    scores = random.random(len(found))
    scores[: len(near)] = np.sqrt(scores[: len(near)])
    order = np.argsort(-scores)
    scans.append((scores[order], as_boxes(found[order]), as_boxes(truth)))
  return scans


def as_boxes(rows):
  """Rows of x1 y1 z1 x2 y2 z2 to corners."""
  return np.array(rows, np.float64).reshape(-1, 2, 3)
