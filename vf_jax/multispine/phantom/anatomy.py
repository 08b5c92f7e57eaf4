# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A patient that was never scanned: the parts put together into one volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int16, UInt8

from vf_jax.errors import InputError
from vf_jax.grid import Grid
from vf_jax.hounsfield import AIR_HU
from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import BY_NAME, level
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.bone import bone_hu, coverage, draw_density
from vf_jax.multispine.phantom.canvas import Canvas, double
from vf_jax.multispine.phantom.column import (
  Column,
  canal,
  pedicles,
  soft_grain,
)
from vf_jax.multispine.phantom.discs import discs
from vf_jax.multispine.phantom.head import head
from vf_jax.multispine.phantom.organs import abdomen, vessels
from vf_jax.multispine.phantom.pathology import (
  FRACTURED_PATIENTS,
  LESION_PATIENTS,
  draw_fractures,
  draw_lesions,
)
from vf_jax.multispine.phantom.pelvis import pelvis
from vf_jax.multispine.phantom.points import Triple, triple
from vf_jax.multispine.phantom.spine import (
  VARIANTS,
  draw_spine,
  draw_variant,
  level_names,
)
from vf_jax.multispine.phantom.statistics import load_statistics
from vf_jax.multispine.phantom.thorax import (
  Cage,
  diaphragm,
  lungs,
  ribs,
  shoulders,
)
from vf_jax.multispine.phantom.torso import (
  Course,
  draw_habitus,
  fill,
  outline,
  paraspinal_muscles,
)

_FIELDS = (
  # Share of scans, first levels, last levels: what spine CT is asked for.
  (0.40, ("T9", "T10", "T11", "T12", "L1"), ("L5",)),
  (0.25, ("T5", "T6", "T7", "T8", "T9"), ("L2", "L3", "L4", "L5")),
  (0.15, ("T1", "T2", "T3"), ("T10", "T11", "T12", "L1")),
  (0.15, ("C1", "C2", "C3"), ("C7", "T1", "T2", "T4")),
  (0.05, ("C1", "C2"), ("L5",)),
)
_SLAB = 40  # coarse layers that are developed at once


@dataclasses.dataclass(frozen=True)
class Rates:
  """How common things are among patients.

  Attributes:
    variants: share with each variant.
    fractured_patients: share with fractures, of those with a level below T3
      in view.
    lesioned_patients: share with lesions.
  """

  variants: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: VARIANTS
  )
  fractured_patients: float = FRACTURED_PATIENTS
  lesioned_patients: float = LESION_PATIENTS


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
  """A modelled patient in a field of view, before any scanner.

  Attributes:
    grid: isotropic RAS+ grid, aligned with the world.
    hu: CT without noise, HU; air is -1024..-1000.
    labels: VerSe codes of the vertebrae and of the sacrum (26).
    tissue: codes of `multispine.tissues`; VESSEL is where contrast agent goes.
    centres: VerSe code -> body centre, mm RAS+; of bodies in the field of view.
    pedicles: VerSe code -> left and right pedicle, mm RAS+.
    lesions: tight boxes, kind 'lytic' or 'sclerotic'.
    fractures: VerSe code -> ('wedge', 'biconcave' or 'crush', Genant grade).
    variant: 'usual', 'T13', 'L6' or 'absent T12'.
  """

  grid: Grid
  hu: Int16[np.ndarray, "x y z"]
  labels: UInt8[np.ndarray, "x y z"]
  tissue: UInt8[np.ndarray, "x y z"]
  centres: Mapping[int, Triple]
  pedicles: Mapping[int, tuple[Triple, Triple]]
  lesions: tuple[AnnotatedLesion, ...]
  fractures: Mapping[int, tuple[str, int]]
  variant: str


