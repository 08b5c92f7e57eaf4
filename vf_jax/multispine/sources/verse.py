# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VerSe'19 and VerSe'20, subject trees and challenge trees.

Files belong together by name, wherever they lie: images and annotations may be
in one folder, in `rawdata` and `derivatives`, or in two trees. A mask without
its image is a case; an image or a mask is needed, points alone are none.

VerSe does not annotate vertebrae that the field of view cuts, nor the sacrum.
Points of the subject trees lie in the vertebral body, those of the 2020
challenge are centres of mass of whole vertebrae; see `io.centroids`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable

from vf_jax.errors import InputError, warn_input
from vf_jax.multispine.case import (
  Case,
  CentreKind,
  CentroidFile,
  CentroidFormat,
  MaskFile,
)
from vf_jax.multispine.sources.listing import (
  Listing,
  folder_split,
  list_tree,
  read_json,
  warn_left_out,
)
from vf_jax.multispine.sources.verse_names import Role, VerseName, parse_name

_LICENCE = (
  "CC BY-SA 4.0 (VerSe; Sekuboyina et al. 2021, Loeffler et al. 2020, "
  "Liebl et al. 2021)"
)
_GL_LICENCE = (
  "CC BY-SA 4.0 as VerSe states; CC BY-NC-ND for images of sub-gl* as a "
  "redistribution (VerSe-Lite) states: unsettled"
)
_GL_NOTE = (
  "the licence of the image is in doubt (see licence); ids 'gl' are said to "
  "come from the collection of Glocker (SpineWeb 3): never train on one and "
  "test on the other."
)
_ORIGINS = {
  "19": "VerSe'19, 10.17605/OSF.IO/NQJYW",
  "20": "VerSe'20, 10.17605/OSF.IO/T98FZ",
}
_DOIS = {"NQJYW": "19", "T98FZ": "20"}
_EDITION = re.compile(r"verse[-_ ]?(?:20)?(19|20)(?!\d)", re.IGNORECASE)
_FACTS = {
  "manufacturer": "manufacturer",
  "manufacturermodelname": "model",
  "kvp": "kvp",
  "slicethickness": "slice_thickness",
  "convolutionkernel": "kernel",
}
_SIDES = ("rawdata", "derivatives")
_PREFERRED = ("subreg", "vb", "vert", "", "iso")


@dataclasses.dataclass(frozen=True)
class _Found:
  path: pathlib.Path
  parts: tuple[str, ...]  # folders, without subject and rawdata/derivatives
  name: VerseName


_Group = list[_Found]
# What two sides of a scan share, the widest first.
_SHARED: tuple[Callable[[tuple[str, ...]], object], ...] = (
  lambda parts: None,
  folder_split,
  lambda parts: parts[:-1],
)


def looks_like(listing: Listing) -> bool:
  """Whether names below a folder are VerSe's.

  Args:
    listing: of the folder.

  Returns:
    True if there are masks or points of VerSe, or its scans in `rawdata`.
  """
  names = filter(None, (parse_name(path.name) for path in listing.files))
  if any(
    (name.role == "mask" and (name.detail == "vert" or name.of_verse))
    or (name.role == "centroids" and name.of_verse)
    for name in names
  ):
    return True
  return any(
    part.casefold().startswith(_SIDES[0])
    for path in listing.files
    if (name := parse_name(path.name)) and name.of_verse
    for part in (*listing.root.parts[-2:], *listing.parts(path))
  )


def find(listing: Listing) -> tuple[Case, ...]:
  """Finds the cases of a VerSe tree.

  Args:
    listing: of a folder that holds any part of it; of `rawdata`, of
      `derivatives` or of one subject in them the folder beside is read too.

  Returns:
    The cases.

  Raises:
    InputError: if two masks or two images go by one name.
  """
  listing, scan = _widen(listing)
  found = []
  tables = (p for p in listing.files if p.suffix.casefold() == ".json")
  for path in (*listing.volumes, *tables):
    name = parse_name(path.name)
    if name is not None and (scan is None or name.scan == scan):
      found.append(_Found(path, _place(listing.parts(path), name), name))
  cases, left_out = [], []
  for group, renamed in _group(found):
    roles = {one.name.role for one in group}
    if not roles & {"mask", "centroids"} or not roles & {"mask", "image"}:
      if roles != {"facts"}:
        left_out += [one.path.name for one in group if one.name.role != "facts"]
      continue
    cases.append(_case(listing, group, renamed))
  warn_left_out(listing.root, left_out, "no annotation, or points alone")
  return tuple(cases)


