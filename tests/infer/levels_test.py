# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Levels come from the image and from the geometry of spines together."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.infer.levels import decide_levels
from vf_jax.labels import BY_NAME, VERTEBRAE

_NAMES = [level.name for level in VERTEBRAE]
_LUMBAR = ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")


def _points(count):
  """A straight spine whose bodies grow towards the feet, mm."""
  gaps = np.linspace(26.0, 38.0, count - 1)
  depth = np.concatenate([[0.0], -np.cumsum(gaps)])
  return np.stack([depth, np.zeros(count), np.zeros(count)], axis=1)


def _shares(rows):
  """Probabilities from one dict of level -> share for each body."""
  out = np.full((len(rows), len(VERTEBRAE) + 1), 1e-6)
  for row, known in zip(out, rows, strict=True):
    for name, share in known.items():
      row[_NAMES.index(name)] = share
  return out / out.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("geometry", [True, False])
def test_a_sure_image_decides(geometry):
  shares = _shares([{name: 1.0} for name in _LUMBAR])
  found = decide_levels(shares, _points(8), geometry)
  assert [_NAMES[i] for i in found.levels] == list(_LUMBAR)
  assert found.confidence.min() > 0.9
  assert not found.abstained


def test_doubt_of_the_image_is_settled_by_geometry_or_admitted():
  below = ("T11", "T12", "L1", "L2", "L3", "L4", "L5", "L6")
  rows = [{a: 0.5, b: 0.5} for a, b in zip(_LUMBAR, below, strict=True)]
  alone = decide_levels(_shares(rows), _points(8), geometry=False)
  assert alone.abstained
  both = decide_levels(_shares(rows), _points(8))
  # L6 is rare: the geometry knows, the image of this test does not.
  assert [_NAMES[i] for i in both.levels] == list(_LUMBAR)
  assert both.confidence.mean() > alone.confidence.mean()


def test_what_is_no_vertebra_stays_none():
  shares = _shares([{name: 1.0} for name in _LUMBAR])
  shares[3] = 0.0
  shares[3, -1] = 1.0
  found = decide_levels(shares, _points(8))
  assert found.levels[3] == -1
  assert (np.delete(found.levels, 3) >= 0).all()


def test_no_body_is_no_numbering():
  found = decide_levels(np.zeros((0, len(VERTEBRAE) + 1)), np.zeros((0, 3)))
  assert found.levels.shape == found.confidence.shape == (0,)
  assert found.abstained


def test_more_bodies_than_the_geometry_takes():
  shares = _shares([{name: 1.0} for name in _NAMES if name != "T13"])
  false = np.zeros((30, shares.shape[1]))
  false[:, -1] = 1.0
  rows = np.concatenate([shares, false])
  points = np.zeros((len(rows), 3))
  points[:, 0] = -10.0 * np.arange(len(rows))
  found = decide_levels(rows, points)
  assert (found.levels >= 0).sum() == len(shares)
  assert found.levels[0] == _NAMES.index(BY_NAME["C1"].name)
