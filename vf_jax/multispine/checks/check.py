# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Is a case what its source says it is? Findings for people, in words.

Nothing is mended here: `prepare` decides what an error means for a case.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from vf_jax.errors import InputError
from vf_jax.labels import IGNORE, SACRUM, SCHEMES, to_verse
from vf_jax.multispine.case import MaskFile
from vf_jax.multispine.checks import mask_findings
from vf_jax.multispine.checks.alignment import check_alignment
from vf_jax.multispine.checks.findings import (
  Finding,
  Severity,
  by_severity,
  format_findings,
  in_words,
  names_of,
)
from vf_jax.multispine.checks.order import check_order
from vf_jax.multispine.harmonise import find_open_ends
from vf_jax.multispine.load import Loaded
from vf_jax.multispine.shapes import Shape, measure_shapes
from vf_jax.volume import Grid, Volume, check_hounsfield

__all__ = ["Finding", "Severity", "check", "format_findings"]

_SHEAR_DEGREES = 0.5
_BOX_OUT_MM = 5.0
_LIVER, _SPLEEN = 5, 1
_ORGAN_VOXELS = 50
_ORGANS_APART_MM = 30.0


def check(loaded: Loaded) -> tuple[Finding, ...]:
  """Checks one case.

  A mask of 512 x 512 x 600 voxels takes a few seconds on one core.

  Args:
    loaded: the case with its voxels.

  Returns:
    What was found, errors first.
  """
  found = [Finding("warning", "known", note) for note in loaded.case.notes]
  found += [Finding("warning", "unknown", text) for text in loaded.unknown]
  found += [Finding("note", "reader", text) for text in loaded.warnings]
  if loaded.image is not None:
    found += _check_image(loaded.image)
  found += _check_shear(loaded.grid)
  if loaded.labels is not None:
    found += _check_labels(loaded, loaded.labels)
  else:
    found += check_order(loaded.centres, loaded.centre_kind)
  found += _check_boxes(loaded)
  if loaded.stored_mask is not None and loaded.case.tissues:
    found += _check_mirror(loaded.stored_mask)
  return by_severity(dict.fromkeys(found))


def _check_image(image: Volume) -> Iterator[Finding]:
  verdict = check_hounsfield(image)
  if verdict.verdict != "ok":
    yield Finding(
      "error" if verdict.refused else "warning", "hounsfield", verdict.message
    )


def _check_shear(grid: Grid) -> Iterator[Finding]:
  columns = grid.affine[:3, :3] / grid.spacing
  cosines = np.abs((columns.T @ columns)[np.triu_indices(3, 1)])
  angle = float(np.degrees(np.arcsin(np.clip(cosines.max(), 0, 1))))
  if angle > _SHEAR_DEGREES:
    text = (
      f"its axes are {angle:.1f} degrees off the right angle (gantry tilt);"
      " software that drops this misplaces voxels."
    )
    yield Finding("note", "shear", text)


def _check_labels(loaded: Loaded, labels: Volume) -> Iterator[Finding]:
  if loaded.case.mask_kind == "network":
    text = "the mask was made by a network: no ground truth."
    yield Finding("note", "network_mask", text)
  measured = measure_shapes(labels)
  shapes = measured.levels
  if not set(shapes) - {SACRUM.code}:
    severity: Severity = "note"
    if "masks" in loaded.case.annotates and not (labels.voxels == IGNORE).any():
      severity = "warning"
    text = "the mask holds no vertebra."
    if "masks" in loaded.case.annotates and (other := _other_scheme(loaded)):
      severity = "error"
      text = (
        f"{text[:-1]} in the scheme {other[0]!r}, and each of its codes is one "
        f"in {other[1]!r}. Fix: scheme: {other[1]}."
      )
    yield Finding(severity, "empty", text)
  if loaded.image is not None and shapes:
    aligned = check_alignment(loaded.image, labels)
    yield from aligned
    if any(finding.code == "mask_header" for finding in aligned):
      return  # what else would be found follows from that
  cut = mask_findings.cut_codes(shapes)
  if cut:
    text = f"cut by the field of view: {in_words(cut)}."
    yield Finding("note", "cut", text, names_of(cut))
  yield from mask_findings.check_pieces(shapes)
  yield from mask_findings.check_contacts(measured)
  yield from mask_findings.check_volumes(shapes)
  yield from mask_findings.check_names(shapes, loaded.centres)
  yield from mask_findings.check_points(
    labels, shapes, loaded.centres, loaded.centre_kind
  )
  yield from _check_chain(loaded, shapes)
  yield from _check_ends(loaded, shapes)


