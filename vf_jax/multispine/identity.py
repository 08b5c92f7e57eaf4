# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which cases show the same patient, whatever they are called.

Public sets overlap: VerSe'19 and '20 share subjects and cut some into
`_split-` series, CTSpine1K is made of older archives, and the MSD liver images
are those of LiTS. Cases that share any identity must stay on one side of a
split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num

from vf_jax.hounsfield import AIR_HU, MAX_HU
from vf_jax.volume import Volume

PHANTOM = "vf_jax phantom"
"""How the origin of a phantom begins."""

_BLOCK = 1 << 22
# Exactly three digits: `dataset-verse19training` is the name of a release.
_VERSE = re.compile(r"(?<![a-z])((?:verse|gl)\d{3})(?!\d)")
_KNOWN = (
  ("COLONOG scan", re.compile(r"9328\.50\.4\.(\d+)")),
  ("CTC scan", re.compile(r"(?<![a-z])ctc-(\d{6,})")),
  ("HNSCC patient", re.compile(r"(?<![a-z])hn_p(\d{3})(?!\d)")),
  ("COVID-19-A patient", re.compile(r"covid19-a-(\d+)")),
  ("LiTS volume", re.compile(r"(?<![a-z-])volume-(\d+)(?!\d)")),
)
_MSD_LIVER = re.compile(r"(?<![a-z])liver_(\d+)(?!\d)")
# MSD's test images are LiTS's test images, numbered anew.
_LITS_TRAINING = 131
_VOLUMES = (".nii", ".nii.gz", ".mha", ".raw", ".zraw")
_ONE_LEVEL = re.compile(
  r"(vertebrae_\w+|sacrum|c[1-7]|t\d|t1[0-3]|l[1-6])\.", re.IGNORECASE
)


@runtime_checkable
class CaseLike(Protocol):
  """What identities and splits need of a case; `record.Record` has it."""

  @property
  def case(self) -> str:
    """Its name, unique in the store."""

  @property
  def source(self) -> str:
    """Kind of archive: 'verse', 'ctspine1k', ..."""

  @property
  def domain(self) -> str:
    """What is left out in cross-domain studies."""

  @property
  def subject(self) -> str:
    """The patient, as the source calls it."""

  @property
  def series(self) -> str:
    """Which scan of the patient."""

  @property
  def split(self) -> str | None:
    """The part of the official split; None without one."""

  @property
  def files(self) -> Mapping[str, str]:
    """File -> SHA-256 of its bytes."""

  @property
  def centres(self) -> Mapping[int, tuple[float, float, float]]:
    """Vertebrae that its points or its mask show."""

  @property
  def origin(self) -> str:
    """Archive, version or DOI; phantoms say that they are phantoms."""

  @property
  def voxels(self) -> str:
    """`voxel_digest` of the image; empty without one."""


@dataclasses.dataclass(frozen=True)
class Group:
  """Cases that must stay together.

  Attributes:
    cases: names, sorted.
    reasons: why, in words, sorted; empty for a single case.
  """

  cases: tuple[str, ...]
  reasons: tuple[str, ...]


