# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Windows become crops: the same sample in any batch, nothing torn apart."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_cases import make_case

from vf_jax.data.augment.augmentation import augment, centre_crops
from vf_jax.data.augment.patches import Patches
from vf_jax.data.crops import WindowReader
from vf_jax.data.targets import Target
from vf_jax.labels import BY_NAME, IGNORE
from vf_jax.losses import Batch

SHAPE = (70, 60, 64)
MARGIN = 5
PLACES = {"T12": (46.0, 28.0, 30.0), "L1": (37.0, 30.0, 33.0),
          "L2": (28.0, 31.0, 31.0)}  # fmt: skip
DOMAINS = ("drawn", "synthetic")


@pytest.fixture(scope="module")
def model(test_config):
  return test_config.model


@pytest.fixture(scope="module")
def read(tmp_path_factory, model):
  """Batches of four windows: real, painted, real off the border, no image."""
  from vf_jax.multispine.store import Store
  from vf_jax.multispine.store_writer import finish, write_case

  folder = tmp_path_factory.mktemp("store")
  box = ((38.0, 33.0, 30.0, 8.0, 8.0, 8.0),)
  scan = make_case(SHAPE, PLACES, tissue=True, boxes=box, case="scan")
  mask = make_case(SHAPE, PLACES, image=False, tissue=True, case="mask")
  for case in (scan, mask):
    write_case(folder, case)
  finish(folder, ["mask", "scan"], 2.0)
  store = Store(folder)

  def batch(seed=0, margin=MARGIN, paints=True):
    rng = np.random.default_rng(seed)
    reader = WindowReader(model.crop, margin, 0.0, paints, DOMAINS)
    painter = dataclasses.replace(reader, synthesis=1.0)
    near, far = PLACES["L1"], (1.0, 1.0, 1.0)
    samples = [
      reader(store.case(1), Target(1, "levels", near), rng),
      painter(store.case(1), Target(1, "levels", near), rng),
      reader(store.case(1), Target(1, "levels", far), rng),
      reader(store.case(0), Target(0, "levels", near), rng),
    ]
    if not paints:
      samples = samples[::2]
    return Patches(
      **{k: jnp.stack([s[k] for s in samples]) for k in samples[0]}
    )

  return batch


@pytest.fixture(scope="module")
def run(quick, model, test_config):
  """The augmentation of the test experiment, compiled once."""
  config = dataclasses.replace(test_config.data.augment, margin=MARGIN)
  return quick(lambda patches: augment(patches, model, config))


@pytest.fixture(scope="module")
def batches(run, read):
  return [(patches := read(seed), run(patches)) for seed in range(12)]


def assert_equal(first, second):
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_batch_is_what_the_losses_expect(batches, model):
  for _, batch in batches:
    assert isinstance(batch, Batch)
    assert batch.image.shape == (4, *model.crop)
    assert batch.image.dtype == jnp.float32
    assert batch.labels.dtype == jnp.uint8
    assert batch.points.shape == (4, model.max_points, 3)
    assert np.isfinite(batch.image).all()
    assert batch.image.min() >= -1024
    assert batch.image.max() <= 3071


def test_no_label_is_invented(batches):
  for patches, batch in batches:
    for before, after in zip(
      np.asarray(patches.labels), np.asarray(batch.labels)
    ):
      assert set(np.unique(after)) <= set(np.unique(before)) | {IGNORE}


def test_centres_follow_the_labels_through_turn_and_bend(batches, model):
  seen = 0
  for _, batch in batches:
    for sample in (0, 1, 3):
      labels = np.asarray(batch.labels[sample])
      for name in PLACES:
        code = BY_NAME[name].code
        centre = np.asarray(batch.centres[sample, code])
        if ((centre < 5) | (centre > np.array(model.crop) - 6)).any():
          continue
        where = np.argwhere(labels == code).mean(axis=0)
        assert np.linalg.norm(where - centre) < 0.6
        seen += 1
  assert seen > 50


