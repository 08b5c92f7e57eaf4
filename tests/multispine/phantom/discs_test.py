"""What lies in and between the vertebrae is where it is in patients."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.column import canal
from vf_jax.multispine.phantom.discs import discs
from vf_jax.multispine.phantom.pathology import Fracture
from vf_jax.multispine.phantom.spine import draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics

_CORD_HU = 42.0
_L1_TO_L3 = ("L1", "L2", "L3")


def _spine(seed, variant="usual", fractures=None):
  rng = np.random.default_rng(seed)
  return draw_spine(rng, load_statistics(), variant, fractures or {})


def _canvas(spine, first, last, step_mm=2.0):
  """Fat from one vertebra to another."""
  ends = [v.centre for v in spine.vertebrae if v.name in (first, last)]
  low = np.min(ends, axis=0) - 40
  shape = np.ceil((np.max(ends, axis=0) + 40 - low) / step_mm).astype(int)
  canvas = Canvas(low, tuple(shape.tolist()), step_mm)
  canvas.tissue[...] = tissues.FAT.code
  canvas.hu[...] = -100.0
  return canvas


def _conus(spine, seed):
  """Where the cord ends, in levels below the middle of L1."""
  canvas = _canvas(spine, "T10", "L4")
  canal(canvas, spine, np.random.default_rng(seed))
  foot = canvas.z[(canvas.hu == _CORD_HU).any(axis=(0, 1))].min()
  bones = spine.vertebrae
  heights = [
    v.to_world(np.array([0.0, v.template.canal_mm, 0.0]))[2] for v in bones
  ]
  level = np.interp(-foot, -np.array(heights), range(len(bones)))
  return level - [v.name for v in bones].index("L1")


@pytest.mark.parametrize("variant", ["usual", "T13", "absent T12"])
def test_the_cord_ends_about_the_lower_end_of_l1(variant):
  ends = [_conus(_spine(seed, variant), seed) for seed in range(24)]
  assert np.mean(ends) == pytest.approx(0.35, abs=0.35)
  assert 0.3 < np.std(ends) < 1.0
  assert min(ends) > -1.2
  assert max(ends) < 2.2


def _painted(spine, first, last, worn_seed=1):
  """Discs alone on fat: the canvas and world points of its voxels."""
  canvas = _canvas(spine, first, last, 1.0)
  discs(canvas, spine, np.random.default_rng(worn_seed))
  grid = np.meshgrid(canvas.x, canvas.y, canvas.z, indexing="ij")
  return canvas, np.stack(grid)


def _local(bone, points):
  """Points in the frame of a bone, mm: whole bodies, fractured or not."""
  flat = points.reshape(3, -1) - bone.centre[:, None]
  return (bone.frame.T @ flat).reshape(points.shape)


@pytest.mark.parametrize("kind", ["crush", "biconcave", "wedge"])
@pytest.mark.parametrize("seed", range(3))
def test_discs_follow_the_endplates_of_a_fracture(kind, seed):
  spine = _spine(seed, fractures={"L2": Fracture(kind, 3, 0.6)})
  canvas, points = _painted(spine, "L1", "L3")
  upper, hurt, lower = (v for v in spine.vertebrae if v.name in _L1_TO_L3)
  wide, deep, _ = hurt.half_mm
  u, v, _ = _local(hurt, points)
  column = np.hypot(u / wide, v / deep) < 0.8
  between = _local(upper, points)[2] < -upper.half_mm[2]
  between &= _local(lower, points)[2] > lower.half_mm[2]
  bone = np.zeros(canvas.shape, bool)
  for vertebra in (upper, hurt, lower):
    bone |= vertebra.depth(canvas.x, canvas.y, canvas.z) > 0
  gap = column & between & ~bone
  assert gap.sum() > 1000
  assert (canvas.hu[gap & (canvas.tissue != tissues.GAS.code)] > -20).all()


@pytest.mark.parametrize("variant", ["usual", "L6"])
@pytest.mark.parametrize("seed", range(4))
def test_the_disc_on_the_sacrum_fills_its_wedge(seed, variant):
  spine = _spine(seed, variant)
  last, sacrum = spine.vertebrae[-1], spine.sacrum
  canvas, points = _painted(spine, last.name, last.name)
  axes = canvas.x, canvas.y, canvas.z
  above, below = last.depth(*axes), sacrum.depth(*axes)
  wide, deep, tall = last.half_mm
  u, v, w = _local(last, points)
  # Down every line under the body: what is between its bone and S1's.
  column = (np.abs(u) < 0.6 * wide) & (np.abs(v) < 0.7 * deep) & (w < -tall / 2)
  reached = np.maximum.accumulate(below > 0, axis=2)  # S1 lies further down
  space = column & (above < 0) & (below < 0) & reached
  disc = canvas.tissue == tissues.CARTILAGE.code
  assert space.sum() > 1500
  assert disc[space].mean() > 0.9
  low = disc & (w < 0)
  assert not (low & (below > 4.5)).any()
  assert not (low & (above > 4.5)).any()
