# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which files of two folders belong to one case, and to one patient.

Cases are matched by name, wherever in the folder their files lie:

  <case>_seg-vert_msk.nii.gz, _seg-vb_ctd.json, _lesions.json: as
    `vf-jax predict` writes them, with _vertebrae.csv beside the mask, and
    VerSe's subject trees (there also _seg-subreg_ctd.json).
  <case>_seg.nii.gz, <case>_ctd.json or <case>_iso-ctd.json: VerSe's challenge
    trees.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from vf_jax.errors import ConfigError, InputError
from vf_jax.io.centroids import Frame
from vf_jax.io.text import read_text
from vf_jax.multispine.sources import verse_names
from vf_jax.multispine.sources.listing import list_tree, read_json

_MASK = re.compile(
  r"(?P<case>.+?)(?:_seg-vert_msk|_seg-vert|_msk|_seg)\.nii(?:\.gz)?"
)
_POINTS = re.compile(
  r"(?P<case>.+?)(?:_seg-(?P<kind>subreg|vb|vert)|[-_](?P<iso>iso))?"
  r"[-_]ctd\.json"
)
_LESIONS = re.compile(r"(?P<case>.+?)_lesions\.json")
_TABLE = "_vertebrae.csv"
_PREFERRED = ("subreg", "vb", "vert", "", "iso")
_SUBJECT = re.compile(r"(?:^|_)(sub-[A-Za-z0-9]+)(?:_|$)")
_MAX_TABLE = 16 << 20


@dataclasses.dataclass(frozen=True)
class CaseFiles:
  """What one folder holds of a case.

  Attributes:
    name: of the case.
    mask: vertebrae in VerSe codes.
    points: file of centroids.
    lesions: file of lesion boxes.
    table: of `vf-jax predict`, beside its mask.
  """

  name: str
  mask: pathlib.Path | None = None
  points: pathlib.Path | None = None
  lesions: pathlib.Path | None = None
  table: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
  """One case to measure.

  Attributes:
    reference: its files; a mask or lesions at least.
    prediction: its files; None if there is no prediction.
    patient: the unit of resampling.
  """

  reference: CaseFiles
  prediction: CaseFiles | None
  patient: str

  @property
  def missing(self) -> bool:
    """Whether nothing is predicted, or lesions alone where a mask is true."""
    if self.prediction is None:
      return True
    return self.reference.mask is not None and self.prediction.mask is None


@dataclasses.dataclass(frozen=True)
class Matching:
  """The cases of two folders.

  Attributes:
    pairs: every case of the reference, by name.
    without_prediction: names, see `Pair.missing`; they count as missed.
    without_reference: names of predictions that nothing can be said about.
  """

  pairs: tuple[Pair, ...]
  without_prediction: tuple[str, ...]
  without_reference: tuple[str, ...]


def find_files(folder: str | os.PathLike[str]) -> Mapping[str, CaseFiles]:
  """Finds the cases of a folder by the names of its files.

  Args:
    folder: of predictions or references.

  Returns:
    Name -> files, sorted; cases that have a mask or lesions.

  Raises:
    InputError: if the folder cannot be read, or two files claim one place.
  """
  masks: dict[str, pathlib.Path] = {}
  points: dict[str, list[tuple[int, pathlib.Path]]] = {}
  lesions: dict[str, pathlib.Path] = {}
  tables: set[pathlib.Path] = set()
  for path in list_tree(folder).files:
    if (match := _MASK.fullmatch(path.name)) and "_seg-" not in match["case"]:
      _put(masks, match["case"], path)
    elif match := _LESIONS.fullmatch(path.name):
      _put(lesions, match["case"], path)
    elif match := _POINTS.fullmatch(path.name):
      kind = match["kind"] or match["iso"] or ""
      entry = (_PREFERRED.index(kind), path)
      points.setdefault(match["case"], []).append(entry)
    elif path.name.endswith(_TABLE):
      tables.add(path)
  chosen: dict[str, pathlib.Path] = {}
  for case, entries in points.items():
    rank = min(entries)[0]
    for path in sorted(p for r, p in entries if r == rank):
      _put(chosen, case, path)
  beside = {
    case: table
    for case, mask in masks.items()
    if (table := mask.with_name(case + _TABLE)) in tables
  }
  return {
    case: CaseFiles(
      case,
      masks.get(case),
      chosen.get(case),
      lesions.get(case),
      beside.get(case),
    )
    for case in sorted({*masks, *lesions})
  }


