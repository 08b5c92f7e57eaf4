# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Readers of the layouts that archives of spinal CT come in, one a file.

A reader finds cases by names, side-cars and tables, and never reads a voxel.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from vf_jax.errors import ConfigError, InputError, warn_input
from vf_jax.multispine.case import Case
from vf_jax.multispine.phantom.marks import mark
from vf_jax.multispine.sources import (
  cohort,
  ctspine1k,
  nnunet,
  spineweb,
  totalsegmentator,
  verse,
)
from vf_jax.multispine.sources.cohort_entry import suggestion
from vf_jax.multispine.sources.listing import list_tree

_TREES = {
  "verse": verse,
  "ctspine1k": ctspine1k,
  "spineweb": spineweb,
  "totalsegmentator": totalsegmentator,
  "nnunet": nnunet,
}
COHORT = "cohort"
KINDS: tuple[str, ...] = (*_TREES, COHORT)
"""Layouts that are known."""


def find_cases(
  kind: str,
  path: str | os.PathLike[str],
  root: str | os.PathLike[str] | None = None,
) -> tuple[Case, ...]:
  """Finds the cases of an archive.

  Args:
    kind: one of `KINDS`.
    path: folder of the archive, any of its parts, or a cohort file.
    root: for a cohort only: what its paths are relative to.

  Returns:
    The cases, sorted by name; names are unique. Of scans of one name in
    several folders the first keeps it (with an official split before without,
    then by path), the others get their folder's name added.

  Raises:
    ConfigError: if the kind is unknown.
    InputError: if the archive holds no case, or a reader refuses it.
  """
  if kind not in KINDS:
    raise ConfigError(
      f"{kind}={os.fspath(path)}: there is no kind of archive {kind!r}. Fix: "
      f"{suggestion(kind, KINDS)}"
    )
  place = pathlib.Path(path).expanduser()
  if kind == COHORT:
    found = cohort.find(place, root)
  else:
    listing = list_tree(place)
    found = _TREES[kind].find(listing)
    found = _tell_apart(listing.root, found)
  if not found:
    raise InputError(
      place,
      f"holds no annotated scan in the layout {kind!r}.",
      "point at the folder that holds both images and annotations.",
    )
  return mark(sorted(found, key=lambda case: (case.name.casefold(), case.name)))


def recognise(path: str | os.PathLike[str]) -> str:
  """Recognises the layout of an archive by the names of its files.

  Args:
    path: folder of the archive, or a cohort file.

  Returns:
    One of `KINDS`. A folder that holds `cohort.yaml` is a cohort, whatever
    else is in it.

  Raises:
    InputError: if no layout or more than one fits; says how to name it.
  """
  place = pathlib.Path(path).expanduser()
  if place.is_file():
    if place.suffix.casefold() in (".yaml", ".yml"):
      return COHORT
    raise InputError(
      place,
      "is one file, no archive.",
      "give a folder, or describe single scans in a cohort file (.yaml).",
    )
  listing = list_tree(place)
  if any(listing.root / name in listing.files for name in cohort.FILE_NAMES):
    return COHORT
  kinds = [kind for kind, tree in _TREES.items() if tree.looks_like(listing)]
  if len(kinds) == 1:
    return kinds[0]
  if not listing.files:
    raise InputError(place, "is empty.", "unpack the archive into it.")
  if kinds:
    names = " or ".join(f"{kind}={place}" for kind in kinds)
    fault = f"looks like {' and like '.join(kinds)}."
    raise InputError(place, fault, f"say which: {names}.")
  raise InputError(
    place,
    "has none of the layouts that are known here.",
    f"write KIND={place}, KIND one of {', '.join(KINDS)}; or describe the "
    "scans in a cohort file (docs/cohort.example.yaml).",
  )


def _tell_apart(root: pathlib.Path, cases: Sequence[Case]) -> tuple[Case, ...]:
  """Gives names that are there twice the name of their folder."""
  ordered = sorted(cases, key=lambda c: (c.split is None, c.files))
  taken: set[str] = set()
  result = []
  for case in ordered:
    name = case.name
    if name.casefold() in taken:
      # A reader may have gone above the folder that was named.
      shared = os.path.commonpath([root, case.files[0].parent])
      parts = case.files[0].parent.relative_to(shared).parts
      words = [re.sub(r"[^\w.-]+", "-", part) for part in parts]
      while words and name.casefold() in taken:
        name = f"{name}_{words.pop(0)}"
      number = 2
      while name.casefold() in taken:
        name, number = f"{case.name}_{number}", number + 1
      note = f"a scan of the name {case.name} lies in another folder too."
      warn_input(case.files[0], f"{note} This one is called {name}.")
      case = dataclasses.replace(case, name=name, notes=(*case.notes, note))
    taken.add(name.casefold())
    result.append(case)
  return tuple(result)
