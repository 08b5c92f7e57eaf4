# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from drawn_spine import make_loaded, relabel, run

from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.multispine.checks.mask_findings import (
  check_contacts,
  check_names,
  check_pieces,
  check_points,
  check_volumes,
  cut_codes,
)
from vf_jax.multispine.shapes import measure_shapes
from vf_jax.volume import Volume, reorient

_CODES = run("T10", "L3")


def _code(name):
  return BY_NAME[name].code


@pytest.fixture
def loaded():
  return make_loaded(_CODES, image=False)


def _at(loaded, point):
  index = np.rint(loaded.labels.grid.to_voxel(np.array([point])))[0]
  return tuple(index.astype(int))


def _kinds(found):
  return [(f.severity, f.code) for f in found]


def _cut(labels):
  return {BY_CODE[c].name for c in cut_codes(measure_shapes(labels).levels)}


def test_a_sound_mask_has_no_finding(loaded):
  shapes = measure_shapes(loaded.labels)
  assert list(check_pieces(shapes.levels)) == []
  assert list(check_contacts(shapes)) == []
  assert list(check_volumes(shapes.levels)) == []
  assert list(check_names(shapes.levels, loaded.centres)) == []
  assert cut_codes(shapes.levels) == []
  points = check_points(loaded.labels, shapes.levels, loaded.centres, "body")
  assert list(points) == []


def test_stray_voxels_of_many_levels_are_one_finding(loaded):
  for number, name in enumerate(("T11", "L1")):
    loaded.labels.voxels[1 + number, 1, 1] = _code(name)
  (found,) = check_pieces(measure_shapes(loaded.labels).levels)
  assert (found.severity, found.code) == ("warning", "stray")
  assert found.levels == ("T11", "L1")


def test_a_piece_of_some_size_is_told_with_its_volume(loaded):
  loaded.labels.voxels[1:7, 1:7, 1:7] = _code("T11")
  (found,) = check_pieces(measure_shapes(loaded.labels).levels)
  assert (found.severity, found.code) == ("warning", "pieces")
  assert "T11 is in 2 pieces: 1.7 of" in found.message


def test_a_level_that_is_there_twice(loaded):
  (found,) = check_pieces(
    measure_shapes(relabel(loaded, {22: 18}).labels).levels
  )
  assert (found.severity, found.code) == ("error", "twice")
  assert found.levels == ("T11",)


def test_pieces_of_a_cut_vertebra_are_a_note():
  loaded = make_loaded(_CODES, image=False)
  voxels = loaded.labels.voxels
  # Only the lowest layers of T10 are in view: body and arch, not the pedicle.
  top = _at(loaded, loaded.centres[_code("T10")])[2]
  cut = voxels[:, :, : top - 2]
  body = cut == _code("T10")
  body[:, 20:36] = False
  cut = np.where(cut == _code("T10"), 0, cut).astype(np.uint8)
  cut[body] = _code("T10")
  shapes = measure_shapes(type(loaded.labels)(cut, loaded.labels.affine))
  assert _code("T10") in cut_codes(shapes.levels)
  assert {f.severity for f in check_pieces(shapes.levels)} <= {"note"}


def test_mixed_voxels_of_two_levels(loaded):
  voxels = loaded.labels.voxels
  place = np.argwhere(voxels == _code("T11"))
  voxels[tuple(place[place.sum(axis=1) % 2 == 0].T)] = _code("T12")
  (found,) = check_contacts(measure_shapes(loaded.labels))
  assert (found.severity, found.code) == ("error", "mixed")
  assert found.levels == ("T11", "T12")


def test_volumes_are_judged_by_the_neighbours(loaded):
  voxels = loaded.labels.voxels
  place = np.argwhere(voxels == _code("T12"))
  behind = place[:, 1] < np.median(place[:, 1]) + 3
  voxels[tuple(place[behind].T)] = 0
  (found,) = check_volumes(measure_shapes(loaded.labels).levels)
  assert (found.severity, found.code) == ("warning", "volume")
  assert found.levels == ("T12",)
  assert "T11 and L1" in found.message


