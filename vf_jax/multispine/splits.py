# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Splits that no patient crosses, in a file to be committed.

A group of cases (see `identity`) goes to its part by a hash of the seed and
its patient, so the number of cases moves none. A case added later moves others
only if it joins their group (it links two, gives the patient a name that sorts
before the old one, or an official part), or is the first official validation
case of its source. The price is that parts of small domains differ from their
share by chance; the file says the counts.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from vf_jax.errors import ConfigError, InputError
from vf_jax.multispine.identity import CaseLike, case_digests, group_cases
from vf_jax.multispine.split_file import (
  PARTS,
  Leak,
  Split,
  read_split,
  write_split,
)
from vf_jax.multispine.store import Store

__all__ = [
  "Leak",
  "Split",
  "cross_validation_fold",
  "find_leaks",
  "leave_one_domain_out",
  "make_split",
  "read_split",
  "split_store",
  "write_split",
]

_STRICT = ("excluded", "test", "validation", "train")
_OFFICIAL: Mapping[str, str] = MappingProxyType(
  {
    "train": "train",
    "validation": "validation",
    "test": "test",
    "test_public": "test",
    "test_private": "test",
  }
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def split_store(
  store: str | os.PathLike[str],
  out: str | os.PathLike[str],
  seed: int = 0,
  fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
  *,
  leave_out: str | None = None,
  fold: tuple[int, int] | None = None,
) -> Split:
  """Splits a store in one of three ways and writes the file.

  Args:
    store: prepared cases.
    out: the file; a split by fractions has its name.
    seed: another seed gives other parts.
    fractions: of training, validation and test, see `make_split`.
    leave_out: a domain, see `leave_one_domain_out`; goes before `fractions`.
    fold: (I, N), see `cross_validation_fold`; goes before `fractions`.

  Returns:
    The split.

  Raises:
    InputError: for an unreadable store, no cases, or a file that cannot be
      written.
    ConfigError: fractions, a domain or a fold that make no split.
  """
  records = Store(store).records
  if leave_out:
    split = leave_one_domain_out(records, leave_out, seed)
  elif fold:
    split = cross_validation_fold(records, fold, seed)
  else:
    name = pathlib.Path(out).stem
    split = make_split(records, name, seed, dict(zip(PARTS, fractions)))
  write_split(out, split)
  return split


def make_split(
  records: Iterable[CaseLike],
  name: str,
  seed: int,
  fractions: Mapping[str, float],
  honour_official: bool = True,
) -> Split:
  """Splits cases into training, validation and test.

  Args:
    records: cases.
    name: of the split.
    seed: another seed gives other parts.
    fractions: 'train', 'validation', 'test' -> share of the patients; they
      add up to 1.
    honour_official: keep the official part of cases that have one. If a
      source has an official split without a validation part, its training
      part gives some to it. 'test_public' and 'test_private' are tests.

  Returns:
    The split. If official parts share a patient, all cases of that patient
    are in the strictest of them (test, then validation), see `leaks`.

  Raises:
    InputError: no cases, or two of one name.
    ConfigError: unusable fractions, or a name that is none.
  """
  records = _checked(name, records)
  shares = _shares(name, fractions)
  official = _official_parts(records) if honour_official else {}
  gives = _without_validation(records, official)
  among_train = shares["train"] + shares["validation"]
  carve = shares["validation"] / among_train if among_train else 0.0
  parts: dict[str, str] = {}
  leaks = []
  groups = group_cases(records)
  by_case = {record.case: record for record in records}
  for group in groups:
    members = [by_case[case] for case in group.cases]
    draw = _draw(seed, members)
    known = {c: official[c] for c in group.cases if c in official}
    if not known:
      part = _cut(draw, shares)
    else:
      part = _strictest(known.values())
      if len(set(known.values())) > 1:
        leaks.append(Leak(known, group.reasons, part))
      elif part == "train" and all(m.source in gives for m in members):
        part = "validation" if draw < carve else "train"
    parts |= dict.fromkeys(group.cases, part)
  rule = _fractions_in_words(shares)
  if honour_official:
    rule += (
      " Official parts are kept (public and private tests are tests); a"
      " source without an official validation part gives"
      f" {carve:.3g} of its official training patients to it."
    )
  return _split(name, seed, rule, parts, groups, leaks, records)


def leave_one_domain_out(
  records: Iterable[CaseLike],
  domain: str,
  seed: int,
  validation: float = 0.1,
  honour_official: bool = True,
) -> Split:
  """Trains on every domain but one, which is the test.

  Args:
    records: cases of all domains.
    domain: the one to leave out; all its cases are the test.
    seed: of the validation part.
    validation: share of the other domains' patients to validate on.
    honour_official: put the official tests of the other domains aside
      ('excluded') and keep their official validation parts.

  Returns:
    The split 'lodo-<domain>'. Cases of other domains that show a patient of
    the test are 'excluded'.

  Raises:
    InputError: no cases, or two of one name.
    ConfigError: there is no such domain, or no other one.
  """
  name = "lodo-" + re.sub(r"[^A-Za-z0-9._-]+", "-", domain)
  records = _checked(name, records)
  domains = sorted({record.domain for record in records})
  if domain not in domains or len(domains) < 2:
    raise ConfigError(
      f"domain {domain!r} cannot be left out of {domains}. Fix: name one of at "
      "least two domains of the store."
    )
  shares = _shares(name, {"train": 1 - validation, "validation": validation})
  official = _official_parts(records) if honour_official else {}
  gives = _without_validation(records, official)
  by_case = {record.case: record for record in records}
  groups = group_cases(records)
  parts: dict[str, str] = {}
  leaks = []
  for group in groups:
    members = [by_case[case] for case in group.cases]
    held_out = {m.case for m in members if m.domain == domain}
    if held_out:
      others = [c for c in group.cases if c not in held_out]
      parts |= dict.fromkeys(held_out, "test")
      parts |= dict.fromkeys(others, "excluded")
      if others:
        now = {c: parts[c] for c in group.cases}
        leaks.append(Leak(now, group.reasons, "excluded"))
      continue
    known = {c: official[c] for c in group.cases if c in official}
    part = _strictest(known.values()) if known else "train"
    if len(set(known.values())) > 1:
      leaks.append(
        Leak(known, group.reasons, "excluded" if part == "test" else part)
      )
    if part == "test":
      part = "excluded"
    elif part == "train" and all(
      m.case not in official or m.source in gives for m in members
    ):
      part = _cut(_draw(seed, members), shares)
    parts |= dict.fromkeys(group.cases, part)
  rule = (
    f"All of domain {domain!r} is the test; {validation:g} of the other"
    " domains' patients are for validation, by a hash of seed and patient."
  )
  if honour_official:
    rule += (
      " Official tests of the other domains are excluded, their official"
      " validation parts kept."
    )
  return _split(name, seed, rule, parts, groups, leaks, records)


def cross_validation_fold(
  records: Iterable[CaseLike],
  fold: tuple[int, int],
  seed: int,
  honour_official: bool = True,
) -> Split:
  """One of N folds: a N-th of the patients of every domain is the test.

  Over all folds every patient is the test once. In the order of the hash of
  `make_split` patients are dealt to the folds in turn, so that folds of small
  domains are as even as can be; the price is that a new case may move others.

  Args:
    records: cases.
    fold: (I, N), from 1 on.
    seed: another seed gives other folds.
    honour_official: put official tests aside ('excluded').

  Returns:
    The split 'fold-<I>-of-<N>'; it has no validation part.

  Raises:
    InputError: no cases, or two of one name.
    ConfigError: no such fold.
  """
  place, count = fold
  name = f"fold-{place}-of-{count}"
  records = _checked(name, records)
  official = _official_parts(records) if honour_official else {}
  by_case = {record.case: record for record in records}
  groups = group_cases(records)
  dealt: dict[str, list[tuple[float, tuple[str, ...]]]] = defaultdict(list)
  parts: dict[str, str] = {}
  leaks = []
  for group in groups:
    known = {c: official[c] for c in group.cases if c in official}
    if "test" in known.values():
      parts |= dict.fromkeys(group.cases, "excluded")
      if len(set(known.values())) > 1:
        leaks.append(Leak(known, group.reasons, "excluded"))
    else:
      members = [by_case[case] for case in group.cases]
      domain = min(member.domain for member in members)
      dealt[domain].append((_draw(seed, members), group.cases))
  patients = sum(map(len, dealt.values()))
  if not 1 <= place <= count or not 2 <= count <= patients:
    raise ConfigError(
      f"{name} is no fold of {patients} patients. Fix: use 1 <= I <= N and no "
      "more folds than patients."
    )
  turn = 0
  for _, here in sorted(dealt.items()):
    for _, cases in sorted(here):
      mine = turn % count == place - 1
      parts |= dict.fromkeys(cases, "test" if mine else "train")
      turn += 1
  rule = (
    f"Patients of each domain, in the order of a hash of seed and patient, are "
    f"dealt to {count} folds in turn; fold {place} is the test."
  )
  if honour_official:
    rule += " Official tests are excluded."
  return _split(name, seed, rule, parts, groups, leaks, records)


def find_leaks(split: Split, records: Iterable[CaseLike]) -> tuple[Leak, ...]:
  """Looks for patients on both sides of a split, by all that is known now.

  Args:
    split: any split.
    records: cases of the store; those that the split does not know or
      excludes are passed over.

  Returns:
    The leaks; empty if there is none.
  """
  parts = {c: part for part, cases in split.parts.items() for c in cases}
  leaks = []
  for group in group_cases(records):
    where = {
      case: parts[case]
      for case in group.cases
      if parts.get(case, "excluded") != "excluded"
    }
    if len(set(where.values())) > 1:
      leaks.append(Leak(where, group.reasons))
  return tuple(leaks)


def _checked(name: str, records: Iterable[CaseLike]) -> list[CaseLike]:
  found = sorted(records, key=lambda record: record.case)
  if not _NAME.fullmatch(name):
    raise ConfigError(
      f"{name!r} is no name for a split. Fix: use letters and digits."
    )
  if not found:
    raise InputError(name, "there is no case to split.")
  counts = Counter(record.case for record in found)
  if twice := [case for case, count in counts.items() if count > 1]:
    raise InputError(name, f"cases of the same name: {twice[:5]}.")
  return found


def _shares(name: str, fractions: Mapping[str, float]) -> dict[str, float]:
  strange = set(fractions) - set(PARTS[:3])
  values = {part: float(fractions.get(part, 0.0)) for part in PARTS[:3]}
  if (
    strange
    or not all(0 <= v <= 1 for v in values.values())
    or abs(sum(values.values()) - 1) > 1e-6
  ):
    raise ConfigError(
      f"fractions {dict(fractions)} do not share out all cases. Fix: give "
      "train, validation and test, adding up to 1."
    )
  return values


def _official_parts(records: Sequence[CaseLike]) -> dict[str, str]:
  parts = {}
  for record in records:
    if record.split is None:
      continue
    if record.split not in _OFFICIAL:
      raise InputError(
        record.case,
        f"has the official part {record.split!r}.",
        f"use one of {sorted(_OFFICIAL)}.",
      )
    parts[record.case] = _OFFICIAL[record.split]
  return parts


def _without_validation(
  records: Sequence[CaseLike], official: Mapping[str, str]
) -> set[str]:
  """Sources whose official split has no validation part."""
  found = defaultdict(set)
  for record in records:
    if record.case in official:
      found[record.source].add(official[record.case])
  return {source for source, p in found.items() if "validation" not in p}


def _draw(seed: int, members: Sequence[CaseLike]) -> float:
  """A number in 0..1 that depends on the seed and the patient only."""
  patient = min(f"{member.source}/{member.subject}" for member in members)
  digest = hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "replace"))
  return int.from_bytes(digest.digest()[:8], "big") / 2**64


def _cut(draw: float, shares: Mapping[str, float]) -> str:
  """Test first: a changed share of validation moves no case of the test."""
  if draw < shares["test"]:
    return "test"
  return (
    "validation" if draw < shares["test"] + shares["validation"] else "train"
  )


def _strictest(parts: Iterable[str]) -> str:
  return min(parts, key=_STRICT.index)


def _fractions_in_words(shares: Mapping[str, float]) -> str:
  text = ", ".join(f"{share:g} {part}" for part, share in shares.items())
  return f"Patients by a hash of seed and patient: {text}."


def _split(name, seed, rule, parts, groups, leaks, records) -> Split:
  domains: dict[str, Counter[str]] = defaultdict(Counter)
  for record in records:
    domains[record.domain][parts[record.case]] += 1
  return Split(
    name=name,
    seed=seed,
    rule=rule,
    parts={
      part: tuple(sorted(c for c, where in parts.items() if where == part))
      for part in PARTS
    },
    groups=tuple(group for group in groups if len(group.cases) > 1),
    leaks=tuple(leaks),
    domains={
      key: dict(sorted(n.items())) for key, n in sorted(domains.items())
    },
    digests={record.case: case_digests(record) for record in records},
  )
