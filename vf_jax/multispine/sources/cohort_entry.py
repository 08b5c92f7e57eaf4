# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One entry of a cohort file: every value checked, made into a case."""

from __future__ import annotations

import dataclasses
import difflib
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from vf_jax.errors import InputError
from vf_jax.labels import IGNORE, SCHEMES, level
from vf_jax.multispine.case import (
  TASKS,
  Case,
  CentreKind,
  CentroidFile,
  CentroidFormat,
  LesionFile,
  MaskFile,
  MaskFiles,
  MaskKind,
  Split,
)

DOCS = "see docs/cohort.example.yaml."
KEYS = (
  "case", "domain", "subject", "series", "licence", "origin", "split",
  "image", "mask", "scheme", "recode", "mask_kind", "subregions",
  "centroids", "centroid_format", "centroid_kind",
  "lesions", "lesion_key",
  "annotates", "scanner", "tissues", "background_boxes", "margin_mm", "seed",
  "notes", "optional",
)  # fmt: skip
FILE_KEYS = ("image", "mask", "subregions", "centroids", "lesions")
_NOTHING = ("", "~", "null")


def make_case(
  file: pathlib.Path, folder: pathlib.Path, name: str, entry: Mapping[str, Any]
) -> Case:
  """Makes a case of an entry.

  Args:
    file: the cohort file, for errors.
    folder: what paths are relative to.
    name: of the case.
    entry: its keys, among `KEYS`, with text, lists and mappings of text.

  Returns:
    The case.

  Raises:
    InputError: for a malformed value or a file that does not exist; names the
      case and the key.
  """
  values = _Values(file, folder, f"case {name}", entry)
  image, points, boxes = map(values.path, ("image", "centroids", "lesions"))
  mask = values.mask()
  tasks = {"masks", "levels"} if mask else {"levels"} if points else set()
  if boxes is not None:
    tasks.add("lesions")
  if "annotates" in entry:
    tasks = {
      values.one_of("annotates", t, TASKS) for t in values.words("annotates")
    }
  notes = values.words("notes")
  if boxes is None and "lesions" in entry:
    # An optional table that is not there; it is an empty `lesions` that, with
    # `annotates`, says that the scan has none.
    tasks.discard("lesions")
    table = pathlib.PurePath(values.text("lesions")).name
    notes.append(f"{table} does not exist: nothing is known of its lesions.")
  centroids = lesions = None
  if points is not None:
    lml = points.suffix.casefold() == ".lml"
    centroids = CentroidFile(
      points,
      values.choice(
        "centroid_format", get_args(CentroidFormat), "lml" if lml else "voxel"
      ),
      values.choice("centroid_kind", get_args(CentreKind)),
    )
  if boxes is not None:
    lesions = LesionFile(
      boxes, values.text("lesion_key", image.name if image else None)
    )
  domain = values.text("domain")
  return Case(
    name=name,
    source="cohort",
    domain=domain,
    subject=values.text("subject", default_subject(domain, name)),
    series=values.text("series", "ct"),
    licence=values.text("licence", "unknown"),
    image=image,
    mask=mask,
    subregions=values.path("subregions"),
    centroids=centroids,
    lesions=lesions,
    annotates=frozenset(tasks),
    mask_kind=values.choice(
      "mask_kind", get_args(MaskKind), "expert" if mask else "none"
    ),
    split=values.choice("split", get_args(Split)),
    scanner=values.scanner(),
    origin=values.text("origin", "unknown"),
    tissues=values.tissues(mask),
    background_boxes=values.boxes(),
    margin_mm=values.margin(),
    seed=values.whole("seed", entry.get("seed", "0")),
    notes=tuple(notes),
  )


def default_subject(domain: str, name: str) -> str:
  """The patient of a case that names none: sites number theirs alike.

  Args:
    domain: of the case.
    name: of the case.

  Returns:
    The subject.
  """
  return f"{domain}/{name}"


def is_annotated(case: Case) -> bool:
  """Whether a case teaches anything; its image alone does not.

  Args:
    case: of an entry.

  Returns:
    False without a mask, points, boxes, or the word that it has no lesions.
  """
  files = (case.mask, case.centroids, case.lesions)
  return (
    any(file is not None for file in files)
    or bool(case.background_boxes)
    or "lesions" in case.annotates
  )


def said_nothing(value: Any) -> bool:
  """Whether a value of the file is left empty."""
  return isinstance(value, str) and value.strip().casefold() in _NOTHING


def suggestion(given: str, allowed: Iterable[str]) -> str:
  """What to write instead of an unknown word."""
  known = list(allowed)
  near = difflib.get_close_matches(given, known, 1)
  asked = f"did you mean {near[0]!r}? " if near else ""
  return f"{asked}allowed: {', '.join(known)}."


