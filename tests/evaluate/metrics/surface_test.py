# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Surfaces against three packages (golden.json), SimpleITK and geometry."""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import drawn_pairs
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from vf_jax.evaluate.metrics import surfels
from vf_jax.evaluate.metrics.surface import surface_distances
from vf_jax.evaluate.metrics.surfels import find_surfels, surfel_areas

GOLDEN = json.loads(
  pathlib.Path(__file__).with_name("golden.json").read_text("utf-8")
)
PAIRS = drawn_pairs.surface_pairs()


def measure(name):
  prediction, truth, spacing = PAIRS[name]
  return surface_distances(prediction, truth, np.diag(spacing))


@pytest.mark.parametrize("spacing", GOLDEN["surfels"])
def test_areas_of_all_codes_are_those_of_surface_distance(spacing):
  steps = np.diag(json.loads(spacing.replace("(", "[").replace(")", "]")))
  np.testing.assert_allclose(
    surfel_areas(steps), GOLDEN["surfels"][spacing], rtol=1e-12, atol=1e-15
  )


@pytest.mark.parametrize("name", PAIRS)
def test_surface_distance_agrees(name):
  golden = GOLDEN["surfaces"][name]["surface-distance"]
  found = measure(name)
  ours = {
    "hd": found.hausdorff(),
    "hd95": found.hausdorff(95),
    "assd": found.symmetric_average(),
    "nsd1": found.surface_dice(1),
    "nsd2": found.surface_dice(2),
  }
  for key, value in ours.items():
    assert value == pytest.approx(golden[key], rel=1e-9), key


@pytest.mark.parametrize("name", PAIRS)
def test_monai_agrees_where_it_defines_the_same(name):
  golden = GOLDEN["surfaces"][name]["monai"]
  found = measure(name)
  ours = {
    "hd95_by_area": found.hausdorff(95),
    "assd_by_area": found.symmetric_average(),
    "nsd1": found.surface_dice(1),
    "nsd2": found.surface_dice(2),
  }
  for key, value in ours.items():
    # MONAI computes in float32.
    assert value == pytest.approx(golden[key], rel=1e-5), key


@pytest.mark.parametrize("name", ["golden", "border", "smooth"])
@pytest.mark.parametrize("package", ["monai", "medpy"])
def test_voxel_surfaces_are_half_a_voxel_away(name, package):
  """MONAI and medpy measure from centres of the outermost voxels by number."""
  golden = GOLDEN["surfaces"][name][package]
  half = min(PAIRS[name][2]) / 2
  found = measure(name)
  assert found.hausdorff(95) == pytest.approx(golden["hd95"], abs=half)
  assert found.symmetric_average() == pytest.approx(golden["assd"], abs=half)


@pytest.mark.parametrize("name", ["golden", "single"])
def test_voxel_surfaces_have_the_same_hausdorff_distance(name):
  """Smooth masks: MONAI, medpy and SimpleITK take the outermost voxels."""
  prediction, truth, spacing = PAIRS[name]
  images = []
  for mask in (prediction, truth):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    images.append(image)
  alive = sitk.HausdorffDistanceImageFilter()
  alive.Execute(*images)
  found = measure(name)
  assert found.hausdorff() == pytest.approx(alive.GetHausdorffDistance())
  for package in ("monai", "medpy"):
    other = GOLDEN["surfaces"][name][package]
    assert found.hausdorff() == pytest.approx(other["hd"], rel=1e-5)
    assert found.hausdorff(95) == pytest.approx(other["hd95"], rel=1e-5)


def test_golden_1():
  found = measure("golden")
  assert found.hausdorff() == pytest.approx(13.410444, abs=1e-6)
  assert found.hausdorff(95) == pytest.approx(2.0, abs=1e-6)
  assert found.surface_dice(1) == pytest.approx(0.829118, abs=1e-6)
  assert found.surface_dice(2) == pytest.approx(0.978787, abs=1e-6)


def test_golden_2():
  found = measure("single")
  assert found.hausdorff() == pytest.approx(2.4)
  assert found.hausdorff(95) == pytest.approx(2.4)
  assert found.surface_dice(1) == 0
  assert found.surface_dice(2) == pytest.approx(0.5)
  # Half of the surfels of either are 2 voxels away, half 3.
  assert found.symmetric_average() == pytest.approx(2.0)


def test_one_empty_mask_is_infinitely_far_and_never_near():
  mask = PAIRS["cubic"][1]
  empty = np.zeros_like(mask)
  for prediction, truth in ((empty, mask), (mask, empty)):
    found = surface_distances(prediction, truth, np.eye(3))
    assert found.hausdorff() == math.inf
    assert found.hausdorff(95) == math.inf
    assert found.symmetric_average() == math.inf
    assert found.surface_dice(100) == 0


def test_two_empty_masks_have_no_distance():
  empty = np.zeros((4, 5, 6), bool)
  found = surface_distances(empty, empty, np.eye(3))
  values = found.hausdorff(), found.symmetric_average(), found.surface_dice(1)
  assert all(map(math.isnan, values))


def test_shapes_must_agree():
  with pytest.raises(ValueError, match="differ"):
    surface_distances(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool), EYE)


