# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from vf_jax.infer.result import Lesion, Vertebra
from vf_jax.labels import LEVELS
from vf_jax.report.overlay import (
  blend,
  level_colour,
  paint_levels,
  place_boxes,
  place_names,
  render_overlay_png,
  text_height,
)
from vf_jax.report.views import spine_views

# Machado, Oliveira and Fernandes 2009, severity 1.0, linear RGB.
_SIGHT = {
  "normal": np.eye(3),
  "deuteranopia": np.array(
    [
      [0.367322, 0.860646, -0.227968],
      [0.280085, 0.672501, 0.047413],
      [-0.011820, 0.042940, 0.968881],
    ]
  ),
  "protanopia": np.array(
    [
      [0.152286, 1.052583, -0.204868],
      [0.114503, 0.786281, 0.099216],
      [-0.003882, -0.048116, 1.051998],
    ]
  ),
}


def cielab(colour, sight):
  share = np.array(colour) / 255
  linear = np.where(
    share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4
  )
  xyz = np.array(
    [
      [0.4124, 0.3576, 0.1805],
      [0.2126, 0.7152, 0.0722],
      [0.0193, 0.1192, 0.9505],
    ]
  ) @ np.clip(_SIGHT[sight] @ linear, 0, 1)
  ratio = xyz / (0.9505, 1.0, 1.089)
  x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", _SIGHT)
def test_neighbouring_levels_differ_for_every_eye(sight):
  names = [v.name for v in LEVELS]
  pairs = list(itertools.pairwise(names))
  pairs += [("T12", "L1"), ("L5", "sacrum"), ("T11", "L1")]
  codes = {v.name: v.code for v in LEVELS}
  for one, other in pairs:
    apart = cielab(level_colour(codes[one]), sight) - cielab(
      level_colour(codes[other]), sight
    )
    assert np.linalg.norm(apart) > 25, (one, other)


def test_colour_of_a_level_is_at_its_place(make_case):
  ct, result = make_case()
  for view in spine_views(ct, result):
    picture = blend(view).astype(int)
    entries, palette = paint_levels(view)
    assert palette[0, 3] == 0
    for vertebra in result.vertebrae:
      x, y = view.place(vertebra.centre_mm)
      row, column = int(y / view.step_mm), int(x / view.step_mm)
      colour = np.array(level_colour(vertebra.code))
      grey = int(view.grey[row, column])
      tint = picture[row, column] - grey
      np.testing.assert_allclose(tint, (colour - grey) * 58 / 255, atol=1)
      border = np.flatnonzero(view.codes[row] == vertebra.code)[0]
      np.testing.assert_allclose(picture[row, border], colour, atol=20)
      assert palette[entries[row, border], 3] > palette[entries[row, column], 3]
    outside = view.codes == 0
    assert (picture[outside] == view.grey[outside][:, None]).all()


def test_names_stand_beside_their_bodies(make_case):
  ct, result = make_case()
  for view in spine_views(ct, result):
    names = place_names(view, result.vertebrae, text_height([view]))
    assert [n.text for n in names] == ["L1", "L2", "L3", "L4", "L5"]
    for name, vertebra in zip(names, result.vertebrae, strict=True):
      assert name.centre == view.place(vertebra.centre_mm)
      assert name.end[0] < name.edge[0] < name.centre[0]
      assert abs(name.end[1] - name.centre[1]) < 1.0


def test_crowded_names_do_not_overlap_and_stay_inside(make_case):
  ct, result = make_case()
  crowd = tuple(
    Vertebra(f"T{n}", 7 + n, (0.0, 0.0, 190.0 - 3 * n), 1.0, True, 1.0, 1.0)
    for n in range(1, 13)
  )
  for view in spine_views(ct, dataclasses.replace(result, vertebrae=crowd)):
    size = 6.0
    names = place_names(view, crowd[::-1], size)
    heights = np.array([n.end[1] for n in names])
    assert [n.text for n in names] == [v.level for v in crowd]
    assert (np.diff(heights) >= size).all()
    assert heights.min() >= size / 2
    assert heights.max() <= view.size_mm[1] - size / 2
    assert all(n.end[0] > 0 for n in names)


def test_levels_without_a_centre_have_no_name(make_case):
  ct, result = make_case()
  lost = dataclasses.replace(result.vertebrae[0], centre_mm=(np.nan,) * 3)
  view, _ = spine_views(ct, result)
  assert place_names(view, [lost], 5.0) == []


def test_boxes_have_their_place_and_size(make_case):
  ct, result = make_case()
  r, a, s = result.vertebrae[1].centre_mm
  lesions = (
    Lesion((np.nan, 0.0, 0.0), (1.0, 1.0, 1.0), 0.9, None),
    Lesion((r + 20, a, s), (10.0, 14.0, 6.0), 0.8, "L2"),
  )
  sagittal, coronal = spine_views(
    ct, dataclasses.replace(result, lesions=lesions)
  )
  for view, width, cut in ((sagittal, 14.0, False), (coronal, 10.0, True)):
    (box,) = place_boxes(view, lesions)
    assert (box.number, box.cut) == (2, cut)
    assert (box.width, box.height) == (width, 6.0)
    x, y = view.place(lesions[1].centre_mm)
    np.testing.assert_allclose(
      (box.left + box.width / 2, box.top + box.height / 2), (x, y)
    )


def test_overlay_picture_holds_both_views(make_case, decode_png):
  ct, result = make_case()
  sagittal, coronal = spine_views(ct, result)
  pixels, _, _ = decode_png(render_overlay_png(ct, result))
  np.testing.assert_array_equal(
    pixels[:, : sagittal.grey.shape[1]], blend(sagittal)
  )
  np.testing.assert_array_equal(
    pixels[:, -coronal.grey.shape[1] :], blend(coronal)
  )
  assert render_overlay_png(ct, result) == render_overlay_png(ct, result)
