# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Instances, the chain and lesion boxes from outputs whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vf_jax.infer import decode
from vf_jax.infer.decode import (
  PredictedLesion,
  best_chain,
  find_boxes,
  find_instances,
  find_lesions,
  suppress,
)
from vf_jax.infer.sweep import Sweep
from vf_jax.multispine.neighbours import BELOW_MM

SPACING = 2.0
SHAPE = (96, 48, 40)
# From head to foot, along a curve; (depth, height, width).
CENTRES = np.array(
  [
    (84.0, 26.0, 20.0),
    (71.0, 24.0, 21.5),
    (58.0, 23.0, 22.0),
    (45.0, 23.5, 21.5),
    (31.5, 25.0, 20.5),
    (17.5, 27.0, 19.0),
  ]
)


def ellipsoids(centres=CENTRES, radii=(5.5, 7.0, 9.0), shape=SHAPE):
  """Ids 1, 2, ... of ellipsoids; a voxel belongs to the nearest one."""
  grid = np.indices(shape).reshape(3, -1).T
  far = np.stack(
    [(((grid - c) / radii) ** 2).sum(axis=1) for c in centres], axis=1
  )
  ids = np.where(far.min(axis=1) <= 1, far.argmin(axis=1) + 1, 0)
  return ids.reshape(shape).astype(np.uint8)


