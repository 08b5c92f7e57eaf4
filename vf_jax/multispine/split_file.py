# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A split as a record and as a JSON file that can be committed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vf_jax.errors import InputError
from vf_jax.io.atomic import write_text
from vf_jax.io.text import read_text
from vf_jax.multispine.identity import CaseLike, Group, case_digests

SCHEMA = 1
PARTS = ("train", "validation", "test", "excluded")
_FORMAT = "vf_jax split"
_MAX_BYTES = 256 << 20
_FIX = "make it anew with `vf-jax split`."


@dataclasses.dataclass(frozen=True)
class Leak:
  """Cases of one patient in parts that must not share any.

  Attributes:
    cases: case -> the part it is in, or would be in officially.
    reasons: why they are one patient, in words.
    moved_to: the part all of them were put into; None if they were not.
  """

  cases: Mapping[str, str]
  reasons: tuple[str, ...]
  moved_to: str | None = None


@dataclasses.dataclass(frozen=True)
class Split:
  """Which case is used for what.

  Attributes:
    name: of the split.
    seed: of the hash.
    rule: how it was made, in words.
    parts: 'train', 'validation', 'test', 'excluded' -> cases, sorted.
    groups: groups of two and more cases.
    leaks: official parts that share patients, and where those went.
    domains: domain -> part -> number of cases.
    digests: case -> `identity.case_digests`; empty in older files.
  """

  name: str
  seed: int
  rule: str
  parts: Mapping[str, tuple[str, ...]]
  groups: tuple[Group, ...]
  leaks: tuple[Leak, ...]
  domains: Mapping[str, Mapping[str, int]]
  digests: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )

  def part_of(self, case: str) -> str | None:
    """Finds the part of a case.

    Args:
      case: its name.

    Returns:
      The part; None if the split does not know the case.
    """
    return next((p for p, cases in self.parts.items() if case in cases), None)


def write_split(path: str | os.PathLike[str], split: Split) -> None:
  """Writes a split; same split, same bytes.

  Args:
    path: JSON file.
    split: the split.

  Raises:
    InputError: the file cannot be written.
  """
  content = _content(split)
  content["sha256"] = _checksum(content)
  text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
  write_text(path, text + "\n")


def read_split(
  path: str | os.PathLike[str], records: Iterable[CaseLike] | None = None
) -> Split:
  """Reads a split and makes sure that it is the one that was written.

  Args:
    path: JSON file of `write_split`.
    records: cases of the store; None skips that check.

  Returns:
    The split.

  Raises:
    InputError: another format or schema, a wrong checksum, a case that is
      there twice, not in the store or another scan there, or a group in several
      parts.
  """
  text = read_text(path, "split file", _MAX_BYTES, _FIX)
  try:
    content = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(path, f"is not JSON: {error}.", _FIX) from error
  if not isinstance(content, dict) or content.get("format") != _FORMAT:
    raise InputError(path, "is no split of vf_jax.", _FIX)
  if content.get("schema") != SCHEMA:
    raise InputError(
      path,
      f"has schema {content.get('schema')}, this version reads {SCHEMA}.",
      _FIX,
    )
  if content.pop("sha256", None) != _checksum(content):
    raise InputError(
      path,
      "was changed after it was made: its checksum does not fit.",
      "take it from version control again, or " + _FIX,
    )
  try:
    split = _parse(content)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise InputError(path, f"is malformed ({error!r}).", _FIX) from error
  _check(path, split)
  if records is not None:
    _check_cases(path, split, {record.case: record for record in records})
  return split


def _content(split: Split) -> dict[str, Any]:
  return {"format": _FORMAT, "schema": SCHEMA} | json.loads(
    json.dumps(dataclasses.asdict(split))
  )


def _checksum(content: Mapping[str, Any]) -> str:
  text = json.dumps(
    content, sort_keys=True, separators=(",", ":"), ensure_ascii=True
  )
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parse(content: Mapping[str, Any]) -> Split:
  if set(content["parts"]) != set(PARTS):
    raise ValueError(f"parts {sorted(content['parts'])}")
  return Split(
    name=str(content["name"]),
    seed=int(content["seed"]),
    rule=str(content["rule"]),
    parts={part: tuple(content["parts"][part]) for part in PARTS},
    groups=tuple(
      Group(tuple(row["cases"]), tuple(row["reasons"]))
      for row in content["groups"]
    ),
    leaks=tuple(
      Leak(dict(row["cases"]), tuple(row["reasons"]), row["moved_to"])
      for row in content["leaks"]
    ),
    domains={key: dict(n) for key, n in content["domains"].items()},
    digests={k: tuple(d) for k, d in content.get("digests", {}).items()},
  )


def _check(path: str | os.PathLike[str], split: Split) -> None:
  where: dict[str, str] = {}
  for part, members in split.parts.items():
    for case in members:
      if case in where:
        fault = f"{case} is in {where[case]} and in {part}."
        raise InputError(path, fault, _FIX)
      where[case] = part
  for group in split.groups:
    parts = {where.get(case, "excluded") for case in group.cases}
    if len(parts - {"excluded"}) > 1:
      raise InputError(
        path,
        f"{', '.join(group.cases[:5])} ({group.reasons[0]}) are in"
        f" {' and '.join(sorted(parts))}.",
        _FIX,
      )


def _check_cases(
  path: str | os.PathLike[str], split: Split, records: Mapping[str, CaseLike]
) -> None:
  """Names are given anew with each `prepare`: they must mean the same cases."""
  listed = {case for cases in split.parts.values() for case in cases}
  if lost := sorted(listed - records.keys()):
    raise InputError(
      path,
      f"names cases that are not in the store: {_shown(lost)}.",
      "prepare them, or make a split of this store.",
    )
  changed = [
    case
    for case, digests in sorted(split.digests.items())
    if case in records and not {*digests} & {*case_digests(records[case])}
  ]
  if changed:
    raise InputError(
      path,
      f"was made for other scans than the store has under these names: "
      f"{_shown(changed)}.",
      "prepare the archives in the order of then, or make a split of this "
      "store.",
    )


def _shown(cases: Sequence[str]) -> str:
  more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
  return f"{', '.join(cases[:5])}{more}"
