# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Lesion boxes: the BLDS annotation table, and our own `<case>_lesions.json`.

BLDS (hugboom/BLDS, `image_bone_lesions.csv`) gives one expert box a row: image,
class, centre x, y, z and width, height, depth in millimetres of the DICOM world
(LPS+). The class column says `osteoma` whatever the lesion is.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol, runtime_checkable

from vf_jax.errors import InputError, warn_input
from vf_jax.io.atomic import write_text
from vf_jax.io.text import read_text
from vf_jax.labels import level

Triple = tuple[float, float, float]

_COLUMNS = ("x", "y", "z", "width", "height", "depth")
_MAX_BYTES = 64 << 20
_HEADER = {
  "format": "vf_jax lesions",
  "version": 1,
  "frame": "world, RAS+",
  "units": "mm",
}


@dataclasses.dataclass(frozen=True)
class AnnotatedLesion:
  """One annotated lesion.

  Attributes:
    centre_mm: centre of the box.
    size_mm: edge lengths along R, A, S.
    kind: class as annotated, e.g. `osteoma`.

  Units:
    mm RAS+.
  """

  centre_mm: Triple
  size_mm: Triple
  kind: str


@runtime_checkable
class LesionLike(Protocol):
  """What `write_lesions` needs of a lesion; `infer.result.Lesion` has it.

  Attributes:
    centre_mm: centre of the box, mm RAS+.
    size_mm: edge lengths along R, A, S, mm.
    score: 0..1.
    level: name of the level it lies in, None outside the spine.
    share: of that vertebra inside the box, 0..1; None without a level.
  """

  @property
  def centre_mm(self) -> Triple: ...  # noqa: D102
  @property
  def size_mm(self) -> Triple: ...  # noqa: D102
  @property
  def score(self) -> float: ...  # noqa: D102
  @property
  def level(self) -> str | None: ...  # noqa: D102
  @property
  def share(self) -> float | None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class LesionRecord:
  """One lesion of a `<case>_lesions.json`; see `LesionLike` for the fields."""

  centre_mm: Triple
  size_mm: Triple
  score: float
  level: str | None
  share: float | None = None


def read_blds(
  path: str | os.PathLike[str],
) -> Mapping[str, tuple[AnnotatedLesion, ...]]:
  """Reads the box table of BLDS.

  Args:
    path: the csv file.

  Returns:
    Image path as the table writes it -> its boxes, in the table's order, mm
    RAS+. Images without a lesion are not in such a table.

  Raises:
    InputError: if it is no such table or a row is malformed; names the line.
  """
  lines = read_text(
    path, "lesion file", _MAX_BYTES, "save the table as UTF-8 csv."
  ).splitlines()
  wanted = ("image_path", "class", *_COLUMNS)
  reader = csv.DictReader(lines, strict=True)
  try:
    header = [name.strip() for name in reader.fieldnames or ()]
  except csv.Error as error:
    raise InputError(path, f"line 1: {error}.", "mend the quoting.") from error
  missing = [name for name in wanted if name not in header]
  if missing or len(set(header)) != len(header):
    fault = f"lacks the columns {', '.join(missing)}"
    raise InputError(
      path,
      f"{fault}." if missing else "names a column twice.",
      f"its first line must be {','.join(wanted)}.",
    )
  reader.fieldnames = header
  boxes: dict[str, list[AnnotatedLesion]] = {}
  try:
    for row in reader:
      where = f"line {reader.line_num}"
      image, box = _parse_row(path, where, row)
      if box in boxes.setdefault(image, []):
        warn_input(path, f"{where} repeats an earlier box; dropped.")
      else:
        boxes[image].append(box)
  except csv.Error as error:
    fault = f"after line {reader.line_num}: {error}."
    raise InputError(path, fault, "mend the quoting.") from error
  return {image: tuple(found) for image, found in boxes.items()}


def write_lesions(
  path: str | os.PathLike[str],
  lesions: Iterable[LesionLike],
  candidates: Iterable[LesionLike] = (),
) -> None:
  """Writes `<case>_lesions.json`, whole or not at all.

  The header states frame and units, so that the file can be read without this
  program: `{"format", "version", "frame", "units", "lesions": [{"centre_mm",
  "size_mm", "score", "level", "share_of_vertebra"}], "candidates": [...]}`.
  Millimetres keep three decimals.

  Args:
    path: the file to write.
    lesions: any records like `LesionLike`, written in this order.
    candidates: boxes that are no findings; see `CaseResult.candidates`.

  Raises:
    InputError: if a lesion could not be read back: not finite, no volume, a
      score or share outside 0..1 or an unknown level.
  """
  lists = {
    "lesions": _rows(path, lesions),
    "candidates": _rows(path, candidates),
  }
  text = json.dumps({**_HEADER, **lists}, indent=1, allow_nan=False)
  write_text(path, text + "\n")


