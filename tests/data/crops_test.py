# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Crops: whatever is turned, all that belongs together turns together."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.config import MAX_ADVANCE, DataConfig, ModelConfig
from vf_jax.data.crops import MAX_BOXES, SYNTHETIC, CropMaker
from vf_jax.labels import BY_NAME, IGNORE, VERTEBRAE
from vf_jax.losses import Batch
from vf_jax.models.decoders import numbering
from vf_jax.models.decoders.numbering import ChainScores
from vf_jax.multispine.store import PreparedCase, Record

SIZE = 48
SHAPE = (90, 70, 80)
DOMAINS = ("drawn", "other", SYNTHETIC)
# Off any one plane, so that a turn or a flip shows.
PLACES = {
  "T11": (68.0, 30.0, 36.0),
  "T12": (57.0, 36.0, 40.0),
  "L1": (46.0, 40.0, 44.0),
  "L2": (35.0, 37.0, 41.0),
  "L3": (24.0, 31.0, 35.0),
}
LESION, RADIUS = np.array([51.0, 29.0, 52.0]), 4.0


def make_case(
  places=PLACES, image=True, tissue=True, annotates=None
) -> PreparedCase:
  """Balls of label and HU about the centres, and one lesion."""
  grid = np.indices(SHAPE)

  def ball(centre, radius):
    away = grid - np.reshape(centre, (3, 1, 1, 1))
    return np.linalg.norm(away, axis=0) <= radius

  labels = np.zeros(SHAPE, np.uint8)
  hu = np.full(SHAPE, 0, np.int16)
  for name, centre in places.items():
    labels[ball(centre, 3.5)] = BY_NAME[name].code
  hu[labels > 0] = 1000
  hu[ball(LESION, RADIUS)] = 2500
  bone = np.where(labels > 0, 7, 0).astype(np.uint8)
  return PreparedCase(
    record=Record(
      case="drawn",
      domain="drawn",
      subject="drawn",
      spacing_mm=2.0,
      native_spacing_mm=(0.5, 0.6, 3.0),
      affine=tuple(tuple(float(v) for v in row) for row in np.eye(4)),
      centres={BY_NAME[name].code: p for name, p in places.items()},
      centre_kind="annotated",
      boxes=((*map(float, LESION), *(4.0 * RADIUS,) * 3),),  # 2 mm voxels
      annotates=annotates or ("masks", "levels", "lesions"),
      mask_kind="expert",
      licence="none",
      source="drawn",
      files={},
    ),
    image=hu if image else None,
    labels=labels,
    tissue=bone if tissue else None,
    depth=bone if tissue else None,
  )


@pytest.fixture(scope="module")
def make(test_config):
  """CropMaker of the test model with large turns; changes by keyword."""

  def build(size=SIZE, **changes) -> CropMaker:
    model: ModelConfig = dataclasses.replace(
      test_config.model, crop=(size, size, size)
    )
    wide = {
      "synthesis": 0.0, "foreground": 1.0, "rotate_deg": 15.0, "scale": 0.2
    }  # fmt: skip
    data: DataConfig = dataclasses.replace(test_config.data, **wide | changes)
    return CropMaker(model, data, DOMAINS)

  return build


class Straight(np.random.Generator):
  """Draws everything but the bend of the grid."""

  def normal(self, loc=0.0, scale=1.0, size=None):
    drawn = super().normal(loc, scale, size)
    return drawn * 0 if size == (3, 5, 4, 4) else drawn


def draw(maker, case, seed, straight=False):
  kind = Straight if straight else np.random.Generator
  return maker(case, 3, kind(np.random.PCG64(seed)))


def well_inside(point, margin=6):
  return (point >= margin).all() and (point <= SIZE - 1 - margin).all()


def blobs(sample):
  """Code, stated centre and painted centroid of every ball well inside."""
  for code in np.flatnonzero(sample["has_centre"]):
    centre = sample["centres"][code]
    if well_inside(centre):
      where = np.argwhere(sample["labels"] == code)
      yield code, centre, where.mean(axis=0), where