def outputs(ids, centres=CENTRES, probability=0.9):
  """What a perfect network says of a map of ids."""
  offsets = np.zeros((*ids.shape, 3), np.float32)
  places = np.argwhere(ids)
  inside = tuple(places.T)
  offsets[inside] = np.asarray(centres)[ids[inside].astype(int) - 1] - places
  cells = tuple(n // 4 for n in ids.shape)
  return Sweep(
    probability=np.where(ids > 0, probability, 0.01).astype(np.float16),
    offsets=offsets[ids > 0],
    lesion_heat=np.zeros(cells, np.float32),
    lesion_box=np.zeros((*cells, 6), np.float32),
    windows=1,
    skipped=0,
  )


def moved(sweep, ids, own, axis, by):
  """Adds to the offsets of some voxels of the foreground."""
  sweep.offsets[own[ids > 0], axis] += by


def found_of(ids, config, centres=CENTRES, **changes):
  sweep = dataclasses.replace(outputs(ids, centres), **changes)
  return find_instances(sweep, SPACING, config.predict)


def test_a_curved_spine_comes_back_voxel_by_voxel(test_config):
  ids = ellipsoids()
  found = found_of(ids, test_config)
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_allclose(found.centres, CENTRES, atol=1e-4)
  assert found.warnings == ()


def test_touching_boxes_are_separated_at_their_common_face(test_config):
  ids = np.zeros((60, 24, 24), np.uint8)
  for i in range(4):
    ids[48 - 12 * i : 60 - 12 * i, 5:17, 6:18] = i + 1
  centres = np.array([(53.5 - 12 * i, 10.5, 11.5) for i in range(4)])
  found = found_of(ids, test_config, centres)
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_allclose(found.centres, centres, atol=1e-4)


@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_noisy_votes_still_give_one_instance_a_body(test_config, noise):
  ids = ellipsoids()
  sweep = outputs(ids)
  shake = np.random.default_rng(3).normal(0, noise, sweep.offsets.shape)
  found = found_of(
    ids, test_config, offsets=sweep.offsets + shake.astype(np.float32)
  )
  assert len(found.centres) == len(CENTRES)
  np.testing.assert_allclose(found.centres, CENTRES, atol=0.5)
  assert (found.ids == ids)[ids > 0].mean() > 0.97
  assert not found.ids[ids == 0].any()


def test_a_body_seen_twice_is_merged(test_config):
  """Its upper half votes 8 mm up, its lower half 8 mm down: two seeds."""
  ids = ellipsoids()
  sweep = outputs(ids)
  places = np.indices(ids.shape)[0]
  own = ids == 3
  moved(sweep, ids, own & (places > CENTRES[2, 0]), 0, 4)
  moved(sweep, ids, own & (places <= CENTRES[2, 0]), 0, -4)
  found = find_instances(sweep, SPACING, test_config.predict)
  assert len(found.centres) == len(CENTRES)
  assert (found.ids[own] == 3).mean() > 0.99
  np.testing.assert_allclose(
    found.centres[[0, 1, 3, 4, 5]], CENTRES[[0, 1, 3, 4, 5]], atol=0.5
  )


def test_close_bodies_of_a_small_spine_are_not_merged(test_config):
  """Neighbours 14 mm apart (a neck) stay two: all gaps are alike."""
  centres = np.array([(60.0 - 7 * i, 20.0, 20.0) for i in range(6)])
  ids = ellipsoids(centres, (3.5, 6.0, 8.0), (68, 40, 40))
  found = found_of(ids, test_config, centres)
  np.testing.assert_array_equal(found.ids, ids)


def test_bone_far_from_the_spine_is_dropped_and_told(test_config):
  centres = np.concatenate([CENTRES, [(17.0, 24.0, 70.0)]])
  ids = ellipsoids(centres, shape=(96, 48, 84))
  found = found_of(ids, test_config, centres)
  assert len(found.centres) == len(CENTRES)
  np.testing.assert_array_equal(found.ids, np.where(ids == 7, 0, ids))
  assert found.warnings == (
    "1 bone-like region(s) away from the spine were dropped.",
  )


def test_votes_beyond_the_reach_of_every_body_belong_to_none(test_config):
  ids = ellipsoids()
  sweep = outputs(ids)
  stray = (ids == 2) & (np.indices(ids.shape)[2] > 27)
  sweep.offsets[stray[ids > 0], 2] = 60.0
  found = find_instances(sweep, SPACING, test_config.predict)
  np.testing.assert_array_equal(found.ids, np.where(stray, 0, ids))


def test_votes_that_found_no_vertebra_go_to_the_next_one(test_config):
  """2 ml of a vertebra vote 16 mm to the side: too little for one more."""
  ids = ellipsoids()
  sweep = outputs(ids)
  stray = (ids == 3) & (np.indices(ids.shape)[2] > CENTRES[2, 2] + 4.5)
  moved(sweep, ids, stray, 2, 8.0)
  assert 1.5 < stray.sum() * SPACING**3 / 1000 < 3
  found = find_instances(sweep, SPACING, test_config.predict)
  np.testing.assert_array_equal(found.ids, ids)
  assert found.warnings == ()


def test_no_two_bodies_are_closer_than_the_smallest_distance(test_config):
  """Half the votes 8 mm above the others; bodies are 10 mm apart."""
  ids = ellipsoids(CENTRES[2:3])
  sweep = outputs(ids, CENTRES[2:3])
  upper = (ids == 1) & (np.indices(ids.shape)[0] > CENTRES[2, 0])
  moved(sweep, ids, upper, 0, 4.0)
  found = find_instances(sweep, SPACING, test_config.predict)
  np.testing.assert_array_equal(found.ids, ids)
  # A little further apart they are two.
  moved(sweep, ids, upper, 0, 2.0)
  found = find_instances(sweep, SPACING, test_config.predict)
  assert found.ids.max() == 2


def test_a_speck_is_no_vertebra(test_config):
  """2 ml with a centre of its own, below the smallest volume of 3 ml."""
  ids = ellipsoids()
  centres = np.concatenate([CENTRES, [(38.0, 4.0, 4.0)]])
  ids[34:42, 2:7, 2:8] = 7
  assert (ids == 7).sum() * SPACING**3 / 1000 < 3
  found = found_of(ids, test_config, centres)
  np.testing.assert_array_equal(found.ids, np.where(ids == 7, 0, ids))


def test_fragments_below_a_tenth_are_dropped_larger_parts_kept(test_config):
  ids = ellipsoids()
  ids[40:44, 34:38, 20:24] = 4  # 64 voxels apart from the rest
  ids[54:60, 36:42, 18:25] = 3  # 252 voxels, as an arch cut off by a gap
  main = (ellipsoids() == 3).sum()
  assert 64 < 0.1 * main < 252 < 0.2 * main
  found = found_of(ids, test_config)
  small = np.zeros(SHAPE, bool)
  small[40:44, 34:38, 20:24] = True
  np.testing.assert_array_equal(found.ids, np.where(small, 0, ids))


def test_nothing_gives_nothing(test_config):
  found = found_of(np.zeros(SHAPE, np.uint8), test_config)
  assert found.centres.shape == (0, 3)
  assert not found.ids.any()
  assert found.warnings == ()


def test_only_specks_give_nothing(test_config):
  ids = np.zeros(SHAPE, np.uint8)
  ids[30:34, 20:24, 20:24] = 1
  ids[60:64, 20:24, 20:24] = 2
  found = found_of(
    ids, test_config, np.array([(31.5, 21.5, 21.5), (61.5, 21.5, 21.5)])
  )
  assert found.centres.shape == (0, 3)
  assert not found.ids.any()


def test_one_vertebra_alone_is_found(test_config):
  ids = ellipsoids(CENTRES[3:4])
  found = found_of(ids, test_config, CENTRES[3:4])
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_allclose(found.centres, CENTRES[3:4], atol=1e-4)


@pytest.mark.parametrize("gap", [9.0, 11.0, 17.0])
@pytest.mark.parametrize("end", ["head", "feet"])
@pytest.mark.parametrize("beyond", [2.0, 3.0, 4.0])
def test_a_piece_of_a_body_outside_the_scan_joins_no_neighbour(
  test_config, gap, end, beyond
):
  """In the neck the next body is within the gate of its votes."""
  steps = gap * np.arange(5.0)
  centres = np.tile([0.0, 24.0, 20.0], (5, 1))
  depth = int(steps[-1] + 12)
  centres[:, 0] = depth - 1 + beyond - steps
  if end == "feet":
    centres[:, 0] = (depth - 1 - centres[:, 0])[::-1]
  ids = ellipsoids(centres, (0.45 * gap, 7.0, 9.0), (depth, 48, 40))
  cut = 1 if end == "head" else 5
  visible = (ids == cut).sum() >= 63  # half a millilitre
  found = found_of(ids, test_config, centres)
  assert found.pieces == (
    (end == "head") and visible,
    (end == "feet") and visible,
  )
  if visible:
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.centres, centres, atol=1e-4)
    whole = np.delete(centres, cut - 1, axis=0)
    np.testing.assert_allclose(found.centres[found.bodies], whole, atol=1e-4)
  else:
    assert len(found.centres) == 4


