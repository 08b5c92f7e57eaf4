"""Spines have the right vertebrae, in order, and bones where they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vf_jax.multispine.phantom.pathology import Fracture
from vf_jax.multispine.phantom.spine import (
  VARIANTS,
  draw_spine,
  draw_variant,
  level_names,
)
from vf_jax.multispine.phantom.statistics import load_statistics


def _spine(seed, variant="usual", fractures=None):
  rng = np.random.default_rng(seed)
  return draw_spine(rng, load_statistics(), variant, fractures or {})


def _bone(spine, name):
  return next(v for v in spine.vertebrae if v.name == name)


def test_level_names_of_the_variants():
  assert len(level_names("usual")) == 24
  assert level_names("T13")[18:21] == ("T12", "T13", "L1")
  assert level_names("L6")[-2:] == ("L5", "L6")
  assert level_names("absent T12")[17:19] == ("T11", "L1")


def test_variants_are_as_common_as_stated():
  rng = np.random.default_rng(0)
  drawn = [draw_variant(rng) for _ in range(4000)]
  for variant, rate in VARIANTS.items():
    assert drawn.count(variant) / 4000 == pytest.approx(rate, abs=0.012)
  assert draw_variant(rng, {"L6": 1.0}) == "L6"


@pytest.mark.parametrize("variant", ["usual", *VARIANTS])
@pytest.mark.parametrize("seed", range(4))
def test_vertebrae_follow_one_another_downwards(seed, variant):
  spine = _spine(seed, variant)
  assert tuple(v.name for v in spine.vertebrae) == level_names(variant)
  for upper, lower in itertools.pairwise(spine.vertebrae):
    way = lower.centre - upper.centre
    assert way[2] < -7
    assert 10 < np.linalg.norm(way) < 55
    assert upper.frame[:, 2] @ -way > 0.8 * np.linalg.norm(way)
    # Bodies leave room for a disc.
    room = np.linalg.norm(way) - upper.half_mm[2] - lower.half_mm[2]
    assert room > 0 or upper.name == "C1"


def test_depth_is_deepest_at_the_body_and_mirrors_sides():
  bone = _bone(_spine(0), "L3")
  axes = [np.array([c]) for c in bone.centre]
  assert bone.depth(*axes)[0, 0, 0] > 5
  left, right = (
    bone.to_world(np.array(bone.template.pedicle_mm) * (side, 1, 1))
    for side in (-1, 1)
  )
  assert bone.depth(*[np.array([c]) for c in left])[0, 0, 0] > 0
  assert bone.depth(*[np.array([c]) for c in right])[0, 0, 0] > 0
  assert left[0] < bone.centre[0] < right[0]


def test_bones_stay_in_their_box():
  bone = _bone(_spine(1), "T8")
  low, high = bone.box_mm
  axes = [np.arange(a - 8, b + 8, 2.0) for a, b in zip(low, high)]
  inside = np.argwhere(bone.depth(*axes) > 0)
  for axis, a, b, spots in zip(axes, low, high, inside.T):
    assert axis[spots].min() >= a
    assert axis[spots].max() <= b


def test_fractures_shorten_and_bend_the_spine():
  whole = _spine(2)
  hurt = _spine(2, fractures={"L1": Fracture("wedge", 3, 0.5)})
  tall = [
    np.linalg.norm(_bone(s, "T12").centre - _bone(s, "L2").centre)
    for s in (whole, hurt)
  ]
  assert tall[1] < tall[0] - 4

  def kyphosis(spine):
    above, below = _bone(spine, "T11"), _bone(spine, "L3")
    turn = np.cross(above.frame[:, 1], below.frame[:, 1])
    return float(turn @ np.array([1.0, 0.0, 0.0]))

  assert kyphosis(hurt) > kyphosis(whole) + 0.05


def test_sacrum_hangs_below_the_last_vertebra():
  for variant in ("usual", "L6"):
    spine = _spine(3, variant)
    last = spine.vertebrae[-1]
    place = spine.sacrum.to_world(np.array([0.0, -22.0, -30.0]))
    assert spine.sacrum.depth(*[np.array([c]) for c in place])[0, 0, 0] > 0
    assert place[2] < last.centre[2] - 10
    assert spine.sacrum.code == 26