def test_labels_and_image_follow_turn_scale_and_flip(make):
  maker, case = make(), make_case()
  seen = 0
  for seed in range(25):
    sample = draw(maker, case, seed, straight=True)
    for _, centre, painted, where in blobs(sample):
      # Half a voxel in each direction is what nearest neighbour can lose.
      assert np.linalg.norm(painted - centre) < 0.5
      bright = sample["image"][tuple(where.T)]
      weight = np.clip(bright, 0, None)[:, None]
      lit = (where * weight).sum(axis=0) / weight.sum()
      assert np.linalg.norm(lit - centre) < 0.6
      assert bright.mean() > 400
      seen += 1
  assert seen > 40


def test_the_bend_is_gentle_and_moves_labels_and_image_alike(make):
  maker, case = make(), make_case()
  away, between = [], []
  for seed in range(25):
    sample = draw(maker, case, seed)
    for _, centre, painted, _ in blobs(sample):
      away.append(np.linalg.norm(painted - centre))
      low = np.maximum(np.floor(painted).astype(int) - 6, 0)
      near = np.argwhere(
        sample["image"][tuple(slice(v, v + 13) for v in low)] > 500
      )
      # The lesion's ball is brighter; skip where it comes near.
      box = sample["boxes"][0, :3]
      if np.linalg.norm(box - painted) > 18:
        between.append(np.linalg.norm(near.mean(axis=0) + low - painted))
  assert np.mean(away) < 1.2
  assert np.max(away) < 3.0
  assert np.mean(away) > 0.3  # there is a bend
  assert len(between) > 10
  assert np.median(between) < 0.6


def _fit(sample):
  """Linear part of the map from source to crop, from the centres."""
  codes = [BY_NAME[name].code for name in PLACES]
  source = np.array(list(PLACES.values()))
  crop = sample["centres"][codes].astype(float)
  design = np.c_[source, np.ones(len(source))]
  found, _, rank, _ = np.linalg.lstsq(design, crop, rcond=None)
  assert rank == 4
  return found[:3].T


def test_poses_are_similarities_spread_as_configured(make):
  maker, case = make(16, scale=0.2, rotate_deg=10.0), make_case()
  scales, flips, angles = [], [], []
  for seed in range(120):
    matrix = _fit(draw(maker, case, seed))
    size = abs(np.linalg.det(matrix)) ** (1 / 3)
    turn = matrix / size
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)
    flip = np.linalg.det(turn) < 0
    # A flip turns width only: depth (head to foot) and height stay.
    turn[2] *= -1 if flip else 1
    angles.append(
      np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    )
    scales.append(np.log(size))
    flips.append(flip)
  assert np.std(scales) == pytest.approx(0.2, rel=0.25)
  assert abs(np.mean(scales)) < 0.08
  assert 0.35 < np.mean(flips) < 0.65
  # The length of three normal angles of 10 degrees: 16 on average.
  assert np.mean(angles) == pytest.approx(16, rel=0.2)
  assert max(angles) < 60


def test_boxes_sit_on_the_lesion_and_scale_with_it(make):
  maker, case = make(), make_case()
  ratios = []
  for seed in range(40):
    sample = draw(maker, case, seed, straight=True)
    if not sample["box_mask"][0] or not well_inside(sample["boxes"][0], 9):
      continue
    box = sample["boxes"][0]
    where = np.argwhere(sample["image"] > 1300)
    assert np.linalg.norm(where.mean(axis=0) - box[:3]) < 0.6
    diameter = 2 * (3 * len(where) / (4 * np.pi)) ** (1 / 3) * 2.0  # mm
    ratios.append(box[3:] / diameter)
  assert len(ratios) > 8
  # The ball is drawn in voxels, and a scanner blurs its rim.
  assert np.mean(ratios) == pytest.approx(1, abs=0.08)
  np.testing.assert_allclose(ratios, 1, rtol=0.2)


def test_boxes_outside_the_crop_are_masked(make):
  maker, case = make(32), make_case()
  inside = []
  for seed in range(40):
    sample = draw(maker, case, seed)
    box, mask = sample["boxes"], sample["box_mask"]
    assert not mask[1:].any()
    assert (box[~mask] == 0).all()
    if mask[0]:
      assert (box[0, :3] >= 0).all()
      assert (box[0, :3] < 32).all()
    inside.append(bool(mask[0]))
  assert 0 < sum(inside) < 40
  many = dataclasses.replace(
    case, record=dataclasses.replace(case.record, boxes=case.record.boxes * 12)
  )
  sample = draw(maker, many, 0)
  assert sample["boxes"].shape == (MAX_BOXES, 6)


