# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One side of a case as it is measured: vertebrae, points, lesions."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from vf_jax.errors import InputError, InputWarning
from vf_jax.evaluate.cases import CaseFiles, point_frame
from vf_jax.io import nifti
from vf_jax.io.centroids import read_centroids
from vf_jax.io.lesions import LesionRecord, read_lesions
from vf_jax.io.vertebrae import read_vertebrae_csv
from vf_jax.labels import IGNORE, SACRUM, to_verse
from vf_jax.multispine.bodies import derive_centres, level_centre
from vf_jax.multispine.checks.alignment import rounding_mm, turned_like
from vf_jax.multispine.shapes import Shape, measure_shapes
from vf_jax.volume import (
  Grid,
  Volume,
  network_grid,
  resample,
  to_canonical,
  to_network,
)

PointKind = Literal["body", "mask", "derived", "none"]
Point = tuple[float, float, float]

_SAME_MM = 0.01  # what headers in float32 may differ by without a word
_DERIVED_MM = 2.0  # voxels on which `bodies` knows its rule


@dataclasses.dataclass(frozen=True, eq=False)
class Annotation:
  """A reference or a prediction.

  Attributes:
    labels: VerSe codes of vertebrae; sacrum and coccyx are background. None
      if there is no mask.
    unknown: voxels of which the reference says nothing (code 255).
    shapes: code -> size, centre of mass and whether the field of view cuts
      it.
    points: code -> point, mm RAS+.
    point_kind: 'body' (from a file), 'mask' (centres of mass of whole
      vertebrae), 'derived' (bodies found in the mask by `multispine.bodies`)
      or 'none'.
    lesions: boxes; None if nothing is said of lesions.
    notes: what was found amiss, in words.
    said_cut: codes whose bodies the scan cuts, by the prediction's own table;
      it knows of padding, which a mask does not show.
  """

  labels: Volume | None
  unknown: Bool[np.ndarray, "x y z"] | None
  shapes: Mapping[int, Shape]
  points: Mapping[int, Point]
  point_kind: PointKind
  lesions: tuple[LesionRecord, ...] | None
  notes: tuple[str, ...] = ()
  said_cut: frozenset[int] = frozenset()


