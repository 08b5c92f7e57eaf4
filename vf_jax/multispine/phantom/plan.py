# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Who is scanned where: name, archive and look of every case, by its number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

SOURCES = (
  "verse",
  "ctspine1k",
  "spineweb",
  "cohort",
  "totalsegmentator",
  "nnunet",
)
"""Archives that phantoms can be written as; the first four are the default."""

UNSAID: Mapping[str, tuple[str, ...]] = MappingProxyType(
  {
    "ctspine1k": ("T13",),
    "spineweb": ("T13",),
    "totalsegmentator": ("T13", "L6"),
  }
)
"""Variants that the codes of an archive cannot say."""

SPINEWEB_MASKS, SPINEWEB_POINTS = "dataset-2", "dataset-3"
NNUNET_DATASET = "Dataset701_SpinePhantom"

_PARTS = ("train", "test", "train", "validation", "train")
_SUBSETS = (
  ("colonog", "COLONOG", "1.3.6.1.4.1.9328.50.4.{:04d}"),
  ("msd-liver", "MSD-T10", "liver_{:d}"),
  ("hnscc", "HNSCC-3DCT-RT", "HN_P{:03d}"),
  ("covid19", "COVID-19", "volume-covid19-A-{:04d}_ct"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is decided of a case before anything is drawn.

  Attributes:
    index: its number.
    source: archive.
    group: part of the archive, '' if it has none.
    stated_domain: the domain that a reader takes it for.
    appearance: the domain whose scanner it comes from; another one for an
      image that was copied from there.
    seed_index: number of the patient, whose draws are used: its own unless it
      is a copy.
    subject: how the archive names the patient.
    part: of the official split.
    names: of its images, without ending.
    tables: the side the patient lies on in each.
    unsaid: variants that the patient must not have.
  """

  index: int
  source: str
  group: str
  stated_domain: str
  appearance: str
  seed_index: int
  subject: str
  part: str
  names: tuple[str, ...]
  tables: tuple[str, ...] = ("back",)
  unsaid: tuple[str, ...] = ()


def plan_case(index: int, sources: Sequence[str], leaks: bool) -> Plan:
  """Plans a case.

  Args:
    index: its number, from 0.
    sources: the archives, which take turns.
    leaks: whether patients may have two series, and images two names.

  Returns:
    The plan; it depends on nothing else.
  """
  source = sources[index % len(sources)]
  number = index // len(sources)
  plan = _PLANNERS[source](index, number)
  if not leaks:
    return plan
  if source == "verse" and number % 4 == 2:
    names = (
      f"{plan.subject}_split-verse{500 + number}",
      f"{plan.subject}_split-verse{800 + number}",
    )
    plan = dataclasses.replace(plan, names=names, tables=("back", "back"))
  if source == "ctspine1k" and number % 8 == 0:
    names = (plan.names[0], _SUBSETS[0][2].format(5001 + number))
    plan = dataclasses.replace(plan, names=names, tables=("back", "front"))
  if number % 8 == 1:
    plan = _copied(plan, sources)
  return plan


def _copied(plan: Plan, sources: Sequence[str]) -> Plan:
  """Makes an image of VerSe turn up among CTSpine1K's livers again."""
  if "verse" not in sources or "ctspine1k" not in sources:
    return plan
  ahead = sources.index("ctspine1k") - sources.index("verse")
  if ahead < 0:
    return plan
  if plan.source == "verse":
    return dataclasses.replace(plan, unsaid=UNSAID["ctspine1k"])
  if plan.source == "ctspine1k":
    return dataclasses.replace(
      plan, appearance="verse", seed_index=plan.index - ahead
    )
  return plan


def _verse(index: int, number: int) -> Plan:
  subject = f"sub-verse{500 + number}"
  return _plan(index, number, "verse", "", "verse", subject, subject)


def _ctspine1k(index: int, number: int) -> Plan:
  domain, group, pattern = _SUBSETS[number % len(_SUBSETS)]
  name = pattern.format(number + 1)
  return _plan(index, number, "ctspine1k", group, domain, name, name)


def _spineweb(index: int, number: int) -> Plan:
  if number % 2 == 0:
    subject = name = f"case{number + 1}"
    group, domain = SPINEWEB_MASKS, "spineweb2"
  else:
    subject, name = f"patient{number + 1:04d}", f"{4000000 + number}"
    group, domain = SPINEWEB_POINTS, "spineweb3"
  return _plan(index, number, "spineweb", group, domain, subject, name)


def _cohort(index: int, number: int) -> Plan:
  name = f"patient{number + 1:03d}"
  return _plan(index, number, "cohort", "", "cohort", name, name)


def _totalsegmentator(index: int, number: int) -> Plan:
  name = f"s{number + 1:04d}"
  kind = "totalsegmentator"
  return _plan(index, number, kind, "", kind, name, name)


def _nnunet(index: int, number: int) -> Plan:
  name = f"spine_{number + 1:03d}"
  plan = _plan(index, number, "nnunet", "", "nnunet", name, name)
  # Its reader knows the domain by nothing but the folder.
  return dataclasses.replace(plan, stated_domain=NNUNET_DATASET)


def _plan(index, number, source, group, domain, subject, name) -> Plan:
  return Plan(
    index=index,
    source=source,
    group=group,
    stated_domain=domain,
    appearance=domain,
    seed_index=index,
    subject=subject,
    part=_PARTS[number % len(_PARTS)],
    names=(name,),
    unsaid=UNSAID.get(source, ()),
  )


_PLANNERS = {
  "verse": _verse,
  "ctspine1k": _ctspine1k,
  "spineweb": _spineweb,
  "cohort": _cohort,
  "totalsegmentator": _totalsegmentator,
  "nnunet": _nnunet,
}