def make_anatomy(
  rng: np.random.Generator,
  *,
  levels: tuple[str, str] | None = None,
  spacing_mm: int | float = 1.0,
  margin_mm: int | float = 45.0,
  rates: Rates | None = None,
) -> Anatomy:
  """Draws a patient.

  Args:
    rng: the draw; the same state gives the same patient.
    levels: first and last level whose body is to be in the volume; a level
      that the patient lacks stands for its neighbour. Drawn if None.
    spacing_mm: voxel edge.
    margin_mm: of anatomy beyond their centres, above and below.
    rates: how common variants, fractures and lesions are.

  Returns:
    The patient: the whole width of the body, without the scanner's table.

  Raises:
    InputError: a level has no such name, the first is below the last, or the
      spacing or the margin is out of range.

  Units:
    mm RAS+, HU.
  """
  rates = rates or Rates()
  spacing_mm = float(spacing_mm)
  if not 0.4 <= spacing_mm <= 8 or margin_mm < 10:
    raise InputError(
      "phantom",
      f"spacing {spacing_mm:g} mm with a margin of {margin_mm:g} mm.",
      "use 0.4 to 8 mm, and a margin of at least 10 mm.",
    )
  variant = draw_variant(rng, rates.variants)
  names = level_names(variant)
  first, last = find_span(names, levels or _draw_levels(rng))
  density = draw_density(rng)
  habitus = draw_habitus(rng)
  seen = names[max(first - 1, 0) : last + 2]
  fractures = draw_fractures(
    rng, seen, density.trabecular_hu, rates.fractured_patients
  )
  spine = draw_spine(rng, load_statistics(), variant, fractures)
  canvas, axes = _frame(spine, habitus, (first, last), spacing_mm, margin_mm)
  _paint_surroundings(canvas, spine, habitus, rng)
  lesions = draw_lesions(
    rng,
    [name for name in seen if name != "C1"],
    density.trabecular_hu,
    rates.lesioned_patients,
  )
  column = Column(spine, axes, spacing_mm)
  changed = []
  for bone in (*spine.vertebrae, spine.sacrum):
    inside = [lesion for lesion in lesions if lesion.level == bone.name]
    found = column.add(bone, density, inside, rng)
    changed += [(lesion, flat, bone.code) for lesion, flat in found]
  column.finish()
  hu, tissue = _develop(canvas, density, spacing_mm)
  labels = np.zeros(hu.shape, np.uint8)
  column.blend(hu, labels, tissue)
  boxes = [column.lesion_box(*change) for change in changed]
  affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
  affine[:3, 3] = [axis[0] for axis in axes]
  shown = [
    bone
    for bone in spine.vertebrae
    if axes[2][0] <= bone.centre[2] <= axes[2][-1]
  ]
  return Anatomy(
    Grid(hu.shape, affine),
    hu,
    labels,
    tissue,
    {bone.code: triple(bone.centre) for bone in shown},
    pedicles(shown),
    tuple(box for box in boxes if box is not None),
    {
      bone.code: (bone.fracture.kind, bone.fracture.grade)
      for bone in shown
      if bone.fracture is not None
    },
    variant,
  )


def _draw_levels(rng) -> tuple[str, str]:
  shares = [share for share, _, _ in _FIELDS]
  _, tops, feet = _FIELDS[rng.choice(len(_FIELDS), p=shares)]
  return str(rng.choice(tops)), str(rng.choice(feet))


def find_span(names: Sequence[str], levels: tuple[str, str]) -> tuple[int, int]:
  """Finds two levels, or their neighbours where a patient lacks them.

  Args:
    names: the patient's levels, from head to foot.
    levels: first and last level that is wanted.

  Returns:
    Positions in `names` of the first and the last one.

  Raises:
    InputError: a level has no such name, or the first is below the last.
  """
  places = []
  for wanted in levels:
    order = level(wanted, "phantom").order
    apart = [abs(BY_NAME[name].order - order) for name in names]
    places.append(int(np.argmin(apart)))
  if places[0] > places[1]:
    raise InputError(
      "phantom",
      f"{levels[0]} lies below {levels[1]}.",
      "give the level nearest to the head first.",
    )
  return places[0], places[1]


