# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Sliding windows: nothing missed, nothing leaked, nothing changed."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vf_jax.hounsfield import AIR_HU
from vf_jax.infer import windows as module
from vf_jax.infer.sweep import WindowOutputs, sweep
from vf_jax.infer.windows import (
  BONE_HU,
  blend,
  blend_weight,
  classify,
  padded_shape,
  plan_windows,
  take_window,
  window_starts,
)
from vf_jax.model_config import STEM_STRIDE

CROP = (16, 8, 8)
BONE = np.int16(BONE_HU)


class Identity:
  """A forward function whose outputs are functions of the voxels.

  Slots that nobody asked for answer NaN, which would spread if it leaked.
  """

  def __init__(self):
    self._filled = []  # appended to by several threads

  @property
  def calls(self):
    return len(self._filled)

  @property
  def filled(self):
    return sum(self._filled)

  def __call__(self, block):
    self._filled.append((block > AIR_HU).any(axis=(1, 2, 3)).sum())
    image = block.astype(np.float32)
    image[(block == AIR_HU).all(axis=(1, 2, 3))] = np.nan
    steps = np.array([1.0, 0.5, -0.25], np.float32)
    cells = image[:, ::STEM_STRIDE, ::STEM_STRIDE, ::STEM_STRIDE]
    channels = np.arange(1, 8, dtype=np.float32)
    return WindowOutputs(
      logits=image / 500,
      offsets=image[..., None] * steps,
      lesions=cells[..., None] / 500 * channels,
    )


