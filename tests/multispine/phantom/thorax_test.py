"""Ribs hang on their vertebrae, the last ones vary."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.spine import draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics
from vf_jax.multispine.phantom.thorax import Cage, ribs


class _Notebook(Canvas):
  """A canvas of one voxel that keeps the bones' paths."""

  def __init__(self):
    super().__init__(np.full(3, 1e4), (1, 1, 1), 1.0)
    self.paths = []

  def bone_tube(self, path, radii, stretch=(1.0, 1.0, 1.0)):
    self.paths.append(np.asarray(path))


def _spine(seed, variant="usual"):
  rng = np.random.default_rng(seed)
  return draw_spine(rng, load_statistics(), variant, {})


def _draw_ribs(canvas, spine, seed):
  ends = spine.sacrum.centre[2] - 100, spine.vertebrae[0].centre[2] + 50
  cage = Cage.of(spine, np.arange(*ends, 4.0), 1.0)
  ribs(canvas, spine, cage, np.random.default_rng([seed, 1]))


def _lengths(seed, variant):
  """Level -> lengths of the left and the right rib, mm."""
  spine, page = _spine(seed, variant), _Notebook()
  _draw_ribs(page, spine, seed)
  found = {}
  for path in page.paths[:-1]:  # the last one is the sternum
    away = [np.linalg.norm(v.centre - path[0]) for v in spine.vertebrae]
    name = spine.vertebrae[int(np.argmin(away))].name
    long = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    found.setdefault(name, []).append(long)
  return found


def test_ribs_of_t12_vary_from_patient_to_patient():
  found = [_lengths(seed, "usual") for seed in range(40)]
  assert all(list(row)[-1] == "T12" and len(row) == 12 for row in found)
  both = np.array([row["T12"] for row in found])
  assert both.min() >= 38
  assert both.max() <= 142
  means = both.mean(axis=1)
  assert means.std() > 15
  assert 2 <= (means < 80).sum() <= 20
  assert 85 < means.mean() < 115
  # Sides differ, but are of one patient.
  assert 0 < np.abs(np.diff(both)).mean() < 15
  assert min(np.mean(row["T11"]) for row in found) > 130


def test_ribs_of_t13_are_mostly_rudimentary():
  found = [_lengths(seed, "T13") for seed in range(40)]
  both = np.array([row["T13"] for row in found])
  short = (both < 82).all(axis=1)
  assert 0.6 < short.mean() < 0.95
  assert both.min() >= 28  # seen beside the transverse process
  assert both[short].mean() < 65
  upper = np.array([row["T12"] for row in found]).min(axis=1, keepdims=True)
  assert (both <= upper + 1).all()


def test_without_t12_the_last_ribs_are_those_of_t11():
  for seed in range(5):
    short, usual = (_lengths(seed, v) for v in ("absent T12", "usual"))
    assert list(short)[-1] == "T11"
    assert 0.6 < np.mean(short["T11"]) / np.mean(usual["T11"]) < 1.1


@functools.cache
def _cage(seed, variant="usual"):
  """A spine, a canvas of 2 mm around T1 to the last rib with ribs alone."""
  spine = _spine(seed, variant)
  bones = [v for v in spine.vertebrae if v.name[0] == "T"]
  places = np.array([v.centre for v in bones])
  low, high = places.min(axis=0) - 70, places.max(axis=0) + 70
  shape = tuple(int(n) for n in (high - low) / 2)
  canvas = Canvas(low, shape, 2.0)
  _draw_ribs(canvas, spine, seed)
  return canvas, bones


@pytest.mark.parametrize("variant", ["usual", "T13", "absent T12"])
@pytest.mark.parametrize("seed", range(3))
def test_ribs_reach_their_vertebra_and_leave_a_joint(seed, variant):
  canvas, bones = _cage(seed, variant)
  for bone in bones:
    low, high = bone.box_mm
    box = canvas.box(low - 8, high + 8)
    depth = bone.depth(*(a[b] for a, b in zip((canvas.x, canvas.y, canvas.z),
                                              box)))  # fmt: skip
    rib = canvas.bone[box] > 0
    assert not (rib & (depth > 0)).any(), bone.name
    for side in (-1, 1):
      x, _, z = canvas.local(box, bone.centre)
      # Next to the body: the head of the rib, not its tubercle.
      near = rib & (side * x > 0) & (side * x < bone.half_mm[0] + 8)
      near &= np.abs(z) < bone.half_mm[2] + 4
      # Depth says how far off the surface is, and is right out to 5 mm.
      assert depth[near].max() > -4, (bone.name, side)


@pytest.mark.parametrize("seed", range(3))
def test_ribs_are_alike_on_both_sides(seed):
  canvas, bones = _cage(seed)
  middle = np.interp(
    canvas.z, [b.centre[2] for b in bones][::-1],
    [b.centre[0] for b in bones][::-1],
  )  # fmt: skip
  right = canvas.x[:, None, None] > middle
  rib = canvas.bone > 0
  share = (rib & right).sum() / rib.sum()
  assert 0.42 < share < 0.58
