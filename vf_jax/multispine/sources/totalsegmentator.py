# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""TotalSegmentator's data set and its output: one file per class.

`s0001/ct.nii.gz`, `s0001/segmentations/vertebrae_L1.nii.gz`, `meta.csv`. A
class that is absent is a file of zeros or no file. A folder `segmentations`
without `ct.nii.gz` beside it is a mask alone.

Masks are called a network's: the truth of the data set was made with one in
the loop. They include vertebrae that the field of view cuts.

Source: Zenodo 10047292 (release 2.0.1), README of wasserth/TotalSegmentator.
"""

from __future__ import annotations

import csv
import pathlib
import re

from vf_jax.errors import InputError
from vf_jax.io.text import read_text
from vf_jax.labels import LEVELS, SACRUM, totalsegmentator_level
from vf_jax.multispine.case import Case, MaskFiles, Split
from vf_jax.multispine.sources.listing import Listing, list_tree, split_suffix

_FOLDER = "segmentations"
_CLASS = re.compile(r"vertebrae_[A-Z]\d+|sacrum")
_DATA_SET = re.compile(r"s\d{4}")
_ORIGIN = "TotalSegmentator data set, 10.5281/zenodo.10047292"
_LICENCE = (
  "CC BY 4.0 (Zenodo 10047292; Wasserthal et al. 2023); check the licence of "
  "your release"
)
_NOTE = (
  "vertebra masks were made with a network in the loop; users find 10-15 % of "
  "the subjects mixed up (TotalSegmentator#268, #394): no test truth."
)
_SPLITS: dict[str, Split] = {
  "train": "train",
  "val": "validation",
  "validation": "validation",
  "test": "test",
}
_SCANNER = {
  "institute": "institute",
  "manufacturer": "manufacturer",
  "scanner_model": "model",
  "kvp": "kvp",
}
_MAX_BYTES = 16 << 20


def looks_like(listing: Listing) -> bool:
  """Whether a folder holds vertebrae in TotalSegmentator's one-class files.

  Args:
    listing: of the folder.

  Returns:
    True if a file such as `segmentations/vertebrae_L1.nii.gz` is in it.
  """
  return any(_is_class(path) for path in listing.volumes)


def find(listing: Listing) -> tuple[Case, ...]:
  """Finds the subjects of a TotalSegmentator tree.

  Args:
    listing: of the data set, of one subject or of its `segmentations`.

  Returns:
    A case a subject.

  Raises:
    InputError: if a vertebra class is unknown or `meta.csv` is malformed.
  """
  if listing.root.name == _FOLDER:
    listing = list_tree(listing.root.parent)
  masks: dict[pathlib.Path, dict[str, pathlib.Path]] = {}
  for path in listing.volumes:
    if _is_class(path):
      subject = masks.setdefault(path.parent.parent, {})
      level = totalsegmentator_level(split_suffix(path.name)[0], path)
      assert level is not None
      # S1 is a part of the sacrum, which has a file of its own.
      if level != SACRUM or path.name.startswith("sacrum"):
        subject[level.name] = path
  meta = _read_meta(listing)
  return tuple(
    _case(folder, found, meta.get(folder.name, {}))
    for folder, found in sorted(masks.items())
    if found
  )


def _is_class(path: pathlib.Path) -> bool:
  stem = split_suffix(path.name)[0]
  return path.parent.name == _FOLDER and _CLASS.fullmatch(stem) is not None


def _case(
  folder: pathlib.Path, masks: dict[str, pathlib.Path], row: dict[str, str]
) -> Case:
  image = next(
    (ct for end in (".nii.gz", ".nii") if (ct := folder / f"ct{end}").exists()),
    None,
  )
  official = bool(row) or _DATA_SET.fullmatch(folder.name) is not None
  digits = "".join(filter(str.isdigit, folder.name))
  return Case(
    name=f"totalsegmentator-{folder.name}",
    source="totalsegmentator",
    domain="totalsegmentator",
    subject=f"totalsegmentator-{folder.name}",
    series="ct",
    licence=_LICENCE if official else "unknown",
    image=image,
    mask=MaskFiles({v.name: masks[v.name] for v in LEVELS if v.name in masks}),
    annotates=frozenset({"masks", "levels", "cut_vertebrae"}),
    mask_kind="network",
    split=_SPLITS.get(row.get("split", "").casefold()),
    scanner={
      name: row[key] for key, name in _SCANNER.items() if row.get(key, "")
    },
    origin=_ORIGIN if official else "a folder as TotalSegmentator writes it",
    seed=int(digits[-9:] or 0),
    notes=(_NOTE,),
  )


def _read_meta(listing: Listing) -> dict[str, dict[str, str]]:
  """Subject -> its row of `meta.csv`, here or one folder up."""
  candidates = [p for p in listing.files if p.name == "meta.csv"]
  above = listing.root.parent / "meta.csv"
  if not candidates and above.is_file():
    candidates = [above]
  rows: dict[str, dict[str, str]] = {}
  for path in candidates:
    text = read_text(path, "table of subjects", _MAX_BYTES, "give meta.csv.")
    lines = text.splitlines()
    mark = ";" if lines and ";" in lines[0] else ","
    table = csv.DictReader(lines, delimiter=mark)
    if "image_id" not in (table.fieldnames or ()):
      raise InputError(
        path,
        "has no column image_id.",
        "give meta.csv of the data set, or move this file away.",
      )
    for row in table:
      rows[row["image_id"].strip()] = {
        key: value.strip()
        for key, value in row.items()
        if isinstance(key, str) and isinstance(value, str)
      }
  return rows