def test_no_label_is_invented_and_outside_is_unknown(make):
  case = make_case()
  known = set(np.unique(case.labels))
  maker = make(scale=0.5, foreground=0.0)
  beyond = 0
  for seed in range(12):
    sample = draw(maker, case, seed)
    assert set(np.unique(sample["labels"])) <= known | {IGNORE}
    outside = sample["labels"] == IGNORE
    assert (sample["image"][outside] == -1024).mean() > 0.9
    beyond += outside.sum()
  assert beyond > 0
  mask_only = make_case(image=False)
  for seed in range(4):
    sample = draw(maker, mask_only, seed)
    assert set(np.unique(sample["labels"])) <= known  # nothing is there: 0


def test_crops_without_bend_keep_every_known_voxel(make):
  """Against the source, voxel by voxel, through the fitted affine map."""
  case = make_case()
  sample = draw(make(), case, 5, straight=True)
  codes = [BY_NAME[name].code for name in PLACES]
  crop = np.c_[sample["centres"][codes], np.ones(len(codes))]
  back, *_ = np.linalg.lstsq(crop, np.array(list(PLACES.values())), rcond=None)
  place = np.indices((SIZE,) * 3).reshape(3, -1).T
  exact = np.c_[place, np.ones(len(place))] @ back
  inside = ((exact >= 0) & (exact <= np.array(SHAPE) - 1)).all(axis=1)
  source = np.rint(exact).astype(int)
  expected = np.full(len(place), IGNORE, np.uint8)
  expected[inside] = case.labels[tuple(source[inside].T)]
  found = sample["labels"].ravel()
  assert (found == expected).mean() > 0.998  # ties of rounding
  assert (found[expected > 0] == expected[expected > 0]).mean() > 0.98


def test_points_are_jittered_centres_from_head_to_foot(make):
  maker, case = make(), make_case()
  order = {v.code: i for i, v in enumerate(VERTEBRAE)}
  errors, missed, false, total = [], 0, 0, 0
  for seed in range(60):
    sample = draw(maker, case, seed)
    mask, levels = sample["point_mask"], sample["point_levels"]
    count = mask.sum()
    assert mask[:count].all()  # real slots come first
    assert (levels[~mask] == -1).all()
    assert (np.diff(sample["points"][:count, 0]) <= 0).all()
    assert (np.diff(levels[levels >= 0]) > 0).all()
    stated = {
      order[c]: sample["centres"][c]
      for c in np.flatnonzero(sample["has_centre"])
    }
    for point, level in zip(sample["points"][mask], levels[mask]):
      assert (point >= 0).all()
      assert (point < SIZE).all()
      if level >= 0:
        errors.append(point - stated[level])
      else:
        false += 1
    for level, centre in stated.items():
      if well_inside(centre, 7):  # the margin and three sigma
        total += 1
        missed += level not in levels
  assert np.std(errors) == pytest.approx(1.0, rel=0.15)  # voxels
  assert 0.005 < missed / total < 0.12  # 4 % of the detections are missed
  assert 4 < false < 40  # and now and then one is false


def _chain_cost(sequences) -> np.ndarray:
  """-log p of level sequences under a chain that knows anatomy only."""
  slots = max(len(s) for s in sequences)
  levels = np.full((len(sequences), slots), -1, np.int32)
  mask = np.zeros(levels.shape, bool)
  for row, sequence in enumerate(sequences):
    levels[row, : len(sequence)] = sequence
    mask[row, : len(sequence)] = True
  chain = ChainScores(
    emissions=numbering._emissions(
      jnp.zeros((*levels.shape, len(VERTEBRAE))), jnp.zeros((*levels.shape, 1))
    ),
    transitions=numbering._transitions(
      jnp.zeros((len(sequences), slots - 1, MAX_ADVANCE)),
      jnp.zeros(3),
    ),
    mask=jnp.asarray(mask),
  )
  cost = jax.jit(ChainScores.negative_log_likelihood)
  return np.asarray(cost(chain, jnp.asarray(levels)))


