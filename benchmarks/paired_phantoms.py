# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The same phantom patients under every scanner, as a store.

In `vf-jax phantom` the domains differ in more than the scanner: other levels
are in view and only one archive draws lesion boxes. Here every patient passes
every scanner and everything is annotated, so that a difference between domains
is the scanner's. One domain is taken from each archive of the phantom.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time

import numpy as np

from vf_jax.multispine.case import Case
from vf_jax.multispine.convert import convert
from vf_jax.multispine.load import Loaded
from vf_jax.multispine.phantom.anatomy import Anatomy, Rates, make_anatomy
from vf_jax.multispine.phantom.domains import draw_protocol
from vf_jax.multispine.phantom.field_of_view import is_inside
from vf_jax.multispine.phantom.scanner import acquire
from vf_jax.multispine.store_writer import finish, write_case
from vf_jax.volume import Volume

DOMAINS = ("verse", "covid19", "spineweb3", "cohort")
SPANS = (("T4", "L1"), ("T9", "L5"), ("T7", "L3"), ("T11", "L5"))
_SEED = 11
_MARGIN_MM = 20.0  # kept around the spine


def make_store(
  folder: pathlib.Path, patients: int, held_out: int, spacing_mm: float
) -> None:
  """Makes what is missing of the store.

  Args:
    folder: of the store.
    patients: how many are drawn.
    held_out: how many of them, the last ones, are not for training.
    spacing_mm: voxel edge.
  """
  began = time.monotonic()
  names = []
  for number in range(patients):
    cases = {domain: f"p{number:02d}-{domain}" for domain in DOMAINS}
    names += cases.values()
    missing = [
      domain
      for domain, name in cases.items()
      if not (folder / "cases" / name).exists()
    ]
    if not missing:
      continue
    anatomy = make_anatomy(
      np.random.default_rng((_SEED, number)),
      levels=SPANS[number % len(SPANS)],
      rates=Rates(lesioned_patients=1.0),
    )
    part = "test" if number >= patients - held_out else "train"
    for domain in missing:
      loaded = _scan(anatomy, domain, number, cases[domain], part)
      write_case(folder, convert(loaded, spacing_mm))
    spent = time.monotonic() - began
    print(f"patient {number + 1}/{patients}, {spent:.0f} s", file=sys.stderr)
  finish(folder, sorted(names), spacing_mm)


def _scan(
  anatomy: Anatomy, domain: str, number: int, name: str, part: str
) -> Loaded:
  """One patient under one scanner, with all that is in view annotated."""
  rng = np.random.default_rng((_SEED, number, DOMAINS.index(domain)))
  # Leaning slabs would show other levels than straight ones.
  protocol = dataclasses.replace(
    draw_protocol(domain, rng),
    span=SPANS[number % len(SPANS)],
    tilt_deg=0.0,
    turn_deg=(0.0, 0.0, 0.0),
  )
  scan = acquire(anatomy, protocol, rng)
  grid = scan.image.grid
  codes = scan.labels.voxels
  case = Case(
    name=name, source="cohort", domain=domain, subject=f"p{number:02d}",
    series="", licence="Apache-2.0", image=pathlib.Path(name),
    annotates=frozenset({"masks", "levels", "cut_vertebrae", "lesions"}),
    mask_kind="synthetic", split="test" if part == "test" else "train",
    scanner={"kernel": protocol.kernel, "kvp": str(protocol.kvp)},
    origin="phantom", margin_mm=_MARGIN_MM,
  )  # fmt: skip
  return Loaded(
    case=case,
    image=scan.image,
    labels=Volume(codes, grid.affine),
    stored_mask=None,
    centres={
      code: point
      for code, point in anatomy.centres.items()
      if is_inside(grid, point) and (codes == code).any()
    },
    centre_kind="body",
    boxes=tuple(b for b in anatomy.lesions if is_inside(grid, b.centre_mm)),
    digests={},
    warnings=(),
  )