def test_pieces_at_both_ends_are_told_apart(test_config):
  centres = CENTRES - (CENTRES[5, 0] + 3, 0, 0)
  depth = int(centres[0, 0]) - 2
  ids = ellipsoids(centres, (7.0, 7.0, 9.0), (depth, 48, 40))
  found = found_of(ids, test_config, centres)
  assert found.pieces == (True, True)
  assert found.bodies == slice(1, 5)
  np.testing.assert_array_equal(found.ids, ids)


def test_a_single_body_keeps_what_votes_beside_it(test_config):
  """There is no gap to tell where the next one would be."""
  ids = ellipsoids(CENTRES[3:4])
  found = found_of(ids, test_config, CENTRES[3:4] + np.array([6.0, 0, 0]))
  assert found.pieces == (False, False)
  assert found.bodies == slice(0, 1)


def test_the_mirror_image_gives_the_mirrored_result(test_config):
  ids = ellipsoids()
  sweep = outputs(ids)
  shake = np.random.default_rng(0).normal(0, 1.5, sweep.offsets.shape)
  shaken = dataclasses.replace(
    sweep, offsets=(sweep.offsets + shake).astype(np.float32)
  )
  dense = np.zeros((*SHAPE, 3), np.float32)
  dense[ids > 0] = shaken.offsets
  dense = dense[:, :, ::-1] * np.array([1, 1, -1], np.float32)
  turned = dataclasses.replace(
    shaken,
    probability=shaken.probability[:, :, ::-1],
    offsets=dense[ids[:, :, ::-1] > 0],
  )
  one = find_instances(shaken, SPACING, test_config.predict)
  again = find_instances(shaken, SPACING, test_config.predict)
  other = find_instances(turned, SPACING, test_config.predict)
  np.testing.assert_array_equal(one.ids, again.ids)
  np.testing.assert_array_equal(one.centres, again.centres)
  assert (other.ids[:, :, ::-1] == one.ids).mean() > 0.999
  mirrored = other.centres * (1, 1, -1) + (0, 0, SHAPE[2] - 1)
  np.testing.assert_allclose(mirrored, one.centres, atol=0.1)


