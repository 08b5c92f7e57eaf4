"""Screws sit in pedicles, and their streaks look as physics has them."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.phantom.metal import (
  Rod,
  draw_screws,
  insert_metal,
  streaks_of,
)
from vf_jax.volume import Grid


def test_screws_pass_the_pedicles_of_neighbours(stub_anatomy):
  patient = stub_anatomy("T10", "L4", 3.0)
  parts = draw_screws(
    patient.centres, patient.pedicles, np.random.default_rng(0)
  )
  screws = [
    part
    for part in parts
    if 20 < np.linalg.norm(np.subtract(part.end, part.start)) < 70
    and part.end[1] > part.start[1] + 15
  ]
  assert 4 <= len(screws) <= 8
  used = set()
  for screw in screws:
    away = {
      (code, side): _distance(np.array(point), screw)
      for code, pair in patient.pedicles.items()
      for side, point in enumerate(pair)
    }
    nearest = min(away, key=away.get)
    assert away[nearest] < 1.0
    used.add(nearest)
  assert len(used) == len(screws)
  codes = sorted({code for code, _ in used})
  assert codes == list(range(codes[0], codes[-1] + 1))


def test_no_screws_without_two_vertebrae(stub_anatomy):
  patient = stub_anatomy("C2", "C5", 4.0)
  rng = np.random.default_rng(0)
  assert draw_screws(patient.centres, patient.pedicles, rng) == ()
  one = {20: (0.0, 0.0, 0.0)}
  pair = {20: ((-14.0, -20.0, 0.0), (14.0, -20.0, 0.0))}
  assert draw_screws(one, pair, rng) == ()


@pytest.fixture(scope="module")
def two_rods():
  affine = np.diag([1.5, 1.5, 2.0, 1.0])
  grid = Grid((140, 140, 30), affine)
  hu = np.full(grid.shape, 40, np.int16)
  rods = tuple(
    Rod((x, 105.0, 20.0), (x, 105.0, 40.0), 3.5) for x in (85.0, 125.0)
  )
  slices = insert_metal(hu, grid, rods)
  return hu, grid, slices


def test_metal_is_drawn_where_it_is(two_rods):
  hu, grid, slices = two_rods
  metal = np.argwhere(hu > 4500)
  world = grid.to_world(metal)
  away = np.minimum(
    np.hypot(world[:, 0] - 85, world[:, 1] - 105),
    np.hypot(world[:, 0] - 125, world[:, 1] - 105),
  )
  assert away.max() < 3.6
  # Two cylinders of 20 mm with round ends.
  litre = len(metal) * 1.5 * 1.5 * 2.0
  expected = 2 * (np.pi * 3.5**2 * 20 + 4 / 3 * np.pi * 3.5**3)
  assert litre == pytest.approx(expected, rel=0.12)
  assert slices[0] <= metal[:, 2].min() <= metal[:, 2].max() < slices[1]


def test_metal_outside_the_image_is_none():
  grid = Grid((20, 20, 10), np.eye(4))
  hu = np.zeros(grid.shape, np.int16)
  far = Rod((90.0, 90.0, 90.0), (95.0, 90.0, 90.0), 3.0)
  first, last = insert_metal(hu, grid, (far,))
  assert first == last
  assert not hu.any()


def test_the_band_between_two_rods_is_dark(two_rods):
  hu, grid, slices = two_rods
  streaks = streaks_of(hu, grid, slices, np.random.default_rng(0))
  plane = np.zeros(hu.shape[:2], np.float32)
  streaks.add_to(plane, 15)
  band = plane[66:74, 68:72].mean()
  beside = plane[66:74, 20:24].mean()
  assert band < -15
  assert abs(beside) < 10
  untouched = np.zeros(hu.shape[:2], np.float32)
  streaks.add_to(untouched, 0)
  streaks.add_to(untouched, 29)
  assert not untouched.any(), "streaks in slices without metal"


def _distance(point, part):
  start, axis = np.array(part.start), np.subtract(part.end, part.start)
  share = np.clip((point - start) @ axis / (axis @ axis), 0, 1)
  return np.linalg.norm(point - start - share * axis)
