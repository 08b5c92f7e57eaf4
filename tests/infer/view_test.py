# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Padding is told from a scan, and masks find back."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.infer.view import fill_up, find_view

MARGINS = [
  ((0, 0), (0, 0), (0, 0)),
  ((0, 0), (0, 0), (4, 0)),
  ((2, 0), (0, 3), (0, 1)),
  ((0, 7), (5, 2), (3, 6)),
]


@pytest.fixture
def scan():
  rng = np.random.default_rng(0)
  return rng.integers(-1000, 1000, (9, 8, 7)).astype(np.int16)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("slab_bytes", [1, 1 << 21])
def test_the_view_is_what_was_padded(
  scan, margins, order, slab_bytes, monkeypatch
):
  monkeypatch.setattr("vf_jax.scratch._SLAB", slab_bytes)
  padded = np.pad(scan, margins, constant_values=-2048)
  view = find_view(np.asarray(padded, order=order))
  assert view == tuple(
    slice(before, before + n) for (before, _), n in zip(margins, scan.shape)
  )
  np.testing.assert_array_equal(padded[view], scan)
  codes = np.abs(scan).astype(np.uint8)
  np.testing.assert_array_equal(
    fill_up(codes, view, padded.shape), np.pad(codes, margins)
  )


def test_sides_may_be_padded_with_different_values(scan):
  padded = np.pad(scan, ((2, 3), (0, 0), (0, 0)), constant_values=(-1, 5))
  assert find_view(padded)[0] == slice(2, 11)


def test_one_odd_voxel_makes_a_slice_part_of_the_scan(scan):
  padded = np.pad(scan, 3)
  padded[1, 5, 4] = 1
  assert find_view(padded) == (slice(1, 12), slice(3, 11), slice(3, 10))


def test_blank_slices_inside_the_scan_stay(scan):
  scan[:, :, 3] = 0
  assert find_view(scan)[2] == slice(0, 7)


def test_a_volume_of_one_value_is_left_whole():
  blank = np.zeros((3, 4, 5), np.int16)
  assert find_view(blank) == (slice(0, 3), slice(0, 4), slice(0, 5))
