# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Features at body centres: the right voxel, whatever shares its window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vf_jax.infer.evidence import SLOTS, gather_evidence, group_centres

CROP = (32, 16, 16)


@st.composite
def spines(draw):
  """Whole voxels of an image, from head to foot."""
  # Small edges, so that bodies share windows.
  shape = [draw(st.integers(4, 10) | st.integers(4, 90)) for _ in range(3)]
  count = draw(st.integers(1, 12))
  places = [
    [draw(st.integers(0, edge - 1)) for edge in shape] for _ in range(count)
  ]
  return shape, np.array(sorted(places, reverse=True), float)


def look(block, points, mask):
  """Number of the voxel under each real point; -1 for the others."""
  place = points.astype(int)
  rows = np.arange(len(block))[:, None]
  seen = block[rows, place[..., 0], place[..., 1], place[..., 2]]
  return np.where(mask, seen, -1)[..., None].astype(np.float32)


@given(spines(), st.integers(1, 3), st.integers(1, 2))
def test_every_centre_is_read_where_it_lies(spine, batch, in_flight):
  shape, centres = spine
  image = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % 30_011
  image = image.astype(np.int16)

  found = gather_evidence(image, centres, look, CROP, batch, in_flight)

  want = image[tuple(centres.astype(int).T)]
  np.testing.assert_array_equal(found[:, 0], want)


@given(spines())
def test_groups_are_runs_of_near_neighbours(spine):
  _, centres = spine

  groups = group_centres(centres, CROP)

  places = [range(group.start, group.stop) for group in groups]
  assert [i for place in places for i in place] == list(range(len(centres)))
  for group in groups:
    assert group.stop - group.start <= SLOTS
    assert (np.ptp(centres[group], axis=0) <= np.array(CROP) / 4).all()


def test_windows_hold_as_many_bodies_as_fit():
  # 11 voxels of 2 mm apart, as in a chest: three lie within a quarter of 96.
  centres = np.zeros((7, 3))
  centres[:, 0] = np.arange(7)[::-1] * 11

  groups = group_centres(centres, (96, 96, 96))

  assert groups == [slice(0, 3), slice(3, 6), slice(6, 7)]


def test_a_window_has_room_for_few_bodies():
  centres = np.zeros((SLOTS + 1, 3))

  groups = group_centres(centres, (96, 96, 96))

  assert groups == [slice(0, SLOTS), slice(SLOTS, SLOTS + 1)]


@pytest.mark.parametrize("count", [1, 4])
def test_bodies_lie_around_the_middle_of_their_window(count):
  centres = np.full((count, 3), 50.0)
  centres[:, 0] += np.arange(count)[::-1] * 2
  seen = []

  def keep(block, points, mask):
    seen.append(points[mask])
    return np.zeros((*mask.shape, 1), np.float32)

  gather_evidence(np.zeros((100,) * 3, np.int16), centres, keep, CROP, 1, 1)

  (points,) = seen
  middle = (points.min(axis=0) + points.max(axis=0)) / 2
  np.testing.assert_allclose(middle, np.array(CROP) / 2, atol=0.5)
