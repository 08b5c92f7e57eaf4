# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Doubts are told where there is reason, and only there."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from vf_jax.infer.boxes import label_boxes
from vf_jax.infer.plausibility import (
  find_doubts,
  find_level_doubts,
  find_narrow_gaps,
  find_outlier_vertebrae,
  find_wide_gaps,
  is_anchored,
  is_spineless,
  is_upside_down,
  to_count_from,
)
from vf_jax.infer.result import Vertebra
from vf_jax.labels import BY_NAME
from vf_jax.volume import Grid, Volume, reorient

LEVELS = {"T12": 19, "L1": 20, "L2": 21, "L3": 22, "L4": 23}


def spine(levels=LEVELS, gap=2.0, forward=True, metal=0):
  """Boxes with a process behind (or before) them, mm RAS+, head first."""
  affine = np.diag([2.0, 2.0, gap, 1.0])
  hu = np.zeros((40, 40, 60), np.int16)
  mask = np.zeros(hu.shape, np.uint8)
  hu[10, 10, 10 : 10 + metal] = 3071
  hu[39, :, 30] = 3071  # far from the spine
  found = []
  for number, (level, code) in enumerate(levels.items()):
    z = 50 - 12 * number
    body, process = (slice(20, 30), slice(4, 20))
    if not forward:
      body, process = (slice(10, 20), slice(20, 36))
    mask[5:15, body, z : z + 8] = code
    mask[9:11, process, z : z + 8] = code
    y = (body.start + body.stop - 1) / 2
    x, y, z = (affine @ (9.5, y, z + 3.5, 1))[:3].tolist()
    found.append(Vertebra(level, code, (x, y, z), 0.9, True, 30.0, 100.0, 5.0))
  return Volume(hu, affine), mask, found


def doubts_of(volume, mask, found):
  return find_doubts(volume, label_boxes(mask), found)


def level_doubts_of(found):
  """Those that need no mask."""
  mask = np.zeros((1, 1, 1), np.uint8)
  return find_level_doubts(Grid(mask.shape, np.eye(4)), mask, {}, found)


def test_a_sound_scan_raises_no_doubt():
  assert doubts_of(*spine()) == []


def test_thick_slices_are_told():
  (note,) = doubts_of(*spine(gap=5.0))
  assert note.startswith("Voxels are 5 mm long")
  assert doubts_of(*spine(gap=4.9)) == []


def test_metal_is_told_from_bone():
  (note,) = doubts_of(*spine(metal=30))
  assert note.startswith("0.2 ml near the spine are as dense as metal")
  assert doubts_of(*spine(metal=20)) == []


@pytest.mark.parametrize(
  ("count", "words"), [(1, "One vertebra is"), (2, "Two vertebrae are")]
)
def test_few_vertebrae_are_told(count, words):
  volume, mask, found = spine(dict(list(LEVELS.items())[:count]))
  (note,) = doubts_of(volume, mask, found)
  assert note.startswith(words)
  assert doubts_of(volume, mask, []) == []


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_arches_in_front_make_levels_doubtful_in_any_axis_order(codes):
  for forward in (True, False):
    volume, mask, found = spine(forward=forward)
    turned = reorient(Volume(mask, volume.affine), codes)
    boxes = label_boxes(turned.voxels)
    notes = find_level_doubts(turned.grid, turned.voxels, boxes, found)
    assert bool(notes) != forward
    assert all("back to front" in note for note in notes)


@pytest.mark.parametrize(
  ("levels", "anchored"),
  [
    ("T3 T4 T5 T6 T7", False),
    ("L1 L2 L3", False),
    ("T11 T12", False),
    ("T12 L1", True),
    ("T11 L1 L2", True),
    ("T13 L1", True),
    ("C7 T1 T2", True),
    ("C5 C6 C7", False),
    ("C2 C3", True),
    ("L3 L4 L5", True),
    ("L3 L4", False),
    ("L4 L5 L6", True),
    ("", False),
  ],
)
def test_counting_begins_where_a_region_ends(levels, anchored):
  assert is_anchored(set(levels.split())) is anchored


