# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A cohort of one's own, described by a YAML file.

    root: /data/spine          # default: the folder of this file
    defaults: {domain: clinic-a, licence: internal}
    cases:
      - {case: a-1, subject: a, image: ct/a1.nii.gz, mask: seg/a1.nii.gz}
      - image: ct/{subject}_{series}     # one entry for every such folder
        mask: seg/{subject}_{series}.nii.gz

docs/cohort.example.yaml shows every key. An entry without a name of its own
(`case` absent or with placeholders) is searched on disk.

NOTE: all values are read as text and turned into numbers where a key wants
one, so that `case: 001` stays 001 and `domain: no` is no truth value.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from vf_jax.errors import InputError
from vf_jax.io.text import read_text
from vf_jax.multispine.case import Case
from vf_jax.multispine.sources.cohort_entry import (
  DOCS,
  KEYS,
  default_subject,
  is_annotated,
  make_case,
  said_nothing,
  suggestion,
)
from vf_jax.multispine.sources.listing import (
  Listing,
  list_tree,
  split_suffix,
  warn_left_out,
)
from vf_jax.multispine.sources.patterns import (
  PLACEHOLDERS,
  fill,
  placeholders,
  search,
)

FILE_NAMES = ("cohort.yaml", "cohort.yml")
_TOP = ("root", "defaults", "cases")
_MAX_BYTES = 16 << 20
_MAX_SEARCH = 100_000
_VARIABLE = re.compile(r"\$\{(\w+)\}")
Entry = dict[str, Any]


def find(
  path: pathlib.Path, root: str | os.PathLike[str] | None = None
) -> tuple[Case, ...]:
  """Finds the cases that a cohort file describes.

  Args:
    path: the YAML file, or a folder that holds `cohort.yaml`.
    root: what paths in it are relative to, instead of its own `root`.

  Returns:
    The cases, in the order of the file; those of a search sorted by name.
    Images without an annotation are left out with a warning.

  Raises:
    InputError: for unknown keys, malformed values, names that are there twice
      and files that do not exist; says which case and key.
  """
  file = _locate(path)
  content = _read(file)
  _refuse_unknown(file, "the file", content, _TOP)
  folder = _root(file, content, root)
  defaults = _mapping(file, "defaults", content.get("defaults", {}))
  _refuse_unknown(file, "defaults", defaults, KEYS)
  entries = content.get("cases")
  if not isinstance(entries, list) or not entries:
    raise InputError(file, "has no list of cases.", DOCS)
  listing: Listing | None = None
  cases: list[Case] = []
  for number, given in enumerate(entries, start=1):
    where = f"case {number}"
    given = _mapping(file, where, given)
    _refuse_unknown(file, where, given, KEYS)
    entry = {
      k: v for k, v in {**defaults, **given}.items() if not said_nothing(v)
    }
    name = entry.get("case", "")
    if isinstance(name, str) and name and not placeholders(name):
      own = {k: entry[k] for k in PLACEHOLDERS if isinstance(entry.get(k), str)}
      cases.append(make_case(file, folder, name, _filled(entry, own)))
      continue
    listing = listing or list_tree(folder)
    cases += _searched(file, where, listing, entry)
  _refuse_twins(file, cases)
  cases = _joined(cases)
  left_out = [case.name for case in cases if not is_annotated(case)]
  warn_left_out(file, left_out, "no annotation")
  return tuple(case for case in cases if is_annotated(case))


def _locate(path: pathlib.Path) -> pathlib.Path:
  if not path.is_dir():
    return path
  for name in FILE_NAMES:
    if (path / name).is_file():
      return path / name
  raise InputError(path, f"holds no {FILE_NAMES[0]}.", DOCS)


