# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Stored numbers to voxel values, in the narrowest dtype that is exact."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Num

from vf_jax.errors import InputError, warn_input
from vf_jax.hounsfield import AIR_HU
from vf_jax.scratch import empty, slabs

MAX_NAN_FRACTION = 0.01

_LARGEST_FLOAT = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Survey:
  """What the values are, after scaling.

  Attributes:
    whole: whether every finite value is a whole number.
    low: the smallest finite value.
    high: the largest finite value.
    broken: how many values are NaN or Inf.
  """

  whole: bool
  low: float
  high: float
  broken: int


def _scaled(slab: np.ndarray, slope: float, intercept: float) -> np.ndarray:
  """Values of some stored numbers; integers stay so if there is no scale."""
  if slope == 1 and intercept == 0:
    return slab
  with np.errstate(over="ignore", invalid="ignore"):
    return slab.astype(np.float64) * slope + intercept


def survey(
  flat: Num[np.ndarray, " voxels"], slope: float, intercept: float
) -> Survey:
  """Looks over all values once, slab by slab.

  Args:
    flat: stored numbers.
    slope: the value is the stored number times slope plus intercept.
    intercept: see `slope`.

  Returns:
    Range, wholeness and health of the values.
  """
  whole, broken = True, 0
  low, high = np.inf, -np.inf
  for part in slabs(flat):
    values = _scaled(flat[part], slope, intercept)
    if values.dtype.kind == "f":
      finite = np.isfinite(values)
      count = values.size - int(np.count_nonzero(finite))
      if count:
        broken += count
        values = values[finite]
      whole = whole and bool((values == np.rint(values)).all())
    if values.size:
      low = min(low, float(values.min()))
      high = max(high, float(values.max()))
  return Survey(whole, low, high, broken)


def settle(
  flat: Num[np.ndarray, " voxels"],
  slope: float,
  intercept: float,
  name: str,
  notes: list[str],
) -> Num[np.ndarray, " voxels"]:
  """Chooses the dtype of a CT and brings the values into it.

  Unscaled int8, uint8 and int16 stay what they are. All else becomes int16 if
  that is exact, else int32 if that is exact, else float32; never unsigned
  above 8 bits, where differences wrap, and never float64. Besides `flat` and
  the result only slabs are held.

  Args:
    flat: stored numbers, in native byte order.
    slope: the value is the stored number times slope plus intercept.
    intercept: see `slope`.
    name: the file, for messages.
    notes: warnings are added to this list.

  Returns:
    The values; `flat` itself where nothing had to change.

  Raises:
    InputError: if more than `MAX_NAN_FRACTION` is NaN or Inf; fewer become
      `AIR_HU` with a warning.

  Units:
    HU.
  """
  plain = slope == 1 and intercept == 0
  if plain and flat.dtype in (np.int8, np.uint8, np.int16):
    return flat
  seen = survey(flat, slope, intercept)
  if seen.broken:
    share = seen.broken / flat.size
    counted = f"{seen.broken:,} voxels ({share:.2%}) are NaN or Inf"
    if share > MAX_NAN_FRACTION:
      raise InputError(
        name, counted + ".", "mend the step that made them; 1 % is allowed."
      )
    notes.append(
      warn_input(name, f"{counted}: replaced by {AIR_HU}.", stacklevel=4)
    )
  low = min(seen.low, AIR_HU) if seen.broken else seen.low
  high = max(seen.high, AIR_HU) if seen.broken else seen.high
  dtype: np.dtype[Any] = np.dtype(np.float32)
  for exact in (np.dtype(np.int16), np.dtype(np.int32)):
    limits = np.iinfo(exact)
    if seen.whole and limits.min <= low and high <= limits.max:
      dtype = exact
      break
  if max(-low, high) > _LARGEST_FLOAT:
    notes.append(
      warn_input(
        name,
        f"values up to {max(-low, high):g} are clipped to {_LARGEST_FLOAT:g}.",
        stacklevel=4,
      )
    )
  if plain and flat.dtype == dtype and not seen.broken:
    return flat
  return convert(flat, slope, intercept, dtype)


def settle_labels(
  flat: Num[np.ndarray, " voxels"], slope: float, intercept: float, name: str
) -> Num[np.ndarray, " voxels"]:
  """Brings label numbers into the smallest unsigned integers that hold them.

  Args:
    flat: stored numbers, in native byte order.
    slope: the value is the stored number times slope plus intercept.
    intercept: see `slope`.
    name: the file, for errors.

  Returns:
    The labels as uint8, uint16 or uint32.

  Raises:
    InputError: for fractions, negative values, NaN and Inf.
  """
  seen = survey(flat, slope, intercept)
  fix = "give a mask of label numbers 0, 1, 2, ..., not an image."
  if seen.broken:
    raise InputError(name, f"{seen.broken:,} labels are NaN or Inf.", fix)
  if not seen.whole:
    raise InputError(name, "its labels are not whole numbers.", fix)
  if seen.low < 0:
    raise InputError(name, f"has a negative label, {seen.low:g}.", fix)
  if seen.high > np.iinfo(np.uint32).max:
    raise InputError(name, f"has an absurd label, {seen.high:g}.", fix)
  return convert(flat, slope, intercept, np.min_scalar_type(int(seen.high)))


def convert(
  flat: Num[np.ndarray, " voxels"],
  slope: float,
  intercept: float,
  dtype: np.dtype[Any],
) -> Num[np.ndarray, " voxels"]:
  """Brings values into a dtype that was found to hold them.

  Args:
    flat: stored numbers, in native byte order.
    slope: the value is the stored number times slope plus intercept.
    intercept: see `slope`.
    dtype: of the result; NaN and Inf become `AIR_HU`, and values beyond
      float32 its largest.

  Returns:
    The values; `flat` itself if it is integers of that dtype already.
  """
  if slope == 1 and intercept == 0 and flat.dtype == dtype != np.float32:
    return flat
  result = empty(flat.size, dtype)
  for part in slabs(flat, result):
    values = _scaled(flat[part], slope, intercept)
    if values.dtype.kind == "f":
      values = np.where(np.isfinite(values), values, AIR_HU)
      values = np.clip(values, -_LARGEST_FLOAT, _LARGEST_FLOAT)
    result[part] = values
  return result