def _widen(listing: Listing) -> tuple[Listing, str | None]:
  """The dataset's folder if one side of it or one subject was named."""
  root, scan = listing.root, None
  if root.parent.name.casefold().startswith(_SIDES) and (
    name := parse_name(f"{root.name}.nii.gz")
  ):
    root, scan = root.parent, name.scan
  if not root.name.casefold().startswith(_SIDES):
    return listing, None
  return list_tree(root.parent), scan


def _place(parts: tuple[str, ...], name: VerseName) -> tuple[str, ...]:
  kept = [p for p in parts if not p.casefold().startswith(_SIDES)]
  while kept and kept[-1].casefold().removeprefix("sub-") == name.scan:
    kept.pop()
  return tuple(kept)


def _group(found: Iterable[_Found]) -> list[tuple[_Group, bool]]:
  """Puts files of one scan together; True if their names differ a little."""
  scans: dict[str, dict[tuple[str, ...], dict[tuple[str, ...], _Group]]] = {}
  for one in found:
    entities = scans.setdefault(one.name.scan, {})
    places = entities.setdefault(one.name.entities, {})
    places.setdefault(one.parts, []).append(one)
  result = []
  for entities in scans.values():
    whole: list[_Group] = []
    partial: list[tuple[frozenset[str], _Group]] = []
    for key, places in entities.items():
      for group in _join_places(places):
        if {"image", "mask", "centroids"} <= {g.name.role for g in group}:
          whole.append(group)
        else:
          partial.append((frozenset(key), group))
    result += [(group, False) for group in whole]
    result += _join_names(partial)
  return result


def _join_places(places: dict[tuple[str, ...], _Group]) -> list[_Group]:
  """Joins the two sides of a scan that lie in different top folders."""
  for key in _SHARED:
    buckets: dict[object, list[_Group]] = {}
    for parts, group in places.items():
      buckets.setdefault(key(parts), []).append(group)
    if all(_disjoint(groups) for groups in buckets.values()):
      return [_joined(groups) for groups in buckets.values()]
  return list(places.values())


def _join_names(
  partial: list[tuple[frozenset[str], _Group]],
) -> list[tuple[_Group, bool]]:
  """Joins files of which one name says less than the other, if unambiguous."""
  nested = all(
    a <= b or b <= a
    for i, (a, _) in enumerate(partial)
    for b, _ in partial[i + 1 :]
  )
  groups = [group for _, group in partial]
  if len(groups) > 1 and nested and _disjoint(groups):
    return [(_joined(groups), True)]
  return [(group, False) for group in groups]


def _joined(groups: list[_Group]) -> _Group:
  return [one for group in groups for one in group]


def _disjoint(groups: list[_Group]) -> bool:
  roles = [role for g in groups for role in {one.name.role for one in g}]
  return len(roles) == len(set(roles))