@dataclasses.dataclass(frozen=True)
class _Values:
  """An entry, read key by key."""

  file: pathlib.Path
  folder: pathlib.Path
  where: str
  entry: Mapping[str, Any]

  def fault(self, text: str, fix: str = DOCS) -> InputError:
    return InputError(self.file, f"{self.where}: {text}", fix)

  def text(self, key: str, default: str | None = None) -> str:
    value = self.entry.get(key, default)
    if not isinstance(value, str):
      raise self.fault(f"{key} is {'missing' if value is None else 'no text'}.")
    return value

  def one_of(self, key: str, value: str, allowed: Iterable[str]) -> str:
    known = list(allowed)
    if value not in known:
      raise self.fault(f"{key} is {value!r}.", suggestion(value, known))
    return value

  def choice(
    self, key: str, allowed: Iterable[str], default: str | None = None
  ) -> Any:
    if key not in self.entry:
      return default
    return self.one_of(key, self.text(key), allowed)

  def words(self, key: str) -> list[str]:
    value = self.entry.get(key, [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(
      isinstance(word, str) for word in value
    ):
      raise self.fault(f"{key} is no list of words.")
    return value

  def path(self, key: str) -> pathlib.Path | None:
    return self._locate(key, self.entry[key]) if key in self.entry else None

  def _locate(self, key: str, value: Any) -> pathlib.Path | None:
    optional = self.words("optional")
    for word in optional:
      self.one_of("optional", word, FILE_KEYS)
    if not isinstance(value, str):
      raise self.fault(f"{key} is no path.")
    path = self.folder / pathlib.Path(value).expanduser()
    if path.exists():
      return path
    if key in optional:
      return None
    raise self.fault(
      f"{key} {path} does not exist.",
      f"mend the path, or list {key} under `optional`.",
    )

  def mask(self) -> MaskFile | MaskFiles | None:
    scheme = self.choice("scheme", SCHEMES, "verse")
    recode = self.recode()
    value = self.entry.get("mask")
    if isinstance(value, dict):
      if recode or "scheme" in self.entry:
        raise self.fault(
          "has one mask a vertebra and scheme or recode.", "leave them out."
        )
      paths = {
        level(name, self.file).name: path
        for name, place in value.items()
        if (path := self._locate("mask", place)) is not None
      }
      return MaskFiles(paths) if paths else None
    path = self.path("mask")
    return None if path is None else MaskFile(path, scheme, recode)

  def recode(self) -> dict[int, int]:
    value = self.entry.get("recode", {})
    if not isinstance(value, dict):
      raise self.fault("recode is no mapping.", "write {old: new}.")
    codes = {
      self.whole("recode", old): self.whole("recode", new)
      for old, new in value.items()
    }
    for old, new in codes.items():
      if not 0 <= new <= IGNORE:
        raise self.fault(
          f"recode makes {old} {new}.",
          f"give a code of 0 to {IGNORE}; {IGNORE} means unknown.",
        )
    return codes

  def tissues(self, mask: MaskFile | MaskFiles | None) -> Any:
    scheme = "totalsegmentator"
    kind = self.choice("tissues", (scheme,))
    if kind is None or (mask is None and "mask" in self.words("optional")):
      return None
    if not isinstance(mask, MaskFile) or mask.scheme != scheme:
      had = "no mask" if mask is None else "one mask a vertebra"
      if isinstance(mask, MaskFile):
        had = f"a mask of the scheme {mask.scheme}"
      raise self.fault(
        f"has tissues: {kind} and {had}.",
        f"leave out tissues, or give one mask with scheme: {scheme}.",
      )
    return kind

  def margin(self) -> float | None:
    margin_mm = self.number("margin_mm")
    if margin_mm is not None and margin_mm < 0:
      raise self.fault(f"margin_mm is {margin_mm:g}.", "give 0 mm or more.")
    return margin_mm

  def scanner(self) -> dict[str, str]:
    value = self.entry.get("scanner", {})
    if not isinstance(value, dict) or not all(
      isinstance(fact, str) for fact in value.values()
    ):
      raise self.fault("scanner is no mapping of facts.")
    return {str(name): fact for name, fact in value.items()}

  def number(self, key: str) -> float | None:
    return self._float(key, self.entry[key]) if key in self.entry else None

  def whole(self, key: str, value: Any) -> int:
    try:
      return int(value)
    except (TypeError, ValueError) as error:
      raise self.fault(f"{key} holds {value!r}, no whole number.") from error

  def _float(self, key: str, value: Any) -> float:
    try:
      number = float(value)
    except (TypeError, ValueError):
      number = math.nan
    if not math.isfinite(number):
      raise self.fault(f"{key} holds {value!r}, no number.")
    return number

  def boxes(self) -> tuple[Any, ...]:
    """Corners; the reader of the case orders them."""
    value = self.entry.get("background_boxes", [])
    fix = "write [[x, y, z], [x, y, z]], corners in mm RAS+."
    if not isinstance(value, list):
      raise self.fault("background_boxes is no list.", fix)
    for box in value:
      if (
        not isinstance(box, list)
        or len(box) != 2
        or not all(isinstance(c, list) and len(c) == 3 for c in box)
      ):
        raise self.fault(f"background_boxes holds {box!r}.", fix)
    return tuple(
      tuple(
        tuple(self._float("background_boxes", v) for v in corner)
        for corner in box
      )
      for box in value
    )
