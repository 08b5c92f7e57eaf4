# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Vertebrae drawn by formula, measured however the scan lies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from vf_jax.infer import facts
from vf_jax.infer.boxes import cut_box, label_boxes, locate_box
from vf_jax.infer.facts import (
  VertebraBox,
  compare_neighbours,
  measure_vertebra,
  spine_directions,
)
from vf_jax.labels import BY_NAME
from vf_jax.volume import Grid, Volume

CORTEX, CORE, ARCH = 700, 150, 500
UP = np.array([0.0, 0.0, 1.0])
_FAR = 99  # layers between a box and the end of the scan


@dataclasses.dataclass(frozen=True)
class Drawn:
  """An elliptic body with plane end plates, pedicles, lamina and process.

  Heights are those at the very front and at the canal; depth 30 mm.
  """

  anterior: float = 26.0
  posterior: float = 26.0
  dent: float = 0.0  # how deep each plate sinks in its middle

  def height_at(self, front):
    share = (15.0 - front) / 30.0
    return self.anterior + share * (self.posterior - self.anterior)

  def paint(self, points):
    """HU at points in the frame of the vertebra, -1000 outside."""
    right, front, up = points.T
    half = self.height_at(front) / 2
    sunk = self.dent * np.clip(1 - (right**2 + front**2) / 60, 0, None)
    radius = np.sqrt((right / 21) ** 2 + (front / 17) ** 2)
    body = (radius < 1) & (front > -15) & (np.abs(up) < half - sunk)
    shell = (radius > 0.9) | (np.abs(up) > half - sunk - 1.5) | (front < -13.5)
    pedicles = (np.abs(np.abs(right) - 13) < 4) & (np.abs(up - 4) < 6)
    pedicles &= (front <= -12) & (front > -32)
    lamina = (np.abs(right) < 17) & (np.abs(front + 33) < 3) & (np.abs(up) < 9)
    process = (np.abs(right) < 3) & (front < -34) & (front > -55)
    process &= np.abs(up + 3) < 7
    arch = pedicles | lamina | process
    hu = np.full(len(points), -1000)
    hu[arch] = ARCH
    hu[body] = np.where(shell, CORTEX, CORE)[body]
    return hu


def turned(pitch, yaw):
  """Axes of a vertebra leaning forward and turned to the side."""
  c, s = np.cos(np.deg2rad(pitch)), np.sin(np.deg2rad(pitch))
  lean = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
  c, s = np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))
  return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ lean


def draw(vertebra, spacing=(1.0, 1.0, 1.0), turn=None, signs=(1, 1, 1)):
  """A box with a drawn vertebra whose body centre is (5, -20, 300) mm."""
  turn = np.eye(3) if turn is None else turn
  shape = tuple(int(n / step) for n, step in zip((80, 110, 80), spacing))
  affine = np.diag([*(np.array(signs) * spacing), 1.0])
  # Off the voxels' own symmetry, which would double their rounding.
  middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2 + (0.1, 0.2, 0.25))
  affine[:3, 3] = np.array([5.0, -20.0, 300.0]) + turn @ (0, -20, 0) - middle
  grid = Grid(shape, affine)
  places = grid.to_world(np.indices(shape).reshape(3, -1).T)
  hu = vertebra.paint((places - (5.0, -20.0, 300.0)) @ turn).reshape(shape)
  return VertebraBox(hu > -500, hu, grid, ((_FAR, _FAR),) * 3)


def measure(box, level="L2", up=UP, off=(2.0, -2.0, 1.5)):
  centre = tuple(float(c) for c in np.array([5.0, -20.0, 300.0]) + off)
  return measure_vertebra(box, BY_NAME[level], centre, 0.9, up)


def heights(v):
  return (v.height_anterior_mm, v.height_middle_mm, v.height_posterior_mm)


def test_a_drawn_vertebra_has_its_drawn_measures():
  box = draw(Drawn())
  v = measure(box)
  assert v.complete
  assert v.partial == {}
  assert v.volume_ml == pytest.approx(box.mask.sum() / 1000)
  np.testing.assert_allclose(heights(v), 26.0, atol=0.5)
  # The core is trabecular bone alone, though the cortex is 550 HU brighter.
  assert v.core_mean_hu == pytest.approx(CORE, abs=1)
  assert v.core_median_hu == CORE
  assert v.mean_hu > 300
  # An ellipse of 18 x 14 mm, less a segment near the canal, 20 mm high.
  assert 14.0 < v.core_ml < np.pi * 18 * 14 * 20 / 1000


def test_a_collapsed_body_has_no_core_instead_of_0_ml():
  v = measure(draw(Drawn(anterior=6.0, posterior=6.0)))
  for name in facts.CORE:
    assert math.isnan(getattr(v, name))
    assert "inside the cortex" in v.partial[name]
  assert v.height_middle_mm == pytest.approx(6.0, abs=1.0)