def _case(listing: Listing, group: _Group, renamed: bool) -> Case:
  notes = []
  image, mask = _only(group, "image"), _only(group, "mask")
  parts = _only(group, "subregions")
  first = image or mask
  assert first is not None
  name = first.name
  if renamed:
    files = ", ".join(sorted(one.path.name for one in group))
    notes.append(f"taken for one scan though the names differ: {files}.")
  points = sorted(
    (one for one in group if one.name.role == "centroids"),
    key=lambda one: (_rank(one.name.detail), one.path),
  )
  notes += [f"{one.path.name} is there too and not used." for one in points[1:]]
  table = _centroids(points[0]) if points else None
  facts = _only(group, "facts")
  scanner, doi = _facts(facts.path) if facts is not None else ({}, None)
  edition = doi or _edition(listing, group, table)
  split = folder_split(listing.parts(first.path), listing.root.name)
  challenge = all(one.name.challenge for one in group if one is not facts)
  gl = name.scan.startswith("gl")
  if gl:
    notes.append(_GL_NOTE)
  if challenge and name.scan == "verse201" and edition != "20":
    notes.append(
      "image and mask of verse201 differ in orientation in the 2019 release."
    )
  if not name.of_verse:
    notes.append("in VerSe's format, not of VerSe: who drew it is not known.")
  prefix = f"miccai{edition or ''}-" if challenge and name.of_verse else ""
  return Case(
    name=prefix + name.name,
    source="verse",
    domain="verse" if name.of_verse else "verse-format",
    subject=name.subject,
    series=name.series,
    licence=(
      "unknown" if not name.of_verse else _GL_LICENCE if gl else _LICENCE
    ),
    image=image.path if image else None,
    mask=MaskFile(mask.path) if mask else None,
    subregions=parts.path if parts else None,
    centroids=table,
    annotates=frozenset({"masks", "levels"} if mask else {"levels"}),
    mask_kind="expert" if mask else "none",
    split=split,
    scanner=scanner,
    origin=(
      _ORIGINS.get(edition or "", "VerSe")
      if name.of_verse
      else "a tree in VerSe's format"
    ),
    seed=int("".join(filter(str.isdigit, name.scan))[:9] or 0),
    notes=tuple(notes),
  )


def _only(group: _Group, role: Role) -> _Found | None:
  found = sorted(
    (one for one in group if one.name.role == role), key=lambda one: one.path
  )
  if len(found) > 1 and role != "facts":
    others = ", ".join(str(one.path) for one in found[1:])
    raise InputError(
      found[0].path,
      f"is not the only {role} of its name: {others}.",
      "keep one of them, or point at a folder that holds only one.",
    )
  return found[0] if found else None


def _rank(detail: str) -> int:
  return _PREFERRED.index(detail) if detail in _PREFERRED else len(_PREFERRED)


def _centroids(found: _Found) -> CentroidFile:
  """A direction item says the voxel frame, whatever the file is called."""
  frame: CentroidFormat
  try:
    content = read_json(found.path, "centroid file")
  except InputError:
    content = None  # its reader says why when the case is loaded
  head = content[0] if isinstance(content, list) and content else None
  if isinstance(head, dict) and "direction" in head:
    frame = "voxel"
  elif found.name.detail == "iso":
    frame = "iso"
  else:
    frame = "iso19" if found.name.challenge else "voxel"
  # Files in the voxel frame may say their kind themselves.
  kinds: dict[str, CentreKind] = {"iso": "mask", "iso19": "body"}
  return CentroidFile(found.path, frame, kinds.get(frame))


def _facts(path: pathlib.Path) -> tuple[dict[str, str], str | None]:
  """Scanner, and edition by the DOI, of a `_ct.json`."""
  try:
    content = read_json(path, "scanner side-car")
  except InputError as error:
    warn_input(path, f"{error.fault} No scanner facts are known.")
    return {}, None
  if not isinstance(content, dict):
    return {}, None
  found = {
    _FACTS[key.casefold()]: str(value)
    for key, value in content.items()
    if key.casefold() in _FACTS and isinstance(value, str | int | float)
  }
  data_set = str(content.get("dataset", "")).upper()
  editions = [edition for doi, edition in _DOIS.items() if doi in data_set]
  return found, editions[0] if editions else None


def _edition(
  listing: Listing, group: _Group, table: CentroidFile | None
) -> str | None:
  if table is not None and table.format in ("iso", "iso19"):
    return "20" if table.format == "iso" else "19"
  folders = (listing.root.name, *listing.parts(group[0].path))
  for part in reversed(folders):
    if match := _EDITION.search(part):
      return match[1]
  if any(entity.startswith("ct-") for entity in group[0].name.entities):
    return "20"
  return None
