# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""File names of the VerSe releases, taken apart.

  subject trees: sub-verse500_dir-ax_ct.nii.gz, ..._ct.json,
    ..._seg-vert_msk.nii.gz, ..._seg-subreg_ctd.json or ..._seg-vb_ctd.json;
    further entities (split-verse201, ses-1) stand before the last word.
  challenge 2020: verse512_CT-iso.nii.gz, ..._seg.nii.gz, ..._iso-ctd.json;
    also GL017_CT_ax, GL018-GL016 and verse401_verse201_CT-iso (patient, scan).
  challenge 2019: verse004.nii.gz, verse004_seg.nii.gz, verse004_ctd.json.

Sources: README of anjany/verse, the wikis osf.io/4skx2 and osf.io/b2wxj, and
the file lists in public users of the data.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from vf_jax.multispine.sources.listing import split_suffix

Role = Literal["image", "mask", "subregions", "centroids", "facts"]

_ID = r"(?:verse|gl)\d+"
_FIRST = re.compile(
  rf"(?:sub-(?P<subject>[a-z0-9]+)|(?P<id>{_ID}))(?P<scan>-{_ID})?",
  re.IGNORECASE,
)
_ISO_END = re.compile(r"[-_]iso[-_]ctd$", re.IGNORECASE)
_PLANES = ("ax", "sag", "cor", "iso")
_ARCHIVE_ID = re.compile(_ID)

# Scans that the 2019 challenge tree names like patients; the subject tree has
# them as sub-verse4xx_split-verse2xx.
_SCANS = {
  "400": "090 155",
  "401": "201 253",
  "402": "202 251",
  "403": "208 255",
  "404": "209 256",
  "405": "212 258 259",
  "406": "214 261",
  "407": "215 262",
  "408": "223 265",
  "409": "226 266",
  "410": "227 267",
  "411": "232 270",
  "412": "235 290",
  "413": "239 272",
  "414": "241 273",
  "415": "243 275",
  "416": "247 279",
  "417": "277 278",
}
_PATIENTS = {
  f"verse{scan}": f"verse{patient}"
  for patient, scans in _SCANS.items()
  for scan in scans.split()
}


@dataclasses.dataclass(frozen=True)
class VerseName:
  """What the name of a VerSe file says.

  Attributes:
    role: what the file holds.
    name: the scan's part of the name as written.
    scan: first word without 'sub-', in lower case.
    entities: what tells scans of one subject apart, in lower case.
    detail: what stands behind 'seg-' ('vert', 'subreg', 'vb'), or 'iso' for a
      challenge centroid file of 2020.
    challenge: written as in the challenge trees.
  """

  role: Role
  name: str
  scan: str
  entities: tuple[str, ...]
  detail: str
  challenge: bool

  @property
  def subject(self) -> str:
    """The patient, as the subject trees name it."""
    first = self.scan.partition("-")[0]
    return f"sub-{_PATIENTS.get(first, first)}"

  @property
  def series(self) -> str:
    """Which scan of the patient."""
    words = [*self.scan.split("-")[1:], *self.entities]
    first = self.scan.partition("-")[0]
    if first in _PATIENTS:
      words.insert(0, f"split-{first}")
    return "_".join(words) or "ct"

  @property
  def of_verse(self) -> bool:
    """Whether the id is one of VerSe's, not of a tree made like it."""
    return _ARCHIVE_ID.fullmatch(self.scan.partition("-")[0]) is not None


def parse_name(file_name: str) -> VerseName | None:
  """Takes a file name apart.

  Args:
    file_name: without folders.

  Returns:
    What it says; None if it is not of such a tree or of no use here (previews,
    other modalities).
  """
  stem, suffix = split_suffix(file_name)
  table = not suffix and stem.lower().endswith(".json")
  if not suffix and not table:
    return None
  if table:
    stem = stem[: -len(".json")]
  iso = table and _ISO_END.search(stem) is not None
  if iso:
    stem = _ISO_END.sub("", stem)
  words = stem.split("_")
  first = _FIRST.fullmatch(words[0])
  if first is None:
    return None
  entities, ends, details, kept = [], [], [], [words[0]]
  for word in words[1:]:
    low = word.casefold()
    if low.startswith("seg-"):
      details.append(low[len("seg-") :])
    elif "-" in low or low in _PLANES or _ARCHIVE_ID.fullmatch(low):
      if low.startswith("mod-") and low != "mod-ct":
        return None
      kept.append(word)
      if low != "mod-ct":
        entities.append(low)
    else:
      ends.append(low)
      if word == "CT":
        kept.append(word)
  detail = "iso" if iso else "_".join(details)
  role = _role(table, iso, detail, [end for end in ends if end != "ct"])
  if role is None or (table and role == "facts" and "ct" not in ends):
    return None
  scan = (first["subject"] or first["id"]) + (first["scan"] or "")
  marks = any(word.startswith(("dir-", "split-", "ses-")) for word in entities)
  return VerseName(
    role=role,
    name="_".join(kept),
    scan=scan.casefold(),
    entities=tuple(entities),
    detail=detail,
    challenge=not (first["subject"] or details or marks or "msk" in ends),
  )


def patient_of(name: str) -> str | None:
  """The VerSe patient that a name of another layout speaks of.

  Args:
    name: e.g. a case of an nnU-Net data set, 'sub-verse401_split-verse201'.

  Returns:
    The subject as the VerSe trees name it; None if the name is no scan's.
  """
  parsed = parse_name(f"{name}.nii.gz")
  return parsed.subject if parsed is not None and parsed.of_verse else None


def _role(table: bool, iso: bool, detail: str, ends: list[str]) -> Role | None:
  if table:
    if ends == ["ctd"] or (iso and not ends):
      return "centroids"
    return "facts" if not ends and not detail else None
  if not ends and not detail:
    return "image"
  if (ends in (["msk"], ["seg"]) and detail in ("", "vert")) or (
    not ends and detail == "vert"
  ):
    return "mask"
  if ends == ["msk"] and detail == "subreg":
    return "subregions"
  return None
