# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.shapes import labelled_points, measure_shapes
from vf_jax.volume import Volume, reorient

_AFFINE = np.array(
  [[2.0, 0, 0, -10], [0, 1.5, 0, 5], [0, 0, 3.0, 100], [0, 0, 0, 1]]
)


def _volume(*boxes, shape=(40, 30, 20)):
  voxels = np.zeros(shape, np.uint8)
  for code, low, high in boxes:
    voxels[tuple(slice(a, b) for a, b in zip(low, high))] = code
  return Volume(voxels, _AFFINE)


@pytest.mark.parametrize("axes", ["RAS", "PIR", "LPS"])
def test_size_and_place_do_not_depend_on_the_axes(axes):
  volume = _volume((20, (10, 10, 5), (20, 20, 9)))
  shape = measure_shapes(reorient(volume, axes)).levels[20]
  assert shape.volume_ml == pytest.approx(10 * 10 * 4 * 9 / 1000)
  middle = volume.grid.to_world(np.array([[14.5, 14.5, 6.5]]))[0]
  np.testing.assert_allclose(shape.centre_mm, middle)
  assert shape.pieces == ()
  assert not shape.cut


def test_unknown_voxels_and_background_are_no_vertebra():
  volume = _volume((255, (0, 0, 0), (40, 30, 10)), (20, (5, 5, 5), (7, 7, 7)))
  assert set(measure_shapes(volume).levels) == {20}
  assert len(labelled_points(volume.voxels)) == 8


def test_pieces_have_volume_and_distance():
  volume = _volume(
    (20, (5, 5, 5), (15, 15, 10)),
    (20, (20, 5, 5), (22, 6, 6)),
    (20, (39, 29, 19), (40, 30, 20)),
  )
  first, second = measure_shapes(volume).levels[20].pieces
  assert first.volume_ml == pytest.approx(2 * 9 / 1000)
  # From column 14 to column 20, 2 mm each.
  assert first.apart_mm == pytest.approx(12.0)
  assert second.volume_ml == pytest.approx(9 / 1000)


def test_corners_join_and_a_far_voxel_is_found_in_a_large_scan():
  voxels = np.zeros((400, 300, 100), np.uint8, order="F")
  voxels[10:20, 10:20, 10:20] = 5
  voxels[20, 20, 20] = 5  # touches by a corner
  assert measure_shapes(Volume(voxels, np.eye(4))).levels[5].pieces == ()
  voxels[390, 290, 90] = 5
  (piece,) = measure_shapes(Volume(voxels, np.eye(4))).levels[5].pieces
  assert piece.apart_mm == pytest.approx(np.linalg.norm((370, 270, 70)))


def test_contact_is_the_area_between_two_levels():
  volume = _volume(
    (19, (10, 10, 5), (20, 20, 10)), (20, (10, 10, 2), (20, 14, 5))
  )
  # 10 x 4 faces of 2 x 1.5 mm.
  assert measure_shapes(volume).contacts == {(19, 20): pytest.approx(120.0)}


def test_ends_and_sides_are_told_apart_in_any_orientation():
  volume = _volume(
    (8, (10, 10, 18), (14, 14, 20)), (20, (0, 10, 5), (9, 20, 9))
  )
  for axes in ("RAS", "PIR", "SAL"):
    shapes = measure_shapes(reorient(volume, axes)).levels
    assert shapes[8].end_mm2 == pytest.approx(4 * 4 * 3.0)
    assert shapes[8].side_mm2 == 0
    assert shapes[20].side_mm2 == pytest.approx(10 * 4 * 4.5)
    assert shapes[8].cut
    assert shapes[20].cut  # 180 mm2 at a side


def test_a_tip_at_the_side_is_no_cut():
  volume = _volume((20, (0, 10, 5), (9, 14, 7)))
  shape = measure_shapes(volume).levels[20]
  assert shape.side_mm2 > 0
  assert not shape.cut


def test_an_empty_mask_has_no_shapes():
  shapes = measure_shapes(_volume())
  assert dict(shapes.levels) == {}
  assert dict(shapes.contacts) == {}