def noise(shape, seed=0, low=100, high=1000):
  return np.random.default_rng(seed).integers(low, high, shape, np.int16)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def check_reproduced(image, found):
  """Blending equal values gives them back, up to float32 sums."""
  want = image.astype(np.float64)
  assert found.probability.shape == image.shape
  # The probability is kept in float16.
  np.testing.assert_allclose(
    found.probability, sigmoid(want / 500), rtol=5e-4, atol=1e-7
  )
  np.testing.assert_allclose(
    found.offsets,
    want.reshape(-1, 1) * np.array([1.0, 0.5, -0.25]),
    rtol=1e-5,
    atol=1e-3,
  )
  whole = padded_shape(image.shape, CROP)
  padded = take_window(image, (0, 0, 0), whole).astype(np.float64)
  cells = padded[::STEM_STRIDE, ::STEM_STRIDE, ::STEM_STRIDE]
  inside = tuple(slice(-(-n // STEM_STRIDE)) for n in image.shape)
  heat = np.zeros(cells.shape)
  heat[inside] = sigmoid(cells[inside] / 500)
  np.testing.assert_allclose(found.lesion_heat, heat, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(
    found.lesion_box[inside],
    cells[inside][..., None] / 500 * np.arange(2, 8),
    rtol=1e-5,
    atol=1e-5,
  )


@given(
  cells=st.integers(4, 60),
  window=st.sampled_from([4, 8, 16]),
  overlap=st.floats(0, 0.95),
)
@example(cells=17, window=16, overlap=0.0)
@example(cells=47, window=16, overlap=0.05)
def test_starts_cover_every_voxel_up_to_the_border(cells, window, overlap):
  size = STEM_STRIDE * max(cells, window // STEM_STRIDE)
  starts = window_starts(size, window, overlap)
  seen = np.zeros(size, int)
  for start in starts:
    assert start % STEM_STRIDE == 0
    seen[start : start + window] += 1
  assert seen.min() >= 1
  assert starts[0] == 0
  assert starts[-1] == size - window
  assert starts == sorted(set(starts))


def test_starts_honour_the_overlap():
  starts = window_starts(64, 16, 0.5)
  assert starts == [0, 8, 16, 24, 32, 40, 48]
  assert window_starts(64, 16, 0.0) == [0, 16, 32, 48]


@pytest.mark.parametrize(("size", "window"), [(12, 16), (18, 16)])
def test_an_axis_that_was_not_padded_is_refused(size, window):
  with pytest.raises(ValueError, match=f"axis of {size} voxels"):
    window_starts(size, window, 0.5)


@given(shape=st.tuples(*[st.integers(1, 21)] * 3))
def test_padding_adds_air_behind_and_no_more_than_needed(shape):
  image = noise(shape)
  whole = padded_shape(shape, CROP)
  padded = take_window(image, (0, 0, 0), whole)
  np.testing.assert_array_equal(
    padded[: shape[0], : shape[1], : shape[2]], image
  )
  for size, old, window in zip(padded.shape, shape, CROP, strict=True):
    assert size % STEM_STRIDE == 0
    assert size == window or size - old < STEM_STRIDE
    assert size >= max(old, window)
  assert (padded == AIR_HU).sum() == padded.size - image.size


def test_weight_is_largest_in_the_middle_and_never_zero():
  weight = blend_weight((16, 8, 8))
  assert weight.dtype == np.float32
  assert weight.min() == np.float32(1e-3)
  assert np.unravel_index(weight.argmax(), weight.shape) == (7, 3, 3)
  for axis in range(3):
    np.testing.assert_array_equal(weight, np.flip(weight, axis))


@pytest.mark.parametrize(("depth", "mirrored"), [(5, True), (6, False)])
def test_a_slab_is_mirrored_and_what_lies_behind_it_not_kept(depth, mirrored):
  image = noise((depth, 8, 8))
  seen = []

  def forward(block):
    seen.append(block[0])
    return Identity()(block)

  check_reproduced(image, sweep(image, forward, CROP, 0.5, 1, 0.5))
  behind = image[::-1][: CROP[0] - depth] if mirrored else AIR_HU
  np.testing.assert_array_equal(seen[0][depth : 2 * depth], behind)


@given(
  shape=st.tuples(st.integers(1, 40), st.integers(1, 21), st.integers(1, 21)),
  overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
  batch=st.integers(1, 5),
)
@example(shape=(3, 2, 1), overlap=0.5, batch=4)
@example(shape=(16, 8, 8), overlap=0.5, batch=2)
@example(shape=(17, 9, 9), overlap=0.5, batch=3)
def test_a_sweep_reproduces_what_the_windows_say(shape, overlap, batch):
  image = noise(shape)
  forward = Identity()
  found = sweep(image, forward, CROP, overlap, batch, 0.5)
  check_reproduced(image, found)
  assert found.skipped == 0
  assert forward.calls == -(-found.windows // batch)
  assert forward.filled == found.windows


@given(
  place=st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 20)),
  value=st.sampled_from([100, 101, 3071]),
)
def test_no_window_with_a_voxel_as_dense_as_bone_is_skipped(place, value):
  shape = (41, 21, 21)
  image = np.full(shape, 99, np.int16)
  image[place] = value
  found = sweep(image, Identity(), CROP, 0.5, 3, 0.5)
  whole = padded_shape(shape, CROP)
  axes = [
    [a for a in window_starts(n, c, 0.5) if a <= p < a + c]
    for n, c, p in zip(whole, CROP, place, strict=True)
  ]
  hit = len(list(itertools.product(*axes)))
  every = np.prod([len(window_starts(n, c, 0.5)) for n, c in zip(whole, CROP)])
  assert found.windows == hit
  assert found.skipped == every - hit
  np.testing.assert_allclose(
    found.probability[place], sigmoid(value / 500), rtol=5e-4
  )


def test_what_no_window_saw_is_background():
  image = np.full((64, 8, 8), 40, np.int16)
  image[60, 4, 4] = 500
  found = sweep(image, Identity(), CROP, 0.0, 2, 0.5)
  assert (found.windows, found.skipped) == (1, 3)
  assert not found.probability[:48].any()
  assert found.lesion_heat[:12].max() < 1e-12
  # The window ran from row 48 on, and nothing in it is below 0.5.
  assert len(found.offsets) == 16 * 8 * 8
  assert found.probability[48:].min() > 0.5


def test_a_scan_without_bone_never_runs_the_network():
  forward = Identity()
  found = sweep(np.full((20, 8, 9), 99, np.int16), forward, CROP, 0.5, 2, 0.5)
  assert forward.calls == 0
  assert (found.windows, found.skipped) == (0, 4)
  assert not found.probability.any()


def test_the_middle_of_a_window_outweighs_the_rim_of_its_neighbour():
  """Each window says its own number; a voxel listens to the nearer one."""
  image = noise((24, 8, 8))

  def numbered(block):
    said = np.stack([window[0, 0, 0] for window in block])
    wide = np.zeros(block.shape, np.float32) + said[:, None, None, None]
    cells = wide[:, ::4, ::4, ::4, None] + np.zeros(7, np.float32)
    return WindowOutputs(
      logits=wide / 500,
      offsets=wide[..., None] + np.zeros(3, np.float32),
      lesions=cells / 500,
    )

  found = sweep(image, numbered, CROP, 0.5, 2, 0.5)
  first, second = float(image[0, 0, 0]), float(image[8, 0, 0])
  x = np.arange(16)
  weight = np.maximum(np.exp(-0.5 * ((x - 7.5) / 2) ** 2), 1e-3)
  # Along the middle of the other axes the weight is that of this one, scaled.
  side = np.exp(-0.5 * (0.5 / 1) ** 2) ** 2
  line = np.maximum(weight * side, 1e-3)
  share = line[8:] / (line[8:] + line[:8])
  want = share * first + (1 - share) * second
  # Every voxel is foreground, so the offsets are all there.
  offsets = found.offsets.reshape(*image.shape, 3)
  np.testing.assert_allclose(offsets[8:16, 4, 4, 0], want, rtol=0.02)
  assert abs(offsets[9, 4, 4, 0] - first) < 0.05 * abs(first - second)
  assert abs(offsets[14, 4, 4, 0] - second) < 0.05 * abs(first - second)


def test_a_sweep_is_the_same_twice_and_leaves_its_input_alone():
  image = noise((30, 12, 10))
  before = image.copy()
  one = sweep(image, Identity(), CROP, 0.5, 2, 0.5)
  two = sweep(image, Identity(), CROP, 0.5, 2, 0.5)
  np.testing.assert_array_equal(one.probability, two.probability)
  np.testing.assert_array_equal(one.offsets, two.offsets)
  np.testing.assert_array_equal(image, before)


@given(
  shape=st.tuples(st.integers(1, 90), st.integers(1, 12), st.integers(1, 12)),
  bone=st.lists(st.integers(0, 89), max_size=4),
  overlap=st.sampled_from([0.0, 0.5, 0.8]),
  batch=st.integers(1, 9),
)
def test_slabs_cover_the_depth_once_and_are_the_mean_of_all_windows(
  shape, bone, overlap, batch
):
  """Against sums over the whole image, as one would write them down."""
  image = np.random.default_rng(1).integers(-900, 90, shape, np.int16)
  for row in bone:
    image[min(row, shape[0] - 1), 0, 0] = 300
  windows = plan_windows(image, CROP, overlap)

  def forward(block):
    values = block.astype(np.float32)
    corner = values[:, :1, :1, :1]
    wide = np.stack([values + corner, values * 0 + corner], axis=-1)
    return wide, wide[:, ::4, ::4, ::4, :1]

  total = [np.zeros((*windows.shape, 2)), None]
  share = [np.zeros(windows.shape), None]
  cells = tuple(n // 4 for n in windows.shape)
  total[1], share[1] = np.zeros((*cells, 1)), np.zeros(cells)
  for start in windows.starts:
    outputs = forward(take_window(image, start, CROP)[None])
    for which, stride in ((0, 1), (1, 4)):
      weight = blend_weight(tuple(n // stride for n in CROP))
      place = tuple(
        slice(a // stride, (a + n) // stride)
        for a, n in zip(start, CROP, strict=True)
      )
      total[which][place] += weight[..., None] * outputs[which][0]
      share[which][place] += weight
  slabs = list(blend(windows, forward, batch))
  if not windows.starts:
    assert slabs == []
    return
  ends = [s.start + len(s.maps[0]) for s in slabs]
  assert [s.start for s in slabs] == [0, *ends[:-1]]
  assert ends[-1] == windows.shape[0]
  for which in (0, 1):
    seen = np.concatenate([s.seen[which] for s in slabs])
    means = np.concatenate([s.maps[which] for s in slabs])
    np.testing.assert_array_equal(seen, share[which] > 0)
    want = total[which] / np.maximum(share[which], 1e-6)[..., None]
    np.testing.assert_allclose(means, want, rtol=1e-4, atol=1e-2)


def test_the_class_is_that_of_the_largest_mean_logit():
  image = noise((50, 10, 9), low=-500)
  image[20:36] = -900  # a gap that no window without overlap needs
  lines = np.array([[0.0, 0.0], [300.0, 0.5], [-100.0, 1.5]], np.float32)

  def forward(block):
    values = block.astype(np.float32)[..., None]
    return [lines[:, 0] + lines[:, 1] * values]

  want = (lines[:, 0] + lines[:, 1] * image[..., None]).argmax(axis=-1)
  assert {0, 1, 2} == set(np.unique(want))
  found = classify(image, forward, CROP, 0.5, 4)
  np.testing.assert_array_equal(found, want)
  assert not classify(np.minimum(image, 50), forward, CROP, 0.5, 4).any()


def test_free_memory_is_given_back_after_the_first_window_and_each_row(
  monkeypatch,
):
  calls = []
  monkeypatch.setattr(module, "trim", lambda: calls.append("trim"))

  def forward(block):
    calls.append("window")
    return [np.zeros((*block.shape, 1), np.float32)]

  image = noise((32, 16, 16))
  plan = plan_windows(image, (16, 16, 16), 0.5)
  assert list(blend(plan, forward, 1))
  rows = {depth for depth, *_ in plan.starts}
  assert len(rows) == 3
  assert calls[:2] == ["window", "trim"]
  assert calls[-1] == "trim"
  assert calls.count("trim") == 1 + len(rows)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_windows_in_flight_change_nothing_and_are_no_more_than_asked(in_flight):
  image = noise((64, 16, 16))
  plan = plan_windows(image, (16, 16, 16), 0.5)
  together = threading.Barrier(in_flight)
  running, most = [], []

  def forward(block):
    if most:  # the first is alone
      together.wait(timeout=20)
    running.append(None)
    most.append(len(running))
    time.sleep(0.01)
    running.pop()
    return [block[..., None].astype(np.float32)]

  assert (len(plan.starts) - 1) % in_flight == 0
  found = list(blend(plan, forward, 1, in_flight))
  assert max(most) <= in_flight
  alone = list(blend(plan, lambda b: [np.float32(b[..., None])], 1, 1))
  for one, other in zip(found, alone, strict=True):
    np.testing.assert_array_equal(one.maps[0], other.maps[0])


def test_the_last_layer_may_follow_the_mean():
  image = noise((50, 10, 9), low=-500)
  rng = np.random.default_rng(1)
  kernel, bias = rng.normal(size=(2, 5)), rng.normal(size=5)

  def features(block):
    values = block.astype(np.float64)[..., None] / 1000
    return np.concatenate([values, np.sin(values * 9)], axis=-1)

  def logits(block):
    return [features(block) @ kernel + bias]

  found = classify(
    image, lambda b: [features(b)], CROP, 0.5, 1, last=(kernel, bias)
  )
  want = classify(image, logits, CROP, 0.5, 1)
  assert len(np.unique(want)) > 2
  assert (found != want).mean() < 1e-3  # rounding of float32 sums


def test_what_fails_while_windows_are_added_is_told_and_ends_the_threads():
  windows = plan_windows(noise((64, 8, 8)), CROP, 0.5)
  before, calls = threading.active_count(), []

  def forward(block):
    calls.append(block)
    width = 8 if len(calls) == 1 else 7  # the first is computed alone
    return [np.ones((1, *CROP[:2], width, 1), np.float32)]

  with pytest.raises(ValueError, match="broadcast") as error:
    list(blend(windows, forward, 1, 2))
  # Whoever holds the error holds what it passed through.
  assert error.tb is not None
  assert threading.active_count() == before


def test_no_thread_is_left_when_nobody_wants_the_rest():
  windows = plan_windows(noise((64, 8, 8)), CROP, 0.5)
  before = threading.active_count()
  slabs = blend(windows, lambda block: [block[..., None] * 1.0], 1)
  next(slabs)
  next(slabs)  # the first window is computed before there are threads for more
  assert threading.active_count() > before
  slabs.close()
  assert threading.active_count() == before