def linked(a, b):
  """Whether b may follow a towards the feet, by the rule as documented."""
  step = np.asarray(b) - np.asarray(a)
  across = np.hypot(step[1], step[2])
  return 8 <= np.linalg.norm(step) <= 95 and across <= 8.0 + 1.2 * abs(step[0])


def test_the_chain_is_the_best_of_all_subsets():
  random = np.random.default_rng(5)
  for _ in range(40):
    count = int(random.integers(1, 8))
    points = random.uniform(0, [150, 50, 50], (count, 3))
    volumes = random.uniform(3, 90, count)
    order = np.argsort(-points[:, 0])
    best = 0.0
    for size in range(1, count + 1):
      for chosen in itertools.combinations(order, size):
        if all(
          linked(points[a], points[b]) for a, b in itertools.pairwise(chosen)
        ):
          best = max(best, sum(min(volumes[i], 60.0) for i in chosen))
    chain = best_chain(points, volumes)
    depths = points[chain, 0]
    assert (np.diff(depths) < 0).all()
    assert all(
      linked(points[a], points[b]) for a, b in itertools.pairwise(chain)
    )
    assert sum(min(volumes[i], 60.0) for i in chain) == pytest.approx(best)


def test_a_chain_bridges_one_missing_vertebra_but_no_larger_hole():
  points = np.array([(0.0, 0, 0), (30.0, 0, 0), (90.0, 0, 0), (190.0, 0, 0)])
  volumes = np.full(4, 30.0)
  assert best_chain(points, volumes) == [2, 1, 0]


def test_one_huge_blob_does_not_outvote_a_spine():
  """A hip of 400 ml counts as 60."""
  points = np.array([(60.0, 0, 0), (30.0, 0, 0), (0.0, 0, 0), (0.0, 0, 90.0)])
  assert best_chain(points, np.array([25.0, 25.0, 25.0, 400.0])) == [0, 1, 2]


def test_no_points_no_chain():
  assert best_chain(np.zeros((0, 3)), np.zeros(0)) == []


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.22])
@pytest.mark.parametrize("missed", ["T12", "L2", "L4"])
def test_one_missed_body_breaks_no_spine(scale, missed):
  names = ["T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"]
  gaps = [BELOW_MM["body"][name] for name in names[:-1]]
  gaps[2] = 35.0  # no T13
  points = np.zeros((8, 3))
  points[1:, 0] = -scale * np.cumsum(gaps)
  kept = [i for i, name in enumerate(names) if name != missed]
  assert best_chain(points[kept], np.full(7, 50.0)) == list(range(7))


def lesion_sweep(peaks, cells=(12, 10, 8)):
  heat = np.full(cells, 0.02, np.float32)
  box = np.zeros((*cells, 6), np.float32)
  for cell, score, offset, size in peaks:
    heat[cell] = score
    box[cell] = [*offset, *np.log(size)]
  shape = tuple(4 * n for n in cells)
  return Sweep(
    probability=np.zeros(shape, np.float16),
    offsets=np.zeros((0, 3), np.float32),
    lesion_heat=heat,
    lesion_box=box,
    windows=1,
    skipped=0,
  )


def test_lesion_peaks_become_boxes_by_falling_score():
  sweep = lesion_sweep(
    [
      ((2, 3, 4), 0.5, (0.25, -0.5, 0.0), (8.0, 10.0, 12.0)),
      ((8, 3, 4), 0.9, (0.0, 0.0, 0.0), (4.0, 5.0, 6.0)),
      ((8, 3, 5), 0.7, (0.0, 0.0, 0.0), (4.0, 5.0, 6.0)),  # no peak
      ((5, 8, 1), 0.29, (0.0, 0.0, 0.0), (4.0, 5.0, 6.0)),  # too weak
    ]
  )
  first, second = find_lesions(sweep, 0.3)
  assert first.score == pytest.approx(0.9)
  # The middle of cell 8 lies between voxels 33 and 34.
  assert first.centre == pytest.approx((33.5, 13.5, 17.5))
  assert first.size_mm == pytest.approx((4, 5, 6))
  assert second.score == pytest.approx(0.5)
  assert second.centre == pytest.approx((10.5, 11.5, 17.5))
  assert second.size_mm == pytest.approx((8, 10, 12))