def _rows(path, lesions: Iterable[LesionLike]) -> list[dict[str, Any]]:
  rows = []
  for number, lesion in enumerate(lesions):
    row = {
      "centre_mm": [round(float(value), 3) for value in lesion.centre_mm],
      "size_mm": [round(float(value), 3) for value in lesion.size_mm],
      "score": round(float(lesion.score), 6),
      "level": lesion.level,
      "share_of_vertebra": (
        None if lesion.share is None else round(float(lesion.share), 4)
      ),
    }
    _parse_lesion(path, f"lesion {number}", row)
    rows.append(row)
  return rows


def read_lesions(
  path: str | os.PathLike[str], candidates: bool = False
) -> tuple[LesionRecord, ...]:
  """Reads a file of `write_lesions`.

  Args:
    path: the file.
    candidates: whether to read those too, after the lesions.

  Returns:
    The lesions in the file's order, mm RAS+.

  Raises:
    InputError: if it is not such a file, states another frame or unit, or a
      lesion is malformed.
  """
  fix = "give a <case>_lesions.json that vf-jax has written."
  try:
    content = json.loads(read_text(path, "lesion file", _MAX_BYTES, fix))
  except (ValueError, RecursionError) as error:
    raise InputError(path, f"is not JSON: {error}.", fix) from error
  found = content.get("lesions") if isinstance(content, dict) else None
  if not isinstance(found, list):
    raise InputError(path, "has no list of lesions.", fix)
  if candidates:
    more = content.get("candidates", [])  # files written before lack it
    if not isinstance(more, list):
      raise InputError(path, "has no list of candidates.", fix)
    found = found + more
  for key, value in _HEADER.items():
    if content.get(key) != value:
      fault = f"says {key} {content.get(key)!r}, not {value!r}."
      raise InputError(path, fault, fix)
  return tuple(
    _parse_lesion(path, f"lesion {number}", row)
    for number, row in enumerate(found)
  )


def _parse_row(
  path: str | os.PathLike[str], where: str, row: Mapping[Any, Any]
) -> tuple[str, AnnotatedLesion]:
  if None in row or None in row.values():
    fault = f"{where} has more or fewer fields than the header."
    raise InputError(path, fault, "write one value a column.")
  image = row["image_path"].strip()
  parts = PurePosixPath(image.replace("\\", "/"))
  if not image or parts.is_absolute() or ".." in parts.parts:
    raise InputError(
      path,
      f"{where}: image_path {image!r} is not inside the data's folder.",
      "write a path relative to that folder.",
    )
  numbers = []
  for column in _COLUMNS:
    try:
      numbers.append(float(row[column]))
    except ValueError:
      numbers.append(math.nan)
    if not math.isfinite(numbers[-1]):
      fault = f"{where}: {column} is {row[column]!r}, not a finite number."
      raise InputError(path, fault, "write it in mm, with a decimal point.")
  x, y, z, width, height, depth = numbers
  if min(width, height, depth) <= 0:
    fault = f"{where}: the box {width} x {height} x {depth} mm has no volume."
    raise InputError(path, fault, "correct or remove the row.")
  # LPS+ to RAS+ turns the first two axes; lengths stay.
  box = AnnotatedLesion(
    (-x, -y, z), (width, height, depth), row["class"].strip()
  )
  return image, box


def _parse_lesion(
  path: str | os.PathLike[str], where: str, row: Any
) -> LesionRecord:
  keys = ("centre_mm", "size_mm", "score", "level")
  missing = [key for key in keys if not isinstance(row, dict) or key not in row]
  if missing:
    fault = f"{where} lacks {', '.join(missing)}."
    raise InputError(path, fault, f"every lesion holds {', '.join(keys)}.")
  centre = _parse_triple(path, f"{where}: centre_mm", row["centre_mm"])
  size = _parse_triple(path, f"{where}: size_mm", row["size_mm"])
  if min(size) <= 0:
    fault = f"{where}: the box of {size} mm has no volume."
    raise InputError(path, fault, "correct or remove the lesion.")
  score = row["score"]
  if not _is_number(score) or not 0 <= score <= 1:
    fault = f"{where}: score {score!r} is not within 0..1."
    raise InputError(path, fault, "give the lesion's probability.")
  name = row["level"]
  if name is not None:
    if not isinstance(name, str):
      fault = f"{where}: level {name!r} is neither a name nor null."
      raise InputError(path, fault, "use a name as 'L3', or null.")
    name = level(name, path).name
  share = row.get("share_of_vertebra")  # files written before lack it
  if share is not None and not (_is_number(share) and 0 <= share <= 1):
    fault = f"{where}: share_of_vertebra {share!r} is not within 0..1."
    raise InputError(path, fault, "give the part of the vertebra, or null.")
  return LesionRecord(
    centre, size, float(score), name, None if share is None else float(share)
  )


def _parse_triple(
  path: str | os.PathLike[str], where: str, value: Any
) -> Triple:
  if (
    not isinstance(value, list)
    or len(value) != 3
    or not all(_is_number(number) for number in value)
  ):
    fault = f"{where} is {value!r}, not three finite numbers."
    raise InputError(path, fault, "write it in mm, RAS+.")
  x, y, z = map(float, value)
  return x, y, z


def _is_number(value: Any) -> bool:
  """A finite JSON number; NaN, infinity, true and false are none."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) <= sys.float_info.max