def voxel_digest(volume: Volume) -> str:
  """Digest of an image that does not depend on how it is stored.

  Equal for the same voxels in another file format, compression, number type,
  axis order, with a mirrored axis or another header. Made of the sorted
  shape, the histogram and, for each axis, the sums of its slices read in the
  smaller direction; of whole HU within -1024..3071, because releases differ
  in padding and clipping.

  Args:
    volume: CT, HU.

  Returns:
    A hexadecimal SHA-256; empty if every voxel has the same value, as such an
    image identifies nobody.
  """
  voxels = volume.voxels
  axes = np.argsort([-abs(stride) for stride in voxels.strides], kind="stable")
  walk = voxels.transpose(axes)
  counts = np.zeros(MAX_HU - AIR_HU + 1, np.int64)
  outer = np.zeros(walk.shape[0], np.int64)
  flat = np.zeros(walk.shape[1:], np.int64)
  rows = max(1, _BLOCK // max(1, flat.size))
  for start in range(0, walk.shape[0], rows):
    block = _above_air(walk[start : start + rows])
    counts += np.bincount(block.ravel(), minlength=len(counts))
    outer[start : start + rows] = block.sum(axis=(1, 2), dtype=np.int64)
    flat += block.sum(axis=0, dtype=np.int64)
  if np.count_nonzero(counts) < 2:
    return ""
  profiles = []
  for sums in (outer, flat.sum(axis=1), flat.sum(axis=0)):
    forth, back = sums.astype(">i8").tobytes(), sums[::-1].astype(">i8")
    profiles.append(min(forth, back.tobytes()))
  digest = hashlib.sha256(b"vf_jax voxels 1")
  for profile in sorted(profiles, key=lambda p: (len(p), p)):
    digest.update(len(profile).to_bytes(8, "big") + profile)
  digest.update(counts.astype(">i8").tobytes())
  return digest.hexdigest()


def _above_air(
  block: Num[np.ndarray, "x y z"],
) -> Num[np.ndarray, "x y z"]:
  """Whole HU above -1024, 0..4095."""
  if block.dtype.kind == "f":
    whole = np.rint(np.nan_to_num(block, nan=AIR_HU))
    return (np.clip(whole, AIR_HU, MAX_HU) - AIR_HU).astype(np.int16)
  low, high = np.iinfo(block.dtype).min, np.iinfo(block.dtype).max
  clipped = np.clip(block, max(AIR_HU, low), min(MAX_HU, high))
  return clipped.astype(np.int16) - np.int16(AIR_HU)


def group_cases(records: Iterable[CaseLike]) -> tuple[Group, ...]:
  """Joins all cases that share an identity, directly or by way of others.

  Args:
    records: cases.

  Returns:
    The groups, single cases too, sorted by their first case.
  """
  records = sorted(records, key=lambda r: r.case)
  parent = {record.case: record.case for record in records}

  def root(case: str) -> str:
    while parent[case] != case:
      parent[case] = parent[parent[case]]
      case = parent[case]
    return case

  members: dict[tuple[str, str], list[str]] = defaultdict(list)
  for record in records:
    for key in dict.fromkeys(identities(record)):
      members[key].append(record.case)
  reasons: dict[str, set[str]] = defaultdict(set)
  for (kind, value), cases in sorted(members.items()):
    if len(cases) > 1:
      for case in cases[1:]:
        parent[root(case)] = root(cases[0])
      reasons[cases[0]].add(f"{kind} {value}")
  groups: dict[str, list[str]] = defaultdict(list)
  why: dict[str, set[str]] = defaultdict(set)
  for case in parent:
    groups[root(case)].append(case)
    why[root(case)] |= reasons[case]
  return tuple(
    sorted(
      (
        Group(tuple(sorted(cases)), tuple(sorted(why[key])))
        for key, cases in groups.items()
      ),
      key=lambda group: group.cases,
    )
  )


def identities(record: CaseLike) -> Iterator[tuple[str, str]]:
  """Everything that says which patient a case shows.

  Args:
    record: a case.

  Yields:
    Kind and value; two cases that share one show the same patient.
  """
  if record.origin.startswith(PHANTOM):
    # Its names are those of the archive that it imitates.
    yield "phantom", f"{record.source}/{record.subject}"
  else:
    yield "subject", f"{record.source}/{record.subject}"
    yield from _known_by_name(record)
  if record.voxels:
    yield "same voxels", record.voxels[:16]
  # Masks without a vertebra are alike; an image is known by its voxels.
  if record.centres:
    for name, digest in record.files.items():
      if _is_of_one_patient(name):
        yield "same file", digest[:16]


def case_digests(record: CaseLike) -> tuple[str, ...]:
  """By which a case is known again, whatever it is called.

  Args:
    record: a case.

  Returns:
    Digests of its domain and patient and, with an image, of its voxels. Cases
    that share none are not the same; either may change by a correction.
  """
  patient = f"{record.domain}/{record.source}/{record.subject}"
  digest = hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()
  return tuple(d[:16] for d in (digest, record.voxels) if d)


def _known_by_name(record: CaseLike) -> Iterator[tuple[str, str]]:
  """Scans that several archives hold, each under a name of its own."""
  names = " ".join((record.case, record.subject, record.series, *record.files))
  names = names.lower()
  # `sub-verse401_split-verse201` carries the names of both releases.
  for name in _VERSE.findall(names):
    yield "VerSe scan", name
  for kind, pattern in _KNOWN:
    for number in pattern.findall(names):
      yield kind, str(int(number))
  for number in _MSD_LIVER.findall(names):
    if int(number) < _LITS_TRAINING:
      yield "LiTS volume", str(int(number))


def _is_of_one_patient(name: str) -> bool:
  """A volume, and not one level's mask, which may be empty.

  Tables tell of many cases, and DICOM folders hold licences and viewers.
  """
  file = pathlib.PurePosixPath(name).name.lower()
  return file.endswith(_VOLUMES) and not _ONE_LEVEL.match(file)