def test_absurd_sizes_are_bounded():
  sweep = lesion_sweep([((2, 3, 4), 0.5, (0, 0, 0), (1e9, 1e-9, 7.0))])
  (box,) = find_lesions(sweep, 0.3)
  assert box.size_mm == pytest.approx((np.exp(5), 1.0, 7.0))


@pytest.mark.parametrize(("sure", "kept"), [(120, 120), (5, 100)])
def test_candidates_fill_up_to_a_hundred(sure, kept):
  cells = np.argwhere(np.ones((6, 5, 5)))[:130] * 3 + 1
  sweep = lesion_sweep(
    [
      (tuple(cell), 0.9 if i < sure else 0.1, (0, 0, 0), (3.0, 3.0, 3.0))
      for i, cell in enumerate(cells.tolist())
    ],
    cells=(20, 17, 17),
  )
  boxes = find_boxes(sweep, 0.5, 2.0)
  assert len(boxes) == kept
  assert sum(box.score > 0.5 for box in boxes) == sure


def test_no_lesions():
  assert find_lesions(lesion_sweep([]), 0.3) == []
  assert list(suppress([], SPACING)) == []


def counted_overlap(a, b, spacing):
  """Intersection over union on a fine lattice."""
  points = np.stack(
    np.meshgrid(*[np.arange(-20, 60, 0.5) + 0.25] * 3, indexing="ij"), -1
  )
  inside = [
    (
      np.abs(points - np.array(box.centre) * spacing)
      < np.array(box.size_mm) / 2
    ).all(axis=-1)
    for box in (a, b)
  ]
  return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


def box(centre, size, score=0.5):
  return PredictedLesion(
    tuple(float(v) for v in centre), tuple(float(v) for v in size), score
  )


@pytest.mark.parametrize(
  ("centre", "size"),
  [
    ((10, 10, 10), (8, 12, 16)),
    ((11, 10, 10), (8, 12, 16)),
    ((10, 12, 14), (8, 12, 16)),
    ((10, 10, 17), (8, 12, 16)),
    ((10, 10, 18), (8, 12, 16)),
    ((10, 10, 10), (4, 4, 4)),
    ((2, 20, 10), (30, 4, 40)),
  ],
)
def test_overlap_decides_as_counted_voxels_do(centre, size):
  first, second = box((10, 10, 10), (8, 12, 16)), box(centre, size)
  share = counted_overlap(first, second, SPACING)
  kept = list(suppress([first, second], SPACING, max(share - 0.02, 0.0)))
  assert kept == ([first] if share > 0 else [first, second])
  assert list(suppress([first, second], SPACING, share + 0.02)) == [
    first,
    second,
  ]


@given(seed=st.integers(0, 10_000))
def test_suppression_is_greedy(seed):
  random = np.random.default_rng(seed)
  boxes = [
    box(c, s, score)
    for c, s, score in zip(
      random.uniform(0, 12, (12, 3)),
      random.uniform(4, 20, (12, 3)),
      np.sort(random.uniform(0, 1, 12))[::-1].tolist(),
    )
  ]

  def iou(a, b):
    low = np.maximum(
      *[np.array(x.centre) * 2 - np.array(x.size_mm) / 2 for x in (a, b)]
    )
    high = np.minimum(
      *[np.array(x.centre) * 2 + np.array(x.size_mm) / 2 for x in (a, b)]
    )
    shared = np.maximum(high - low, 0).prod()
    return shared / (np.prod(a.size_mm) + np.prod(b.size_mm) - shared)

  alive = list(boxes)
  want = []
  while alive:
    want.append(alive[0])
    alive = [b for b in alive[1:] if iou(want[-1], b) <= 0.1]
  assert list(suppress(boxes, 2.0)) == want
  assert 1 <= len(want) <= len(boxes)


