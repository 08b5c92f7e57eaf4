# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from drawn_spine import make_loaded, run

from vf_jax.multispine.checks.alignment import (
  check_alignment,
  rank_turns,
  turned_like,
)
from vf_jax.volume import Volume, reorient


@pytest.fixture(scope="module")
def pair():
  loaded = make_loaded(run("L1", "L3"))
  return loaded.image, loaded.labels


def _stored(volume, affine=None):
  """As another file would hold it."""
  voxels = np.ascontiguousarray(volume.voxels)
  return Volume(voxels, volume.affine if affine is None else affine)


def test_a_mask_on_its_image_has_no_finding(pair):
  assert check_alignment(*pair) == []
  image, labels = pair
  assert check_alignment(reorient(image, "PIR"), reorient(labels, "PIR")) == []


def test_other_axes_of_the_same_world_can_be_turned(pair):
  image, labels = pair
  other = _stored(reorient(labels, "PIR"))
  turned = turned_like(other, image.grid)
  np.testing.assert_array_equal(turned.voxels, labels.voxels)
  assert turned.grid.same_as(image.grid)


def test_rounded_headers_are_noted_and_no_fault(pair):
  image, labels = pair
  affine = labels.affine.copy()
  affine[0, 3] += 0.01
  (found,) = check_alignment(image, Volume(labels.voxels, affine))
  assert (found.severity, found.code) == ("note", "mask_rounded")
  assert "up to 0.01 mm off" in found.message
  affine[0, 3] += 0.2  # a tenth of a voxel is 0.2 mm
  (found,) = check_alignment(image, Volume(labels.voxels, affine))
  assert (found.severity, found.code) == ("error", "mask_grid")
  assert "its middle lies 0.2 mm away" in found.message


def test_a_small_turn_about_the_middle_is_told_in_mm(pair):
  image, labels = pair
  angle = np.radians(0.5)
  turn = np.eye(4)
  turn[:2, :2] = [
    [np.cos(angle), -np.sin(angle)],
    [np.sin(angle), np.cos(angle)],
  ]
  middle = np.eye(4)
  shape = np.array(labels.voxels.shape)
  middle[:3, 3] = labels.grid.to_world((shape[None] - 1) / 2)[0]
  affine = middle @ turn @ np.linalg.inv(middle) @ labels.affine
  turned = Volume(labels.voxels, affine)
  (found,) = check_alignment(image, turned)
  assert found.severity == "error"
  apart = image.grid.apart_mm(turned.grid)
  assert apart > 0.2
  assert f"its corners lie up to {apart:.2f} mm away" in found.message


def test_a_wrong_header_is_found_by_the_bone(pair):
  image, labels = pair
  other = _stored(reorient(labels, "IPL"), image.affine)
  (found,) = check_alignment(image, other)
  assert (found.severity, found.code) == ("error", "mask_header")
  assert "axes taken in the order (2, 1, 0)" in found.message
  assert turned_like(other, image.grid) is None


def test_a_flipped_array_under_the_right_header(pair):
  # Upside down, bodies come to lie on discs.
  loaded = make_loaded(run("L1", "L3"), above_mm=37)
  image, labels = loaded.image, loaded.labels
  flipped = dataclasses.replace(labels, voxels=labels.voxels[:, :, ::-1])
  (found,) = check_alignment(image, flipped)
  assert (found.severity, found.code) == ("error", "mask_turned")
  assert "axis 2 reversed" in found.message


def test_a_moved_header_under_the_right_array(pair):
  image, labels = pair
  affine = labels.affine.copy()
  affine[1, 3] += 25.0
  (found,) = check_alignment(image, Volume(labels.voxels, affine))
  assert (found.severity, found.code) == ("error", "mask_header")
  assert "25.0 mm away" in found.message
  assert "the array as it is" in found.message


def test_a_mask_of_other_spacing_may_be_resampled(pair):
  image, labels = pair
  affine = labels.affine.copy()
  affine[:3, :3] *= 2
  coarse = Volume(np.ascontiguousarray(labels.voxels[::2, ::2, ::2]), affine)
  (found,) = check_alignment(image, coarse)
  assert (found.severity, found.code) == ("error", "mask_grid")
  assert "spacing 4 x 4 x 4 instead of 2 x 2 x 2 mm" in found.message
  assert "may be resampled" in found.message


def test_a_mask_on_soft_tissue(pair):
  image, labels = pair
  soft = dataclasses.replace(image, voxels=np.full_like(image.voxels, 40))
  (found,) = check_alignment(soft, labels)
  assert (found.severity, found.code) == ("warning", "mask_off_bone")


def test_every_turn_that_fits_is_tried(pair):
  image, labels = pair
  assert len(rank_turns(image, labels)) == 8  # three different lengths
  cube = np.zeros((9, 9, 9), np.uint8)
  cube[1, 2, 3] = 20
  volume = Volume(cube, np.eye(4))
  assert len(rank_turns(volume, volume)) == 48
  assert rank_turns(volume, Volume(np.zeros_like(cube), np.eye(4))) == []
