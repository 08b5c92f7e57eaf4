# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.infer.result import CaseResult, Lesion, Vertebra
from vf_jax.report.views import spine_views
from vf_jax.volume import Grid, Volume, reorient

ORIENTATIONS = ["RAS", "LAS", "LPS", "PIR", "SRA", "ILP"]


def pixel(view, point_mm):
  x, y = view.place(tuple(point_mm))
  return int(y / view.step_mm), int(x / view.step_mm)


def put(volume, point_mm, value):
  """Sets the voxel nearest to a point; the point of its centre."""
  index = np.rint(volume.grid.to_voxel(np.array([point_mm])))
  volume.voxels[tuple(index[0].astype(int))] = value
  return volume.grid.to_world(index)[0]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_bright_voxel_lands_on_its_pixel(make_case, codes):
  ct, result = make_case(codes)
  centre = put(ct, result.vertebrae[2].centre_mm, 3000)
  for view in spine_views(ct, result, step_mm=1.0):
    row, column = pixel(view, centre)
    assert view.grey[row, column] == 255
    peak = np.argwhere(view.grey == view.grey.max()).mean(axis=0)
    np.testing.assert_allclose(peak, (row, column), atol=1.0)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_orientation_of_the_file_does_not_show(make_case, codes):
  expected = spine_views(*make_case("RAS"))
  for view, same in zip(spine_views(*make_case(codes)), expected, strict=True):
    np.testing.assert_array_equal(view.codes, same.codes)
    np.testing.assert_array_equal(view.grey, same.grey)
    assert view.letters == same.letters


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_letters_are_true(make_case, codes):
  ct, result = make_case(codes)
  result = dataclasses.replace(result, vertebrae=result.vertebrae[2:3])
  centre = np.array(result.vertebrae[0].centre_mm)
  for offset in ([16.0, 0, 0], [0, 14.0, 0]):
    put(ct, centre + offset, 3000)
  upright = reorient(ct, "RAS")  # a view: what is set here is set in the CT
  top = upright.grid.to_voxel(centre[None] + (0, 0, 14.0))[0, 2]
  upright.voxels[:, :, round(top)] = 2000
  sagittal, coronal = spine_views(ct, result, step_mm=1.0)
  assert sagittal.letters == ("A", "P")
  assert coronal.letters == ("R", "L")
  for view in (sagittal, coronal):
    row, column = pixel(view, centre)
    # Anterior and right lie to the left of the centre, superior above it.
    band = view.grey[row - 2 : row + 3]
    assert np.flatnonzero((band > 200).any(axis=0)).max() < column - 10
    bright = np.flatnonzero((view.grey == 255).all(axis=1))
    assert len(bright)
    assert abs(bright.mean() - (row - 14)) <= 1


def test_views_follow_a_scoliotic_spine(make_case):
  ct, result = make_case()
  for view in spine_views(ct, result):
    for vertebra in result.vertebrae:
      assert view.codes[pixel(view, vertebra.centre_mm)] == vertebra.code
  sagittal, coronal = spine_views(ct, result)
  for view, axis in ((sagittal, 0), (coronal, 1)):
    curve = np.stack([view.depth_mm, view.heights_mm], axis=1)
    ways = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    np.testing.assert_allclose(ways, view.step_mm, rtol=0.02)
    for vertebra in result.vertebrae:
      place = np.array(vertebra.centre_mm)[[axis, 2]]
      assert np.linalg.norm(curve - place, axis=1).min() < 2.0
    assert len(view.grey) == len(sagittal.grey)
  across = [v.centre_mm[0] for v in result.vertebrae]
  np.testing.assert_allclose(sagittal.depth_mm[0], across[0], atol=1e-3)
  assert min(across) <= sagittal.depth_mm.min() + 1e-9
  assert sagittal.depth_mm.max() <= max(across)


def test_rows_follow_the_curve_so_that_lengths_are_true():
  """A spine leaning by 45 degrees: 40 mm along it are 40 mm of picture."""
  ct = Volume(np.zeros((100, 100, 100), np.int16), np.diag([2.0, 2, 2, 1]))
  step = 40 / 2**0.5
  spine = tuple(
    Vertebra(
      f"L{n}",
      19 + n,
      (100.0, 40 + step * n, 160 - step * n),
      1.0,
      True,
      1.0,
      1.0,
    )
    for n in range(1, 5)
  )
  mask = np.zeros(ct.grid.shape, np.uint8)
  result = CaseResult("a", ct.grid, mask, spine, (), (), {})
  sagittal, coronal = spine_views(ct, result, 1.0)
  tall = [
    [view.place(v.centre_mm)[1] for v in spine]
    for view in (
      sagittal,
      coronal,
    )
  ]
  np.testing.assert_allclose(np.diff(tall[0]), step, atol=0.2)
  np.testing.assert_allclose(np.diff(tall[1]), 40, atol=0.7)
  assert coronal.cuts(Lesion(spine[1].centre_mm, (4.0, 4.0, 4.0), 0.5, None))


def test_sizes_are_true(make_case):
  ct, result = make_case()
  result = dataclasses.replace(result, vertebrae=result.vertebrae[2:3])
  for view, width in zip(spine_views(ct, result, 0.5), (18, 22), strict=True):
    area = (view.codes == 22).sum() * view.step_mm**2
    # The box of the phantom is 11 x 9 x 11 voxels of 2 mm.
    np.testing.assert_allclose(area, width * 22, rtol=0.03)
    assert view.size_mm[0] == view.grey.shape[1] * view.step_mm


