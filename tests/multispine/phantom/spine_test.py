"""Spines have the right vertebrae, in order, and bones where they say."""

from __future__ import annotations

import functools
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


@pytest.mark.parametrize("seed", range(6))
def test_a_fracture_takes_its_loss_from_the_way_and_nothing_from_bones(seed):
  whole = _spine(seed)
  hurt = _spine(seed, fractures={"L1": Fracture("crush", 3, 0.5)})
  for before, after in zip(whole.vertebrae, hurt.vertebrae):
    np.testing.assert_allclose(after.half_mm, before.half_mm)

  def way(spine):
    places = [_bone(spine, name).centre for name in ("T12", "L1", "L2")]
    return sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(places))

  # Half of the patient's own body, not of the template's.
  lost = 0.5 * 2 * _bone(whole, "L1").half_mm[2]
  assert way(whole) - way(hurt) == pytest.approx(lost, rel=0.01)


def test_sacrum_hangs_below_the_last_vertebra():
  for variant in ("usual", "L6"):
    spine = _spine(3, variant)
    last = spine.vertebrae[-1]
    place = spine.sacrum.to_world(np.array([0.0, -22.0, -30.0]))
    assert spine.sacrum.depth(*[np.array([c]) for c in place])[0, 0, 0] > 0
    assert place[2] < last.centre[2] - 10
    assert spine.sacrum.code == 26


@functools.cache
def _halves():
  """Level -> half width, depth, height (mm) and breadth in 50 spines."""
  found = {}
  for seed in range(50):
    spine = _spine(seed)
    for bone in spine.vertebrae:
      breadth = bone.scale[0] / spine.size
      found.setdefault(bone.name, []).append([*bone.half_mm, breadth])
  return {name: np.array(rows) for name, rows in found.items()}


def test_bodies_grow_wider_downwards():
  halves = _halves()
  names = level_names("usual")
  wide = [2 * halves[n][:, 0].mean() for n in names[names.index("T4") :]]
  for upper, lower in itertools.pairwise(wide):
    assert lower > 0.98 * upper
  assert halves["L1"][:, 0].mean() >= halves["T12"][:, 0].mean()
  assert halves["L1"][:, 1].mean() >= halves["T12"][:, 1].mean()


def test_bodies_grow_narrower_from_t1_to_t4_without_a_step():
  wide = [_halves()[name][:, 0].mean() for name in ("T1", "T2", "T3", "T4")]
  for upper, lower in itertools.pairwise(wide):
    assert 0.92 * upper < lower < upper


@pytest.mark.parametrize(
  ("name", "low", "high"),
  # Waists: endplates are about 10 % wider (Panjabi et al.).
  [
    ("C7", 22, 26), ("T1", 26, 30), ("T4", 22, 26), ("T8", 26, 30),
    ("T12", 34, 39), ("L1", 35, 40), ("L3", 36, 42), ("L5", 41, 47),
  ],
)  # fmt: skip
def test_bodies_are_as_wide_as_anatomy_says(name, low, high):
  assert low < 2 * _halves()[name][:, 0].mean() < high


def test_widths_vary_without_piling_up_at_their_clips():
  for name, rows in _halves().items():
    # Free draws never repeat; clipped ones do, once for every template.
    counts = np.unique(np.round(rows[:, 3], 6), return_counts=True)[1]
    assert counts[counts > 1].sum() <= 0.2 * len(rows), name


def test_no_subject_gives_larger_bones_than_others():
  sections = {}
  for seed in range(50):
    spine = _spine(seed)
    for bone in spine.vertebrae[6:]:
      section = np.log(bone.half_mm[:2] / spine.size).mean()
      found = sections.setdefault(bone.name, {})
      found.setdefault(bone.template.source, []).append(section)
  apart = {}
  for found in sections.values():
    means = {source: np.mean(values) for source, values in found.items()}
    for source, value in means.items():
      if len(means) > 1:
        usual = np.mean(list(means.values()))
        apart.setdefault(source, []).append(value - usual)
  for source, values in apart.items():
    assert abs(np.mean(values)) < 0.02, source
