# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a NIfTI file are: sform, qform, units, and doubts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError, warn_input
from vf_jax.grid import Grid, is_singular, oriented_affine
from vf_jax.io.nifti_header import REEXPORT, NiftiHeader

SPACING_RANGE_MM = (0.1, 10.0)

_ORIENT = (
  "if you know how the scan lies, read it with --assume-orientation LPS (or "
  "RAS, ...: where each array axis points)."
)
_UNITS = {0: ("unknown", 1.0), 1: ("metre", 1e3), 2: ("mm", 1.0)}
_UNITS |= {3: ("micron", 1e-3)}


@dataclasses.dataclass(frozen=True, eq=False)
class NiftiGeometry:
  """Where the voxels are, and how far that could be trusted.

  Attributes:
    grid: the native grid, in mm.
    form: 'sform', 'qform' or 'assumed'.
    spatial_unit: as the header names it.
    warnings: faults that were repaired.
    intact: True if there were none.
  """

  grid: Grid
  form: str
  spatial_unit: str
  warnings: tuple[str, ...]
  intact: bool


def read_geometry(
  header: NiftiHeader, name: str, assume_orientation: str | None = None
) -> NiftiGeometry:
  """Decides where the voxels are.

  The sform is used if it is coded, else the qform. What disagrees with it is
  told by a warning; what leaves the place of voxels unknown is refused.

  Args:
    header: from `parse_header`.
    name: the path, for messages.
    assume_orientation: axis codes, as 'LPS', for a file that codes neither
      form; used for no other.

  Returns:
    The geometry, in mm.

  Raises:
    InputError: if there is no trustworthy affine.
  """
  fields = header.struct
  warnings: list[str] = []

  def warn(message: str) -> None:
    warnings.append(warn_input(name, message, stacklevel=5))

  pixdim = _pixdim(fields, name, warn)
  unit, to_mm = _unit(fields, warn)
  sform = _sform(fields, name, warn)
  if sform is not None:
    form, affine = "sform", sform
  elif int(fields["qform_code"]) > 0:
    form, affine = "qform", _qform(fields, pixdim, name)
  elif assume_orientation is not None:
    form, affine = "assumed", _assumed(assume_orientation, pixdim, name)
    warn(
      f"names no orientation; {assume_orientation} assumed, with the first "
      "voxel at the origin."
    )
  else:
    raise InputError(
      name,
      "names no orientation (sform and qform codes are both 0): left and "
      "right, front and back would be guesses.",
      _ORIENT,
    )
  if not np.isfinite(affine).all():
    raise InputError(name, f"NaN or Inf in its {form}.", REEXPORT)
  if is_singular(affine):
    raise InputError(
      name, f"its {form} is singular: it flattens the volume.", REEXPORT
    )
  if form == "sform":
    _compare_forms(fields, affine, pixdim, header.shape, warn)
  affine = affine * np.array([[to_mm], [to_mm], [to_mm], [1.0]])
  grid = Grid(header.shape, affine)
  _check_spacing(grid, unit, name)
  if to_mm != 1:
    warn(f"units are {unit}: converted to mm.")
  return NiftiGeometry(grid, form, unit, tuple(warnings), not warnings)


def _pixdim(fields, name, warn) -> np.ndarray:
  """Voxel sizes, without sign."""
  pixdim = np.array(fields["pixdim"][1:4], np.float64)
  if not np.isfinite(pixdim).all():
    raise InputError(name, f"voxel size {pixdim} (pixdim).", REEXPORT)
  if (pixdim < 0).any():
    warn(f"negative voxel size {pixdim} (pixdim): the sign is dropped.")
  return np.abs(pixdim)


def _unit(fields, warn) -> tuple[str, float]:
  """Name of the spatial unit and its length in mm."""
  code = int(fields["xyzt_units"]) & 7
  if code not in _UNITS:
    warn(f"unknown spatial unit {code}: taken as mm.")
    return "unknown", 1.0
  return _UNITS[code]


