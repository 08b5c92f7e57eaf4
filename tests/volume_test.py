# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Volumes go there and back exactly, and land where independent code says."""

from __future__ import annotations

import itertools
import math
import mmap
import tracemalloc

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from vf_jax import volume as volume_lib
from vf_jax.errors import InputError
from vf_jax.volume import Grid, Reorientation, Volume

QUICK = settings(deadline=None, max_examples=30)
ALL_CODES = [
  tuple(pair[i] for pair, i in zip(pairs, signs, strict=True))
  for pairs in itertools.permutations(("LR", "PA", "IS"))
  for signs in itertools.product((0, 1), repeat=3)
]


def rotation(x, y, z):
  """A rotation by three angles in degrees."""
  matrix = np.eye(4)
  for axis, degrees in enumerate((x, y, z)):
    a, b = [i for i in range(3) if i != axis]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.eye(4)
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos, -sin, sin, cos
    matrix = matrix @ turn
  return matrix


def oblique(angles, spacing, origin=(0, 0, 0), shear=0.0):
  affine = rotation(*angles) @ np.diag([*spacing, 1.0])
  tilt = np.eye(4)
  tilt[1, 2] = shear
  affine = affine @ tilt
  affine[:3, 3] = origin
  return affine


def noise(shape, dtype=np.int16, seed=0):
  values = np.random.default_rng(seed).integers(-1000, 2000, shape)
  return values.astype(dtype)


def native(codes, shape=(4, 5, 6), spacing=(0.7, 0.9, 2.3)):
  """A volume with odd origin in any of the 48 axis orders."""
  affine = oblique((4, -7, 11), (1, 1, 1), (12.345678, -98.7654321, 0.1))
  columns = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
  matrix = affine.copy()
  for i, code in enumerate(codes):
    sign = 1 if code in "RAS" else -1
    matrix[:3, i] = sign * affine[:3, columns[code]] * spacing[i]
  return Volume(noise(shape), matrix)


def test_grid_facts():
  grid = native("PIR").grid
  last = np.array(grid.shape) - 0.5  # on the outer faces
  beyond = np.array([(0, 0, 0), (0, 0, 2), (1, 1, 0)])
  np.testing.assert_allclose(
    grid.outside_mm(last + beyond), (0, 2 * 2.3, math.hypot(0.7, 0.9))
  )
  np.testing.assert_allclose(grid.spacing, (0.7, 0.9, 2.3), rtol=1e-12)
  assert grid.axis_codes == ("P", "I", "R")
  assert grid.voxel_volume_ml == pytest.approx(0.7 * 0.9 * 2.3 / 1000)
  points = np.random.default_rng(0).normal(0, 50, (20, 3))
  np.testing.assert_allclose(
    grid.to_voxel(grid.to_world(points)), points, atol=1e-10
  )
  expected = nibabel.affines.apply_affine(grid.affine, points)
  np.testing.assert_allclose(grid.to_world(points), expected, atol=1e-12)
  assert not grid.affine.flags.writeable


def test_grid_same_as():
  grid = native("PIR").grid
  moved = grid.affine.copy()
  moved[0, 3] += 0.01
  assert grid.same_as(Grid(grid.shape, grid.affine))
  assert not grid.same_as(Grid(grid.shape, moved))
  assert grid.same_as(Grid(grid.shape, moved), atol=0.02)
  assert not grid.same_as(Grid((4, 5, 7), grid.affine))
  assert grid.apart_mm(Grid(grid.shape, moved)) == pytest.approx(0.01)
  assert grid.apart_mm(Grid((4, 5, 7), grid.affine)) == float("inf")


