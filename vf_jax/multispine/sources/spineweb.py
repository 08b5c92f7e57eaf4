# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The CT sets of SpineWeb: 2 and 15 (CSI 2014), 3, 12 and 13 (xVertSeg).

  3: `patient0001/2804506/2804506.nii.gz` (or .mhd) with `2804506.lml`, body
    centres of every vertebra in view and no masks.
  13: `Data1/images/image001.mhd` with `Data1/masks/mask001.mhd`; codes 200,
    210, ..., 240 are L1-L5; `Data2` has no masks.
  2, 12, 15: `case1.mhd` with `case1_label.mhd` (or `_mask`, `_seg`). Which
    code is which vertebra is documented nowhere: a file `levels.csv` in the
    folder, lines `code,level`, has to say so ('3,L2').

Masks cover the vertebrae they name and leave out others in view, so
'cut_vertebrae' is never among the tasks.

NOTE: none of this was read from real files; the site is unmaintained. Names
and codes of 3 and 13 are those that public users of the data read
(jfm15/SpineFinder; JanAlexanderPersonal/MastatThesis), those of 2 that
leohsuofnthu/Pytorch-IterativeFCN reads. 12 and 15 are taken to be like 2.
"""

from __future__ import annotations

import csv
import pathlib
import re

from vf_jax.errors import InputError
from vf_jax.io.text import read_text
from vf_jax.labels import level
from vf_jax.multispine.case import Case, CentroidFile, MaskFile, Split
from vf_jax.multispine.sources.codes import refuse_others
from vf_jax.multispine.sources.listing import (
  Listing,
  folder_split,
  list_tree,
  split_suffix,
  warn_left_out,
)

_LICENCE = "unknown: SpineWeb asks each user to agree to terms"
_LEVELS_FILE = "levels.csv"
_MAX_BYTES = 1 << 20
_MASK_END = re.compile(r"(.+?)[-_](?:label|labels|mask|seg)", re.IGNORECASE)
_XVERTSEG = re.compile(r"(image|mask)(\d{3})", re.IGNORECASE)
_XVERTSEG_CODES = {200: 20, 210: 21, 220: 22, 230: 23, 240: 24}
_PATIENT = re.compile(r"patient[-_ ]?\d+", re.IGNORECASE)
_NUMBER = re.compile(r"(?:spineweb|dataset)[-_ ]?(\d{1,2})", re.IGNORECASE)
_UNVERIFIED = (
  "SpineWeb's files were not at hand when this reader was written: look at "
  "the levels before use."
)
_SHIFT_NOTE = "users report grey values shifted by about +1000 HU."
_PARTIAL_NOTE = "only the vertebrae named in the mask are drawn."


def looks_like(listing: Listing) -> bool:
  """Whether a folder holds scans as SpineWeb's sets have them.

  Args:
    listing: of the folder.

  Returns:
    True if a `.lml` or a MetaImage with its mask is there.
  """
  names = {path.name.casefold() for path in listing.files}
  if any(name.endswith(".lml") for name in names):
    return True
  meta = [p for p in listing.volumes if p.suffix.casefold() in (".mhd", ".mha")]
  return any(_mask_of(path) is not None for path in meta)


def find(listing: Listing) -> tuple[Case, ...]:
  """Finds the cases of one or several of SpineWeb's CT sets.

  Args:
    listing: of the folder; of a folder `images` or `masks` the one above.

  Returns:
    The cases.

  Raises:
    InputError: if masks have no table of levels or names are there twice.
  """
  if listing.root.name.casefold() in ("images", "masks"):
    listing = list_tree(listing.root.parent)
  masks: dict[tuple[str, ...], pathlib.Path] = {}
  images = []
  for path in listing.volumes:
    stem = _mask_of(path)
    if stem is None:
      images.append(path)
      continue
    key = (*_home(listing, path), stem)
    if key in masks:
      raise InputError(path, f"{masks[key].name} is a mask of the same scan.")
    masks[key] = path
  points = {
    (*listing.parts(path), path.stem.casefold()): path
    for path in listing.files
    if path.suffix.casefold() == ".lml"
  }
  cases, left_out = [], []
  for image in images:
    stem = split_suffix(image.name)[0].casefold()
    mask = masks.pop((*_home(listing, image), stem), None)
    table = points.get((*listing.parts(image), stem))
    if mask is None and table is None:
      left_out.append(image.name)
    else:
      cases.append(_case(listing, image, mask, table))
  cases += [_case(listing, None, mask, None) for mask in masks.values()]
  warn_left_out(listing.root, left_out, "no mask and no .lml")
  return tuple(cases)


def _mask_of(path: pathlib.Path) -> str | None:
  """Stem of the image that a mask belongs to, in lower case."""
  stem = split_suffix(path.name)[0]
  if (match := _XVERTSEG.fullmatch(stem)) and match[1].casefold() == "mask":
    return f"image{match[2]}"
  match = _MASK_END.fullmatch(stem)
  return match[1].casefold() if match else None


def _home(listing: Listing, path: pathlib.Path) -> tuple[str, ...]:
  """Folder that image and mask share."""
  parts = listing.parts(path)
  sides = ("images", "masks", "labels")
  return parts[:-1] if parts and parts[-1].casefold() in sides else parts


def _case(
  listing: Listing,
  image: pathlib.Path | None,
  mask: pathlib.Path | None,
  table: pathlib.Path | None,
) -> Case:
  first = image or mask
  assert first is not None
  parts = (listing.root.name, *listing.parts(first))
  stem = split_suffix(first.name)[0] if image else str(_mask_of(first))
  xvertseg = _XVERTSEG.fullmatch(stem) is not None
  number = _set_number(parts, xvertseg, table)
  recode = {}
  notes = [_UNVERIFIED]
  if mask is not None:
    recode = _levels(listing, mask, xvertseg)
    notes += [_PARTIAL_NOTE, _SHIFT_NOTE]
  label = f"spineweb{number}"
  patients = [part for part in parts if _PATIENT.fullmatch(part)]
  return Case(
    name=f"{label}-{stem}",
    source="spineweb",
    domain=label,
    subject=f"{label}-{patients[-1].casefold() if patients else stem}",
    series=stem if patients else "ct",
    licence=_LICENCE,
    image=image,
    mask=MaskFile(mask, "verse", recode) if mask else None,
    centroids=CentroidFile(table, "lml") if table else None,
    annotates=frozenset({"masks", "levels"} if mask else {"levels"}),
    mask_kind="expert" if mask else "none",
    split=_split(parts, number),
    origin=f"SpineWeb data set {number}" if number else "SpineWeb",
    seed=int("".join(filter(str.isdigit, stem))[-9:] or 0),
    notes=tuple(notes),
  )


def _set_number(
  parts: tuple[str, ...], xvertseg: bool, table: pathlib.Path | None
) -> str:
  for part in reversed(parts):
    if match := _NUMBER.search(part):
      return match[1].lstrip("0")
  return "13" if xvertseg else "3" if table is not None else ""


def _split(parts: tuple[str, ...], number: str) -> Split | None:
  if number == "13" and "data1" in {part.casefold() for part in parts}:
    return "train"
  if number == "15":
    return "test"
  return folder_split(parts[1:], parts[0])


def _levels(
  listing: Listing, mask: pathlib.Path, xvertseg: bool
) -> dict[int, int]:
  """Code in the mask -> VerSe code; codes that are not named are refused."""
  path = next(
    (
      file
      for folder in mask.parents
      if folder.is_relative_to(listing.root)
      for file in (folder / _LEVELS_FILE,)
      if file.is_file()
    ),
    None,
  )
  if path is None:
    if xvertseg:
      return refuse_others(_XVERTSEG_CODES)
    raise InputError(
      mask,
      "the codes of this set's masks are documented nowhere.",
      f"write {_LEVELS_FILE} beside it with lines `code,level` such as `3,L2`.",
    )
  fix = "write one `code,level` a line, such as `3,L2`."
  text = read_text(path, "table of levels", _MAX_BYTES, fix)
  table: dict[int, int] = {}
  for number, row in enumerate(csv.reader(text.splitlines()), start=1):
    if not row or (number == 1 and row[0].strip() == "code"):
      continue
    if len(row) != 2 or not row[0].strip().isdigit():
      raise InputError(path, f"line {number} is {row}.", fix)
    code = int(row[0])
    if code in table:
      raise InputError(path, f"line {number} names code {code} again.", fix)
    table[code] = level(row[1], path).code
  return refuse_others(table)