def test_wedge_and_biconcave_bodies_are_told_apart():
  wedge = measure(draw(Drawn(anterior=16.0, posterior=26.0)))
  # Heights are medians in bands at 12.5, 50 and 87.5 % of the depth.
  np.testing.assert_allclose(heights(wedge), (17.25, 21.0, 24.75), atol=1.0)
  assert wedge.wedge_ratio == pytest.approx(17.25 / 24.75, abs=0.04)
  fish = measure(draw(Drawn(dent=5.0)))
  assert fish.wedge_ratio == pytest.approx(1.0, abs=0.03)
  assert fish.biconcave_ratio == pytest.approx(17.9 / 26, abs=0.05)


@pytest.mark.parametrize(
  ("spacing", "turn", "signs"),
  [
    ((0.8, 0.8, 1.25), turned(0, 0), (-1, -1, 1)),
    ((1.0, 1.0, 1.0), turned(25, 10), (1, 1, 1)),
    ((1.5, 1.5, 1.5), turned(-20, -12), (1, -1, -1)),
    ((3.0, 0.6, 0.6), turned(10, 5), (1, 1, 1)),
  ],
  ids=["thin", "kyphotic", "lordotic", "sagittal"],
)
def test_measures_do_not_depend_on_how_the_scan_lies(spacing, turn, signs):
  box = draw(Drawn(anterior=20.0, posterior=26.0), spacing, turn, signs)
  # The neighbours tell the direction of the spine within some degrees.
  v = measure(box, up=turn @ turned(6, 0)[:, 2])
  atol = 0.7 if max(spacing) <= 1.5 else 1.2
  np.testing.assert_allclose(heights(v), (20.75, 23.0, 25.25), atol=atol)
  assert v.core_mean_hu == pytest.approx(CORE, abs=12)


def cut_above(box, share):
  """The box as a scan that ends in the upper part of the vertebra."""
  last = int(box.mask.shape[2] * share)
  grid = Grid((*box.grid.shape[:2], last), box.grid.affine)
  ends = ((_FAR, _FAR), (_FAR, _FAR), (_FAR, 0))
  return VertebraBox(box.mask[..., :last], box.hu[..., :last], grid, ends)


def test_a_cut_body_keeps_its_numbers_and_says_so():
  v = measure(cut_above(draw(Drawn()), 0.58))
  assert not v.complete
  assert {"volume_ml", "core_mean_hu", "height_middle_mm", "crush_ratio"} <= (
    set(v.partial)
  )
  assert "cuts the body" in v.partial["height_middle_mm"]
  assert 0 < v.height_middle_mm < 24


def test_a_cut_process_leaves_the_body_whole():
  box = draw(Drawn())
  cut = VertebraBox(
    box.mask[:, 30:],
    box.hu[:, 30:],
    dataclasses.replace(
      box.grid,
      shape=box.mask[:, 30:].shape,
      affine=box.grid.affine
      + np.array([[0] * 4, [0, 0, 0, 30], *[[0] * 4] * 2]),
    ),
    ((_FAR, _FAR), (0, _FAR), (_FAR, _FAR)),
  )
  v = measure(cut)
  assert not v.complete
  assert set(v.partial) == {"volume_ml", "mean_hu"}
  np.testing.assert_allclose(heights(v), 26.0, atol=0.6)


def test_levels_without_such_a_body_get_no_number():
  box = draw(Drawn())
  atlas = measure(box, "C1")
  assert np.isnan([atlas.core_mean_hu, *heights(atlas)]).all()
  assert atlas.partial["core_mean_hu"] == "C1 has no body"
  axis = measure(box, "C2")
  assert np.isnan(heights(axis)).all()
  assert axis.core_mean_hu == pytest.approx(CORE, abs=1)
  crumb = dataclasses.replace(box, mask=np.zeros_like(box.mask))
  empty = measure(crumb)
  assert empty.volume_ml == 0
  assert np.isnan([empty.mean_hu, empty.core_ml, *heights(empty)]).all()
  assert "no body" in empty.partial["core_ml"]


def test_crush_is_against_whole_neighbours():
  whole = measure(draw(Drawn()))
  low = dataclasses.replace(whole, height_posterior_mm=13.0)
  cut = dataclasses.replace(low, partial={"height_posterior_mm": "cut"})
  first, second, _ = compare_neighbours([whole, low, cut])
  assert second.crush_ratio == pytest.approx(13 / whole.height_posterior_mm)
  assert first.crush_ratio == pytest.approx(whole.height_posterior_mm / 13)
  (alone,) = compare_neighbours([whole])
  assert np.isnan(alone.crush_ratio)
  assert "no neighbour" in alone.partial["crush_ratio"]


