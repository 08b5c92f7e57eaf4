# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The table of vertebrae of one case: CSV, one row a vertebra, and JSON.

The CSV is for people with a spreadsheet and for evaluation. The first row
names the columns and their units; numbers have a fixed number of digits, so
equal results make equal files. A cell is empty where there is no number, as for
the mean intensity of a vertebra without a voxel. `partial` names the columns
whose number is incomplete; the JSON also says why.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from vf_jax.errors import InputError
from vf_jax.io.atomic import write_text
from vf_jax.labels import level as find_level

_CENTRE = ("centre_r_mm", "centre_a_mm", "centre_s_mm")
# Number of digits of each column that is a plain number.
_DIGITS = {
  "volume_ml": 3,
  "mean_hu": 1,
  "core_ml": 3,
  "core_mean_hu": 1,
  "core_median_hu": 1,
  "height_anterior_mm": 2,
  "height_middle_mm": 2,
  "height_posterior_mm": 2,
  "wedge_ratio": 3,
  "biconcave_ratio": 3,
  "crush_ratio": 3,
}
COLUMNS = (
  "level",
  "code",
  "confidence",
  "complete",
  "partial",
  *_DIGITS,
  *_CENTRE,
)
_HEADER = {
  "format": "vf_jax vertebrae",
  "version": 1,
  "frame": "world, RAS+",
  "note": "Not for clinical use.",
}
_YES_NO = {"yes": True, "no": False}
_FIX = "give a file of write_vertebrae_csv, or write it anew."


@runtime_checkable
class VertebraLike(Protocol):
  """What a row needs to know; `infer.result.Vertebra` is one.

  Every name of `COLUMNS` from `volume_ml` to `crush_ratio` is an attribute
  too, a number or NaN; it is written under that name.
  """

  @property
  def level(self) -> str:
    """Name of the level, e.g. `L3`."""

  @property
  def code(self) -> int:
    """VerSe code of the level."""

  @property
  def centre_mm(self) -> tuple[float, float, float]:
    """Centre of the vertebral body, mm RAS+."""

  @property
  def confidence(self) -> float:
    """Probability of the level, 0..1."""

  @property
  def complete(self) -> bool:
    """False if the field of view cuts the vertebra."""

  @property
  def partial(self) -> Mapping[str, str]:
    """Column -> why its number is incomplete or missing."""


@dataclasses.dataclass(frozen=True)
class VertebraRow:
  """One row as it was read; a `VertebraLike`.

  The fields are those of `infer.result.Vertebra`; a CSV names the partial
  columns without the reasons, which then are empty.
  """

  level: str
  code: int
  centre_mm: tuple[float, float, float]
  confidence: float
  complete: bool
  partial: Mapping[str, str]
  volume_ml: float
  mean_hu: float
  core_ml: float
  core_mean_hu: float
  core_median_hu: float
  height_anterior_mm: float
  height_middle_mm: float
  height_posterior_mm: float
  wedge_ratio: float
  biconcave_ratio: float
  crush_ratio: float


def write_vertebrae_csv(
  path: str | os.PathLike[str], vertebrae: Iterable[VertebraLike]
) -> None:
  """Writes the vertebrae of a case; a file that exists is replaced whole.

  Args:
    path: the file to write; its folder must exist.
    vertebrae: in the order of the rows, head to foot by custom.

  Raises:
    InputError: the file cannot be written.

  Units:
    mm RAS+, ml, HU; the header names them.
  """
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(COLUMNS)
  for vertebra in vertebrae:
    table.writerow(
      [
        vertebra.level,
        int(vertebra.code),
        _number(vertebra.confidence, 4),
        "yes" if vertebra.complete else "no",
        " ".join(name for name in _DIGITS if name in vertebra.partial),
        *(_number(getattr(vertebra, n), d) for n, d in _DIGITS.items()),
        *(_number(value, 2) for value in vertebra.centre_mm),
      ]
    )
  write_text(path, text.getvalue())


