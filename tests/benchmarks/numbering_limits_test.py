# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Contradictions are seen, references learn, and losses add up."""

from __future__ import annotations

import importlib
import pathlib

import numpy as np
import pytest

from vf_jax.io.keypoints import read_archive
from vf_jax.train.numbering import prepare

_ROOT = pathlib.Path(__file__).parents[2]
_SAMPLE = _ROOT / "tests" / "data" / "keypoints" / "vid_sample.tar.xz"
_GAPS = {15: 24.0, 16: 26.5, 17: 27.0, 18: 30.5, 19: 31.0, 20: 34.0}


@pytest.fixture(scope="module")
def prepared():
  return prepare(read_archive(_SAMPLE))


def test_best_shift_sees_names_that_are_one_off():
  best_shift = importlib.import_module("series_truth").best_shift
  noisy = {k: v + 0.2 * (-1) ** k for k, v in _GAPS.items()}
  assert best_shift(_GAPS, noisy) == 0
  assert best_shift(_GAPS, {k + 1: v for k, v in noisy.items()}) == 1
  assert best_shift(_GAPS, {k - 1: v for k, v in noisy.items()}) == -1
  assert best_shift(_GAPS, dict.fromkeys(range(14, 22), 30.0)) is None
  assert best_shift(_GAPS, {15: 24.0, 16: 26.5}) is None  # too few


def test_logistic_finds_the_feature_that_decides():
  references = importlib.import_module("border_references")
  rng = np.random.default_rng(0)
  features = rng.normal(size=(300, 4))
  offsets = np.where(features[:, 2] > 0.5, 1, 0)
  offsets[features[:, 2] < -1] = -1
  features[::7, 0] = np.nan  # a missing value is nothing special
  share = references.logistic(features[:200], offsets[:200], features[200:])
  np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-9)
  right = share.argmax(axis=1) - 1 == offsets[200:]
  assert right.mean() > 0.9
  assert (offsets[200:] == 0).mean() < 0.7  # so the majority does not do it


def test_borders_follow_the_truth(prepared):
  references = importlib.import_module("border_references")
  found = references.borders(prepared)
  assert len(found.scans) > 5
  assert np.abs(found.offsets).max() <= 1
  assert (found.offsets == 0).mean() >= 0.5
  shown = [int((prepared[i].targets >= 0).sum()) for i in found.scans]
  np.testing.assert_array_equal(found.bodies, shown)
  # Another truth moves the border, but not what the methods are told.
  moved = [
    type(p)(p.scan, p.candidates, np.where(p.targets == 20, 18, p.targets))
    for p in prepared
  ]
  other = references.borders(moved)
  np.testing.assert_array_equal(other.features, found.features)
  assert (found.offsets - other.offsets >= 0).all()
  assert (found.offsets - other.offsets).sum() > 0


def test_losses_add_up(prepared):
  limits = importlib.import_module("numbering_limits")
  scored = [
    {"scan": p.scan.name, "true": len(p.scan.levels), "hit": 0}
    for p in prepared
  ]
  scored[0]["hit"] = scored[0]["true"] - 1
  rows = limits.losses(prepared, scored).values()
  total = {k: sum(row[k] for row in rows) for k in next(iter(rows))}
  lost = total["no candidate"] + total["shifted"] + total["other"]
  assert total["bodies"] == total["hit"] + lost
  assert total["bodies"] == sum(len(p.scan.levels) for p in prepared)
  assert total["shifted scans"] == len(prepared) - 1
  assert total["hit"] == scored[0]["hit"]
