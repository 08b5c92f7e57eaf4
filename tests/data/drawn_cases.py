# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Drawn cases: balls of label and HU where vertebrae and lesions would be."""

from __future__ import annotations

import dataclasses

import numpy as np

from vf_jax.labels import BY_NAME, IGNORE
from vf_jax.multispine.record import PreparedCase, Record

EYE = tuple(tuple(float(v) for v in row) for row in np.eye(4))


def make_record(case="drawn", domain="drawn", **changes) -> Record:
  record = Record(
    case=case, source="cohort", domain=domain, subject=case, series="0",
    split=None, spacing_mm=2.0, affine=EYE, native_shape=(9, 9, 9),
    native_affine=EYE, native_spacing_mm=(0.5, 0.6, 3.0), centres={},
    centre_kind="none", boxes=(), cut=(),
    annotates=("masks", "levels", "lesions"), mask_kind="expert",
    licence="none", origin="drawn", scanner={}, files={}, voxels="",
    findings=(),
  )  # fmt: skip
  return dataclasses.replace(record, **changes)


def make_case(
  shape, places, *, image=True, tissue=False, known=True, **record
) -> PreparedCase:
  """Balls about the centres; the image differs in every voxel."""
  grid = np.indices(shape)
  labels = np.zeros(shape, np.uint8) if known else np.full(shape, IGNORE)
  for number, (name, centre) in enumerate(places.items()):
    away = np.linalg.norm(grid - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    labels[away <= 2 + number % 3] = BY_NAME[name].code
  hu = np.arange(np.prod(shape)).reshape(shape) % 1999 - 900
  bone = np.where((labels > 0) & (labels < IGNORE), 7, 4).astype(np.uint8)
  centres = {BY_NAME[n].code: tuple(map(float, p)) for n, p in places.items()}
  return PreparedCase(
    record=make_record(**({"centres": centres} | record)),
    image=hu.astype(np.int16) if image else None,
    labels=labels.astype(np.uint8),
    tissue=bone if tissue else None,
    depth=2 * bone if tissue else None,
  )


def column(names, shape, step=9):
  """Places from head (large depth) to foot, with a sway."""
  _, height, width = shape
  return {
    name: (shape[0] - 6.0 - step * i, height / 2 + i % 3, width / 2 - i % 2)
    for i, name in enumerate(names.split())
  }


NECK = (48, 40, 44)
CASES = {
  "back-1": make_case(
    (60, 36, 44), column("T12 L1 L2 L3", (60, 36, 44)), case="back-1",
    domain="back", image=False, tissue=True,
  ),
  "bone-1": make_case(
    (28, 30, 26), {}, case="bone-1", domain="bone", known=False,
    annotates=("lesions",),
    boxes=((14.0, 9.0, 8.0, 6.0, 5.0, 4.0), (5.0, 20.0, 20.0, 9.0, 9.0, 9.0)),
  ),
  "bone-2": make_case(
    (40, 30, 40), {}, case="bone-2", domain="bone", known=False,
    annotates=("lesions",),
    boxes=tuple((3.0 * i + 2, 14.0, 15.0 + i, 8.0, 8.0, 8.0)
                for i in range(12)),
  ),
  "neck-1": make_case(
    NECK, column("C3 C4 C5 C6", NECK), case="neck-1", domain="neck",
    tissue=True, annotates=("masks", "levels"),
  ),
  "neck-2": make_case(
    NECK, column("C5 C6 C7 T1", NECK), case="neck-2", domain="neck",
    annotates=("masks", "levels"),
  ),
}  # fmt: skip
"""Three domains: masks alone, lesions alone, and scans with vertebrae."""
