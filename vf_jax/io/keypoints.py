# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Keypoints of spines as VID publishes them: detections, and truth beside them.

One JSON list a scan. Every item has `coordinates.world_space`, three numbers in
DICOM world coordinates (mm; x to the left, y to the back, z to the head), and
`type.keypoint_type`: `body`, `left` or `right` (pedicle). A detected body also
has `type.spine_segment_probabilities`, its scores as cervical, thoracic and
lumbar, each 0..1, not adding up to 1; a true body has `type.spine_level`.
The archive holds `*Predictions*/<part>/<scan>.json`, `*GroundTruth*/<part>/
<scan>.json` and `mapping-export-*.txt`, `<scan>, <path of the CT>` a line.

Source: Readme.md of ImFusionGmbH/VID-vertebra-identification-dataset, commit
f19fd3c (Buergin, Prevost, Stollenga, MICCAI 2023).
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vf_jax.errors import InputError, warn_input
from vf_jax.labels import BY_NAME, SACRUM, VERTEBRAE

KINDS = ("body", "left", "right")
BODY, LEFT, RIGHT = range(3)

_MAX_POINTS = 1000  # the fullest scan of VID has 88
_MAX_MM = 1e5
_MAX_BYTES = 1 << 20  # of one scan; the largest of VID has 18 kB
_MAX_MEMBERS = 50_000
_SURE = 0.97  # score of a segment that is named without scores
_SCORES = ("spine_segment_probabilities", "spine_segment_propabilities")
_FIX = "give the list of points that a VID prediction file holds."
_PATIENT = (
  re.compile(r"(CTC-\d+)"),  # CT colonography, later cases
  re.compile(r"(1(?:\.\d+)+)/"),  # CT colonography, a UID a patient
  re.compile(r"(?:sub-)([a-z]+\d+)"),  # VerSe'19 and '20 share their subjects
  re.compile(r"(PANCREAS_\d+)"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Keypoints:
  """What a detector found in one scan, in the order of the file.

  Attributes:
    points: positions, DICOM world, mm.
    kinds: index into `KINDS`.
    scores: as cervical, thoracic, lumbar; NaN where the detector gave none.
  """

  points: Float64[np.ndarray, "points 3"]
  kinds: Int64[np.ndarray, " points"]
  scores: Float64[np.ndarray, "points 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
  """Detections of one scan and its truth.

  Attributes:
    name: the scan's name in the archive.
    origin: path of its CT in the data set it comes from.
    patient: what the series of one patient share.
    detected: what the detector found.
    levels: index into `VERTEBRAE` of every true body, ascending.
    bodies: their positions, DICOM world, mm.
  """

  name: str
  origin: str
  patient: str
  detected: Keypoints
  levels: Int64[np.ndarray, " bodies"]
  bodies: Float64[np.ndarray, "bodies 3"]


def parse_keypoints(points: Any, source: str = "<points>") -> Keypoints:
  """Checks the detections of one scan.

  Points of a kind that is not known are left out with a warning; a body
  without scores is kept. Whatever is no detection at all is refused.

  Args:
    points: the parsed JSON of a prediction file.
    source: the file, for the errors.

  Returns:
    The points.

  Raises:
    InputError: not a list of points, a position that is none, scores that are
      none, or more points than a spine can have.
  """
  items = _items(points, source)
  places, kinds, scores = [], [], []
  unknown: dict[str, int] = {}
  for number, item in enumerate(items):
    place, described = _point(item, source, number)
    kind = described.get("keypoint_type")
    if not isinstance(kind, str):
      fault = f"point {number} has no keypoint_type."
      raise InputError(source, fault, f"it is one of {', '.join(KINDS)}.")
    if kind not in KINDS:
      unknown[kind[:40]] = unknown.get(kind[:40], 0) + 1
      continue
    places.append(place)
    kinds.append(KINDS.index(kind))
    scores.append(_scores(described, source, number))
  if unknown:
    names = ", ".join(f"{n} of kind {k!r}" for k, n in unknown.items())
    warn_input(
      source, f"points left out: {names}; known are {', '.join(KINDS)}."
    )
  return Keypoints(
    np.array(places, np.float64).reshape(-1, 3),
    np.array(kinds, np.int64),
    np.array(scores, np.float64).reshape(-1, 3),
  )


def read_archive(path: str | os.PathLike[str]) -> tuple[Scan, ...]:
  """Reads the scans of a VID archive, which is not unpacked to disk.

  Args:
    path: a `.tar.xz` (or other tar) of the data set's folders.

  Returns:
    The scans by name.

  Raises:
    InputError: the archive is damaged, a scan lacks its truth, its patient or
      its detections, or one of its files is malformed.
  """
  detected, truth, origins = _read_members(path)
  if not detected:
    fault = "holds no *Predictions*/<part>/<scan>.json."
    raise InputError(path, fault, "give the archive of the VID data set.")
  for name in sorted(set(detected) ^ set(truth)):
    lacks = "truth" if name in detected else "detections"
    raise InputError(path, f"scan {name} has no {lacks}.", "get it again.")
  scans = []
  for name in sorted(detected):
    if name not in origins:
      fault = f"no mapping-export-*.txt names the CT of scan {name}."
      raise InputError(path, fault, "series of a patient must stay together.")
    where = f"{os.fspath(path)}:{name}"
    levels, bodies = _parse_truth(_json(truth[name], where), where)
    scans.append(
      Scan(
        name=name,
        origin=origins[name],
        patient=patient_in_path(origins[name]),
        detected=parse_keypoints(_json(detected[name], where), where),
        levels=levels,
        bodies=bodies,
      )
    )
  return tuple(scans)


def patient_in_path(origin: str) -> str:
  """Names the patient in the path of a CT; the path itself if none is seen.

  Args:
    origin: path as a mapping file has it.

  Returns:
    The same text for every series of a patient.
  """
  for pattern in _PATIENT:
    found = pattern.search(origin)
    if found:
      return found[1]
  return origin


def is_held_back_by_verse(origin: str) -> bool:
  """Whether a CT is of VerSe's validation or test part, which VID also uses.

  Args:
    origin: path as a mapping file has it.

  Returns:
    True for scans that nothing may learn from that is to be tested on VerSe.
  """
  return "verse" in origin and ("test" in origin or "validation" in origin)


def _read_members(
  path: str | os.PathLike[str],
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, str]]:
  """Bytes of predictions and truths by scan, and where each scan is from."""
  detected: dict[str, bytes] = {}
  truth: dict[str, bytes] = {}
  origins: dict[str, str] = {}
  try:
    with tarfile.open(path) as archive:
      for count, member in enumerate(archive):
        if count >= _MAX_MEMBERS:
          raise InputError(path, f"holds over {_MAX_MEMBERS} files.")
        base = os.path.basename(member.name)
        is_scan = base.endswith(".json") and not base.startswith(".")
        is_mapping = base.startswith("mapping-export")
        if not member.isfile() or not (is_scan or is_mapping):
          continue
        if member.size > _MAX_BYTES:
          fault = f"{member.name} is over {_MAX_BYTES >> 20} MiB."
          raise InputError(path, fault, "no scan has so many points.")
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if is_mapping:
          origins |= _parse_mapping(data, path)
          continue
        rooms = {"Prediction": detected, "GroundTruth": truth}
        for word, room in rooms.items():
          if word in member.name:
            name = base.removesuffix(".json")
            if name in room:
              raise InputError(path, f"scan {name} is there twice.")
            room[name] = data
  except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
    fault = f"is no tar archive that can be read: {error}."
    raise InputError(path, fault, "get the VID archive again.") from error
  return detected, truth, origins


def _parse_mapping(data: bytes, path: str | os.PathLike[str]) -> dict[str, str]:
  try:
    lines = data.decode("utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise InputError(path, "a mapping file is not UTF-8.") from error
  rows = (line.partition(",") for line in lines)
  return {scan.strip(): ct.strip() for scan, comma, ct in rows if comma}


def _json(data: bytes, source: str) -> Any:
  try:
    return json.loads(data)
  except (ValueError, RecursionError) as error:
    raise InputError(source, f"is no JSON: {error}.", _FIX) from error


def _items(points: Any, source: str) -> list[Any]:
  if not isinstance(points, (list, tuple)):
    fault = f"is a {type(points).__name__}, not a list of points."
    raise InputError(source, fault, _FIX)
  if len(points) > _MAX_POINTS:
    fault = f"has {len(points)} points, more than {_MAX_POINTS}."
    raise InputError(source, fault, "give one scan, after peak finding.")
  return list(points)


def _point(
  item: Any, source: str, number: int
) -> tuple[list[float], Mapping[str, Any]]:
  """Position and `type` of one item."""
  try:
    place = item["coordinates"]["world_space"]
    described = item["type"]
    if not isinstance(described, Mapping) or len(place) != 3:
      raise TypeError
    numbers = [_number(value) for value in place]
  except (KeyError, TypeError, IndexError, OverflowError) as error:
    fault = f"point {number} lacks coordinates.world_space (3 numbers) or type."
    raise InputError(source, fault, _FIX) from error
  if not all(abs(value) < _MAX_MM for value in numbers):  # NaN fails too
    fault = f"point {number} is at {numbers}."
    raise InputError(source, fault, "positions are mm, DICOM world.")
  return numbers, described


def _number(value: Any) -> float:
  if isinstance(value, bool) or isinstance(value, (str, bytes)):
    raise TypeError
  return float(value)


def _scores(
  described: Mapping[str, Any], source: str, number: int
) -> list[float]:
  found = next((described[k] for k in _SCORES if k in described), None)
  if found is None:
    segment = described.get("spine_segment")
    if segment not in ("C", "T", "L"):
      return [math.nan] * 3
    return [_SURE if segment == name else 1 - _SURE for name in "CTL"]
  try:
    values = [_number(value) for value in found]
  except (TypeError, OverflowError):
    values = []
  if len(values) != 3 or not all(0.0 <= value <= 1.0 for value in values):
    fault = f"point {number} has segment scores {str(found)[:80]}."
    raise InputError(source, fault, "three numbers 0..1: C, T, L.")
  return values


def _parse_truth(
  points: Any, source: str
) -> tuple[Int64[np.ndarray, " bodies"], Float64[np.ndarray, "bodies 3"]]:
  found: dict[int, list[float]] = {}
  for number, item in enumerate(_items(points, source)):
    place, described = _point(item, source, number)
    if described.get("keypoint_type") != "body":
      continue
    name = described.get("spine_level")
    level = BY_NAME.get(name) if isinstance(name, str) else None
    if level is None or level == SACRUM:
      fault = f"true body {number} has the level {name!r}."
      raise InputError(source, fault, "use C1-C7, T1-T13, L1-L6.")
    index = VERTEBRAE.index(level)
    if index in found:
      raise InputError(source, f"{name} is there twice.", "keep one.")
    found[index] = place
  order = sorted(found)
  return (
    np.array(order, np.int64),
    np.array([found[i] for i in order], np.float64).reshape(-1, 3),
  )