@pytest.mark.parametrize(
  "affine",
  [
    np.diag([1.0, 0.0, 1.0, 1.0]),
    np.diag([1.0, np.nan, 1.0, 1.0]),
    np.diag([1.0, 1.0, 1.0, 2.0]),
    np.array([[1.0, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
  ],
)
def test_grid_refuses_unusable_affines(affine):
  with pytest.raises(InputError, match="affine"):
    Grid((2, 2, 2), affine)
  with pytest.raises(InputError, match="volume"):
    Volume(noise((2, 2, 2)), affine)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_all_orientations_there_and_back_to_the_bit(codes):
  volume = native(codes)
  assert volume.axis_codes == codes == nibabel.aff2axcodes(volume.affine)
  canonical = volume_lib.to_canonical(volume)
  assert canonical.axis_codes == ("R", "A", "S")
  assert np.shares_memory(canonical.voxels, volume.voxels)
  expected = nibabel.as_closest_canonical(
    nibabel.Nifti1Image(volume.voxels, volume.affine)
  )
  np.testing.assert_array_equal(canonical.voxels, expected.dataobj)
  np.testing.assert_allclose(canonical.affine, expected.affine, atol=1e-10)
  for via in ("RAS", "LPS", "PIR", "SAL"):
    back = volume_lib.reorient(volume_lib.reorient(canonical, via), codes)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert back.native is None


@QUICK
@given(
  angles=st.tuples(*[st.sampled_from([0, 30, 45, -45, 90, 61.3])] * 3),
  codes=st.sampled_from(ALL_CODES),
)
def test_codes_hold_at_any_angle(angles, codes):
  volume = Volume(noise((2, 3, 4)), oblique(angles, (1.0, 2.0, 3.0)))
  turned = volume_lib.reorient(volume, codes)
  assert turned.axis_codes == codes
  back = volume_lib.reorient(turned, volume.axis_codes)
  np.testing.assert_array_equal(back.affine, volume.affine)
  np.testing.assert_array_equal(back.voxels, volume.voxels)


def test_reorientation_takes_channels_along():
  turn = Reorientation.between("PIR", "RAS")
  back = Reorientation.between("RAS", "PIR")
  array = noise((3, 4, 5, 2))
  assert turn.apply(array).shape == (5, 3, 4, 2)
  np.testing.assert_array_equal(back.apply(turn.apply(array)), array)


@pytest.mark.parametrize("codes", ["RRS", "RA", "XYZ", "RASL"])
def test_bad_codes_are_refused(codes):
  with pytest.raises(InputError, match="directions"):
    volume_lib.reorient(native("RAS"), codes)


def test_network_axes():
  array = noise((3, 4, 5))
  network = volume_lib.to_network(array)
  assert network.shape == (5, 4, 3)
  assert network[4, 2, 1] == array[1, 2, 4]
  assert np.shares_memory(network, array)
  np.testing.assert_array_equal(volume_lib.from_network(network), array)
  assert volume_lib.to_network(noise((3, 4, 5, 2))).shape == (5, 4, 3, 2)


@QUICK
@given(
  start=st.tuples(*[st.integers(-9, 9)] * 3),
  shape=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_crop_and_paste(start, shape):
  volume = native("PIR")
  box = volume_lib.crop(volume, start, shape, -1024)
  assert box.voxels.shape == shape
  np.testing.assert_allclose(
    box.grid.to_world(np.zeros((1, 3))),
    volume.grid.to_world(np.array([start])),
    atol=1e-9,
  )
  index = np.indices(shape).reshape(3, -1).T + start
  inside = ((index >= 0) & (index < volume.voxels.shape)).all(axis=1)
  flat = box.voxels.reshape(-1)
  assert (flat[~inside] == -1024).all()
  np.testing.assert_array_equal(
    flat[inside], volume.voxels[tuple(index[inside].T)]
  )
  target = volume.voxels.copy()
  assert volume_lib.paste(target, box.voxels, start) is target
  np.testing.assert_array_equal(target, volume.voxels)
  blank = np.full_like(target, 7)
  volume_lib.paste(blank, box.voxels, start)
  assert np.count_nonzero(blank != 7) <= inside.sum()


def test_crop_forgets_the_native_grid():
  canonical = volume_lib.to_canonical(native("PIR"))
  box = volume_lib.crop(canonical, (0, 1, 1), (3, 3, 2), -1024)
  back = volume_lib.reorient(box, "PIR")
  np.testing.assert_allclose(
    back.grid.to_world(np.array([[0, 0, 0]])),
    box.grid.to_world(
      Grid(box.voxels.shape, box.affine).to_voxel(back.affine[None, :3, 3])
    ),
  )
  assert back.axis_codes == ("P", "I", "R")
  assert np.shares_memory(box.voxels, canonical.voxels)


def test_fill_must_fit():
  labels = Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4))
  with pytest.raises(InputError, match="fill -1024"):
    volume_lib.crop(labels, (0, 0, 0), (4, 4, 4), -1024)
  with pytest.raises(InputError, match=r"fill 0\.5"):
    volume_lib.resample(labels.voxels, labels.grid, labels.grid, fill=0.5)
  with pytest.raises(InputError, match="order 3"):
    volume_lib.resample(labels.voxels, labels.grid, labels.grid, order=3)
  with pytest.raises(InputError, match="not on grid"):
    volume_lib.resample(labels.voxels[1:], labels.grid, labels.grid)


def itk_image(voxels, grid):
  """The same volume for SimpleITK, which counts in LPS and (z, y, x)."""
  flip = np.diag([-1.0, -1.0, 1.0])
  image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
  image.SetSpacing(grid.spacing)
  direction = flip @ (grid.affine[:3, :3] / np.array(grid.spacing))
  image.SetDirection(direction.ravel().tolist())
  image.SetOrigin((flip @ grid.affine[:3, 3]).tolist())
  return image


def itk_resample(voxels, source, target, order, fill):
  reference = itk_image(np.zeros(target.shape, np.uint8), target)
  method = [sitk.sitkNearestNeighbor, sitk.sitkLinear][order]
  result = sitk.Resample(
    itk_image(voxels, source), reference, sitk.Transform(), method, fill
  )
  return sitk.GetArrayFromImage(result).T


angle = st.floats(-40, 40)
size = st.floats(0.6, 2.5)


@QUICK
@given(
  angles=st.tuples(angle, angle, angle),
  spacing=st.tuples(size, size, size),
  target_angles=st.sampled_from([(0, 0, 0), (3.0, -20.0, 9.0)]),
  target_spacing=st.floats(0.7, 2.0),
  order=st.sampled_from([0, 1]),
  codes=st.sampled_from(ALL_CODES),
)
def test_resample_agrees_with_simpleitk(
  angles, spacing, target_angles, target_spacing, order, codes
):
  source = Grid((11, 12, 9), oblique(angles, spacing, (3.3, -2.1, 7.7)))
  voxels = noise(source.shape)
  turned = volume_lib.reorient(Volume(voxels, source.affine), codes)
  target = Grid(
    (20, 19, 18),
    oblique(target_angles, (target_spacing,) * 3, (-4.04, -6.06, 1.01)),
  )
  got = volume_lib.resample(
    turned.voxels, turned.grid, target, order=order, fill=-5, antialias=False
  )
  expected = itk_resample(voxels, source, target, order, -5)
  index = np.indices(target.shape).reshape(3, -1).T
  points = source.to_voxel(target.to_world(index))
  # Halfway between two voxels, and on the rim, either answer is right.
  tie = (np.abs(points - np.floor(points) - 0.5) < 1e-6).any(axis=1)
  wrong = np.abs(got.astype(int) - expected) > (1 if order else 0)
  assert not wrong.ravel()[~tie].any()
  assert (got != -5).any()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("shear", [0.0, 0.36, -0.7])
def test_resample_through_shear(order, shear):
  source = Grid((23, 25, 14), oblique((8, -5, 30), (0.8, 0.9, 2), shear=shear))
  voxels = noise(source.shape, np.float32)
  target = volume_lib.network_grid(source, 1.3)
  got = volume_lib.resample(
    voxels, source, target, order=order, fill=-1, antialias=False
  )
  index = np.indices(target.shape).reshape(3, -1).T
  points = source.to_voxel(target.to_world(index)).T
  expected = scipy.ndimage.map_coordinates(
    voxels, points, order=order, mode="nearest"
  )
  rim = np.abs(points.T - (np.array(source.shape) - 1) / 2)
  outside = (rim > np.array(source.shape) / 2).any(axis=1)
  expected[outside] = -1
  # A tie between two neighbours may go either way.
  assert (np.abs(got.ravel() - expected) > 0.02).mean() < 1e-3
  # SimpleITK refuses a sheared direction; give it the map between indices.
  index_map = np.linalg.solve(source.affine, target.affine)
  image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
  reference = sitk.Image(target.shape, sitk.sitkUInt8)
  transform = sitk.AffineTransform(3)
  transform.SetMatrix(index_map[:3, :3].ravel().tolist())
  transform.SetTranslation(index_map[:3, 3].tolist())
  method = [sitk.sitkNearestNeighbor, sitk.sitkLinear][order]
  referee = sitk.Resample(image, reference, transform, method, -1.0)
  referee = sitk.GetArrayFromImage(referee).T
  assert (np.abs(got - referee) > 0.02).mean() < 1e-3


@pytest.mark.parametrize("affine", [np.eye(4), oblique((0, 0, 10), (1, 1, 1))])
def test_rim_is_clamped_and_beyond_is_fill(affine):
  source = Grid((4, 4, 4), affine)
  voxels = np.full((4, 4, 4), 1000, np.int16)
  for offset, inside in ((-0.49, True), (-0.51, False)):
    start = affine.copy()
    start[:3, 3] += affine[:3, 0] * offset
    got = volume_lib.resample(voxels, source, Grid((1, 4, 4), start), fill=-9)
    assert (got == (1000 if inside else -9)).all()


@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 0, 25)])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "i8"])
def test_integers_are_rounded_and_never_wrap(dtype, turn):
  limits = np.iinfo(dtype)
  rng = np.random.default_rng(3)
  voxels = rng.choice([limits.min, limits.max], (9, 9, 9)).astype(dtype)
  source = Grid(voxels.shape, np.eye(4))
  target = Grid((16, 16, 16), oblique(turn, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)))
  for antialias in (True, False):
    got = volume_lib.resample(voxels, source, target, antialias=antialias)
    assert got.dtype == voxels.dtype
    exact = volume_lib.resample(
      voxels.astype(np.float64), source, target, antialias=antialias
    )
    apart = np.abs(got.astype(np.float64) - exact).max()
    assert apart <= 0.5 + 1e-6 * limits.max


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, -20, 25)])
@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", ">i2", ">f4"])
def test_nearest_invents_no_value(dtype, turn):
  voxels = np.random.default_rng(0).choice([0, 1, 26, 28], (12, 11, 10))
  voxels = voxels.astype(dtype)[::-1].transpose(1, 0, 2)
  source = Grid(voxels.shape, oblique(turn, (0.8, 0.8, 2.0)))
  got = volume_lib.resample(
    voxels, source, volume_lib.network_grid(source, 1.1), order=0
  )
  assert got.dtype == voxels.dtype
  assert set(np.unique(got)) <= set(np.unique(voxels)) | {voxels.dtype.type(0)}


