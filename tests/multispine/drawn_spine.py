# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A drawn spine of many levels at usual distances, as a loaded case."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np

from vf_jax.labels import BY_NAME, VERTEBRAE
from vf_jax.multispine.case import Case
from vf_jax.multispine.load import Loaded
from vf_jax.multispine.neighbours import usual_distance
from vf_jax.volume import Grid, Volume, reorient

SPACING = 2.0
USUAL = [v.name for v in VERTEBRAE if v.name not in ("T13", "L6")]


def run(first, last):
  """Codes of all usual levels from one to another."""
  names = USUAL[USUAL.index(first) : USUAL.index(last) + 1]
  return [BY_NAME[name].code for name in names]


def heights(codes, top_mm=0.0):
  """S of each body centre, usual distances apart."""
  levels = [v for v in VERTEBRAE if v.code in codes]
  found, at = {}, top_mm
  for upper, lower in itertools.pairwise([*levels, None]):
    found[upper.code] = at
    at -= usual_distance(upper, lower, "body") if lower else 0.0
  return found


def centre(s_mm, bend=12.0):
  """Body centre at a height: a lordosis and a little scoliosis."""
  return (4.0 * np.sin(s_mm / 90), bend * np.cos(s_mm / 70), s_mm)


def draw(grid, centres):
  """Masks of vertebrae: a body, and an arch 12 to 42 mm behind its centre."""
  where = [np.arange(n) for n in grid.shape]
  world = grid.affine[:3, 3]
  mask = np.zeros(grid.shape, np.uint8, order="F")
  for code, point in centres.items():
    right, front, up = (
      (axis * SPACING + start - at).reshape(shape)
      for axis, start, at, shape in zip(
        where, world, point, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True
      )
    )
    body = ((right / 18) ** 2 + (front / 14) ** 2 < 1) & (np.abs(up) < 7)
    arch = (np.abs(right) < 14) & (front > -42) & (front < -10)
    mask[body | (arch & (np.abs(up) < 6))] = code
  return mask


def make_loaded(
  codes, axes="RAS", image=True, above_mm=20.0, below_mm=20.0, **changes
):
  """A case with mask, body points and (unless False) a CT."""
  tops = heights(codes)
  centres = {c: tuple(map(float, centre(s))) for c, s in tops.items()}
  low, high = min(tops.values()) - below_mm, max(tops.values()) + above_mm
  affine = np.diag([SPACING] * 3 + [1.0])
  affine[:3, 3] = (-50.0, -70.0, low)
  shape = (51, 66, round((high - low) / SPACING) + 1)
  mask = draw(Grid(shape, affine), centres)
  hu = np.random.default_rng(0).normal(40, 30, shape)
  hu[:8] -= 1040.0
  hu[:, 60:] -= 140.0
  hu[mask > 0] *= 4
  hu[mask > 0] += 200.0
  ct = reorient(Volume(hu.astype(np.int16), affine), axes)
  fields = {
    "case": case(),
    "image": ct if image else None,
    "labels": reorient(Volume(mask, affine), axes),
    "stored_mask": None,
    "centres": centres,
    "centre_kind": "body",
    "boxes": (),
    "digests": {},
    "warnings": (),
  }
  return Loaded(**(fields | changes))


def case(**changes):
  """A case description; its files are never read."""
  fields = {
    "name": "drawn",
    "source": "verse",
    "domain": "verse",
    "subject": "drawn",
    "series": "1",
    "licence": "none",
    "image": pathlib.Path("ct.nii.gz"),
    "annotates": frozenset({"masks", "levels"}),
    "mask_kind": "expert",
  }
  return Case(**(fields | changes))


def relabel(loaded, table):
  """The case with codes renamed in its mask."""
  lut = np.arange(256, dtype=np.uint8)
  for old, new in table.items():
    lut[old] = new
  voxels = lut[loaded.labels.voxels]
  labels = dataclasses.replace(loaded.labels, voxels=voxels)
  return dataclasses.replace(loaded, labels=labels)
