# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Derived body centres: a drawn vertebra, and experts' points on real masks."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from scipy import ndimage

from vf_jax.multispine.bodies import (
  arch_centre,
  body_centre,
  derive_centres,
  level_centre,
)
from vf_jax.multispine.phantom.cervical import cervical_model
from vf_jax.multispine.store import Store

STORE = Store(pathlib.Path(__file__).parent.parent / "data" / "store")
BODY = np.array([12.0, 40.0, 30.0])  # middle of the body drawn below, 1 mm
HIGH = 25


def read(name: str):
  """Record and labels of a committed case, unknown voxels as background."""
  case = STORE.case(STORE.names.index(name))
  labels = case.read("labels", (0, 0, 0), case.shape, 0)
  return case.record, np.where(labels == 255, 0, labels).astype(np.uint8)


def draw_vertebra(code: int = 20) -> np.ndarray:
  """A lumbar vertebra at 1 mm; height grows towards the front."""
  labels = np.zeros((HIGH, 60, 60), np.uint8)
  _, height, width = np.indices(labels.shape) - BODY.reshape(3, 1, 1, 1)
  labels[(height / 15) ** 2 + (width / 22) ** 2 <= 1] = code  # body
  labels[10:20, 10:32, 11:19] = code  # left pedicle
  labels[10:20, 10:32, 42:50] = code  # right pedicle
  labels[5:18, 8:14, 11:50] = code  # lamina: the canal is between them
  labels[3:14, 0:8, 28:33] = code  # spinous process
  return labels


def stack(*codes: int, gap: int = 8) -> np.ndarray:
  """Vertebrae from the foot (first) to the head, air above and below."""
  parts = [np.zeros((gap, 60, 60), np.uint8)]
  for code in codes:
    parts += [draw_vertebra(code), parts[0]]
  return np.concatenate(parts)


@pytest.mark.parametrize("step", [1, 2])
def test_centre_lies_in_the_body_not_in_the_canal(step):
  mask = draw_vertebra()[::step, ::step, ::step] > 0
  expected = BODY / step
  found = body_centre(mask, float(step))
  assert np.linalg.norm(found - expected) * step < 1.5
  mass = np.argwhere(mask).mean(axis=0)
  assert np.linalg.norm(mass - expected) * step > 4.0


def test_every_whole_vertebra_gets_its_own_centre():
  labels = stack(21, 20, 19)
  found = derive_centres(labels, 1.0)
  assert sorted(found) == [19, 20, 21]
  for place, code in enumerate((21, 20, 19)):
    expected = BODY + np.array([8.0 + (HIGH + 8) * place, 0.0, 0.0])
    assert np.linalg.norm(found[code] - expected) < 1.5


def test_cut_vertebrae_and_fragments_get_none():
  labels = stack(22, 21, 20, 19)
  # Through the lowest and through the highest, one slice is enough.
  assert sorted(derive_centres(labels[8:-9], 1.0)) == [20, 21]
  assert sorted(derive_centres(labels[7:-7], 1.0)) == [19, 20, 21, 22]
  fragment = labels.copy()
  fragment[:, 20:][fragment[:, 20:] == 21] = 0
  assert (
    (fragment == 21).sum() < (labels == 21).sum() / 3 < (labels == 20).sum()
  )
  assert sorted(derive_centres(fragment, 1.0)) == [19, 20, 22]


def test_only_vertebrae_get_a_centre():
  # Sacrum, coccyx, unknown: none of them has a body to find.
  assert sorted(derive_centres(stack(26, 27, 255, 28), 1.0)) == [28]
  assert derive_centres(np.zeros((4, 4, 4), np.uint8), 1.0) == {}


@pytest.fixture(scope="module")
def distances_mm():
  """Case -> VerSe code -> distance between derived and annotated centre."""
  result = {}
  for name in ("sub-verse004", "sub-verse010", "sub-sample001"):
    record, labels = read(name)
    assert record.centre_kind == "body"
    found = derive_centres(labels, record.spacing_mm)
    assert sorted(found) == sorted(record.centres)
    result[name] = {
      code: record.spacing_mm
      * float(np.linalg.norm(np.subtract(found[code], point)))
      for code, point in record.centres.items()
    }
  return result


def test_real_masks_agree_with_the_annotated_centres(distances_mm):
  # Measured: median 1.75 mm, 27 of 31 within 3 mm, 30 of 31 within 6 mm.
  each = np.array([v for case in distances_mm.values() for v in case.values()])
  assert len(each) == 31
  assert np.median(each) < 2.0
  assert (each < 3.0).sum() >= 27
  assert (each < 6.0).sum() >= 30


def test_the_one_miss_is_the_collapsed_vertebra(distances_mm):
  # L1 of verse004 is a wedge whose thickest part is its front.
  misses = {
    (name, code): value
    for name, case in distances_mm.items()
    for code, value in case.items()
    if value > 6.0
  }
  assert list(misses) == [("sub-verse004", 20)]
  assert max(misses.values()) < 12.0


def test_centre_of_mass_would_have_been_no_substitute(distances_mm):
  record, labels = read("sub-sample001")
  behind = [
    2.0 * (point[1] - np.argwhere(labels == code)[:, 1].mean())
    for code, point in record.centres.items()
  ]
  assert min(behind) > 5.0  # mm towards the back, every one of them


@pytest.mark.parametrize("turn", [-35, 0, 35])
@pytest.mark.parametrize("nod", [-20, 0, 20])
def test_centre_of_c1_is_its_front_arch_however_the_head_is_held(turn, nod):
  template = cervical_model("C1")
  right = template.distance > 0
  mask = np.concatenate([right[:0:-1], right]).transpose(2, 1, 0)
  place = np.zeros_like(mask)  # where annotations put it: the frame's origin
  low_y, low_z = np.round(template.low_mm).astype(int)
  middle = np.array([-low_z, -low_y, len(right) - 1])
  place[tuple(slice(v - 2, v + 3) for v in middle)] = True
  held = [
    ndimage.rotate(
      ndimage.rotate(part, turn, (1, 2), order=0), nod, (0, 1), order=0
    )
    for part in (mask, place)
  ]
  expected = np.argwhere(held[1]).mean(axis=0)
  (found,) = derive_centres(held[0].astype(np.uint8), 1.0).values()
  assert np.linalg.norm(found - expected) < 4.0
  # The thickest part is a lateral mass.
  assert np.linalg.norm(body_centre(held[0], 1.0) - expected) > 15.0


def test_a_part_of_c1_without_its_arch_has_a_centre_too():
  mask = np.zeros((9, 40, 40), bool)
  mask[:, 2:4, 5:35] = True
  assert np.allclose(level_centre(mask, 1, 1.0), arch_centre(mask, 1.0))
  assert np.isfinite(arch_centre(mask, 1.0)).all()
  assert np.allclose(arch_centre(mask[:1, 2:3, 5:6], 1.0), 0.0)