def _other_scheme(loaded: Loaded) -> tuple[str, str] | None:
  """The scheme that left codes of a mask out, and one that has them all.

  Other masks without a vertebra may show organs and nothing of the spine.
  """
  stored, mask = loaded.stored_mask, loaded.case.mask
  if stored is None or not isinstance(mask, MaskFile):
    return None
  held = stored.voxels != 0
  assert loaded.labels is not None, "it was translated from the stored mask"
  if (loaded.labels.voxels[held] != 0).all():
    return None
  for name in SCHEMES:
    with contextlib.suppress(InputError):  # a code that it does not know
      if (to_verse(stored.voxels, name)[held] != 0).all():
        return mask.scheme, name
  return None


def _check_chain(
  loaded: Loaded, shapes: Mapping[int, Shape]
) -> Iterator[Finding]:
  """Order and distances, by the points or by the mask's centres of mass."""
  cut = mask_findings.cut_codes(shapes)
  masses = {code: shape.centre_mm for code, shape in shapes.items()}
  found = check_order(masses, "mask", cut)
  if loaded.centres:
    by_points = check_order(loaded.centres, loaded.centre_kind)
    said = {(f.code, f.levels) for f in by_points}
    found = by_points + [f for f in found if (f.code, f.levels) not in said]
  yield from found


def _check_ends(
  loaded: Loaded, shapes: Mapping[int, Shape]
) -> Iterator[Finding]:
  """Whole vertebrae's height of scan without an annotation."""
  grid = loaded.grid
  centres = dict(loaded.centres) if loaded.centre_kind == "body" else {}
  if not centres:
    # The axis of the bodies runs about a centimetre in front of the masses.
    centres = {
      code: (shape.centre_mm[0], shape.centre_mm[1] + 10, shape.centre_mm[2])
      for code, shape in shapes.items()
    }

  def contains(points):
    voxels = np.rint(grid.to_voxel(points))
    return ((voxels >= 0) & (voxels < grid.shape)).all(axis=1)

  codes = set(shapes) | set(loaded.centres)
  cut = names_of(mask_findings.cut_codes(shapes))
  for end in find_open_ends(centres, codes, contains):
    if end.whole and end.last not in cut:
      where = "above" if end.end == "top" else "below"
      text = (
        f"{end.room_mm:.0f} mm {where} {end.last} are not annotated, and"
        f" {end.next} with its processes would fit there."
      )
      yield Finding("warning", "open_end", text, (end.last,))


def _check_boxes(loaded: Loaded) -> Iterator[Finding]:
  """Lesion boxes lie in the scan."""
  grid = loaded.grid
  for number, box in enumerate(loaded.boxes, start=1):
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    points = np.array(box.centre_mm) + np.vstack(
      [np.zeros(3), signs * box.size_mm]
    )
    out_mm = grid.outside_mm(grid.to_voxel(points))
    name = f"lesion {number} ({box.kind})" if box.kind else f"lesion {number}"
    if out_mm[0] > 0:
      text = f"the centre of {name} lies {out_mm[0]:.0f} mm outside the scan."
      yield Finding("error", "lesion_outside", text)
    elif out_mm.max() > _BOX_OUT_MM:
      text = f"{name} reaches {out_mm.max():.0f} mm out of the scan."
      yield Finding("warning", "lesion_outside", text)


def _check_mirror(stored: Volume) -> Iterator[Finding]:
  """The liver lies to the right of the spleen in nearly everybody."""
  step = tuple(slice(None, None, 1 + size // 150) for size in stored.grid.shape)
  strides = np.array([s.step for s in step])
  thin = stored.voxels[step]
  places = [np.argwhere(thin == code) for code in (_LIVER, _SPLEEN)]
  if min(map(len, places)) < _ORGAN_VOXELS:
    return
  liver, spleen = (
    stored.grid.to_world(p.mean(axis=0)[None] * strides)[0] for p in places
  )
  if spleen[0] - liver[0] > _ORGANS_APART_MM:
    text = (
      "the liver lies to the left of the spleen: mirrored, or a rare mirror"
      " image of the organs."
    )
    yield Finding("warning", "mirrored", text)