def write_vertebrae_json(
  path: str | os.PathLike[str], vertebrae: Iterable[VertebraLike]
) -> None:
  """Writes the same numbers for programs, with the reasons of what is partial.

  `{"format", "version", "frame", "note", "vertebrae": [{"level", "code",
  "confidence", "complete", "centre_mm", "volume_ml", ..., "partial": {column:
  reason}}]}`; a number that is missing is null.

  Args:
    path: the file to write; its folder must exist.
    vertebrae: in the order of the list.

  Raises:
    InputError: the file cannot be written.

  Units:
    In the names: ml, HU, mm RAS+.
  """
  rows = [
    {
      "level": v.level,
      "code": int(v.code),
      "confidence": _rounded(v.confidence, 4),
      "complete": bool(v.complete),
      "centre_mm": [_rounded(value, 2) for value in v.centre_mm],
      **{n: _rounded(getattr(v, n), digits) for n, digits in _DIGITS.items()},
      "partial": {n: v.partial[n] for n in _DIGITS if n in v.partial},
    }
    for v in vertebrae
  ]
  content = {**_HEADER, "vertebrae": rows}
  write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_vertebrae_csv(
  path: str | os.PathLike[str],
) -> tuple[VertebraRow, ...]:
  """Reads a table of `write_vertebrae_csv`.

  Columns may stand in another order and others may be among them, since
  spreadsheets add and move them.

  Args:
    path: the file.

  Returns:
    The rows in the order of the file.

  Raises:
    InputError: a column is missing, a cell is malformed, or level and code do
      not belong together.
    OSError: the file cannot be read.
  """
  try:
    text = Path(path).read_bytes().decode("utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    names = next(csv.reader(io.StringIO(text, newline="")), [])
  except (UnicodeDecodeError, csv.Error) as error:
    raise InputError(path, f"not a CSV file in UTF-8: {error}.", _FIX) from None
  missing = [name for name in COLUMNS if name not in names]
  if missing:
    raise InputError(path, f"no column {', '.join(missing)}.", _FIX)
  return tuple(
    _parse_row(path, number, line) for number, line in enumerate(lines, start=2)
  )


def _parse_row(
  path: str | os.PathLike[str], number: int, line: dict[str, str | None]
) -> VertebraRow:
  cells = {name: (line[name] or "").strip() for name in COLUMNS}
  level = find_level(cells["level"], path)
  if cells["code"] != str(level.code):
    raise InputError(
      path,
      f"row {number}: code {cells['code']!r} is not that of {level.name},"
      f" {level.code}.",
      _FIX,
    )
  if cells["complete"] not in _YES_NO:
    raise InputError(
      path, f"row {number}: complete is {cells['complete']!r}, not yes or no."
    )

  def value(name: str) -> float:
    try:
      result = float(cells[name] or "nan")
    except ValueError:
      result = math.inf
    if math.isinf(result):
      raise InputError(
        path, f"row {number}: {name} {cells[name]!r} is not a number.", _FIX
      )
    return result

  partial = cells["partial"].split()
  unknown = sorted(set(partial) - set(_DIGITS))
  if unknown:
    raise InputError(
      path, f"row {number}: partial names no column {unknown[0]!r}.", _FIX
    )
  confidence = value("confidence")
  if confidence < 0 or confidence > 1:
    raise InputError(
      path, f"row {number}: confidence {confidence} is not within 0..1.", _FIX
    )
  return VertebraRow(
    level=level.name,
    code=level.code,
    centre_mm=(value(_CENTRE[0]), value(_CENTRE[1]), value(_CENTRE[2])),
    confidence=confidence,
    complete=_YES_NO[cells["complete"]],
    partial=dict.fromkeys(partial, ""),
    **{name: value(name) for name in _DIGITS},
  )


def _rounded(value: float, digits: int) -> float | None:
  """A JSON number; null where there is none."""
  return round(float(value), digits) + 0.0 if math.isfinite(value) else None


def _number(value: float, digits: int) -> str:
  """Fixed digits, no negative zero; empty where there is no number."""
  if not math.isfinite(value):
    return ""
  return f"{round(float(value), digits) + 0.0:.{digits}f}"