def test_oblique_grid_is_sampled_through_its_affine(make_case):
  _, result = make_case()
  angle = np.deg2rad(25)
  turn = np.eye(4)
  turn[:2, :2] = [
    [np.cos(angle), -np.sin(angle)],
    [np.sin(angle), np.cos(angle)],
  ]
  affine = turn @ np.diag([1.5, 1.0, 3.0, 1.0])
  affine[:3, 3] = (7.0, -80.0, 20.0)
  ct = Volume(np.full((60, 90, 50), 100, np.int16), affine)
  result = dataclasses.replace(
    result,
    grid=ct.grid,
    mask=np.zeros(ct.grid.shape, np.uint8),
    vertebrae=result.vertebrae[2:3],
  )
  index = np.array([[20, 40, 25]])
  (centre,) = ct.grid.to_world(index)
  ct.voxels[20, 40, 25] = 3000
  vertebra = dataclasses.replace(
    result.vertebrae[0], centre_mm=tuple(centre.tolist())
  )
  result = dataclasses.replace(result, vertebrae=(vertebra,))
  for view in spine_views(ct, result):
    assert view.grey[pixel(view, centre)] > 200
    assert view.grey[0, 0] == 0  # the corner of the box is outside the scan


def test_no_vertebra_gives_the_middle_planes_of_the_whole_field(make_case):
  ct, result = make_case(levels=0)
  sagittal, coronal = spine_views(ct, result)
  np.testing.assert_allclose(sagittal.depth_mm, -40 + 59.0)
  np.testing.assert_allclose(coronal.depth_mm, -90 + 69.0)
  np.testing.assert_allclose(sagittal.size_mm, (140, 200))
  np.testing.assert_allclose(coronal.size_mm, (120, 200))
  assert sagittal.grey.min() > 0


def test_one_vertebra_and_unusable_centres(make_case):
  ct, result = make_case()
  lost = dataclasses.replace(
    result.vertebrae[1], centre_mm=(np.nan, np.nan, np.nan)
  )
  result = dataclasses.replace(result, vertebrae=(result.vertebrae[0], lost))
  sagittal, coronal = spine_views(ct, result)
  assert set(sagittal.depth_mm) == {result.vertebrae[0].centre_mm[0]}
  assert set(coronal.depth_mm) == {result.vertebrae[0].centre_mm[1]}


def test_centres_at_one_height_do_not_break_the_curve(make_case):
  ct, result = make_case()
  twin = dataclasses.replace(result.vertebrae[1], level="L3")
  result = dataclasses.replace(result, vertebrae=(*result.vertebrae, twin))
  for view in spine_views(ct, result):
    assert np.isfinite(view.depth_mm).all()


def test_only_the_neighbourhood_of_the_spine_is_shown():
  ct = Volume(np.zeros((250, 250, 400), np.uint8), np.diag([2.0, 2, 2, 1]))
  vertebra = Vertebra("L3", 22, (250.0, 200.0, 300.0), 1.0, True, 40.0, 200.0)
  mask = np.zeros(ct.grid.shape, np.uint8)
  far = Lesion((250.0, 200.0, 500.0), (10.0, 10.0, 10.0), 0.5, None)
  result = CaseResult("a", ct.grid, mask, (vertebra,), (), (), {})
  for view in spine_views(ct, result):
    assert max(view.size_mm) <= 160
  result = dataclasses.replace(result, lesions=(far,))
  for view in spine_views(ct, result):
    assert 0 < view.place(far.centre_mm)[1] < view.size_mm[1]


def test_memory_does_not_grow_with_the_scan(make_case):
  _, result = make_case()
  grid = Grid((400, 400, 300), np.diag([0.5, 0.5, 1.0, 1.0]))
  ct = Volume(np.zeros(grid.shape, np.int16), grid.affine)
  mask = np.zeros(grid.shape, np.uint8)
  result = dataclasses.replace(result, grid=grid, mask=mask)
  tracemalloc.start()
  spine_views(ct, result)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 60e6  # the CT alone has 96 MB


def test_absurd_extent_gets_larger_pixels(make_case):
  _, result = make_case(levels=0)
  ct = Volume(np.zeros((4, 4, 4), np.int16), np.diag([1.0, 1, 5000, 1]))
  result = dataclasses.replace(
    result, grid=ct.grid, mask=np.zeros((4, 4, 4), np.uint8)
  )
  sagittal, _ = spine_views(ct, result)
  assert max(sagittal.grey.shape) <= 2400


def test_values_that_are_no_number_are_dark(make_case):
  ct, result = make_case(dtype=np.float32)
  ct.voxels[:] = np.nan
  for view in spine_views(ct, result):
    assert view.grey.max() == 0


def test_lesion_beside_the_surface_is_not_cut(make_case):
  ct, result = make_case()
  r, a, s = result.vertebrae[2].centre_mm
  sagittal, coronal = spine_views(ct, result)
  inside = Lesion((r, a, s), (8.0, 8.0, 8.0), 0.9, "L3")
  right = dataclasses.replace(inside, centre_mm=(r + 12, a, s))
  assert sagittal.cuts(inside)
  assert coronal.cuts(inside)
  assert not sagittal.cuts(right)
  assert coronal.cuts(right)


def test_result_of_another_ct_is_refused(make_case):
  ct, result = make_case()
  moved = ct.affine.copy()
  moved[0, 3] += 5
  with pytest.raises(InputError, match="not on the grid"):
    spine_views(Volume(ct.voxels, moved), result)
  with pytest.raises(InputError, match="not on the grid"):
    spine_views(Volume(ct.voxels[1:], ct.affine), result)