def _frame(spine, habitus, span, spacing_mm, margin_mm):
  """The canvas and the axes of the volume around the wanted levels."""
  heights = [spine.vertebrae[i].centre[2] for i in span]
  top, foot = heights[0] + margin_mm, heights[1] - margin_mm
  course = Course.of(spine, np.arange(foot, top + 4, 4.0))
  wide, back, front = outline(course, spine, habitus)
  middle = course.smooth[:, 0]
  low = np.array([(middle - wide).min() - 10, back.min() - 10, foot])
  high = np.array([(middle + wide).max() + 10, front.max() + 10, top])
  if top > spine.vertebrae[1].centre[2]:
    atlas = spine.vertebrae[0]
    # The head nods with C1: its middle may lie far ahead of the neck.
    vault = atlas.centre + atlas.frame @ np.array([0.0, 0.0, 75.0])
    for place, ahead in ((atlas.centre, 135), (vault, 110)):
      low[:2] = np.minimum(low[:2], place[:2] - np.array([95, 110]))
      high[:2] = np.maximum(high[:2], place[:2] + np.array([95, ahead]))
  counts = np.ceil((high - low) / (2 * spacing_mm)).astype(int)
  shape = (int(counts[0]), int(counts[1]), int(counts[2]))
  canvas = Canvas(low + spacing_mm / 2, shape, 2 * spacing_mm)
  axes = tuple(
    start + spacing_mm * np.arange(2 * n) for start, n in zip(low, shape)
  )
  return canvas, axes


def _paint_surroundings(canvas, spine, habitus, rng) -> None:
  body = fill(canvas, spine, habitus, rng)
  cage = Cage.of(spine, canvas.z, habitus.girth)
  # Ribs come into view from beyond the ends of the volume.
  ends = spine.sacrum.centre[2] - 100, spine.vertebrae[0].centre[2] + 50
  whole = Cage.of(spine, np.arange(*ends, 4.0), habitus.girth)
  above = diaphragm(canvas, spine, whole, rng)
  lungs(canvas, spine, cage, body, above, rng)
  abdomen(canvas, spine, body, above, rng)
  paraspinal_muscles(canvas, body, habitus, spine.size)
  vessels(canvas, spine, rng)
  head(canvas, spine, rng)
  canal(canvas, spine, rng)
  discs(canvas, spine, rng)
  canvas.within = body.depth > 8  # buttocks keep their fat
  pelvis(canvas, spine, habitus, rng)
  canvas.within = None
  ribs(canvas, spine, whole, rng)
  shoulders(canvas, spine, whole, rng)
  soft_grain(canvas, rng)


def _develop(canvas, density, spacing_mm):
  """Soft tissue and the bones of the canvas at full resolution."""
  shape = tuple(2 * n for n in canvas.shape)
  hu = np.empty(shape, np.int16)
  tissue = np.empty(shape, np.uint8)
  depth = canvas.shape[2]
  for start in range(0, depth, _SLAB):
    stop = min(start + _SLAB, depth)
    # One layer more on both sides, so that slabs join without a seam.
    low, high = max(start - 1, 0), min(stop + 1, depth)
    keep = slice(2 * (start - low), 2 * (stop - low))
    soft = double(canvas.hu[:, :, low:high])[:, :, keep]
    part = np.ascontiguousarray(canvas.tissue[:, :, start:stop])
    part = part.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    if (canvas.bone[:, :, low:high] > -2).any():
      below = double(canvas.bone[:, :, low:high])[:, :, keep]
      share = coverage(below, spacing_mm)
      at = share > 0
      solid = bone_hu(below[at], 0.3, density)
      soft[at] += (solid - soft[at]) * share[at]
      part[share >= 0.5] = tissues.BONE.code
    out = slice(2 * start, 2 * stop)
    hu[:, :, out] = np.rint(np.maximum(soft, AIR_HU)).astype(np.int16)
    tissue[:, :, out] = part
  return hu, tissue