def test_what_no_scan_shows_is_air_and_unknown(batches):
  unknown = 0
  for _, batch in batches:
    for sample in (0, 2):
      outside = np.asarray(batch.labels[sample]) == IGNORE
      image = np.asarray(batch.image[sample])
      # At the border the nearest voxel and the interpolation may differ.
      if outside.mean() > 0.02:
        assert (image[outside] == -1024).mean() > 0.8
      unknown += outside.sum()
    assert (np.asarray(batch.image[2]) == -1024).any()
  assert unknown > 1000


def test_beyond_the_window_is_air_and_unknown(quick, read, only, model):
  config = only(rotate_deg=20.0)  # without a margin
  turn = quick(lambda patches: augment(patches, model, config))
  for seed in range(3):
    patches = read(seed, margin=0, paints=False)
    assert not (patches.labels[0] == IGNORE).any()
    assert patches.image[0].min() > -1024
    batch = turn(patches)
    unknown = np.asarray(batch.labels[0]) == IGNORE
    assert 0.001 < unknown.mean() < 0.4
    np.testing.assert_array_equal(np.asarray(batch.image[0]) == -1024, unknown)


def test_the_same_sample_comes_out_of_any_batch(run, read):
  first, other = (jax.device_get(vars(read(seed))) for seed in (3, 8))

  def batch(choose):
    fields = {name: jnp.asarray(choose(name)) for name in first}
    return jax.device_get(vars(run(Patches(**fields))))

  whole = batch(first.__getitem__)
  turned = batch(lambda name: first[name][::-1])
  mixed = batch(lambda name: np.concatenate([first[name][:2], other[name][2:]]))
  for name, expected in whole.items():
    np.testing.assert_array_equal(turned[name], expected[::-1])
    np.testing.assert_array_equal(mixed[name][:2], expected[:2])
  assert (mixed["image"][2:] != whole["image"][2:]).any()


def test_the_seed_decides_and_nothing_else(run, read):
  patches = read(3)
  first, second = run(patches), run(patches)
  assert_equal(first, second)
  other = run(patches.replace(seed=patches.seed + 1))
  for sample in range(4):
    assert (other.image[sample] != first.image[sample]).any()
  # What is known of the sample stays.
  for name in ("domain", "case", "has_masks", "has_lesions", "has_centre"):
    np.testing.assert_array_equal(getattr(other, name), getattr(first, name))


def test_without_augmentation_the_middle_comes_out_unchanged(
  quick, read, only, model
):
  patches = read(5, margin=0, paints=False)
  off = quick(lambda p: augment(p, model, only()))(patches)
  wide = read(5, paints=False)
  plain = quick(lambda p: centre_crops(p, model))(wide)
  inner = tuple(slice(MARGIN, MARGIN + n) for n in model.crop)
  for name in ("image", "labels"):
    same, cut = getattr(patches, name), np.asarray(getattr(wide, name))
    np.testing.assert_array_equal(getattr(off, name), same)
    np.testing.assert_array_equal(getattr(plain, name), cut[:, *inner])
  np.testing.assert_array_equal(off.centres, patches.centres)
  np.testing.assert_allclose(plain.centres, wide.centres - MARGIN)
  np.testing.assert_array_equal(off.spacing_mm, patches.spacing_mm)
  # Detections are the true centres, and nothing else.
  for sample in range(2):
    mask = np.asarray(plain.point_mask[sample])
    codes = [BY_NAME[name].code for name in PLACES]
    stated = np.asarray(plain.centres[sample, codes])
    inside = ((stated >= 3) & (stated < np.array(model.crop) - 3)).all(axis=1)
    np.testing.assert_allclose(plain.points[sample][mask], stated[inside])