def test_identity_is_exact():
  volume = native("PIR")
  for order in (0, 1):
    got = volume_lib.resample(
      volume.voxels, volume.grid, volume.grid, order=order, fill=-1024
    )
    np.testing.assert_array_equal(got, volume.voxels)


def test_large_slabs_and_bricks_meet_without_seams():
  voxels = noise((130, 100, 99), np.float32)
  source = Grid(voxels.shape, oblique((2, 3, 4), (1, 1, 1)))
  target = Grid((110, 101, 98), oblique((0, 0, 0), (1.1, 1.1, 1.1)))
  whole = volume_lib.resample(voxels, source, target, fill=-1)
  part = Grid((30, 101, 98), target.affine @ _shift(85, 0, 0))
  np.testing.assert_allclose(
    volume_lib.resample(voxels, source, part, fill=-1)[:25],
    whole[85:],
    atol=1e-2,
  )


def test_slabs_of_threads_are_those_of_one(monkeypatch):
  voxels = noise((70, 60, 50), np.float32)
  source = Grid(voxels.shape, oblique((0, 0, 0), (1, 1, 1)))
  target = volume_lib.network_grid(source, 1.7)
  whole = volume_lib.resample(voxels, source, target)
  monkeypatch.setattr("vf_jax.resampling._SLAB_VOXELS", 6000)
  monkeypatch.setattr("vf_jax.threads.usable_cores", lambda: 4)
  np.testing.assert_array_equal(
    volume_lib.resample(voxels, source, target), whole
  )