EYE = np.eye(3)
MASKS = st.integers(0, 10_000)


def blobs(seed, shape=(9, 8, 7)):
  random = np.random.default_rng(seed)
  smooth = ndimage.gaussian_filter(random.random((2, *shape)), (0, 1, 1, 1))
  masks = smooth > np.median(smooth)
  masks[:, 4, 4, 4] = True
  return masks


@given(seed=MASKS)
def test_nearest_surfels_by_brute_force(seed):
  prediction, truth = blobs(seed)
  spacing = np.array([0.7, 1.0, 2.5])
  found = surface_distances(prediction, truth, np.diag(spacing))
  p, t = (find_surfels(mask)[0] * spacing for mask in (prediction, truth))
  apart = np.linalg.norm(p[:, None] - t[None], axis=2)
  np.testing.assert_allclose(
    found.from_prediction_mm, np.sort(apart.min(axis=1)), atol=1e-12
  )
  np.testing.assert_allclose(
    found.from_truth_mm, np.sort(apart.min(axis=0)), atol=1e-12
  )


@given(seed=MASKS)
def test_prediction_and_truth_may_change_places(seed):
  one, other = blobs(seed)
  there, back = (
    surface_distances(*p, EYE) for p in ((one, other), (other, one))
  )
  assert there.hausdorff(95) == back.hausdorff(95)
  assert there.surface_dice(1) == pytest.approx(back.surface_dice(1))
  assert there.symmetric_average() == pytest.approx(back.symmetric_average())


@given(seed=MASKS, shift=st.tuples(*[st.integers(1, 4)] * 3))
def test_the_place_in_the_array_does_not_matter(seed, shift):
  masks = blobs(seed)
  pads = [(0, 0), *((s, 5 - s) for s in shift)]
  here = surface_distances(*masks, EYE)
  there = surface_distances(*np.pad(masks, pads), EYE)
  assert there.hausdorff(95) == pytest.approx(here.hausdorff(95))
  assert there.surface_dice(1) == pytest.approx(here.surface_dice(1))


@given(seed=MASKS, angle=st.floats(-3, 3))
def test_rotation_of_the_scanner_does_not_matter(seed, angle):
  masks = blobs(seed)
  spacing = np.diag([0.5, 1.5, 1.0])
  c, s = math.cos(angle), math.sin(angle)
  turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, -1]])
  here = surface_distances(*masks, spacing)
  there = surface_distances(*masks, turn @ spacing)
  assert there.hausdorff() == pytest.approx(here.hausdorff())
  assert there.symmetric_average() == pytest.approx(here.symmetric_average())
  assert there.surface_dice(1.5) == pytest.approx(here.surface_dice(1.5))


def test_a_sheared_grid_measures_world_distances():
  """Gantry tilt: a step along the last axis moves along the second too."""
  steps = np.array([[1.0, 0, 0], [0, 1, 0.6], [0, 0, 2]])
  one, other = np.zeros((2, 9, 9, 9), bool)
  one[4, 4, 2] = other[4, 4, 5] = True
  found = surface_distances(one, other, steps)
  assert found.hausdorff() == pytest.approx(3 * math.hypot(0.6, 2))
  # The area of a plate across the tilt is that of a parallelogram.
  plate = np.zeros((40, 3, 40), bool)
  plate[:, 1, :] = True
  sides = surfel_areas(steps)[find_surfels(plate)[1]]
  face = sides.max()
  assert np.isclose(sides, face).sum() == 2 * 39 * 39
  assert face == pytest.approx(math.hypot(0.6, 2))


def test_every_cut_edge_is_a_corner_of_one_polygon():
  """So that surfaces of neighbouring cells join without a gap."""
  corners = list(itertools.product((0, 1), repeat=3))
  edges = [
    (a, b)
    for a, b in itertools.combinations(corners, 2)
    if sum(map(abs, np.subtract(a, b))) == 1
  ]
  for code in range(256):
    inside = {c: code >> bit & 1 for bit, c in enumerate(corners)}
    cut = [tuple(np.add(a, b) / 2) for a, b in edges if inside[a] != inside[b]]
    visited = [point for way in surfels._polygons(code) for point in way]
    assert sorted(visited) == sorted(cut)


def test_a_ball_has_the_area_of_its_surface():
  radius = 15
  mask = drawn_pairs.ellipsoid((40,) * 3, (1,) * 3, (20,) * 3, (radius,) * 3)
  area = surfel_areas(EYE)[find_surfels(mask)[1]].sum()
  # Flat pieces between whole voxels are about a tenth too large.
  assert 1.0 < area / (4 * math.pi * radius**2) < 1.12


def test_tolerance_survives_spacings_in_single_precision():
  spacing = [float(np.float32(value)) for value in (0.8, 0.8, 2.0)]
  one, other = np.zeros((2, 24, 8, 8), bool)
  one[10:14, 4, 4] = other[12:16, 4, 4] = True
  found = surface_distances(one, other, np.diag(spacing))
  assert found.hausdorff() > 1.6
  assert found.surface_dice(1.6) == 1
