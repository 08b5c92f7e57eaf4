"""The last lumbar vertebra stands on S1, with a wedge of disc between them."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.phantom.pathology import Fracture
from vf_jax.multispine.phantom.spine import draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics

_Y, _Z = np.meshgrid(np.arange(-50, 40, 0.5), np.arange(-75, 0, 0.5))


def _spine(seed, variant="usual", fractures=None):
  rng = np.random.default_rng(seed)
  return draw_spine(rng, load_statistics(), variant, fractures or {})


def _plane(spine):
  """World points of the mid-sagittal plane of the last vertebra, mm."""
  last = spine.vertebrae[-1]
  flat = np.stack([np.zeros(_Y.size), _Y.ravel(), _Z.ravel()])
  return last.centre[:, None] + last.frame @ flat


def _within(bone, world):
  local = bone.frame.T @ (world - bone.centre[:, None])
  return bone.template.depth(local / bone.scale[:, None]) > 0


def _rims(bone, up):
  """Posterior and anterior end of a surface: a line fitted, then corners."""
  middle = np.intersect1d(np.arange(-10, 1), bone[:, 0])
  edge = [(up * bone[bone[:, 0] == y, 1]).max() * up for y in middle]
  slope = np.arctan(np.polyfit(middle, edge, 1)[0])
  along = np.array([np.cos(slope), np.sin(slope)])
  away = np.array([-along[1], along[0]]) * up
  return np.array([bone[np.argmax(bone @ (away + s * along))] for s in (-1, 1)])


def _corners(spine):
  """Rims of L5's lower and S1's upper endplate: rows back, front; mm."""
  world = _plane(spine)
  yz = np.stack([_Y.ravel(), _Z.ravel()], axis=1)
  last = spine.vertebrae[-1]
  body = yz[_within(last, world) & (yz[:, 0] > -last.half_mm[1] - 6)]
  bone = yz[_within(spine.sacrum, world)]
  # The body of S1, without the arch behind its canal.
  bone = bone[(bone[:, 0] > -34) & (bone[:, 1] > -52)]
  return _rims(body, -1), _rims(bone, 1)


@pytest.mark.parametrize("variant", ["usual", "L6"])
def test_the_last_vertebra_does_not_slip_on_the_sacrum(variant):
  slips, gaps = [], []
  for seed in range(30):
    (low_back, low_front), (back, front) = _corners(_spine(seed, variant))
    length = np.linalg.norm(front - back)
    along = (front - back) / length
    up = np.array([-along[1], along[0]])
    slips.append((low_back - back) @ along / length)
    gaps.append([(p - back) @ up for p in (low_back, low_front)])
  assert abs(np.mean(slips)) < 0.04
  assert np.std(slips) < 0.06
  behind, ahead = np.mean(gaps, axis=0)
  assert np.min(gaps) > 0.5
  assert 3 < behind < 9 < ahead < 18


@pytest.mark.parametrize("seed", range(3))
def test_the_last_body_does_not_touch_the_sacrum(seed):
  spine = _spine(seed)
  world = _plane(spine)[:, _Y.ravel() > -25]
  last = spine.vertebrae[-1]
  assert not (_within(last, world) & _within(spine.sacrum, world)).any()


@pytest.mark.parametrize("kind", ["crush", "wedge", "biconcave"])
def test_the_sacrum_follows_a_broken_last_vertebra(kind):
  """S1 stays a disc away from the endplate that gave way."""
  spine = _spine(0, fractures={"L5": Fracture(kind, 3, 0.5)})
  last = spine.vertebrae[-1]
  up = np.arange(-60, 0, 0.5)
  line = last.centre + up[:, None] * last.frame[:, 2]
  bones = [
    np.array([b.depth(*p[:, None]).item() > 0 for p in line])
    for b in (last, spine.sacrum)
  ]
  gap = up[bones[0]].min() - up[bones[1]].max()
  assert 5 < gap < (20 if kind == "biconcave" else 16)  # its hollow