@pytest.mark.parametrize("turn", [(0, 0, 0), (3, 4, 5)])
def test_large_results_lie_on_the_disk(turn, monkeypatch):
  voxels = noise((70, 60, 50), np.float32)
  source = Grid(voxels.shape, oblique(turn, (1, 1, 1)))
  target = volume_lib.network_grid(source, 0.9)
  expected = volume_lib.resample(voxels, source, target, fill=-1)
  assert expected.base is None
  monkeypatch.setattr("vf_jax.scratch.ON_DISK", expected.nbytes)
  found = volume_lib.resample(voxels, source, target, fill=-1)
  assert isinstance(found.base, mmap.mmap)
  np.testing.assert_array_equal(found, expected)


def _shift(*start):
  affine = np.eye(4)
  affine[:3, 3] = start
  return affine


def waves(points):
  """A smooth field in the world, with waves of about 40 mm."""
  x, y, z = points.T / 6.0
  return 300 * (np.sin(x) + np.cos(y + 0.3) + np.sin(z + 1))


@QUICK
@given(
  angles=st.tuples(*[st.floats(-25, 25)] * 3),
  spacing=st.tuples(*[st.floats(0.7, 2.0)] * 3),
  shear=st.floats(-0.3, 0.3),
  mm=st.floats(0.8, 1.5),
)
def test_network_grid_there_and_back(angles, spacing, shear, mm):
  source = Grid((18, 20, 16), oblique(angles, spacing, (9, -9, 4), shear))
  target = volume_lib.network_grid(source, mm)
  assert target.axis_codes == ("R", "A", "S")
  np.testing.assert_array_equal(target.affine[:3, :3], np.eye(3) * mm)
  index = np.indices(source.shape).reshape(3, -1).T
  rim = target.to_voxel(source.to_world(index))
  assert (rim >= -0.5).all()
  assert (rim <= np.array(target.shape) - 0.5).all()
  field = waves(source.to_world(index)).reshape(source.shape)
  there = volume_lib.resample(
    field.astype(np.float32), source, target, antialias=False
  )
  back = volume_lib.resample(there, target, source, antialias=False)
  inner = (slice(4, -4),) * 3
  assert np.abs(back - field)[inner].max() < 60
  assert np.abs(back - field)[inner].mean() < 15