@pytest.mark.parametrize("codes", [("R", "A", "S"), ("I", "L", "A")])
def test_counts_from_what_is_cut_at_the_sides_alone(codes):
  volume, mask, found = spine()
  # From the last slice of L3 to the first of T12, and no wider than bodies.
  narrow = Volume(mask[5:15, :, 14:58], volume.affine)
  cut = [dataclasses.replace(v, complete=v.level == "L2") for v in found[:4]]
  turned = reorient(narrow, codes)
  boxes = label_boxes(turned.voxels)
  seen = to_count_from(turned.grid, boxes, cut)
  assert [v.level for v in seen] == ["L1", "L2"]
  reason = {"core_ml": "the border of the scan cuts the body"}
  cut[1] = dataclasses.replace(cut[1], partial=reason)
  seen = to_count_from(turned.grid, boxes, cut)
  assert [v.level for v in seen] == ["L2"]


def test_an_end_of_an_oblique_scan_cuts_through_two_axes():
  turn = math.radians(40)
  affine = np.eye(4)
  affine[1:3, 1:3] = 2 * np.array(
    [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
  )
  affine[0, 0] = 2.0
  (cut,) = sides_cut(row_of(("L1", 30.0, 5.0, True)))
  grid = Grid((60, 60, 60), affine)
  for first, seen in ((1, [cut]), (0, [])):
    box = (slice(0, 20), slice(first, 20), slice(10, 32))
    assert to_count_from(grid, {cut.code: box}, [cut]) == seen


def sides_cut(found):
  """The same vertebrae with their processes cut at the sides of the scan."""
  reason = {"volume_ml": "the border of the scan cuts the vertebra"}
  return [dataclasses.replace(v, complete=False, partial=reason) for v in found]


def test_what_is_cut_at_the_sides_is_doubted_like_any_other():
  volume, mask, found = spine()
  grown = [
    dataclasses.replace(v, core_ml=core)
    for v, core in zip(found, (6.0, 7.0, 8.0, 9.0, 10.0))
  ]

  def doubts_of_cut(vertebrae, mask=mask):
    boxes = label_boxes(mask)
    grid = Grid(mask.shape, volume.affine)
    return find_level_doubts(grid, mask, boxes, sides_cut(vertebrae))

  assert doubts_of_cut(grown) == []
  # Cores that grow towards the head.
  turned = [
    dataclasses.replace(v, core_ml=other.core_ml)
    for v, other in zip(grown, grown[::-1])
  ]
  (told,) = doubts_of_cut(turned)
  assert "which end is up" in told
  small = [*grown[:2], dataclasses.replace(grown[2], core_ml=1.0), *grown[3:]]
  (told,) = doubts_of_cut(small)
  assert told.startswith("L2 may be no vertebra")
  _, backwards, found = spine(forward=False)
  back = [
    dataclasses.replace(v, core_ml=other.core_ml)
    for v, other in zip(found, grown)
  ]
  (told,) = doubts_of_cut(back, backwards)
  assert "back to front" in told


def test_scans_abstain_where_counting_rests_on_nothing():
  sure = row_of(("T12", 30.0, 5.0, True), ("L1", 32.0, 5.0, True))
  assert level_doubts_of(sure) == []
  (told,) = level_doubts_of(
    [dataclasses.replace(v, confidence=0.7) for v in sure]
  )
  assert "is not sure" in told
  (told,) = level_doubts_of(row_of(("L1", 30.0, 5.0, True)))
  assert told.startswith("No first or last rib")
  assert level_doubts_of([]) == []


def strangers_of(found):
  return find_outlier_vertebrae(found, [v for v in found if v.complete])


def row_of(*parts):
  """Vertebrae of (level, ml, ml of core, whole), from head to foot."""
  return [
    Vertebra(
      level, BY_NAME[level].code, (0.0, 0.0, 0.0), 0.9, whole, ml, 100.0, core
    )
    for level, ml, core, whole in parts
  ]


def test_a_whole_vertebra_far_smaller_than_its_neighbour_may_be_none():
  usual = [("L3", 60.0, 20.0, True), ("L4", 65.0, 20.0, True)]
  assert strangers_of(row_of(*usual, ("L5", 30.0, 9.0, True))) == []
  (odd,) = strangers_of(row_of(*usual, ("L5", 15.0, math.nan, True)))
  assert odd.level == "L5"
  assert strangers_of(row_of(*usual, ("L5", 15.0, 1.0, False))) == []
  assert strangers_of([]) == []


def test_pieces_of_other_bones_without_a_core_are_told_as_no_spine():
  pieces = row_of(("T9", 11.0, math.nan, True), ("T10", 20.0, 1.3, True))
  assert is_spineless(pieces)
  told = level_doubts_of(pieces)[0]
  assert told.startswith("There may be no spine in this scan")
  assert "T9 and T10 may be another bone" in told
  assert not is_spineless(
    row_of(("T9", 20.0, 0.0, True), ("T10", 22.0, 2.0, True))
  )
  assert not is_spineless(
    row_of(("C3", 17.0, 0.7, True), ("C4", 16.0, 0.7, True))
  )
  assert not is_spineless(row_of(*[("T9", 11.0, math.nan, True)] * 3))
  assert not is_spineless([])


def column(names, gaps):
  """Vertebrae of these levels, `gaps` mm apart, from head to foot."""
  heights = -np.cumsum([0.0, *gaps])
  return [
    dataclasses.replace(v, centre_mm=(0.0, 0.0, float(z)))
    for v, z in zip(
      row_of(*((name, 20.0, 3.0, True) for name in names.split())), heights
    )
  ]


def test_a_gap_for_one_more_vertebra_is_seen():
  names = "C4 C5 C6 C7 T1 T2"
  assert find_wide_gaps(column(names, (17, 16, 17, 19, 20))) == []
  # C6 and C7 as one: what lies above is one off.
  found = column(names, (17, 16, 26, 19, 20))
  assert find_wide_gaps(found) == [("C6", "C7")]
  (told,) = level_doubts_of(found)
  assert told.startswith("Between C6 and C7 there is room")
  # A level that the numbering left out explains its gap; so does a child.
  assert find_wide_gaps(column("C4 C5 C7 T1 T2", (17, 33, 19, 20))) == []
  assert find_wide_gaps(column(names, (9, 8, 9, 10, 10))) == []
  assert find_wide_gaps(column("C6 C7 T1 T2", (26, 19, 20))) == []


def test_levels_left_out_without_room_are_seen():
  found = column("T10 T11 T12 L1 L3 L4 L5", (30, 31, 33, 34, 36, 36))
  assert find_narrow_gaps(found) == [("L1", "L3")]
  (told,) = level_doubts_of(found)
  assert told.startswith("Between L1 and L3 there is no room")
  # One that was missed leaves its room; T13, L6 and an absent T12 need none.
  assert (
    find_narrow_gaps(column("T11 T12 L1 L3 L4 L5", (31, 33, 69, 36, 36))) == []
  )
  assert (
    find_narrow_gaps(column("T10 T11 L1 L2 L3 L4", (30, 31, 34, 35, 36))) == []
  )
  assert (
    find_narrow_gaps(column("T12 T13 L1 L2 L3 L4", (32, 33, 34, 35, 36))) == []
  )


def test_row_62_joined_and_half_vertebrae_make_levels_doubtful():
  levels = "T11 T12 L1 L2 L3 L4"
  usual = column(levels, (30, 32, 33, 34, 35))
  assert level_doubts_of(usual) == []
  # L2 and L3 grown together count as L2: what lies below is one off.
  joined = column(levels, (30, 32, 50, 51, 35))
  assert find_wide_gaps(joined) == [("L1", "L2"), ("L2", "L3")]
  half = dataclasses.replace(usual[3], volume_ml=7.0)
  (odd,) = strangers_of([*usual[:3], half, *usual[4:]])
  assert odd.level == "L2"


def test_vertebrae_that_grow_towards_the_head_are_upside_down():
  levels, volumes = "T11 T12 L1 L2 L3", (40.0, 45.0, 50.0, 54.0, 58.0)
  upright = row_of(
    *((name, ml, 10.0, True) for name, ml in zip(levels.split(), volumes))
  )
  assert not is_upside_down(upright)
  turned = row_of(
    *((name, ml, 10.0, True) for name, ml in zip(levels.split(), volumes[::-1]))
  )
  assert is_upside_down(turned)
  (told,) = level_doubts_of(turned)
  assert "which end is up" in told
  assert not is_upside_down(turned[:3])
  # A crushed one, even the last, turns nothing.
  crushed = [*upright[:4], dataclasses.replace(upright[4], volume_ml=30.0)]
  assert not is_upside_down(crushed)