def test_levels_are_taught_only_where_the_chain_can_explain_them(make):
  maker = make(scale=0.0, rotate_deg=2.0)
  spread = tuple(PLACES.values())
  cases = {
    "neighbours": make_case(),
    "gap": make_case({"T5": spread[1], "T11": spread[2]}),  # six on
    "far": make_case({"T4": spread[1], "T11": spread[2]}),  # seven on
    "wrong order": make_case({"L2": spread[1], "L1": spread[2]}),
    "around T13": make_case(
      {"T12": spread[1], "T13": spread[2], "L1": spread[3]}
    ),
  }
  told: dict[str, set[bool]] = {name: set() for name in cases}
  sequences, verdicts = [], []
  for name, case in cases.items():
    for seed in range(12):
      sample = draw(maker, case, seed)
      levels = sample["point_levels"][sample["point_mask"]]
      if (levels >= 0).sum() >= 2:
        told[name].add(bool(sample["has_levels"]))
        sequences.append(levels)
        verdicts.append(bool(sample["has_levels"]))
  assert told == {
    "neighbours": {True},
    "gap": {True},
    "far": {False},
    "wrong order": {False},
    "around T13": {True},
  }
  explained = _chain_cost(sequences) < 1e6
  np.testing.assert_array_equal(explained, verdicts)


@pytest.mark.parametrize("task", ["masks", "levels", "lesions"])
def test_flags_say_what_the_source_annotates(make, task):
  sample = draw(make(), make_case(annotates=(task,)), 0)
  for other in ("masks", "levels", "lesions"):
    assert bool(sample[f"has_{other}"]) == (other == task)


def test_synthetic_crops_say_so_and_teach_no_lesions(make):
  always, never = make(16, synthesis=1.0), make(16, synthesis=0.0)
  for case, maker, painted in (
    (make_case(), always, True),
    (make_case(), never, False),
    (make_case(image=False), never, True),  # nothing else to show
    (make_case(tissue=False), always, False),  # nothing to paint on
  ):
    sample = draw(maker, case, 1)
    assert sample["domain"] == DOMAINS.index(SYNTHETIC if painted else "drawn")
    assert bool(sample["has_lesions"]) != painted
    assert sample["has_masks"]
  half, case = make(16, synthesis=0.5), make_case()
  count = sum(draw(half, case, s)["domain"] == 2 for s in range(30))
  assert 8 <= count <= 22


def test_foreground_crops_show_a_target(make):
  case = make_case()
  for foreground, least, most in ((1.0, 30, 30), (0.0, 0, 29)):
    maker = make(24, foreground=foreground, rotate_deg=0.0, scale=0.0)
    shown = 0
    for seed in range(30):
      sample = draw(maker, case, seed)
      targets = [
        sample["centres"][c] for c in np.flatnonzero(sample["has_centre"])
      ]
      if sample["box_mask"][0]:
        targets.append(sample["boxes"][0, :3])
      shown += any(((t >= 0) & (t < 24)).all() for t in targets)
    assert least <= shown <= most


def test_same_rng_same_crop(make):
  maker, case = make(synthesis=0.5), make_case()
  for seed in range(4):
    first, second = draw(maker, case, seed), draw(maker, case, seed)
    for name in first:
      np.testing.assert_array_equal(first[name], second[name])
  other = draw(maker, case, 99)
  assert (first["image"] != other["image"]).any()


def test_fields_and_types_are_those_of_a_batch(make, test_config):
  sample = draw(make(), make_case(), 0)
  assert sorted(sample) == sorted(f.name for f in dataclasses.fields(Batch))
  assert sample["case"] == 3
  assert sample["image"].dtype == np.float32
  assert sample["labels"].dtype == np.uint8
  assert sample["points"].shape == (test_config.model.max_points, 3)
  np.testing.assert_allclose(sample["spacing_mm"], (0.5, 0.6, 3.0))
  assert sample["image"].min() >= -1024
  assert sample["image"].max() <= 3071
  Batch(**{k: jnp.asarray(v)[None] for k, v in sample.items()})  # typed
