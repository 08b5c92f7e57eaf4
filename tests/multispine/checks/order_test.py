# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from drawn_spine import centre, heights, run

from vf_jax.labels import BY_NAME, VERTEBRAE
from vf_jax.multispine.checks.order import check_order


def _code(name):
  return BY_NAME[name].code


def _centres(codes):
  return {c: tuple(map(float, centre(s))) for c, s in heights(codes).items()}


def _codes_of(found):
  return [(f.severity, f.code) for f in found]


@pytest.mark.parametrize("scale", [0.85, 1.0, 1.15])
def test_a_normal_spine_of_any_adult_passes(scale):
  points = {
    c: tuple(scale * v for v in p) for c, p in _centres(run("C1", "L5")).items()
  }
  assert check_order(points, "body") == []


@pytest.mark.parametrize(("first", "last"), [("T9", "T9"), ("L4", "L5")])
def test_few_levels_pass(first, last):
  assert check_order(_centres(run(first, last)), "body") == []


def test_no_level_at_all_passes():
  assert check_order({}, "none") == []


def test_the_sacrum_is_passed_over():
  points = _centres(run("L1", "L5")) | {26: (0.0, 0.0, 500.0)}
  assert check_order(points, "body") == []


def test_swapped_levels_are_named():
  points = _centres(run("T8", "L2"))
  a, b = _code("T11"), _code("T12")
  points[a], points[b] = points[b], points[a]
  (found,) = check_order(points, "body")
  assert (found.severity, found.code) == ("error", "order")
  assert found.levels == ("T11", "T12")


def test_an_upside_down_spine_is_one_finding():
  points = {c: (x, y, -z) for c, (x, y, z) in _centres(run("T8", "L2")).items()}
  (found,) = check_order(points, "body")
  assert (found.severity, found.code) == ("error", "upside_down")


def test_two_at_one_height():
  points = _centres(run("T8", "L2"))
  x, y, z = points[_code("T12")]
  points[_code("L1")] = (x + 30.0, y, z - 2.0)
  found = check_order(points, "body")
  assert ("warning", "same_height") in _codes_of(found)


def test_a_vertebra_that_is_left_out_and_a_number_that_is():
  points = _centres(run("T8", "L4"))
  gap = {c: p for c, p in points.items() if c != _code("T11")}
  (found,) = check_order(gap, "body")
  assert (found.severity, found.code) == ("error", "gap")
  assert "T11" in found.message
  assert "room for 1" in found.message
  # The same vertebrae, all from L2 on called one too low.
  jump = {c + (1 if c >= _code("L2") else 0): p for c, p in points.items()}
  (found,) = check_order(jump, "body")
  assert (found.severity, found.code) == ("error", "jump")
  assert found.levels == ("L1", "L3")


def test_a_missing_vertebra_between_neighbours_by_name():
  codes = run("T8", "L4")
  points = _centres(codes)
  # T10 is not annotated and everything above it is called one too low.
  del points[_code("T10")]
  renamed = {c + (1 if c < _code("T10") else 0): p for c, p in points.items()}
  (found,) = check_order(renamed, "body")
  assert (found.severity, found.code) == ("warning", "too_far")
  assert found.levels == ("T10", "T11")


def test_a_vertebra_in_two_is_too_close():
  points = _centres(run("T8", "L4"))
  x, y, z = points[_code("L1")]
  points[_code("L2")] = (x, y, z - 14.0)
  assert ("warning", "too_close") in _codes_of(check_order(points, "body"))


def test_a_wrong_spacing_is_one_finding():
  points = {
    c: tuple(1.5 * v for v in p) for c, p in _centres(run("T8", "L4")).items()
  }
  (found,) = check_order(points, "body")
  assert (found.severity, found.code) == ("warning", "scale")
  assert "1.5" in found.message


def test_cut_vertebrae_count_for_gaps_only():
  points = _centres(run("T8", "L2"))
  x, y, z = points[_code("T8")]
  points[_code("T8")] = (x, y, z - 13.0)  # only its lowest part is seen
  assert check_order(points, "body")
  assert check_order(points, "body", unsure=[_code("T8")]) == []


def test_rare_anatomy_is_a_note():
  codes = [v.code for v in VERTEBRAE if v.order >= BY_NAME["T9"].order]
  (found,) = check_order(_centres(codes), "body")
  assert (found.severity, found.code) == ("note", "variant")
  assert found.levels == ("T13", "L6")
  without = [c for c in run("T8", "L3") if c != _code("T12")]
  (found,) = check_order(_centres(without), "body")
  assert "no T12" in found.message


def test_a_neck_may_run_nearly_level():
  points = _centres(run("C5", "T4"))
  # C7 lies 3 mm lower than C6, the rest of the usual distance behind it.
  x, y, z = points[_code("C6")]
  gap = heights([_code("C6"), _code("C7")])[_code("C7")]
  away = (x, y - np.sqrt(gap**2 - 9.0), z - 3.0)
  shift = np.subtract(away, points[_code("C7")])
  points = {
    c: tuple(p + shift) if c >= _code("C7") else p for c, p in points.items()
  }
  assert check_order(points, "mask") == []


def test_the_tip_of_a_cut_vertebra_may_hang_lower_than_the_next_one():
  centres = {19: (0.0, 0.0, 90.0), 20: (0.0, 0.0, 95.0), 21: (0.0, 0.0, 55.0)}
  assert {f.code for f in check_order(centres, "mask")} & {"order"}
  cut = check_order(centres, "mask", unsure=(19, 20))
  assert not {f.code for f in cut} & {"order", "same_height"}
