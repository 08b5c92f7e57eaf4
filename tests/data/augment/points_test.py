# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Detections: jittered, missed, false, and always from head to foot."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.model_config import MAX_ADVANCE
from vf_jax.data.augment.points import ascends, draw_points
from vf_jax.labels import BY_NAME, CODES, VERTEBRAE
from vf_jax.models.decoders import level_chain, numbering
from vf_jax.models.decoders.numbering import ChainScores

CROP, SLOTS, SPACING = (48, 44, 46), 24, 2.0
# Off any one plane; the last is outside the crop, the one before near it.
PLACES = {
  "T11": (44.0, 20.0, 16.0),
  "T12": (35.0, 26.0, 20.0),
  "L1": (26.0, 30.0, 24.0),
  "L2": (15.0, 27.0, 21.0),
  "L3": (6.0, 21.0, 25.0),
  "L4": (-4.0, 20.0, 20.0),
}
INNER = [BY_NAME[n].order for n in ("T12", "L1", "L2")]  # 7 voxels inside


def table(places):
  centres = np.zeros((CODES, 3), np.float32)
  known = np.zeros(CODES, bool)
  for name, place in places.items():
    centres[BY_NAME[name].code] = place
    known[BY_NAME[name].code] = True
  return jnp.asarray(centres), jnp.asarray(known)


@pytest.fixture(scope="module")
def draw(quick):
  many = quick(
    jax.vmap(
      lambda key, centres, known: draw_points(
        key, centres, known, CROP, SPACING, SLOTS
      ),
      in_axes=(0, None, None),
    )
  )

  def run(places=PLACES, count=400, seed=0):
    keys = jax.random.split(jax.random.key(seed), 400)
    found = many(keys, *table(places))
    return [np.asarray(a)[:count] for a in found]

  return run


def test_points_are_jittered_centres_from_head_to_foot(draw):
  stated = {BY_NAME[name].order: place for name, place in PLACES.items()}
  errors, missed = [], 0
  for points, levels, mask in zip(*draw()):
    count = mask.sum()
    assert mask[:count].all()  # real slots come first
    assert (levels[~mask] == -1).all()
    assert (points[~mask] == 0).all()
    assert (np.diff(points[:count, 0]) <= 0).all()
    assert (points[mask] >= 0).all()
    assert (points[mask] < CROP).all()
    true = levels[mask & (levels >= 0)]
    assert (np.diff(true) > 0).all()
    errors += [p - stated[v] for p, v in zip(points, levels) if v in INNER]
    missed += len(set(INNER) - set(true))
  assert np.std(errors) == pytest.approx(1.0, rel=0.1)  # voxels
  assert missed / 1200 == pytest.approx(0.04, abs=0.02)
  assert BY_NAME["L4"].order not in np.concatenate(draw()[1])


def test_now_and_then_a_detection_is_false(draw):
  places = np.array(list(PLACES.values()))
  numbers, near = [], []
  for points, levels, mask in zip(*draw()):
    false = points[mask & (levels < 0)]
    numbers.append(len(false))
    for point in false:
      # 10 mm from every true centre, or it would be one.
      assert np.linalg.norm(places - point, axis=1).min() > 10 / SPACING
      near.append(np.linalg.norm(places - point, axis=1).min() < 12)
  assert 0.1 < np.mean(numbers) < 0.3
  assert max(numbers) == 2
  assert 0.4 < np.mean(near) < 0.95  # most are displaced true ones


def test_a_crop_without_vertebrae_may_still_have_a_false_one(draw):
  points, levels, mask = draw({})
  assert (levels == -1).all()
  assert mask.sum(axis=1).mean() == pytest.approx(0.3, abs=0.08)
  seen = points[mask]
  assert (np.ptp(seen, axis=0) > 30).all()  # anywhere
  assert (seen >= 3).all()  # 6 mm from the border
  assert (seen <= np.array(CROP) - 3).all()


def test_without_a_key_points_are_the_true_centres(quick):
  def places(slots):
    return quick(lambda *t: draw_points(None, *t, CROP, SPACING, slots))(
      *table(PLACES)
    )

  points, levels, mask = places(SLOTS)
  names = [VERTEBRAE[level].name for level in levels[mask]]
  assert names == ["T11", "T12", "L1", "L2", "L3"]
  np.testing.assert_allclose(points[mask], [PLACES[name] for name in names])
  np.testing.assert_array_equal(places(2)[1], levels[:2])


def _plainly(levels):
  steps = np.diff([level for level in levels if level >= 0])
  return bool(((steps >= 1) & (steps <= MAX_ADVANCE)).all())


def test_ascending_is_what_a_loop_says():
  rng = np.random.default_rng(0)
  rows = rng.integers(-1, 12, (3000, 5)).astype(np.int32)
  rows[:1000].sort(axis=1)
  found = np.asarray(jax.jit(jax.vmap(ascends))(jnp.asarray(rows)))
  expected = [_plainly(row) for row in rows]
  np.testing.assert_array_equal(found, expected)
  assert 200 < sum(expected) < 2000


def _chain_cost(rows) -> np.ndarray:
  """-log p of level sequences under a chain that knows anatomy only."""
  levels = jnp.asarray(rows)
  chain = ChainScores(
    emissions=level_chain.emission_scores(
      jnp.zeros((*levels.shape, len(VERTEBRAE))), jnp.zeros((*levels.shape, 1))
    ),
    transitions=level_chain.transition_scores(
      jnp.zeros((len(rows), levels.shape[1] - 1, MAX_ADVANCE)), jnp.zeros(3)
    ),
    mask=jnp.ones(levels.shape, bool),
  )
  cost = jax.jit(ChainScores.negative_log_likelihood)
  return np.asarray(cost(chain, levels))


def test_levels_are_taught_only_where_the_chain_can_explain_them():
  order = {level.name: level.order for level in VERTEBRAE}
  rows = {
    ("T11", "T12", "L1"): True,
    ("T5", None, "T11"): True,  # six on
    ("T4", None, "T11"): False,  # seven on
    ("L2", None, "L1"): False,
    ("T12", "T13", "L1"): True,
    ("L5", "L6", None): True,
    (None, None, "C2"): True,
  }
  levels = np.array(
    [[-1 if n is None else order[n] for n in row] for row in rows], np.int32
  )
  told = np.asarray(jax.jit(jax.vmap(ascends))(jnp.asarray(levels)))
  np.testing.assert_array_equal(told, list(rows.values()))
  np.testing.assert_array_equal(_chain_cost(levels) < 1e6, told)
