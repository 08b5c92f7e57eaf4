# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Vertebra centroids in the `.lml` files of SpineWeb's dataset 3 (242 CT).

A text file: one header line, then a line per vertebra,
`id<TAB>T12_center<TAB>x<TAB>y<TAB>z`. The id is ten times the place in C1..C7,
T1..T12, L1..L5, S1, S2; the name is what counts here. The points are body
centres, in millimetres.

Frames, all of voxel centres:
  image: voxel times voxel size along the array axes, from the first voxel;
    origin and direction of the image play no part. The default.
  lps: world coordinates of ITK and DICOM.
  ras: world coordinates of NIfTI.

Sources: the readers of three users of the data. opening_files.py and
generate_samples.py of jfm15/SpineFinder (co-authored by Ben Glocker, whose data
they are) divide the points by the voxel size to index the array that SimpleITK
gives, and so does a MATLAB script for the `.mhd` release, which also has the
ids; labels.py of the first names L6, S1 and S2. No real file was at hand:
this reader is verified against that documentation only, so it refuses files
whose points make no spine in the frame asked for.
"""

from __future__ import annotations

import math
import os
import re
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError, warn_input
from vf_jax.io.atomic import write_text
from vf_jax.io.centroids import Centroids
from vf_jax.io.text import read_text
from vf_jax.labels import BY_NAME, SACRUM, VERTEBRAE, Level
from vf_jax.volume import Grid

LmlFrame = Literal["image", "lps", "ras"]
FORMATS: dict[str, LmlFrame] = {
  "lml": "image",
  "lml-lps": "lps",
  "lml-ras": "ras",
}
"""Frame of each `centroid_format` of a cohort file."""

_MAX_BYTES = 1 << 20
_OUTSIDE_MM = 5.0  # cut vertebrae and clicks; no body centre lies further out
_STEP_MM = (6.0, 60.0)  # between neighbours: C3 of a child, L5 of a giant
_SACRAL = re.compile(r"S[1-5]")
_SIGNS = {"lps": np.array([-1.0, -1.0, 1.0]), "ras": np.ones(3)}
_DECIMALS = 5
_FIX = "every line holds id, name (T12_center), x, y, z."


def read_lml(
  path: str | os.PathLike[str], grid: Grid, *, frame: LmlFrame = "image"
) -> Centroids:
  """Reads a SpineWeb landmark file.

  Args:
    path: the file.
    grid: grid of the image the points belong to, as stored.
    frame: what the coordinates are, see the module.

  Returns:
    The centroids, kind 'body', mm RAS+. Sacral segments are left out; this
    and other faults are in `warnings` and issued as `InputWarning`s.

  Raises:
    InputError: if the file is none, a line is malformed, a level is unknown
      or there twice, or the points make no spine inside the image: outside
      it, neighbours too near or too far, or feet above head.
  """
  if frame not in get_args(LmlFrame):
    known = ", ".join(get_args(LmlFrame))
    raise InputError(path, f"no frame {frame!r}.", f"use one of {known}.")
  notes: list[str] = []
  found = _parse(path, notes)
  if not found:
    raise InputError(path, "holds no vertebra.", _FIX)
  levels = sorted(found, key=lambda key: key.order)
  points = np.array([found[key] for key in levels], np.float64)
  world = _to_world(points, grid, frame)
  fault = _implausible(levels, world, grid)
  if fault:
    fits = [
      f"`centroid_format: {name}`"
      for name, other in FORMATS.items()
      if not _implausible(levels, _to_world(points, grid, other), grid)
    ]
    hint = (
      f"{' or '.join(fits)} in a cohort file would fit."
      if fits
      else (
        "the file belongs to another image, or that image's orientation or "
        "voxel size is wrong."
      )
    )
    raise InputError(path, f"read in frame {frame!r}, {fault}.", hint)
  outside = grid.outside_mm(grid.to_voxel(world))
  for key, depth in zip(levels, outside.tolist(), strict=True):
    if depth > 0:
      notes.append(f"{key.name} lies {depth:.1f} mm outside the image; kept.")
  for note in notes:
    warn_input(path, note)
  rows = (tuple(row) for row in world.tolist())
  return Centroids(
    dict(zip(levels, rows, strict=True)),  # type: ignore[arg-type]
    "body",
    tuple(notes),
  )


def write_lml(
  path: str | os.PathLike[str],
  centroids: Centroids,
  grid: Grid,
  *,
  frame: LmlFrame = "image",
) -> None:
  """Writes body centres as a SpineWeb landmark file, whole or not at all.

  Ids are ten times the VerSe code, which is SpineWeb's for C1 to L5.

  Args:
    path: the file to write.
    centroids: the points, kind 'body'.
    grid: grid of the image they belong to, as stored.
    frame: what the coordinates are to be.

  Raises:
    InputError: if the points are not body centres, or one is the sacrum's:
      the format names its segments, not the whole.

  Units:
    mm.
  """
  if centroids.kind != "body" or SACRUM in centroids.positions:
    fault = "an .lml file holds body centres of vertebrae only."
    raise InputError(path, fault, "leave the others out, or write ctd.json.")
  points = centroids.points_mm
  if frame == "image":
    points = grid.to_voxel(points) * grid.spacing
  else:
    points = points * _SIGNS[frame]
  lines = ["ID\tName\tX\tY\tZ"]
  for key, row in zip(centroids.levels, points.tolist(), strict=True):
    x, y, z = (
      f"{round(value, _DECIMALS) + 0.0:.{_DECIMALS}f}" for value in row
    )
    lines.append(f"{10 * key.code}\t{key.name}_center\t{x}\t{y}\t{z}")
  write_text(path, "\n".join(lines) + "\n")


def _parse(
  path: str | os.PathLike[str], notes: list[str]
) -> dict[Level, tuple[float, float, float]]:
  """Points by level, as they stand in the file."""
  text = read_text(path, "landmark file", _MAX_BYTES, "give an .lml file.")
  rows = [line.split() for line in text.splitlines()]
  if not any(rows):
    raise InputError(path, "is empty.", _FIX)
  found: dict[Level, tuple[float, float, float]] = {}
  for number, words in enumerate(rows, 1):
    if number == 1 and not _is_landmark(words):
      continue
    if not words:
      continue
    if not _is_landmark(words):
      line = " ".join(words)[:60]
      raise InputError(path, f"line {number} is {line!r}.", _FIX)
    name = words[1].split("_")[0].upper()
    if _SACRAL.fullmatch(name):
      notes.append(f"{name} is part of the sacrum, no vertebra; left out.")
      continue
    key = BY_NAME.get(name)
    if key not in VERTEBRAE:
      fault = f"line {number} names {words[1][:40]!r}, no vertebra."
      raise InputError(path, fault, "names are C1 to L6, S1 to S5.")
    if key in found:
      fault = f"line {number} is a second point of {key.name}."
      raise InputError(path, fault, "keep one point per level.")
    x, y, z = (float(word) for word in words[2:5])
    if not all(math.isfinite(value) for value in (x, y, z)):
      notes.append(f"{key.name} is at NaN or infinity; left out.")
      continue
    found[key] = (x, y, z)
  return found


def _is_landmark(words: list[str]) -> bool:
  """Whether a line is an id, a name and three numbers."""
  if len(words) != 5 or not words[0].isdecimal():
    return False
  try:
    [float(word) for word in words[2:]]
  except ValueError:
    return False
  return True


def _to_world(
  points: Float64[np.ndarray, "points 3"], grid: Grid, frame: str
) -> Float64[np.ndarray, "points 3"]:
  if frame == "image":
    return grid.to_world(points / grid.spacing)
  return points * _SIGNS[frame]


def _implausible(
  levels: list[Level], world: Float64[np.ndarray, "points 3"], grid: Grid
) -> str:
  """Why points are no spine in this image; empty if they may be one."""
  depth = grid.outside_mm(grid.to_voxel(world)).max()
  if depth > _OUTSIDE_MM:
    return f"points lie up to {depth:.0f} mm outside the image"
  if len(levels) < 2:
    return ""
  steps = np.linalg.norm(np.diff(world, axis=0), axis=1)
  # Levels may be missing, and T13 or L6 may be left out of the count.
  orders = np.diff([key.order for key in levels])
  step = float(steps.sum() / orders.sum())
  low, high = _STEP_MM
  if not low <= step <= high:
    return f"vertebrae lie {step:.1f} mm apart on average"
  if world[0, 2] <= world[-1, 2]:
    return f"{levels[0].name} lies below {levels[-1].name}"
  return ""