def _put(found: dict[str, pathlib.Path], case: str, path: pathlib.Path) -> None:
  if case in found:
    raise InputError(
      path,
      f"is a second file of the case '{case}', beside {found[case]}.",
      "keep one of them, or evaluate the folders one by one.",
    )
  found[case] = path


def point_frame(path: pathlib.Path) -> Frame:
  """Tells the frame of a centroid file, see `io.centroids`.

  Args:
    path: the file.

  Returns:
    'voxel' if the file names a direction; else by its name.

  Raises:
    InputError: if it cannot be read.
  """
  content = read_json(path, "centroid file")
  head = content[0] if isinstance(content, list) and content else None
  if isinstance(head, dict) and "direction" in head:
    return "voxel"
  match = _POINTS.fullmatch(path.name)
  if match is None or match["kind"] or path.name.startswith("sub-"):
    return "voxel"
  return "iso" if match["iso"] else "iso19"


def match_cases(
  predictions: str | os.PathLike[str],
  references: str | os.PathLike[str],
  patients: str | os.PathLike[str] | None = None,
) -> Matching:
  """Matches the cases of two folders by name.

  Args:
    predictions: folder.
    references: folder; every case in it is measured.
    patients: CSV with the columns case and patient; None to read the patient
      from the name, see `patient_name`.

  Returns:
    The cases.

  Raises:
    ConfigError: no name is in both folders.
    InputError: as `find_files`; the table of patients is no such table or
      lacks a case.
  """
  predicted, there = find_files(predictions), find_files(references)
  if not set(predicted) & set(there):
    raise ConfigError(
      f"no case is in both {predictions} ({_shown(predicted)}) and "
      f"{references} ({_shown(there)}). Fix: cases are matched by file name, "
      "<case>_seg-vert_msk.nii.gz in both; rename or choose other folders."
    )
  owner = {name: patient_name(name) for name in there}
  if patients is not None:
    owner = _read_patients(patients, there)
  pairs = tuple(
    Pair(files, predicted.get(name), owner[name])
    for name, files in there.items()
  )
  return Matching(
    pairs,
    tuple(pair.reference.name for pair in pairs if pair.missing),
    tuple(name for name in predicted if name not in there),
  )


def patient_name(case: str) -> str:
  """Reads the patient from the name of a case.

  Args:
    case: e.g. `sub-verse401_split-verse201` or `sub-12_ses-2`.

  Returns:
    For scans of VerSe its subject, whatever release the name is of; else the
    part `sub-...`; else the whole name.
  """
  if known := verse_names.patient_of(case):
    return known
  match = _SUBJECT.search(case)
  return match[1] if match else case


def _read_patients(
  path: str | os.PathLike[str], cases: Iterable[str]
) -> dict[str, str]:
  fix = "its first line must be case,patient, with one line a case."
  text = read_text(path, "table of patients", _MAX_TABLE, fix)
  rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
  owner: dict[str, str] = {}
  try:
    if not {"case", "patient"} <= set(rows.fieldnames or ()):
      raise InputError(path, "has no columns case and patient.", fix)
    for row in rows:
      case, patient = (row[key] or "" for key in ("case", "patient"))
      case, patient = case.strip(), patient.strip()
      if not case or not patient:
        fault = f"line {rows.line_num} lacks its case or patient."
        raise InputError(path, fault, fix)
      if owner.setdefault(case, patient) != patient:
        fault = f"gives '{case}' to {owner[case]} and to {patient}."
        raise InputError(path, fault, fix)
  except csv.Error as error:
    fault = f"after line {rows.line_num}: {error}."
    raise InputError(path, fault, "mend the quoting.") from error
  missing = [case for case in cases if case not in owner]
  if missing:
    fault = f"lacks {_shown(missing)}."
    raise InputError(path, fault, "add a line for every case.")
  return owner


def _shown(names: Iterable[str]) -> str:
  found = list(names)
  if not found:
    return "no case at all"
  more = f" and {len(found) - 3} more" if len(found) > 3 else ""
  return ", ".join(found[:3]) + more
