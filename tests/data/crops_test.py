# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Windows: the right voxels of the right case, and what is known of them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_cases import make_case

from vf_jax.data.augment.patches import Patches
from vf_jax.data import crops
from vf_jax.data.crops import MAX_BOXES, SYNTHETIC, WindowReader, window_reader
from vf_jax.data.targets import Target
from vf_jax.labels import BY_NAME, CODES, IGNORE
from vf_jax.multispine import tissues
from vf_jax.multispine.store import StoredCase

CROP, MARGIN = (24, 16, 20), 3
WINDOW = (30, 22, 26)
DOMAINS = ("back", "bone", "neck", SYNTHETIC)
NECK, BACK, BONE = 3, 0, 2


@pytest.fixture(scope="module")
def reader():
  return WindowReader(CROP, MARGIN, 0.0, True, DOMAINS)


def read(reader, store, case, point=None, seed=0):
  target = Target(case, "anywhere" if point is None else "levels", point)
  return reader(store.case(case), target, np.random.default_rng(seed))


def start_of(sample, record):
  """First voxel of a window, from where its centres went."""
  code = next(iter(record.centres))
  start = np.array(record.centres[code]) - sample["centres"][code]
  assert (start == np.rint(start)).all()
  return start.astype(int)


def cut(array, start, fill):
  """The window of a padded array, the slow way."""
  wide = np.pad(array, 64, constant_values=fill)
  return wide[tuple(slice(s + 64, s + 64 + n) for s, n in zip(start, WINDOW))]


def test_a_window_shows_the_voxels_of_its_place(reader, drawn, cases):
  case = cases["neck-1"]
  outside = 0
  for seed in range(30):
    sample = read(reader, drawn, NECK, seed=seed)
    start = start_of(sample, case.record)
    expected = cut(case.labels, start, IGNORE)
    np.testing.assert_array_equal(sample["labels"], expected)
    np.testing.assert_array_equal(
      sample["image"], cut(case.image, start, -1024)
    )
    outside += (expected == IGNORE).any()
    assert not sample["painted"]
    assert not sample["tissue"].any()
    assert not sample["depth"].any()
  assert outside > 10


def test_a_mask_without_image_is_painted_and_ends_in_background(
  reader, drawn, cases
):
  case = cases["back-1"]
  for seed in range(10):
    sample = read(reader, drawn, BACK, seed=seed)
    start = start_of(sample, case.record)
    for name in ("labels", "tissue", "depth"):
      expected = cut(getattr(case, name), start, 0)
      np.testing.assert_array_equal(sample[name], expected)
    assert (sample["image"] == -1024).all()
    assert sample["painted"]
    assert DOMAINS[sample["domain"]] == SYNTHETIC
    assert sample["has_masks"]
    assert not sample["has_lesions"]  # they are not painted


def test_scans_are_painted_as_often_as_asked(reader, drawn, cases):
  half = dataclasses.replace(reader, synthesis=0.5)
  samples = [read(half, drawn, NECK, seed=s) for s in range(60)]
  assert 18 <= sum(bool(s["painted"]) for s in samples) <= 42
  for sample in samples:
    own = SYNTHETIC if sample["painted"] else "neck"
    assert DOMAINS[sample["domain"]] == own
    if sample["painted"]:
      start = start_of(sample, cases["neck-1"].record)
      # A scan ends in air, painted or not.
      np.testing.assert_array_equal(
        sample["tissue"],
        cut(cases["neck-1"].tissue, start, tissues.OUTSIDE.code),
      )
      assert (sample["labels"] == cut(cases["neck-1"].labels, start, 255)).all()
  # Without a tissue map there is nothing to paint on.
  never = [read(half, drawn, 4, seed=s)["painted"] for s in range(30)]
  assert not any(never)