def test_cut_vertebrae_are_not_judged_by_volume(loaded):
  top = _at(loaded, loaded.centres[_code("T10")])[2]
  cut = type(loaded.labels)(
    np.asfortranarray(loaded.labels.voxels[:, :, : top - 2]),
    loaded.labels.affine,
  )
  shapes = measure_shapes(cut).levels
  assert shapes[_code("T10")].volume_ml < 0.3 * shapes[_code("T11")].volume_ml
  assert list(check_volumes(shapes)) == []


def test_names_on_one_side_only(loaded):
  shapes = measure_shapes(relabel(loaded, {_code("T12"): 0}).labels).levels
  points = {c: p for c, p in loaded.centres.items() if c != _code("L2")}
  found = list(check_names(shapes, points))
  assert _kinds(found) == [
    ("warning", "point_without_mask"),
    ("warning", "mask_without_point"),
  ]
  assert [f.levels for f in found] == [("T12",), ("L2",)]
  assert list(check_names(shapes, {})) == []


def test_points_of_other_levels(loaded):
  shapes = measure_shapes(loaded.labels).levels
  points = {c: loaded.centres[c + 1] for c in _CODES[:-1]}
  (found,) = check_points(loaded.labels, shapes, points, "body")
  assert (found.severity, found.code) == ("error", "point_in_other")
  assert "T10 in T11" in found.message


def test_points_beside_their_vertebra(loaded):
  shapes = measure_shapes(loaded.labels).levels
  x, y, z = loaded.centres[_code("T11")]
  # The body ends 14 mm in front of its centre.
  points = loaded.centres | {_code("T11"): (x, y + 22.0, z)}
  (found,) = check_points(loaded.labels, shapes, points, "body")
  assert (found.severity, found.code) == ("warning", "point_outside")
  assert found.levels == ("T11",)
  points |= {_code("T11"): (x, y + 500.0, z)}
  (found,) = check_points(loaded.labels, shapes, points, "body")
  assert (found.severity, found.code) == ("error", "point_outside")


def test_the_kind_of_points_is_checked_by_where_they_lie(loaded):
  shapes = measure_shapes(loaded.labels).levels
  masses = {code: shape.centre_mm for code, shape in shapes.items()}
  assert list(check_points(loaded.labels, shapes, masses, "mask")) == []
  for points, kind in ((masses, "body"), (loaded.centres, "mask")):
    found = list(check_points(loaded.labels, shapes, points, kind))
    assert ("error", "centre_kind") in _kinds(found)


@pytest.mark.parametrize("axes", ["RAS", "PIR", "LPI"])
def test_levels_at_the_ends_are_cut(axes):
  loaded = make_loaded(
    run("T10", "L2"), axes, image=False, above_mm=0, below_mm=2
  )
  assert _cut(loaded.labels) == {"T10", "L2"}
  whole = make_loaded(run("T10", "L2"), axes, image=False)
  assert _cut(whole.labels) == set()


def test_cut_levels_of_an_oblique_scan_are_those_of_its_own_grid():
  loaded = make_loaded(run("T10", "L2"), image=False, above_mm=0)
  turn = np.eye(4)
  turn[1:3, 1:3] = [[0.9, -0.43589], [0.43589, 0.9]]
  oblique = Volume(loaded.labels.voxels, turn @ loaded.labels.affine)
  assert _cut(oblique) == {"T10"}
  assert _cut(reorient(oblique, "SPL")) == {"T10"}


def test_a_cut_sacrum_is_not_named():
  loaded = make_loaded(run("L3", "L5"), image=False)
  loaded.labels.voxels[:, :, :3] = 26
  assert "sacrum" not in _cut(loaded.labels)
