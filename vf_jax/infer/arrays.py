# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a predictor is given from Python: a path, a Volume or an array."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from vf_jax.errors import InputError
from vf_jax.grid import oriented_affine
from vf_jax.io.ct import AS_STORED, InputOptions, case_name, read_ct
from vf_jax.io.nifti_geometry import SPACING_RANGE_MM
from vf_jax.io.nifti_header import MIN_SLICES
from vf_jax.io.values import settle
from vf_jax.volume import Source, Volume

_PLAIN = (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16))
_PLACE = (
  "give affine= (4 x 4, voxel to mm, RAS+), or spacing= (three numbers, mm) "
  "with orientation= (axis codes of the array, as 'LPS')."
)


def as_volume(
  ct: Any,
  affine: Any = None,
  spacing: Any = None,
  orientation: str | None = None,
  options: InputOptions = AS_STORED,
) -> tuple[Volume, str]:
  """Makes a volume of whatever a predictor was given.

  Args:
    ct: path of a CT, a `Volume`, or an array (x, y, z) of HU in any layout,
      byte order and real dtype.
    affine: of an array; voxel positions to mm, RAS+.
    spacing: of an array without affine; voxel size along each axis, mm.
    orientation: axis codes of an array without affine, as 'LPS'.
    options: for a path.

  Returns:
    The volume, in a dtype that `io.values.settle` chooses, and a name for it.

  Raises:
    InputError: if the file is refused, the array cannot be HU, or it is not
      said where it lies.

  Units:
    HU; mm.
  """
  if np.ma.is_masked(ct.voxels if isinstance(ct, Volume) else ct):
    raise InputError(
      "the CT",
      "is a masked array: some of its voxels are not given.",
      "give values to them, as by ct.filled(-1024).",
    )
  placed = any(value is not None for value in (affine, spacing, orientation))
  if isinstance(ct, str | os.PathLike | Volume) and placed:
    raise InputError(
      "the CT" if isinstance(ct, Volume) else ct,
      "says itself where it lies.",
      "leave affine, spacing and orientation out.",
    )
  if isinstance(ct, Volume):
    name = case_name(ct.source.path) if ct.source else "array"
    return _checked(ct, name), name
  if isinstance(ct, str | os.PathLike):
    return read_ct(ct, options), case_name(ct)
  if not hasattr(ct, "__array__"):
    raise InputError(
      "the CT",
      f"is a {type(ct).__name__}.",
      "give a path, a vf_jax Volume or a NumPy array.",
    )
  voxels = np.asarray(ct)
  matrix = _affine(affine, spacing, orientation)
  if voxels.ndim != 3:
    raise InputError("array", f"has {voxels.ndim} axes.", "give (x, y, z).")
  volume = Volume(voxels, matrix, Source("array", "array", voxels.dtype.name))
  return _checked(volume, "array"), "array"


def _affine(affine: Any, spacing: Any, orientation: str | None) -> np.ndarray:
  """Where an array lies; refuses to guess."""
  if affine is not None:
    if spacing is not None or orientation is not None:
      raise InputError("array", "has an affine and a spacing.", "give one.")
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4):
      raise InputError("array", f"its affine is {matrix.shape}.", _PLACE)
    return matrix
  if spacing is None or orientation is None:
    raise InputError("array", "does not say where it lies.", _PLACE)
  sizes = np.asarray(spacing, np.float64)
  if sizes.shape != (3,) or not (sizes > 0).all():
    raise InputError("array", f"its spacing is {spacing}.", _PLACE)
  try:
    return oriented_affine(orientation, sizes)
  except InputError as error:
    raise InputError("array", error.fault, _PLACE) from error


def _checked(volume: Volume, name: str) -> Volume:
  """Refuses what is no CT; brings the rest into a dtype that is exact."""
  voxels = volume.voxels
  if voxels.dtype.kind == "b":
    raise InputError(
      name, "holds True and False: a mask, not a CT.", "give the CT in HU."
    )
  if voxels.dtype.kind not in "iuf":
    raise InputError(
      name, f"has dtype {voxels.dtype}, which is not of real numbers.",
      "convert it to int16 or float32.",
    )  # fmt: skip
  if min(voxels.shape) < MIN_SLICES:
    sizes = " x ".join(map(str, voxels.shape))
    raise InputError(name, f"has {sizes} voxels.", "give a whole volume.")
  low, high = SPACING_RANGE_MM
  if min(volume.spacing) < low or max(volume.spacing) > high:
    sizes = " x ".join(f"{size:g}" for size in volume.spacing)
    raise InputError(
      name,
      f"voxels of {sizes} mm are outside the plausible {low:g} to {high:g} mm.",
      "give the affine in millimetres.",
    )
  if not voxels.dtype.isnative:
    voxels = voxels.astype(voxels.dtype.newbyteorder("="))
  if voxels.dtype == np.float16:
    voxels = voxels.astype(np.float32)
  if voxels is volume.voxels and voxels.dtype in _PLAIN:
    return volume
  notes: list[str] = []
  flat = settle(voxels.reshape(-1, order="F"), 1.0, 0.0, name, notes)
  source = volume.source
  if notes and source is not None:
    source = dataclasses.replace(source, warnings=(*source.warnings, *notes))
  return dataclasses.replace(
    volume, voxels=flat.reshape(voxels.shape, order="F"), source=source
  )