def test_a_target_lies_in_its_crop_and_most_of_the_crop_in_the_scan(
  reader, drawn, cases
):
  shape = cases["neck-1"].labels.shape
  rng = np.random.default_rng(0)
  places = []
  for seed in range(200):
    point = tuple(float(v) for v in rng.integers(0, shape))
    sample = read(reader, drawn, NECK, point, seed)
    first = start_of(sample, cases["neck-1"].record) + MARGIN
    place = np.array(point) - first
    assert (place >= 0).all()
    assert (place < CROP).all()
    beyond = np.maximum(-first, 0) + np.maximum(first + CROP - shape, 0)
    assert (beyond <= np.array(CROP) // 4).all()
    places.append(place / CROP)
  assert (np.ptp(places, axis=0) > (0.6, 0.4, 0.4)).all()  # not in its middle


def test_crops_anywhere_cover_the_whole_scan(reader, drawn, cases):
  spare = np.array(cases["neck-1"].labels.shape) - CROP
  firsts = [
    start_of(read(reader, drawn, NECK, seed=s), cases["neck-1"].record) + MARGIN
    for s in range(300)
  ]
  beyond = np.array(CROP) // 4
  assert (np.min(firsts, axis=0) == -beyond).all()
  assert (np.max(firsts, axis=0) == spare + beyond).all()
  # Every place as often.
  middle = np.mean(firsts, axis=0)
  spread = (spare + 2 * beyond) / np.sqrt(12 * 300)
  assert (np.abs(middle - spare / 2) < 4 * spread).all()


def test_only_the_window_is_read(reader, drawn, monkeypatch):
  asked = []
  whole = StoredCase.read_all

  def spy(self, fills, start, size):
    asked.append((set(fills), tuple(size)))
    return whole(self, fills, start, size)

  monkeypatch.setattr(StoredCase, "read_all", spy)
  read(reader, drawn, NECK)
  read(reader, drawn, BACK)
  assert asked == [
    ({"image", "labels"}, WINDOW),
    ({"labels", "tissue", "depth"}, WINDOW),
  ]


def test_boxes_in_sight_come_with_the_nearest_first(reader, drawn, cases):
  record = cases["bone-2"].record
  middle = (np.array(WINDOW) - 1) / 2
  counts = []
  for seed in range(20):
    sample = read(reader, drawn, BONE, record.boxes[seed % 12][:3], seed)
    boxes, mask = sample["boxes"], sample["box_mask"]
    count = mask.sum()
    counts.append(count)
    assert mask[:count].all()
    assert (boxes[~mask] == 0).all()
    # All are moved by one and the same window.
    places = boxes[:count, :3]
    half = boxes[:count, 3:] / (2 * record.spacing_mm)
    assert (places + half > 0).all()
    assert (places - half < np.array(WINDOW) - 1).all()
    away = np.linalg.norm(places - middle, axis=1)
    assert (np.diff(away) >= 0).all()
    wide = np.array(record.boxes)
    offsets = wide[:, None, :3] - places[None]
    _, times = np.unique(offsets.reshape(-1, 3), axis=0, return_counts=True)
    assert times.max() == count
    assert (boxes[:count, 3:] == 8).all()
  assert max(counts) == MAX_BOXES
  assert not read(reader, drawn, NECK)["box_mask"].any()


@pytest.mark.parametrize(
  ("first", "centres"), [(0, [2]), (3, [2, 5]), (4, [5]), (6, [5, 8])]
)
def test_a_lesion_that_the_border_cuts_is_told_of(cases, first, centres):
  record = cases["bone-2"].record  # every 3 voxels of depth, 2 voxels around
  found, complete = crops._boxes(record, (first, 0, 0), (2, 30, 40))
  assert complete
  places = found["boxes"][found["box_mask"], 0] + first
  assert sorted(places) == centres


def test_a_window_with_more_lesions_than_it_can_tell_of_teaches_none(
  reader, drawn, cases
):
  record = cases["bone-2"].record
  centres = np.array(record.boxes)[:, :3]
  seen = {True: 0, False: 0}
  for seed in range(60):
    point = record.boxes[seed % 12][:3]
    sample = read(reader, drawn, BONE, point, seed)
    # The place is the first that is drawn.
    rng = np.random.default_rng(seed)
    shape = drawn.case(BONE).shape
    places = centres - reader._start(shape, Target(BONE, "levels", point), rng)
    half = np.array(record.boxes)[:, 3:] / (2 * record.spacing_mm)
    inside = (places + half > 0) & (places - half < np.array(WINDOW) - 1)
    complete = inside.all(axis=1).sum() <= MAX_BOXES
    assert sample["has_lesions"] == complete
    seen[bool(complete)] += 1
  assert min(seen.values()) > 5


def test_codes_and_flags_are_those_of_the_record(reader, drawn):
  sample = read(reader, drawn, NECK)
  known = [BY_NAME[name].code for name in ("C3", "C4", "C5", "C6")]
  np.testing.assert_array_equal(np.flatnonzero(sample["has_centre"]), known)
  assert sample["has_masks"]
  assert sample["has_levels"]
  assert not sample["has_lesions"]
  lesions = read(reader, drawn, BONE)
  assert lesions["has_lesions"]
  assert not lesions["has_masks"]
  assert not lesions["has_centre"].any()
  assert (lesions["labels"] == IGNORE).all()
  np.testing.assert_allclose(sample["spacing_mm"], (0.5, 0.6, 3.0))
  assert (sample["case"], DOMAINS[sample["domain"]]) == (NECK, "neck")


def test_fields_are_those_of_the_device(reader, drawn):
  sample = read(reader, drawn, NECK)
  assert sorted(sample) == sorted(f.name for f in dataclasses.fields(Patches))
  Patches(**{k: jnp.asarray(v)[None] for k, v in sample.items()})  # typed
  assert sample["centres"].shape == (CODES, 3)
  plain = dataclasses.replace(reader, paints=False)
  without = read(plain, drawn, NECK)
  assert sample.keys() - without.keys() == {"tissue", "depth"}


def test_seeds_and_places_come_from_the_generator(reader, drawn):
  first, again = read(reader, drawn, NECK), read(reader, drawn, NECK)
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
  seeds = {tuple(read(reader, drawn, NECK, seed=s)["seed"]) for s in range(20)}
  assert len(seeds) == 20


def seen_box(sample):
  """First voxel that is not air, and the first after the last."""
  places = np.argwhere(sample["image"] != -1024)
  return places.min(axis=0), places.max(axis=0) + 1


def test_a_narrower_view_ends_like_a_scan(stored):
  size, lesion = (70, 60, 66), (35.0, 30.0, 33.0)
  case = make_case(size, {"L1": lesion})
  record = dataclasses.replace(
    case.record,
    annotates=("masks", "levels", "lesions"),
    boxes=((*lesion, 16.0, 16.0, 16.0),),
  )
  image = np.full(size, 40, np.int16)
  store = stored(dataclasses.replace(case, record=record, image=image))
  reader = WindowReader(CROP, MARGIN, 0.0, False, ("drawn", SYNTHETIC))
  narrow = dataclasses.replace(reader, narrow=1.0)
  edges, told, silent = [], 0, 0
  for seed in range(80):
    plain = read(reader, store, 0, lesion, seed)
    sample = read(narrow, store, 0, lesion, seed)
    np.testing.assert_array_equal(sample["centres"], plain["centres"])
    low, high = seen_box(sample)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    assert (sample["image"][box] == plain["image"][box]).all()
    np.testing.assert_array_equal(sample["labels"][box], plain["labels"][box])
    hidden = np.ones(WINDOW, bool)
    hidden[box] = False
    assert (sample["labels"][hidden] == IGNORE).all()
    place = sample["boxes"][0, :3]
    inside = bool(((place >= low) & (place <= high - 1)).all())
    assert sample["has_centre"].sum() == sample["box_mask"].sum() == inside
    # An 8-voxel box whose centre is hidden and that is seen in part.
    part = ((place + 4 >= low) & (place - 4 <= high - 1)).all() and not inside
    assert sample["has_lesions"] == (not part)
    told, silent = told + inside, silent + part
    edges.append((high - low) / CROP)
  assert told > 20 and silent > 5
  assert (np.min(edges, axis=0) < 0.5).all()
  assert (np.mean(edges, axis=0) > 0.6).all()


def test_views_are_narrowed_as_often_as_asked_painted_ones_too(reader, drawn):
  half = dataclasses.replace(reader, narrow=0.5)
  count = 0
  for seed in range(60):
    plain, sample = (read(r, drawn, BACK, seed=seed) for r in (reader, half))
    hidden = sample["labels"] == IGNORE
    assert not (plain["labels"] == IGNORE).any()
    assert (sample["tissue"][hidden] == tissues.OUTSIDE.code).all()
    assert not sample["depth"][hidden].any()
    count += bool(hidden.any())
  assert 18 <= count <= 42


def test_the_reader_of_an_experiment(changed, drawn, test_config):
  cases = [drawn.case(i) for i in range(5)]
  config = changed(synthesis=0.0)
  reader = window_reader(config, DOMAINS, cases)
  assert reader.crop == test_config.model.crop
  assert reader.margin == config.data.augment.margin > 0
  assert reader.paints  # one case has no image
  assert reader.narrow == 0
  assert window_reader(changed(narrow=0.3), DOMAINS, cases).narrow == 0.3
  assert not window_reader(config, DOMAINS, cases[1:]).paints
  painting = changed(synthesis=0.1)
  assert window_reader(painting, DOMAINS, cases[1:]).paints
  assert not window_reader(painting, DOMAINS, cases[4:]).paints  # no tissue
  still = dataclasses.replace(
    config.data.augment, rotate_deg=0.0, scale=0.0, elastic_mm=0.0, mirror=0.0
  )
  assert window_reader(changed(augment=still), DOMAINS, cases).margin == 0


def test_a_scan_smaller_than_the_crop_is_shown_whole_or_nearly(stored):
  store = stored(make_case((9, 11, 10), {"L1": (4, 5, 5)}))
  reader = WindowReader(CROP, 0, 0.0, False, ("drawn", SYNTHETIC))
  for seed in range(20):
    for point in (None, (8.0, 0.0, 9.0)):
      sample = read(reader, store, 0, point, seed)
      # A quarter of each edge may be missing.
      assert (sample["labels"] != IGNORE).sum() >= 7 * 9 * 8