def test_levels_of_voxels_are_told_where_no_chain_explains_the_points(
  quick, read, model
):
  patches = read(5)
  top, bottom = (BY_NAME[name].code for name in ("T12", "L2"))
  swapped = patches.centres.at[:, jnp.array([top, bottom])].set(
    patches.centres[:, jnp.array([bottom, top])]
  )
  cut = quick(lambda patches: centre_crops(patches, model))
  for centres, fits in ((patches.centres, True), (swapped, False)):
    batch = cut(patches.replace(centres=centres))
    assert bool(batch.chain_fits[0]) == fits
    np.testing.assert_array_equal(batch.has_levels, patches.has_levels)


def test_painted_crops_show_bone_where_the_labels_are(batches):
  for patches, _ in batches:
    np.testing.assert_array_equal(patches.painted, [False, True, False, True])
  contrast = []
  for _, batch in batches:
    for sample in (1, 3):
      image = np.asarray(batch.image[sample])
      labels = np.asarray(batch.labels[sample])
      bone = (labels > 0) & (labels != IGNORE)
      contrast.append(image[bone].mean() - image[labels == 0].mean())
  assert np.median(contrast) > 80  # HU
  assert np.std(contrast) > 50


def test_boxes_in_sight_sit_on_their_lesion(batches, model):
  code = BY_NAME["L1"].code
  seen = 0
  for _, batch in batches:
    assert not np.asarray(batch.box_mask)[:, 1:].any()
    assert (np.asarray(batch.boxes)[~np.asarray(batch.box_mask)] == 0).all()
    if not batch.box_mask[0, 0]:
      continue
    box, centre = (
      np.asarray(batch.boxes[0, 0]),
      np.asarray(batch.centres[0, code]),
    )
    half = box[3:] / (2 * model.spacing_mm)
    assert (box[:3] + half > 0).all()
    assert (box[:3] - half < np.array(model.crop) - 1).all()
    # The box is sqrt(1 + 9 + 9) voxels from the centre of L1.
    away = np.linalg.norm(box[:3] - centre)
    assert away == pytest.approx(np.sqrt(19), rel=0.45)
    # A cube's ball stays a ball of the scale that moved it.
    assert np.ptp(box[3:]) < 1e-3
    assert box[3] / 8 == pytest.approx(away / np.sqrt(19), rel=0.3)
    seen += 1
  assert seen > 6
  lesions = np.array([np.asarray(b.has_lesions) for _, b in batches])
  assert (lesions == [True, False, True, False]).all()


def test_lesions_grow_where_masks_are_known(quick, read, only, model):
  config = only(lesion=1.0)
  grown = quick(lambda patches: augment(patches, model, config))
  plain = quick(lambda patches: augment(patches, model, only()))
  found = 0
  for seed in range(4):
    patches = read(seed)
    patches = patches.replace(
      has_masks=patches.has_masks.at[2].set(False),
      has_lesions=patches.has_lesions.at[0].set(False),
    )
    batch, before = grown(patches), plain(patches)
    own = patches.boxes.shape[1]
    new = np.asarray(batch.box_mask[:, own:])
    assert batch.boxes.shape[1] == new.shape[1] + own
    assert not new[2].any()
    np.testing.assert_array_equal(batch.image[2], before.image[2])
    # Painted samples have no other lesions, and none is missed there.
    assert np.asarray(batch.has_lesions)[[1, 3]].all()
    assert not np.asarray(batch.box_mask)[[1, 3], :own].any()
    # A scan whose lesions nobody marked teaches only with a grown one.
    assert bool(batch.has_lesions[0]) == new[0].any()
    np.testing.assert_array_equal(batch.labels, before.labels)
    found += new.sum()
    # One with more lesions than slots teaches none at all.
    full = patches.replace(box_mask=patches.box_mask.at[0].set(True))
    batch = grown(full)
    assert not batch.has_lesions[0]
    np.testing.assert_array_equal(batch.image[0], before.image[0])
  assert found > 4