def _sform(fields, name, warn) -> Float64[np.ndarray, "4 4"] | None:
  """The sform, or None if it is not coded or empty."""
  if int(fields["sform_code"]) <= 0:
    return None
  affine = np.eye(4)
  for row, field in enumerate(("srow_x", "srow_y", "srow_z")):
    affine[row] = fields[field]
  if not affine[:3, :3].any():
    if int(fields["qform_code"]) <= 0:
      raise InputError(
        name, "its sform is all zero and there is no qform.", _ORIENT
      )
    warn("the sform is all zero: the qform is used.")
    return None
  return affine


def _qform(fields, pixdim, name) -> Float64[np.ndarray, "4 4"]:
  """The qform, from a checked quaternion."""
  affine = _quaternion_affine(fields, pixdim)
  if affine is None:
    raise InputError(
      name, "its qform is not a rotation: invalid quaternion.", REEXPORT
    )
  if (pixdim == 0).any():
    raise InputError(
      name, f"voxel size {pixdim} (pixdim) has a zero.", REEXPORT
    )
  return affine


def _quaternion_affine(fields, pixdim) -> Float64[np.ndarray, "4 4"] | None:
  """The affine of the quaternion fields; None if they are no rotation."""
  b, c, d = (float(fields[f"quatern_{axis}"]) for axis in "bcd")
  # Rounded float32 fields of a half turn may sum to a little more than 1;
  # NaN fails the comparison as well.
  if not b * b + c * c + d * d <= 1 + 1e-6:
    return None
  fields = fields.copy()
  fields["pixdim"][1:4] = pixdim
  # The standard reads a pixdim[0] of 0 as 1.
  fields["pixdim"][0] = -1 if fields["pixdim"][0] < 0 else 1
  norm = math.sqrt(b * b + c * c + d * d)
  if norm > 1:
    for axis, value in zip("bcd", (b, c, d), strict=True):
      fields[f"quatern_{axis}"] = value / norm * (1 - 1e-7)
  return np.asarray(fields.get_qform(coded=False), np.float64)


def _assumed(codes, pixdim, name) -> Float64[np.ndarray, "4 4"]:
  """An affine from axis codes and voxel sizes alone."""
  if (pixdim == 0).any():
    raise InputError(
      name, f"voxel size {pixdim} (pixdim) has a zero.", REEXPORT
    )
  try:
    return oriented_affine(codes, pixdim)
  except InputError as error:
    raise InputError(
      name, f"assumed orientation: {error.fault}", _ORIENT
    ) from error


def _compare_forms(fields, affine, pixdim, shape, warn) -> None:
  """Warns of header fields that contradict the sform in use."""
  grid = Grid(shape, affine)
  spacing = np.array(grid.spacing)
  if (np.abs(pixdim - spacing) > 1e-3 * spacing).any():
    warn(
      f"voxel size {pixdim.round(5)} (pixdim) disagrees with the affine, "
      f"which gives {spacing.round(5)}; the affine is used."
    )
  if int(fields["qform_code"]) <= 0:
    return
  qform = _quaternion_affine(fields, pixdim)
  if qform is None or not np.isfinite(qform).all() or is_singular(qform):
    warn("the qform is not a rotation: the sform is used.")
  elif not grid.same_as(Grid(shape, qform), atol=0.1 * float(spacing.min())):
    warn("sform and qform disagree: the sform is used.")


def _check_spacing(grid: Grid, unit: str, name: str) -> None:
  """Refuses voxel sizes that no clinical CT has."""
  low, high = SPACING_RANGE_MM
  if low <= min(grid.spacing) and max(grid.spacing) <= high:
    return
  sizes = " x ".join(f"{size:g}" for size in grid.spacing)
  raise InputError(
    name,
    f"voxels of {sizes} mm (unit in the header: {unit}) are outside the "
    f"plausible {low:g} to {high:g} mm.",
    "correct voxel size or unit (xyzt_units), or resample.",
  )
