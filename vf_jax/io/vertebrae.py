# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The table of vertebrae of one case as CSV, one row a vertebra.

For people with a spreadsheet and for evaluation. The first row names the
columns and their units; numbers have a fixed number of digits, so equal
results make equal files. A cell is empty where there is no number, such as
the mean intensity of a vertebra without a voxel.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from vf_jax.errors import InputError
from vf_jax.io.atomic import write_text
from vf_jax.labels import level as find_level

COLUMNS = (
  "level",
  "code",
  "confidence",
  "complete",
  "volume_ml",
  "mean_hu",
  "centre_r_mm",
  "centre_a_mm",
  "centre_s_mm",
)
_YES_NO = {"yes": True, "no": False}
_FIX = "give a file of write_vertebrae_csv, or write it anew."


@runtime_checkable
class VertebraLike(Protocol):
  """What a row needs to know; `infer.result.Vertebra` is one."""

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
  def volume_ml(self) -> float:
    """Volume of the mask, ml."""

  @property
  def mean_hu(self) -> float:
    """Mean intensity under the mask, HU."""


@dataclasses.dataclass(frozen=True)
class VertebraRow:
  """One row as it was read; a `VertebraLike`.

  Attributes:
    level: name of the level, e.g. `L3`.
    code: VerSe code of the level.
    centre_mm: centre of the vertebral body, mm RAS+.
    confidence: probability of the level, 0..1.
    complete: False if the field of view cuts the vertebra.
    volume_ml: volume of the mask, ml.
    mean_hu: mean intensity under the mask, HU; NaN if it has no voxel.
  """

  level: str
  code: int
  centre_mm: tuple[float, float, float]
  confidence: float
  complete: bool
  volume_ml: float
  mean_hu: float


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
        _number(vertebra.volume_ml, 3),
        _number(vertebra.mean_hu, 1),
        *(_number(value, 2) for value in vertebra.centre_mm),
      ]
    )
  write_text(path, text.getvalue())


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

  confidence = value("confidence")
  if confidence < 0 or confidence > 1:
    raise InputError(
      path, f"row {number}: confidence {confidence} is not within 0..1.", _FIX
    )
  return VertebraRow(
    level=level.name,
    code=level.code,
    centre_mm=(
      value("centre_r_mm"),
      value("centre_a_mm"),
      value("centre_s_mm"),
    ),
    confidence=confidence,
    complete=_YES_NO[cells["complete"]],
    volume_ml=value("volume_ml"),
    mean_hu=value("mean_hu"),
  )


def _number(value: float, digits: int) -> str:
  """Fixed digits, no negative zero; empty where there is no number."""
  if not math.isfinite(value):
    return ""
  return f"{round(float(value), digits) + 0.0:.{digits}f}"