class _Loader(yaml.BaseLoader):
  """Reads every value as text; refuses keys that are there twice and aliases.

  Aliases can make a small file expand without end; `defaults` does their job.
  """

  def compose_node(self, parent: Any, index: Any) -> yaml.Node:
    if self.check_event(yaml.AliasEvent):
      event = self.peek_event()
      raise yaml.composer.ComposerError(
        None, None, "aliases (*name) are not read", event.start_mark
      )
    return super().compose_node(parent, index)

  def construct_mapping(
    self, node: yaml.MappingNode, deep: bool = False
  ) -> dict[Hashable, Any]:
    keys = [self.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
      if isinstance(key, str) and keys.count(key) > 1:
        raise yaml.constructor.ConstructorError(
          None, None, f"the key {key!r} is there twice", node.start_mark
        )
    return super().construct_mapping(node, deep=True)


def _read(file: pathlib.Path) -> Entry:
  text = read_text(file, "cohort file", _MAX_BYTES, DOCS)
  try:
    # _Loader makes lists, mappings and text only, less than safe_load does.
    content = yaml.load(text, Loader=_Loader)
  except (yaml.YAMLError, RecursionError) as error:
    said = " ".join(str(error).split())
    raise InputError(file, f"is no YAML: {said}.", DOCS) from error
  if not isinstance(content, dict):
    raise InputError(file, "is no mapping with `cases`.", DOCS)
  return content


def _root(
  file: pathlib.Path, content: Entry, root: str | os.PathLike[str] | None
) -> pathlib.Path:
  if root is None:
    text = content.get("root", ".")
    if not isinstance(text, str):
      raise InputError(file, "root is no path.", DOCS)
    for name in _VARIABLE.findall(text):
      if name not in os.environ:
        fault = f"root names the variable {name}, which is not set."
        raise InputError(file, fault, f"export {name}=FOLDER first.")
    text = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    root = file.parent / pathlib.Path(text or ".").expanduser()
  folder = pathlib.Path(os.path.abspath(root))
  if not folder.is_dir():
    raise InputError(file, f"root {folder} is no folder.", "mend `root`.")
  return folder


def _refuse_unknown(
  file: pathlib.Path, where: str, entry: Mapping[str, Any], keys: Iterable[str]
) -> None:
  known = list(keys)
  for key in entry:
    if key not in known:
      fault = f"{where}: there is no key {key!r}."
      raise InputError(file, fault, suggestion(str(key), known))


def _mapping(file: pathlib.Path, where: str, value: Any) -> Entry:
  if isinstance(value, dict):
    return dict(value)
  if said_nothing(value) and where == "defaults":
    return {}
  raise InputError(file, f"{where}: is no mapping of keys.", DOCS)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
  if isinstance(value, str):
    return fill(value, values)
  if isinstance(value, list):
    return [_filled(item, values) for item in value]
  if isinstance(value, dict):
    return {key: _filled(item, values) for key, item in value.items()}
  return value


def _searched(
  file: pathlib.Path, where: str, listing: Listing, entry: Entry
) -> list[Case]:
  """One case for every path that the template of image or mask describes."""
  template = entry.get("image", entry.get("mask"))
  if not isinstance(template, str):
    raise InputError(
      file,
      f"{where}: has no name, and no image or mask to search for.",
      "write `case`, or placeholders in `image` or `mask`.",
    )
  names = placeholders(template)
  strange = [name for name in names if name not in PLACEHOLDERS]
  if strange or not names:
    fault = f"{where}: {template!r} "
    fault += f"has {{{strange[0]}}}." if strange else "names no placeholder."
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    raise InputError(file, fault, f"name the case, or use {known}.")
  # A template without an ending means a folder of DICOM files.
  _, suffix = split_suffix(template)
  paths = listing.files if suffix else listing.folders
  found = search(template, listing.root, paths)
  if not found:
    kind = "file" if suffix else "folder"
    raise InputError(
      file, f"{where}: no {kind} below {listing.root} is {template!r}."
    )
  if len(found) > _MAX_SEARCH:
    raise InputError(file, f"{where}: {template!r} fits {len(found)} paths.")
  searched_key = "image" if "image" in entry else "mask"
  cases = []
  for path, values in found:
    name = fill(entry.get("case") or _default_name(names), values)
    values.setdefault("case", name)
    one = _filled(entry, values) | {
      searched_key: path.relative_to(listing.root).as_posix()
    }
    for key in ("subject", "series"):
      if key in values:
        one.setdefault(key, values[key])
    cases.append(make_case(file, listing.root, name, one))
  return sorted(cases, key=lambda case: case.name)


def _default_name(names: tuple[str, ...]) -> str:
  if "case" in names:
    return "{case}"
  return "-".join(f"{{{name}}}" for name in names)


def _joined(cases: list[Case]) -> list[Case]:
  """Gives a case without a subject the one that others name after it."""
  named = {case.subject for case in cases}
  return [
    dataclasses.replace(case, subject=case.name)
    if case.name in named
    and case.subject == default_subject(case.domain, case.name)
    else case
    for case in cases
  ]


def _refuse_twins(file: pathlib.Path, cases: Iterable[Case]) -> None:
  seen: set[str] = set()
  for case in cases:
    if case.name.casefold() in seen:
      raise InputError(
        file,
        f"describes the case {case.name!r} twice.",
        "give each case a name of its own, e.g. `case: '{subject}-{series}'`.",
      )
    seen.add(case.name.casefold())