def test_network_grid_keeps_a_grid_that_is_one():
  grid = Grid((7, 8, 9), oblique((0, 0, 0), (1, 1, 1), (0.25, 5, -7)))
  same = volume_lib.network_grid(grid, 1)
  assert same.same_as(grid, atol=1e-9)
  turned = volume_lib.reorient(Volume(noise(grid.shape), grid.affine), "PIR")
  assert volume_lib.network_grid(turned.grid, 1).same_as(grid, atol=1e-9)


def test_network_grid_is_tight():
  grid = Grid((10, 20, 30), np.diag([0.5, 0.5, 2.0, 1.0]))
  assert volume_lib.network_grid(grid, 1.0).shape == (5, 10, 60)
  assert volume_lib.network_grid(grid, 0.7).shape == (8, 15, 86)


@pytest.mark.parametrize("turn", [(0, 0, 0), (7, 5, -9)])
def test_antialias_removes_what_the_target_cannot_hold(turn):
  checker = np.indices((48, 48, 48)).sum(axis=0) % 2 * 1000.0
  source = Grid(checker.shape, oblique(turn, (0.5, 0.5, 0.5)))
  step = np.diag([4.0, 4.0, 4.0, 1.0])
  target = Grid((8, 8, 8), source.affine @ _shift(10, 9, 11) @ step)
  if any(turn):
    target = Grid((8, 8, 8), target.affine @ rotation(1, 2, 3))
  smooth = volume_lib.resample(checker, source, target)
  assert np.abs(smooth - 500).max() < 20
  rough = volume_lib.resample(checker, source, target, antialias=False)
  assert np.abs(rough - 500).max() > 50


def test_antialias_keeps_the_mean_and_spares_finer_targets():
  voxels = np.random.default_rng(1).normal(40, 10, (30, 30, 30))
  source = Grid(voxels.shape, np.eye(4))
  coarse = volume_lib.resample(
    voxels, source, volume_lib.network_grid(source, 3.0)
  )
  assert coarse.mean() == pytest.approx(voxels.mean(), abs=0.5)
  fine = volume_lib.network_grid(source, 0.8)
  np.testing.assert_array_equal(
    volume_lib.resample(voxels, source, fine),
    volume_lib.resample(voxels, source, fine, antialias=False),
  )


def test_straight_and_oblique_paths_blur_alike():
  voxels = noise((40, 40, 40), np.float32)
  source = Grid(voxels.shape, np.eye(4))
  straight = Grid((14, 14, 14), np.diag([2.5, 2.5, 2.5, 1]))
  nearly = straight.affine.copy()
  nearly[0, 1] = 1e-4
  expected = volume_lib.resample(voxels, source, straight)
  got = volume_lib.resample(voxels, source, Grid(straight.shape, nearly))
  np.testing.assert_allclose(got, expected, atol=2)


@pytest.mark.parametrize("turn", [(0, 0, 0), (3, 4, 5)])
@pytest.mark.parametrize("order", [0, 1])
def test_resample_memory_does_not_grow_with_the_volume(turn, order):
  voxels = np.zeros((300, 300, 300), np.int16)
  source = Grid(voxels.shape, oblique(turn, (0.7, 0.7, 0.7)))
  target = volume_lib.network_grid(source, 1.5)
  tracemalloc.start()
  got = volume_lib.resample(voxels, source, target, order=order)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  # The volume would be 108 MB in float32 and 216 MB in float64.
  assert peak - got.nbytes < 150e6