# Body centres (z, y, x mm) and ml that an early checkpoint gave on the demo CT;
# the fourth lies between L1 and L2 and belongs to neither.
_SEEN = np.array(
  [
    [320.1, 100.6, 174.6],
    [289.9, 110.3, 173.3],
    [260.3, 121.5, 172.9],
    [238.5, 126.4, 173.2],
    [220.2, 130.4, 173.7],
    [189.0, 132.6, 173.7],
    [164.0, 130.2, 175.1],
    [145.0, 121.3, 176.7],
  ]
)
_SEEN_ML = np.array([55.4, 60.6, 58.3, 32.5, 54.5, 60.4, 42.1, 64.4])


def test_the_centre_that_divides_a_body_is_found():
  assert decode._doubled(_SEEN, _SEEN_ML) == 3
  assert decode._doubled(_SEEN, np.full(8, 55.0)) is None
  regular = np.outer(np.arange(6, 0, -1) * 33.0, [1.0, 0.1, 0.0])
  assert decode._doubled(regular, np.array([50, 50, 20, 50, 50, 50.0])) is None


# C2 to T5 of a phantom, as the network saw them: narrow gaps and little bone
# in the neck beside those of the chest.
_NECK_GAPS = [21.5, 12.4, 13.8, 16.6, 11.9, 20.2, 20.8, 19.4, 19.9, 21.2]
_NECK_ML = [16.9, 11.8, 8.1, 13.2, 10.3, 14.2, 16.8, 20.9, 19.7, 18.8, 19.9]


def test_a_neck_above_a_chest_is_not_thinned_out():
  heights = -np.cumsum([0.0, *_NECK_GAPS])
  centres = np.outer(heights, [1.0, 0.0, 0.0])
  assert decode._doubled(centres, np.array(_NECK_ML)) is None
  # Nor where the lower of two narrow vertebrae took bone of the upper one.
  taken = [16.9, 13.9, 16.4, 11.0, 20.2, 21.8, 26.4, 25.1]
  narrow = -np.cumsum([0.0, 14.2, 16.5, 17.2, 12.9, 21.3, 22.8, 21.5])
  centres = np.outer(narrow, [1.0, 0.0, 0.0])
  assert decode._doubled(centres, np.array(taken)) is None
  # Two centres of one are.
  twice = -np.cumsum([0.0, 14.0, 15.0, 10.0, 10.0, 11.0, 19.0, 20.0])
  halves = np.array([13.0, 14.0, 14.0, 9.0, 8.0, 14.0, 20.0, 21.0])
  found = decode._doubled(np.outer(twice, [1.0, 0.0, 0.0]), halves)
  assert found in (3, 4)


def test_votes_of_neighbours_in_a_neck_stay_apart(test_config):
  """Bodies 14 mm apart whose votes lie 11 mm apart, 3 mm around."""
  centres = np.array([(60.0 - 7 * i, 20.0, 20.0) for i in range(6)])
  ids = ellipsoids(centres, (3.5, 6.0, 8.0), (68, 40, 40))
  sweep = outputs(ids, centres)
  shake = np.random.default_rng(3).normal(0, 1.5, sweep.offsets.shape)
  sweep.offsets[:, 0] += shake[:, 0]
  moved(sweep, ids, ids == 3, 0, -0.75)
  moved(sweep, ids, ids == 4, 0, 0.75)
  found = find_instances(sweep, SPACING, test_config.predict)
  assert len(found.centres) == 6
  assert (found.ids == ids)[ids > 0].mean() > 0.9


def test_many_faint_peaks_are_thinned_out_in_no_time():
  # As a network gives them that has hardly been trained: 15 s, box by box.
  places = np.argwhere(np.ones((12, 12, 12))) * 10.0
  boxes = [box(place, (15, 15, 15)) for place in places]
  began = time.monotonic()
  assert list(suppress(boxes, SPACING)) == boxes
  assert next(suppress(boxes, SPACING)) == boxes[0]
  assert time.monotonic() - began < 4
