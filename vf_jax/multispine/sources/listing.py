# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What lies in the folder of an archive: names only, in a fixed order."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from vf_jax.errors import InputError, warn_input
from vf_jax.io.text import read_text
from vf_jax.multispine.case import Split

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha")
"""In the order of preference if one scan lies there twice."""

_JUNK = ("__macosx", "@eadir", "thumbs.db", "lost+found")
_MAX_JSON = 16 << 20
_SHOWN = 5
_SPLIT_WORD = r"(training|train|validation|valid|val|testing|test)(?:[-_ (].*)?"
_SPLIT = re.compile(
  rf"(?:(?:dataset)?[-_ ]?(?:verse(?:20)?\d\d|0?[1-3])[-_ ]?)?{_SPLIT_WORD}",
  re.IGNORECASE,
)
_SPLIT_ROOT = re.compile(
  rf"(?:dataset)?[-_ ]?(?:verse(?:20)?\d\d|0?[1-3])[-_ ]?{_SPLIT_WORD}",
  re.IGNORECASE,
)
_SPLITS: dict[str, Split] = {
  "training": "train",
  "train": "train",
  "validation": "validation",
  "valid": "validation",
  "val": "validation",
  "testing": "test",
  "test": "test",
}


@dataclasses.dataclass(frozen=True)
class Listing:
  """All files and folders below a folder, without hidden ones and junk.

  Attributes:
    root: the folder.
    files: files below it, sorted; symbolic links are followed, and listed
      even if they lead nowhere, so that a reader can name them.
    folders: folders below it, sorted.
  """

  root: pathlib.Path
  files: tuple[pathlib.Path, ...]
  folders: tuple[pathlib.Path, ...]

  @functools.cached_property
  def volumes(self) -> tuple[pathlib.Path, ...]:
    """Image files; of `x.nii.gz` and `x.nii` side by side only the first."""
    best: dict[tuple[pathlib.Path, str], tuple[int, pathlib.Path]] = {}
    for path in self.files:
      stem, suffix = split_suffix(path.name)
      if suffix:
        rank = VOLUME_SUFFIXES.index(suffix)
        key = (path.parent, stem.casefold())
        if key not in best or rank < best[key][0]:
          best[key] = (rank, path)
    return tuple(sorted(path for _, path in best.values()))

  def parts(self, path: pathlib.Path) -> tuple[str, ...]:
    """Names of the folders between the root and a file below it."""
    return path.relative_to(self.root).parts[:-1]


def list_tree(root: str | os.PathLike[str]) -> Listing:
  """Lists a folder.

  Args:
    root: the folder.

  Returns:
    What is below it. A folder that several links lead to is listed once.

  Raises:
    InputError: if it is no folder or cannot be read.
  """
  top = pathlib.Path(root).expanduser()
  if not top.is_dir():
    fault = "is no folder." if top.exists() else "does not exist."
    fix = "name the folder that the archive was unpacked into."
    raise InputError(top, fault, fix)
  top = pathlib.Path(os.path.abspath(top))
  seen = {os.path.realpath(top)}
  files: list[pathlib.Path] = []
  folders: list[pathlib.Path] = []

  def refuse(error: OSError) -> None:
    raise InputError(
      error.filename or top, f"cannot be read ({error.strerror})."
    ) from error

  for place, below, names in os.walk(top, onerror=refuse, followlinks=True):
    here = pathlib.Path(place)
    kept = []
    for name in sorted(filter(_is_wanted, below)):
      real = os.path.realpath(here / name)
      if real not in seen:
        seen.add(real)
        kept.append(name)
    below[:] = kept
    folders += [here / name for name in kept]
    files += [here / name for name in names if _is_wanted(name)]
  return Listing(top, tuple(sorted(files)), tuple(sorted(folders)))


def split_suffix(name: str) -> tuple[str, str]:
  """Cuts the ending of an image file off its name, whatever its case.

  Args:
    name: file name.

  Returns:
    Stem and ending in lower case; the whole name and '' if it is no image.
  """
  low = name.lower()
  for suffix in VOLUME_SUFFIXES:
    if low.endswith(suffix) and len(name) > len(suffix):
      return name[: -len(suffix)], suffix
  return name, ""


def folder_split(parts: Iterable[str], root: str = "") -> Split | None:
  """Reads the official split from names of folders.

  Args:
    parts: names of folders inside the archive, from the outermost in; the
      innermost that says it counts.
    root: name of the archive's folder. Its user may have called it 'test', so
      it counts only if written as the archives do ('01_training',
      'dataset-verse19test').

  Returns:
    The split; None if no name is one of a split.
  """
  for part in reversed(tuple(parts)):
    if match := _SPLIT.fullmatch(part):
      return _SPLITS[match[1].casefold()]
  match = _SPLIT_ROOT.fullmatch(root)
  return _SPLITS[match[1].casefold()] if match else None


def read_json(path: pathlib.Path, kind: str) -> Any:
  """Reads a JSON side-car.

  Args:
    path: the file.
    kind: what it should be, for the errors.

  Returns:
    Its content.

  Raises:
    InputError: if it cannot be read or is not JSON.
  """
  text = read_text(path, kind, _MAX_JSON, f"give a {kind}.")
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(path, f"is no JSON ({error}).") from error


def warn_left_out(
  root: pathlib.Path, names: Iterable[str], reason: str
) -> None:
  """Warns once of scans that make no case.

  Args:
    root: folder of the archive, or the file that describes it.
    names: what is left out; nothing happens if there is none.
    reason: why, to follow "left out: ".
  """
  found = sorted(names)
  if found:
    shown = ", ".join(found[:_SHOWN])
    if len(found) > _SHOWN:
      shown += f" and {len(found) - _SHOWN} more"
    warn_input(root, f"{len(found)} left out: {reason} ({shown}).", 4)


def _is_wanted(name: str) -> bool:
  return not name.startswith(".") and name.casefold() not in _JUNK