def test_crush_is_not_against_vertebrae_farther_away():
  whole = measure(draw(Drawn()))
  upper, lower = (
    dataclasses.replace(whole, level=name, code=BY_NAME[name].code)
    for name in ("L1", "L3")
  )
  for rated in compare_neighbours([upper, lower]):
    assert np.isnan(rated.crush_ratio)
    assert "no neighbour" in rated.partial["crush_ratio"]
  t12 = dataclasses.replace(whole, level="T12", code=BY_NAME["T12"].code)
  first, _ = compare_neighbours([t12, upper])  # T13 is rare, not missing
  assert first.crush_ratio == pytest.approx(1.0)


@pytest.mark.parametrize(("away", "whole"), [(0, False), (2, False), (3, True)])
def test_bone_within_the_border_is_cut_wherever_its_box_begins(away, whole):
  mask = np.ones((20, 20, 20), bool)
  grid = Grid(mask.shape, np.diag([0.5, 0.5, 0.5, 1.0]))
  ends = ((9, 9), (9, 9), (9, away))
  box = VertebraBox(mask, mask.astype(np.int16), grid, ends)
  middle = (4.75, 4.75, 4.75)
  found = measure_vertebra(box, BY_NAME["L2"], middle, 0.9, UP)
  assert found.complete is whole
  beyond = measure_vertebra(box, BY_NAME["L2"], (4.75, 4.75, 90.0), 0.9, UP)
  assert not beyond.complete
  assert beyond.partial["volume_ml"]


def test_a_ratio_without_its_height_has_a_reason(monkeypatch):
  monkeypatch.setattr(
    facts,
    "body_heights",
    lambda frame, body: {
      "height_anterior_mm": 20.0,
      "height_middle_mm": 20.0,
      "height_posterior_mm": math.nan,
    },
  )
  found = measure(draw(Drawn()))
  for name in ("wedge_ratio", "biconcave_ratio", "crush_ratio"):
    assert "no end plates" in found.partial[name]
  assert "height_middle_mm" not in found.partial
  (_, rated) = compare_neighbours([found, found])
  assert np.isnan(rated.crush_ratio)


def test_directions_follow_the_spine():
  centres = np.array([[0, 0, 60.0], [0, 0, 30], [0, 30, 0], [0, 30, 0]])
  ways = spine_directions(centres)
  np.testing.assert_allclose(ways[0], (0, 0, 1))
  np.testing.assert_allclose(ways[1], np.array((0, -1, 2)) / 5**0.5)
  np.testing.assert_allclose(np.linalg.norm(ways, axis=1), 1)
  assert spine_directions(centres[:1]).tolist() == [[0, 0, 1]]


def test_boxes_are_those_of_each_code_over_all_slabs():
  mask = np.zeros((20, 30, 90), np.uint8)
  mask[3:9, 4:10, 20:70] = 20
  mask[0:2, 28:30, 88:90] = 21
  boxes = label_boxes(mask)
  assert set(boxes) == {20, 21}
  assert boxes[20] == np.s_[3:9, 4:10, 20:70]
  volume = Volume(mask.astype(np.int16), np.diag([2.0, 2, 3, 1]))
  box = cut_box(mask, volume, 21, boxes[21])
  assert box.ends == ((0, 18), (28, 0), (88, 0))
  np.testing.assert_allclose(box.grid.affine[:3, 3], (0, 56, 264))
  assert cut_box(mask, volume, 5, None).mask.sum() == 0


@pytest.mark.parametrize("codes", ["upright", "turned"])
def test_a_lesion_box_knows_its_vertebra_and_share(codes):
  mask = np.zeros((40, 40, 60), np.uint8)
  mask[10:30, 10:30, 30:50], mask[10:30, 10:30, 8:28] = 20, 21
  affine = np.eye(4)
  if codes == "turned":
    affine = np.array(
      [[0, -1.0, 0, 39], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    )
  grid = Grid(mask.shape, affine)
  volumes = {20: 8.0, 21: 8.0}

  def locate(centre, size):
    place = grid.to_world(np.array([centre], float))[0]
    edges = np.abs(affine[:3, :3]) @ size
    return locate_box(mask, grid, volumes, place.tolist(), edges.tolist())

  code, share = locate((19.5, 19.5, 39.5), (10, 10, 10))
  assert (code, share) == (20, pytest.approx(0.125))
  # Most of its bone is in the lower one, its centre is in neither.
  code, share = locate((19.5, 19.5, 28.0), (10, 10, 12))
  assert (code, share) == (21, pytest.approx(0.075))
  assert locate((3, 3, 3), (4, 4, 4)) is None
  # A box that only touches a vertebra does not sit in it.
  assert locate((4.5, 19.5, 39.5), (12, 10, 10)) is None
  assert locate((-30, 3, 3), (4, 4, 4)) is None
  assert locate((19.2, 19.2, 39.2), (0.2, 0.2, 0.2)) == (
    20,
    pytest.approx(1 / 8000),
  )