def read_reference(files: CaseFiles) -> Annotation:
  """Reads what is true.

  Points come from the file; without one they are derived from the mask, and
  then vertebrae that the field of view cuts, and fragments, have none.

  Args:
    files: of the case.

  Returns:
    The annotation.

  Raises:
    InputError: if a file is refused by its reader.
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", InputWarning)
    labels, unknown = _read_mask(files.mask)
    shapes = {} if labels is None else measure_shapes(labels).levels
    points: Mapping[int, Point] = {}
    kind: PointKind = "none"
    if labels is not None and files.points is not None:
      points, kind = _read_points(files.points, labels.grid)
    elif labels is not None:
      cut = [code for code, shape in shapes.items() if shape.cut]
      points, kind = _derive(labels, cut), "derived"
    lesions = None if files.lesions is None else read_lesions(files.lesions)
  notes = tuple(str(w.message) for w in caught)
  return Annotation(labels, unknown, shapes, points, kind, lesions, notes)


def read_prediction(
  files: CaseFiles | None, reference: Annotation
) -> Annotation:
  """Reads a prediction on the grid of its reference.

  Its points are of the reference's kind: centres of mass are compared with
  centres of mass, bodies with bodies (from the file; derived for levels of
  the mask that it leaves out). What lies where the reference knows nothing is
  removed.

  Args:
    files: of the case; None gives a prediction of nothing.
    reference: of the case.

  Returns:
    The annotation.

  Raises:
    InputError: if a file is refused by its reader, or the mask lies on
      another grid than the reference. It is never resampled.
  """
  truth = reference.labels
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", InputWarning)
    lesions: tuple[LesionRecord, ...] = ()
    if files is not None and files.lesions is not None:
      lesions = read_lesions(files.lesions, candidates=True)
    if truth is None or files is None or files.mask is None:
      empty = None
      if truth is not None:
        voxels = np.zeros(truth.voxels.shape, np.uint8)
        empty = dataclasses.replace(truth, voxels=voxels)
      return Annotation(empty, None, {}, {}, "none", lesions)
    labels, unknown = _read_mask(files.mask)
    assert labels is not None, "a path was given"
    if unknown is not None:
      raise InputError(
        files.mask,
        f"holds the code {IGNORE}, unknown; a prediction has to decide.",
        "write 0 for background.",
      )
    labels, notes = _lay_on(labels, truth.grid, files.mask)
    whole = measure_shapes(labels).levels
    if reference.unknown is not None:
      voxels = labels.voxels.copy()
      voxels[reference.unknown] = 0
      labels = dataclasses.replace(labels, voxels=voxels)
    points: dict[int, Point]
    kind: PointKind
    if reference.point_kind == "mask":
      points = {code: shape.centre_mm for code, shape in whole.items()}
      kind = "mask"
    else:
      points, kind = {}, "none"
      if files.points is not None:
        points, kind = _read_points(files.points, labels.grid)
      if kind != "body":
        points, kind = {}, "derived"
      # Files have no point where the body lies outside the scan.
      if missing := whole.keys() - points.keys():
        points |= _derive_some(labels, missing)
    said_cut: frozenset[int] = frozenset()
    if files.table is not None:
      said_cut = _read_cut(files.table, notes)
  notes += [str(w.message) for w in caught]
  return Annotation(
    labels, None, whole, points, kind, lesions, tuple(notes), said_cut
  )


def _read_mask(
  path: pathlib.Path | None,
) -> tuple[Volume | None, Bool[np.ndarray, "x y z"] | None]:
  """Vertebrae, and what is unknown (None if nothing is)."""
  if path is None:
    return None, None
  stored = nifti.read_labels(path)
  codes = stored.voxels
  unknown = codes == IGNORE
  if unknown.any():
    codes = codes.copy()
    codes[unknown] = 0
  voxels = to_verse(codes, "verse", path)
  voxels[voxels == SACRUM.code] = 0
  labels = dataclasses.replace(stored, voxels=voxels)
  return labels, unknown if unknown.any() else None


def _lay_on(
  labels: Volume, grid: Grid, path: pathlib.Path
) -> tuple[Volume, list[str]]:
  """A mask on the grid of its reference, and what had to be done for that."""
  notes = []
  near = rounding_mm(grid)
  if not labels.grid.same_as(grid, near):
    turned = turned_like(labels, grid, near)
    if turned is None:
      apart = labels.grid.apart_mm(grid)
      far = f"; corners up to {apart:.2g} mm apart" if apart < math.inf else ""
      raise InputError(
        path,
        f"lies on another grid than its reference: {_describe(labels.grid)}"
        f", the reference {_describe(grid)}{far}.",
        "predict on the reference's own CT, or resample the mask onto it "
        "(nearest voxel).",
      )
    labels = turned
    notes.append("its axes were turned to those of the reference.")
  apart = labels.grid.apart_mm(grid)
  if apart > _SAME_MM:
    notes.append(
      f"the corners of its grid lie up to {apart:.2g} mm off the reference's, "
      "less than a tenth of a voxel: taken for rounding in a header."
    )
  return labels, notes


def _read_points(
  path: pathlib.Path, grid: Grid
) -> tuple[dict[int, Point], PointKind]:
  table = read_centroids(path, grid, frame=point_frame(path))
  points = {
    level.code: point
    for level, point in table.positions.items()
    if level != SACRUM
  }
  return points, table.kind


def _read_cut(path: pathlib.Path, notes: list[str]) -> frozenset[int]:
  """Codes whose body the table calls cut; other programs' tables say none."""
  try:
    rows = read_vertebrae_csv(path)
  except (InputError, OSError) as error:
    notes.append(f"its table was not used: {error}")
    return frozenset()
  # A field of view that clips the processes alone leaves the core in full.
  return frozenset(
    row.code for row in rows if not row.complete and "core_ml" in row.partial
  )


def _derive(labels: Volume, cut: Collection[int]) -> dict[int, Point]:
  """Body centres of the vertebrae that the mask shows whole."""
  coarse, grid = _network_labels(labels)
  return _to_world(derive_centres(coarse, _DERIVED_MM, cut), grid)


def _derive_some(labels: Volume, codes: Collection[int]) -> dict[int, Point]:
  """Of cut ones and fragments too: a prediction stands for what it says."""
  coarse, grid = _network_labels(labels)
  found: dict[int, tuple[float, float, float]] = {}
  for code, box in enumerate(ndimage.find_objects(coarse), start=1):
    if box is not None and code in codes:
      place = level_centre(coarse[box] == code, code, _DERIVED_MM)
      d, h, w = (float(v + s.start) for v, s in zip(place, box))
      found[code] = (d, h, w)
  return _to_world(found, grid)


def _network_labels(
  labels: Volume,
) -> tuple[UInt8[np.ndarray, "depth height width"], Grid]:
  grid = network_grid(labels.grid, _DERIVED_MM)
  upright = to_canonical(labels)
  coarse = resample(upright.voxels, upright.grid, grid, order=0)
  return np.ascontiguousarray(to_network(coarse)), grid


def _to_world(
  places: Mapping[int, tuple[float, float, float]], grid: Grid
) -> dict[int, Point]:
  found = {}
  for code, (depth, height, width) in places.items():
    x, y, z = grid.to_world(np.array([[width, height, depth]]))[0].tolist()
    found[code] = (x, y, z)
  return found


def _describe(grid: Grid) -> str:
  shape = " x ".join(map(str, grid.shape))
  spacing = " x ".join(f"{value:.3g}" for value in grid.spacing)
  origin = ", ".join(f"{value:.1f}" for value in grid.affine[:3, 3])
  codes = "".join(grid.axis_codes)
  return f"{shape} voxels of {spacing} mm, axes {codes}, first at ({origin})"
