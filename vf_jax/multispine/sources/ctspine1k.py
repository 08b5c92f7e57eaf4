# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""CTSpine1K, flat or sorted into volumes/SUBSET and labels/SUBSET.

Masks are `<stem>_seg.nii.gz`, or have the image's name in a folder of labels.
They include vertebrae that the field of view cuts. Images are one a patient:
of the prone and the supine series of COLONOG the authors took one, `Path.csv`
says which.

Sources: README, data_split.txt, Path.csv and Task056_VerSe2019.py of
MIRACLE-Center/CTSpine1K; the loader of its mirror alexanderdann/CTSpine1K.
"""

from __future__ import annotations

import pathlib
import re

from vf_jax.errors import InputError, warn_input
from vf_jax.io.text import read_text
from vf_jax.multispine.case import Case, MaskFile, Split
from vf_jax.multispine.sources.listing import (
  Listing,
  list_tree,
  split_suffix,
  warn_left_out,
)

_LICENCE = "CC BY-NC-SA (CTSpine1K; Deng et al. 2021, arXiv 2105.14711)"
_ORIGIN = "CTSpine1K, MIRACLE-Center/CTSpine1K"
_UID = "1.3.6.1.4.1.9328.50.4."
_COLLECTIONS = {
  "colonog": rf"(?P<patient>{re.escape(_UID)}\d{{4}}|CTC-\d{{10}})(?P<rest>.*)",
  "hnscc": r"(?P<patient>HN_P\d{3})(?P<rest>.*)",
  "msd-liver": r"(?P<patient>liver_\d+)(?P<rest>.*)",
  "covid19": r"volume-(?P<patient>covid19-A-\d{4})(?P<rest>.*)",
}
_PATTERNS = {
  domain: re.compile(pattern, re.IGNORECASE)
  for domain, pattern in _COLLECTIONS.items()
}
_SECTIONS: dict[str, Split] = {
  "trainset": "train",
  "test_public": "test_public",
  "test_private": "test_private",
}
_SPLIT_FILE = "data_split.txt"
_PATH_FILE = "path.csv"
_SIDES = ("volumes", "labels", "images", "masks", "data", "label")
_LABEL_FOLDERS = {"label", "labels", "mask", "masks", "seg"}
_MAX_BYTES = 4 << 20
_FAULTS = {
  f"{_UID}0103": "its labels are not continuous (CTSpine1K#13).",
  f"{_UID}0291": "label 22 (L3) is missing (CTSpine1K#13).",
  f"{_UID}0730": "label 22 (L3) is missing (CTSpine1K#13).",
  f"{_UID}0482": "14 may stand for 15 in the top slices (CTSpine1K#15).",
  f"{_UID}0500": "14 may stand for 15 in the top slices (CTSpine1K#15).",
}
_LIVER_NOTE = (
  "MSD liver and the Liver Tumor Segmentation challenge share scans: never "
  "test across the two."
)


def looks_like(listing: Listing) -> bool:
  """Whether names below a folder are CTSpine1K's.

  Args:
    listing: of the folder.

  Returns:
    True if a scan of one of its collections has a mask by its naming.
  """
  masks = (_mask_stem(listing, path) for path in listing.volumes)
  return any(stem is not None and _collection(stem) for stem in masks)


def find(listing: Listing) -> tuple[Case, ...]:
  """Finds the cases of CTSpine1K.

  Args:
    listing: of a folder with images and masks; of one of the two sides the
      folder above is read. `data_split.txt` and `Path.csv` may lie in it, in
      the folder above it or in `metadata` there.

  Returns:
    The cases.

  Raises:
    InputError: if two masks go by one name or the split is malformed.
  """
  if listing.root.name.casefold() in _SIDES:
    listing = list_tree(listing.root.parent)
  images: dict[str, list[pathlib.Path]] = {}
  masks: dict[str, list[pathlib.Path]] = {}
  for path in listing.volumes:
    stem = _mask_stem(listing, path)
    if stem is None:
      key = split_suffix(path.name)[0]
      images.setdefault(key.casefold(), []).append(path)
    else:
      masks.setdefault(stem.casefold(), []).append(path)
  splits = _read_splits(listing)
  positions = _read_positions(listing)
  cases, left_out = [], []
  for key in sorted(images.keys() | masks.keys()):
    image = _only(images.get(key, []))
    found = masks.get(key) or masks.get(key.removesuffix("_ct"), [])
    mask = _only(found)
    if mask is None:
      assert image is not None
      left_out.append(image.name)
    elif image is not None or f"{key}_ct" not in images:
      cases.append(_case(key, image, mask, splits, positions))
  warn_left_out(listing.root, left_out, "no mask")
  if cases and not splits:
    warn_input(
      listing.root, f"has no {_SPLIT_FILE}; the official split is unknown."
    )
  return tuple(cases)


def patient_of(name: str) -> str | None:
  """The patient of CTSpine1K that a name of another layout speaks of.

  Args:
    name: e.g. a case of an nnU-Net data set, 'liver_0'.

  Returns:
    The subject; None if the name is of none of the four collections.
  """
  found = _collection(name)
  return found[1] if found else None


def _mask_stem(listing: Listing, path: pathlib.Path) -> str | None:
  """Stem of the image that a mask belongs to; None for an image."""
  stem = split_suffix(path.name)[0]
  if stem.casefold().endswith("_seg"):
    return stem[: -len("_seg")]
  folders = {part.casefold() for part in listing.parts(path)}
  return stem if folders & _LABEL_FOLDERS else None


def _collection(stem: str) -> tuple[str, str, str] | None:
  """Domain, patient and the rest of a name."""
  for domain, pattern in _PATTERNS.items():
    if match := pattern.fullmatch(stem):
      rest = match["rest"].removesuffix("_ct").strip("_")
      return domain, match["patient"], rest
  return None


def _case(
  key: str,
  image: pathlib.Path | None,
  mask: pathlib.Path,
  splits: dict[str, Split],
  positions: dict[str, str],
) -> Case:
  stem = split_suffix((image or mask).name)[0]
  if image is None:
    stem = stem[: -len("_seg")] if stem.casefold().endswith("_seg") else stem
  domain, patient, rest = _collection(stem) or ("ctspine1k", stem, "")
  notes = [_FAULTS[patient]] if patient in _FAULTS else []
  if domain == "msd-liver":
    notes.append(_LIVER_NOTE)
  if splits and key not in splits:
    notes.append(f"{_SPLIT_FILE} does not name it.")
  position = positions.get(patient.casefold(), "")
  return Case(
    name=f"ctspine1k-{stem}",
    source="ctspine1k",
    domain=domain,
    subject=patient,
    series=rest or position or "ct",
    licence=_LICENCE,
    image=image,
    mask=MaskFile(mask, "ctspine1k"),
    annotates=frozenset({"masks", "levels", "cut_vertebrae"}),
    mask_kind="expert",
    split=splits.get(key),
    scanner={"position": position} if position else {},
    origin=_ORIGIN,
    seed=int("".join(filter(str.isdigit, patient))[-9:] or 0),
    notes=tuple(notes),
  )


def _only(paths: list[pathlib.Path]) -> pathlib.Path | None:
  if len(paths) > 1:
    others = ", ".join(str(path) for path in paths[1:])
    raise InputError(
      paths[0],
      f"is not the only file of its name: {others}.",
      "point at a folder that holds each scan once.",
    )
  return paths[0] if paths else None


def _beside(listing: Listing, name: str) -> pathlib.Path | None:
  """A file of this name below the folder, above it or in `metadata` there."""
  for path in listing.files:
    if path.name.casefold() == name:
      return path
  above = listing.root.parent
  for folder in (above, above / "metadata"):
    if folder.is_dir():
      for path in sorted(folder.iterdir()):
        if path.name.casefold() == name and path.is_file():
          return path
  return None


def _read_splits(listing: Listing) -> dict[str, Split]:
  """Stem in lower case -> split. One line of the file repeats its name."""
  path = _beside(listing, _SPLIT_FILE)
  if path is None:
    return {}
  fix = "take data_split.txt from MIRACLE-Center/CTSpine1K."
  section: Split | None = None
  found: dict[str, Split] = {}
  for number, line in enumerate(
    read_text(path, "split list", _MAX_BYTES, fix).splitlines(), start=1
  ):
    line = line.strip()
    if line.endswith(":"):
      if line[:-1] not in _SECTIONS:
        raise InputError(path, f"line {number}: no section {line!r}.", fix)
      section = _SECTIONS[line[:-1]]
      continue
    for name in filter(None, line.split(".nii.gz")):
      if section is None:
        fault = f"line {number}: a name before the first section."
        raise InputError(path, fault, fix)
      if found.setdefault(name.casefold(), section) != section:
        fault = f"line {number}: {name} is in two sections."
        raise InputError(path, fault, fix)
  return found


def _read_positions(listing: Listing) -> dict[str, str]:
  """Patient in lower case -> 'prone' or 'supine', of the series taken."""
  path = _beside(listing, _PATH_FILE)
  if path is None:
    return {}
  text = read_text(path, "list of series", _MAX_BYTES, "take Path.csv.")
  found = {}
  for line in text.splitlines():
    patient, _, series = line.strip().partition("/")
    match = re.search("pron|supi", series.rpartition("/")[2], re.IGNORECASE)
    if match:
      prone = match[0].casefold() == "pron"
      found[patient.casefold()] = "prone" if prone else "supine"
  return found
