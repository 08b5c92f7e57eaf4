"""Templates are whole bones in their own frame, and survive their packing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from vf_jax.multispine.phantom import cervical
from vf_jax.multispine.phantom.templates import (
  STEP_MM,
  load_templates,
  pack,
  unpack,
)

_ALL = [
  pytest.param(t, id=f"{name}-{t.source}")
  for name, several in load_templates().items()
  if name not in ("hip", "sacrum")
  for t in several
] + [pytest.param(cervical.cervical_model(n), id=n) for n in cervical.NAMES]


def _at(template, *points):
  return template.depth(np.array(points, np.float32).T)


def test_every_level_has_a_shape_or_a_stand_in():
  names = set(load_templates())
  assert {f"T{n}" for n in range(1, 13)} <= names
  assert {"L2", "L3", "L4", "L5", "sacrum", "hip"} <= names


@pytest.mark.parametrize("template", _ALL)
def test_body_and_pedicle_are_bone_and_the_canal_is_not(template):
  x, y, z = template.pedicle_mm
  depth = _at(template, (x, y, z), (-x, y, z), (0, template.canal_mm, z))
  assert depth[0] > 0
  assert depth[1] == depth[0]
  assert depth[2] < 0
  if template.source != "model":
    assert _at(template, (0, 0, 0))[0] > 4
  wide, deep = template.half_mm
  assert 5 < deep < 20
  assert 7 < wide < 28


@pytest.mark.parametrize("template", _ALL)
def test_templates_are_one_piece(template):
  right = template.distance
  both = np.concatenate([right[:0:-1], right]) > 0
  parts, _ = ndimage.label(both)
  sizes = np.bincount(parts.ravel())[1:]
  assert sizes.max() > 0.98 * sizes.sum()


def test_the_atlas_is_a_ring():
  atlas = cervical.cervical_model("C1")
  middle = round(-atlas.low_mm[1] / atlas.spacing_mm)
  both = np.concatenate([atlas.distance[:0:-1], atlas.distance]) > 0
  section = both[:, :, middle]
  filled = ndimage.binary_fill_holes(section)
  hole = (filled & ~section).sum() * atlas.spacing_mm**2
  assert hole > 600  # mm^2: about 28 x 30 mm


def test_the_dens_reaches_into_the_atlas():
  axis = cervical.cervical_model("C2")
  assert _at(axis, (0, 0, 20))[0] > 0
  assert _at(cervical.cervical_model("C3"), (0, 0, 20))[0] < 0


def test_pack_loses_at_most_half_a_step():
  (template, *_) = load_templates()["L3"]
  rng = np.random.default_rng(0)
  rough = dataclasses.replace(
    template,
    distance=rng.uniform(-9, 9, template.distance.shape).astype(np.float32),
  )
  again = unpack(*pack(rough), rough.source)
  kept = np.clip(rough.distance, -6, 6)
  assert np.abs(again.distance - kept).max() <= STEP_MM / 2 + 1e-4
  same = dataclasses.replace(again, distance=rough.distance)
  for field in dataclasses.fields(rough):
    if field.name != "distance":
      left, right = getattr(same, field.name), getattr(rough, field.name)
      if field.name == "source":
        assert left == right
      else:
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_depth_is_far_outside_beyond_the_box():
  (template, *_) = load_templates()["T6"]
  assert _at(template, (300, 0, 0), (0, 300, 0), (0, 0, -300)).max() <= -5.9