def body(shape=(40, 40, 40), seed=0):
  """Values of a body with fat, muscle, bone, lung and air, in HU."""
  rng = np.random.default_rng(seed)
  tissue = rng.choice(
    [-1000, -850, -100, 50, 60, 300, 800],
    shape,
    p=[0.3, 0.1, 0.2, 0.2, 0.1, 0.08, 0.02],
  )
  return np.rint(tissue + rng.normal(0, 20, shape)).astype(np.int16)


def crop_without_air(seed=0):
  rng = np.random.default_rng(seed)
  tissue = rng.choice([-90, 50, 250, 700], (30, 30, 30), p=[0.1, 0.6, 0.2, 0.1])
  return np.rint(tissue + rng.normal(0, 25, tissue.shape)).astype(np.int16)


def verdict(voxels):
  return volume_lib.check_hounsfield(Volume(voxels, np.eye(4)))


def with_padding(voxels, value):
  padded = voxels.copy()
  padded[:18] = value
  return padded


@pytest.mark.parametrize(
  "voxels",
  [
    body(),
    crop_without_air(),
    body().astype(np.float32) + 0.25,
    with_padding(body(), -1024),
    with_padding(body(), -3024),
    with_padding(body(), 0),
    with_padding(crop_without_air(), 0),
    with_padding(crop_without_air(), -1024),
    np.clip(body(), -1024, 3071),
    body((200, 200, 60)),
  ],
)
def test_hounsfield_units_are_recognised(voxels):
  assert verdict(voxels).verdict == "ok"


@pytest.mark.parametrize("shift", [1000, 1024, 8192, 32768])
def test_lost_intercept_is_measured(shift):
  check = verdict(body().astype(np.int32) + shift)
  assert (check.verdict, check.offset) == ("offset", -shift)
  check = verdict(crop_without_air().astype(np.int32) + 1024)
  assert (check.verdict, check.offset) == ("offset", -1024)
  stored = np.clip(body().astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
  check = verdict(with_padding(stored, 0))
  assert (check.verdict, check.offset) == ("offset", -1024)
  assert "-1024" in check.message


def test_intercept_applied_twice():
  assert verdict(body() - 1024).offset == 1024


def grey(voxels):
  return np.clip((voxels + 160.0) / 400, 0, 1)


@pytest.mark.parametrize(
  ("voxels", "expected"),
  [
    (np.full((9, 9, 9), -1000, np.int16), "constant"),
    (np.zeros((9, 9, 9), np.float32), "constant"),
    ((grey(body()) * 255).astype(np.uint8), "windowed"),
    ((body() // 16).astype(np.int8), "windowed"),
    ((grey(body()) * 255).astype(np.float32), "windowed"),
    (np.clip(body(), -160, 240), "windowed"),
    (grey(body()).astype(np.float32), "not_hu"),
    ((body() / 500).astype(np.float32), "not_hu"),
    ((grey(body()) * 65535).astype(np.uint16), "not_hu"),
    (body().astype(np.uint16), "not_hu"),
    ((body().astype(np.int32) * 40).astype(np.int16), "not_hu"),
    (np.full((9, 9, 9), np.nan, np.float32), "not_hu"),
    (np.minimum(body(), 120), "no_bone"),
    ((body() > 0).astype(np.uint8), "not_hu"),
  ],
)
def test_other_scales_are_named(voxels, expected):
  if expected == "no_bone":
    voxels = voxels - (voxels == 120) * (noise(voxels.shape) % 40)
  check = verdict(voxels)
  assert check.verdict == expected
  assert check.offset == 0
  assert check.message.endswith(".")


def test_one_odd_voxel_is_not_constant():
  voxels = np.zeros((300, 300, 100), np.int16)
  voxels[1, 1, 1] = 1
  assert verdict(voxels).verdict == "not_hu"


@pytest.mark.parametrize("bone", [700, 900, 1100])
def test_a_phantom_without_noise_is_hounsfield(bone):
  voxels = np.full((40, 40, 40), -1000, np.int16)
  voxels[5:35, 5:35, 5:35] = 40
  voxels[18:22, 18:22, 8:32] = 300
  voxels[18:22, 18:22, 15:18] = bone
  assert verdict(voxels).verdict == "ok"
  moved = verdict(voxels + np.int16(1024))
  assert (moved.verdict, moved.offset) == ("offset", -1024)
