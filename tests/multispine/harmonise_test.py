# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from drawn_spine import SPACING, make_loaded, run

from vf_jax.labels import BY_NAME, IGNORE
from vf_jax.multispine.harmonise import ignore_unannotated_ends
from vf_jax.volume import to_network


def _code(name):
  return BY_NAME[name].code


def _network(loaded):
  """Labels (depth, height, width) and centres in their voxels."""
  labels = np.ascontiguousarray(to_network(loaded.labels.voxels))
  points = np.array(list(loaded.centres.values()))
  voxels = loaded.labels.grid.to_voxel(points)[:, ::-1].tolist()
  return labels, dict(zip(loaded.centres, map(tuple, voxels), strict=True))


def _cut(codes, hidden, above=20.0, below=20.0):
  """A scan whose level `hidden` is there but not annotated; what it covers."""
  loaded = make_loaded(codes, image=False, above_mm=above, below_mm=below)
  labels, centres = _network(loaded)
  covered = labels == hidden
  labels[covered] = 0
  del centres[hidden]
  return labels, centres, covered


@pytest.mark.parametrize(
  ("codes", "hidden", "end", "room"),
  [
    (run("T8", "L2"), "T8", "top", {"above": 4.0}),
    (run("T10", "L2"), "L2", "bottom", {"below": 4.0}),
    (run("C1", "C7"), "C1", "top", {"above": 4.0}),
    (run("L1", "L5"), "L5", "bottom", {}),
  ],
)
def test_the_unannotated_neighbour_becomes_unknown(codes, hidden, end, room):
  labels, centres, covered = _cut(codes, _code(hidden), **room)
  marked, ends = ignore_unannotated_ends(labels, SPACING, centres)
  (found,) = [e for e in ends if e.end == end]
  assert found.next == hidden
  assert not found.whole
  assert (marked[covered] == IGNORE).mean() > 0.98
  # Nothing annotated changes, and nothing else is invented.
  np.testing.assert_array_equal(marked[labels > 0], labels[labels > 0])
  assert set(np.unique(marked[labels == 0])) == {0, IGNORE}
  # The middle of the spine is left alone.
  middle = list(centres.values())[len(centres) // 2]
  assert (marked[round(middle[0])] != IGNORE).all()


def test_known_ends_stay_as_they_are():
  for codes in (run("C1", "C4"), run("L2", "L5")):
    labels, centres = _network(make_loaded(codes, image=False))
    marked, ends = ignore_unannotated_ends(labels, SPACING, centres)
    known = "top" if _code("C1") in codes else "bottom"
    assert known not in {end.end for end in ends}
    half = marked[marked.shape[0] * 3 // 4 :]
    half = half if known == "top" else marked[: marked.shape[0] // 4]
    assert (half != IGNORE).all()


def test_an_annotated_sacrum_closes_the_end():
  labels, centres = _network(make_loaded(run("L1", "L4"), image=False))
  labels[:2] = 26
  marked, ends = ignore_unannotated_ends(labels, SPACING, centres)
  assert [end.end for end in ends] == ["top"]
  assert (marked[:10] != IGNORE).all()


def test_room_for_a_whole_vertebra_is_told_and_marked_to_the_border():
  labels, centres = _network(
    make_loaded(run("T12", "L3"), image=False, above_mm=90.0)
  )
  marked, ends = ignore_unannotated_ends(labels, SPACING, centres)
  top = ends[0]
  assert (top.end, top.last, top.next, top.whole) == ("top", "T12", "T11", True)
  # From half-way to T11 up to the border above the centre of T12.
  assert top.room_mm == pytest.approx(90.0 - top.usual_mm / 2, abs=6)
  assert (marked[-1] == IGNORE).any()


def test_above_c2_there_is_room_for_one_vertebra_only():
  loaded = make_loaded(run("C2", "C6"), image=False, above_mm=160.0)
  labels, centres = _network(loaded)
  marked, _ = ignore_unannotated_ends(labels, SPACING, centres)
  c2 = centres[_code("C2")][0]
  assert (marked[round(c2 + 20 / SPACING)] == IGNORE).any()
  assert (marked[round(c2 + 70 / SPACING) :] == 0).all()


def test_nothing_outside_the_scan_is_marked():
  labels, centres = _network(make_loaded(run("T12", "L3"), image=False))
  inside = np.ones(labels.shape, bool)
  inside[-4:] = False
  inside[:, :8] = False
  marked, ends = ignore_unannotated_ends(labels, SPACING, centres, inside)
  assert (marked[~inside] == labels[~inside]).all()
  assert (marked == IGNORE).any()
  _, all_ends = ignore_unannotated_ends(labels, SPACING, centres)
  assert all_ends[0].room_mm - ends[0].room_mm == pytest.approx(8, abs=2)


def test_a_level_without_a_point_is_placed_by_its_mask():
  labels, centres = _network(make_loaded(run("T8", "L1"), image=False))
  expected, _ = ignore_unannotated_ends(labels, SPACING, centres)
  del centres[_code("T8")]
  marked, ends = ignore_unannotated_ends(labels, SPACING, centres)
  assert ends[0].last == "T8"
  a, b = expected == IGNORE, marked == IGNORE
  assert (a & b).sum() > 0.75 * (a | b).sum()


def test_a_scan_without_vertebrae_is_left_alone():
  labels = np.zeros((20, 20, 20), np.uint8)
  marked, ends = ignore_unannotated_ends(labels, SPACING, {})
  assert ends == ()
  assert not marked.any()
