# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which cases the paths mean that people give: files, folders, lists."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

from vf_jax.errors import ConfigError, InputError
from vf_jax.io.ct import case_name
from vf_jax.io.dicom_files import walk
from vf_jax.io.dicom_studies import examinations, find_study
from vf_jax.io.results import read_run
from vf_jax.io.text import read_text

Say = Callable[[str], None]

_VOLUME = re.compile(r"\.(nii|nii\.gz|mha|mhd|zip)$", re.IGNORECASE)
# Names of masks in VerSe, TotalSegmentator, nnU-Net and our own results.
_MASK = re.compile(
  r"(^|[_-])(seg|dseg|totalseg|segmentation|msk|mask|label)s?[._-]",
  re.IGNORECASE,
)
_MASK_FOLDERS = {
  *("derivatives", "labelstr", "labelsts", "labels", "masks"),
  *("segmentations",),
}
_LIST_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class CaseInput:
  """One CT to be predicted.

  Attributes:
    path: a file, or the folder of a DICOM examination.
    name: of the case, and of its folder in the results.
    refusal: why a folder gave no case, if it stands for itself here.
  """

  path: pathlib.Path
  name: str
  refusal: InputError | None = None


def read_list(path: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Reads a text file of paths.

  Args:
    path: one path a line, UTF-8; empty lines and those that begin with # do
      not count. Relative paths start at the folder of the list.

  Returns:
    The paths, in order.

  Raises:
    ConfigError: if it is empty; `InputError` if it cannot be read.
  """
  text = read_text(path, "list of paths", _LIST_BYTES, "write one path a line.")
  lines = [line.strip() for line in text.splitlines()]
  folder = pathlib.Path(path).parent
  found = [folder / line for line in lines if line and not line.startswith("#")]
  if not found:
    raise ConfigError(f"{path}: lists nothing. Fix: write one path a line.")
  return found


def find_cases(
  paths: Iterable[str | os.PathLike[str]],
  one_each: bool = False,
  say: Say = lambda text: None,
) -> list[CaseInput]:
  """Finds the cases.

  A folder of DICOM files of one examination is one case. Any other folder is
  searched: each NIfTI, MetaImage and zip file in it is a case, masks by their
  name and results of vf_jax excepted, and so is the folder of each DICOM
  examination. Links to folders are followed, once each and not upwards.

  Args:
    paths: files and folders.
    one_each: take every folder as one case, whatever is in it.
    say: is told how many files were passed over as masks.

  Returns:
    The cases without those named twice; the order and the names depend on the
    paths alone. Where cases have the same name (ct.nii.gz), the folders above,
    below the one that holds all paths, are part of it. Of several paths a
    folder that holds no CT, or one that cannot be read, is a case to be
    refused: it must not cost the others.

  Raises:
    InputError: if the only path is such a folder.
    ConfigError: if two cases have the same name.
  """
  cases: dict[str, CaseInput] = {}
  given = [pathlib.Path(path) for path in paths]
  for path in given:
    found = [CaseInput(path, case_name(path))]
    # Unlike the method, it takes a name that no disk can hold.
    if os.path.isdir(path) and not one_each:
      try:
        found = _search(path, say)
      except InputError as error:
        if len(given) == 1:
          raise
        found = [CaseInput(path, case_name(path), error)]
    for case in found:
      cases.setdefault(os.path.abspath(case.path), case)
  named = _tell_apart(list(cases.values()), given)
  _check_names(named)
  return named


def _search(top: pathlib.Path, say: Say) -> list[CaseInput]:
  """The cases below a folder, sorted."""
  volumes: list[pathlib.Path] = []
  passed: list[pathlib.Path] = []
  studies: dict[pathlib.Path, str] = {}
  for root, names in () if read_run(top) else walk(top, _refuse, links=True):
    folder = pathlib.Path(root)
    above = folder.relative_to(top).parts
    masks = any(part.lower() in _MASK_FOLDERS for part in above)
    inner = {name for name in names if _VOLUME.search(name)}
    for name in sorted(inner):
      kept = passed if masks or _MASK.search(name) else volumes
      kept.append(folder / name)
    study = find_study(folder, [n for n in names if n not in inner])
    if study is not None:
      studies[folder] = study
  if passed:
    say(f"{top}: {len(passed)} files passed over as masks, as {passed[0].name}")
  folders = examinations(studies, {path.parent for path in volumes}, top)
  places = sorted([*volumes, *folders])
  if not places:
    raise InputError(
      top,
      "holds no CT.",
      "give NIfTI or MetaImage files, DICOM folders or their zip archives.",
    )
  return _tell_apart([CaseInput(p, case_name(p)) for p in places], [top])


def _tell_apart(
  cases: list[CaseInput], given: Sequence[pathlib.Path]
) -> list[CaseInput]:
  """Adds to equal names the folders below the one that holds all inputs."""
  counts = collections.Counter(case.name.casefold() for case in cases)
  if len(counts) == len(cases):
    return cases
  top = os.path.commonpath([os.path.abspath(path) for path in given])
  return [
    case
    if counts[case.name.casefold()] == 1
    else dataclasses.replace(case, name=_long_name(case.path, top))
    for case in cases
  ]


def _long_name(place: pathlib.Path, top: str) -> str:
  parts = pathlib.Path(os.path.abspath(place)).relative_to(top).parts
  name = "_".join((*parts[:-1], case_name(place))).removesuffix("_ct")
  return name.lstrip(".") or "case"


def _refuse(error: OSError) -> None:
  if isinstance(error, FileNotFoundError):
    return  # another run takes its old result away
  raise InputError(
    error.filename,
    f"cannot be read: {(error.strerror or '').lower()}.",
    "change its permissions, or give the folders beside it.",
  ) from error


def _check_names(cases: Sequence[CaseInput]) -> None:
  """Makes sure that no two inputs would write the same folder."""
  seen: dict[str, CaseInput] = {}
  for case in cases:
    other = seen.setdefault(case.name.casefold(), case)
    if other is not case:
      raise ConfigError(
        f"{case.path}: gives the case name '{case.name}', as {other.path} "
        "does. Fix: rename one, or predict them into different --out folders."
      )


def take_shard(
  cases: Sequence[CaseInput], shard: tuple[int, int]
) -> list[CaseInput]:
  """Takes the share of one of several runs; together they take every case.

  Args:
    cases: of `find_cases`, the same in all runs.
    shard: number of the run, from 1, and how many there are.

  Returns:
    Every n-th case, so that a slow stretch of the list is shared.
  """
  number, count = shard
  return list(cases[number - 1 :: count])
