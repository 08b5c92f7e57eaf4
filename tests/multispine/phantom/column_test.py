"""What lies in and between the vertebrae is where it is in patients."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.column import canal
from vf_jax.multispine.phantom.spine import draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics

_CORD_HU = 42.0


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
