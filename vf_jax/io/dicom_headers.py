# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""DICOM headers: what each frame is, where it lies, how to get its HU.

Only the elements listed here are ever read, and none of them names a patient.
Classic images (a slice a file) and enhanced ones (many frames a file, with
functional groups) come out alike. Source: DICOM PS3.3 C.7.6.2, C.7.6.16,
C.7.5.1, C.8.2 and C.8.15.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

from vf_jax.errors import InputError, install_fix
from vf_jax.io.dicom_files import Files
from vf_jax.io.sniff import foreign_format, is_dicom

_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_CT_IMAGES = tuple(
  "1.2.840.10008.5.1.4.1.1.2" + end for end in ("", ".1", ".2")
)
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}

REFETCH = "the file is incomplete or damaged; copy or export it again."
"""What mends a broken DICOM file."""

_FACTS = {
  "manufacturer": "Manufacturer",
  "model": "ManufacturerModelName",
  "kernel": "ConvolutionKernel",
  "kvp": "KVP",
  "slice_thickness_mm": "SliceThickness",
  "gantry_tilt_deg": "GantryDetectorTilt",
  "patient_position": "PatientPosition",
  "body_part": "BodyPartExamined",
}
_GROUPS = {
  "PerFrameFunctionalGroupsSequence",
  "SharedFunctionalGroupsSequence",
}
_TAGS = [
  *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality"),
  *("SeriesDescription", "ImageType", "NumberOfFrames", "Rows", "Columns"),
  *("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
  *("PixelRepresentation", "PixelSpacing", "ImagePositionPatient"),
  *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"),
  *("RescaleType", "ModalityLUTSequence", "PixelPaddingValue"),
  *("PixelPaddingRangeLimit", "LossyImageCompression"),
  *_FACTS.values(),
  *_GROUPS,
]


Passed = collections.Counter[tuple[str, str]]
"""How many files were passed over, by kind and series."""

EMPTY = "empty files"
"""Kind of those that hold nothing; slices are not among them by their names."""

_SUFFIXES = (".dcm", ".ima", ".dicom")


@dataclasses.dataclass(frozen=True)
class Frame:
  """One slice of one file.

  Attributes:
    index: its place in the file, from 0.
    position: centre of its first pixel, LPS.
    orientation: unit vectors along a row and down a column, LPS.
    spacing: between columns, between rows.
    slope: HU are stored values times slope plus intercept.
    intercept: see `slope`; None in both if the file has no rescale.

  Units:
    mm.
  """

  index: int
  position: tuple[float, ...]
  orientation: tuple[float, ...]
  spacing: tuple[float, float]
  slope: float | None
  intercept: float | None


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file of CT slices says.

  Attributes:
    number: its place among the files.
    name: its path, for messages.
    instance: SOP instance UID.
    series: series instance UID.
    description: of the series.
    columns: pixels of a row.
    rows: pixels of a column.
    bits: stored bits of a pixel, allocated bits.
    signed: whether stored values are.
    padding: lowest and highest stored value that mean "no image here".
    syntax: transfer syntax UID.
    lossy: whether it was ever compressed with loss.
    facts: of the scanner, see `dicom.read_facts`.
    frames: its slices, localizers left out.
  """

  number: int
  name: str
  instance: str
  series: str
  description: str
  columns: int
  rows: int
  bits: tuple[int, int]
  signed: bool
  padding: tuple[int, int] | None
  syntax: str
  lossy: bool
  facts: Mapping[str, str]
  frames: tuple[Frame, ...]


def import_pydicom(name: str, module: str = "pydicom") -> Any:
  """Imports pydicom, which only DICOM needs.

  Args:
    name: the input, for the message.
    module: the part of it.

  Returns:
    The module.

  Raises:
    InputError: if it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    fault = "is DICOM, and pydicom is not installed."
    fix = f"{install_fix('dicom')}, or convert it with dcm2niix."
    raise InputError(name, fault, fix) from error


def read_headers(files: Files, source: str) -> tuple[list[Header], Passed]:
  """Reads the headers of all CT slices.

  Args:
    files: the files.
    source: what was asked to be read, for messages.

  Returns:
    The headers, and what was passed over.

  Raises:
    InputError: if a file is DICOM but damaged, or a slice by its name but
      empty.
  """
  pydicom = import_pydicom(source)
  headers: list[Header] = []
  passed: Passed = collections.Counter()
  for number, name in enumerate(files.names):
    if files.is_empty(number) and not _is_named_as_slice(name):
      passed[EMPTY, ""] += 1
      continue
    try:
      with files.open(number) as file:
        head = file.read(1024)
        if not is_dicom(head):
          _check_foreign(head, name)
          passed["no DICOM", ""] += 1
          continue
        if _DEFLATED in head:
          fault = "is DICOM with a deflated header."
          raise InputError(name, fault, "decompress it: dcmconv +te.")
        file.seek(0)
        with warnings.catch_warnings():
          # pydicom warns of every malformed value; what matters is checked.
          warnings.simplefilter("ignore")
          dataset = pydicom.dcmread(
            file, stop_before_pixels=True, force=True, specific_tags=_TAGS
          )
          found = _header(dataset, number, name)
          series = str(dataset.get("SeriesInstanceUID") or "")
    except InputError:
      raise
    except Exception as error:  # A parser met bytes that nobody vouches for.
      fault = f"is damaged DICOM ({type(error).__name__}: {error})."
      raise InputError(name, fault, REFETCH) from error
    if isinstance(found, Header):
      headers.append(found)
    else:
      passed[found, series] += 1
  return headers, passed


def _is_named_as_slice(name: str) -> bool:
  """Tells slices (x.dcm, IM1, 1.2.840) from marks (DONE, case_1.done)."""
  base = os.path.basename(name).lower()
  _, suffix = os.path.splitext(base)
  if suffix[1:].isalpha():
    return suffix in _SUFFIXES
  return any(map(str.isdigit, base))


def _check_foreign(head: bytes, name: str) -> None:
  """Refuses what was a slice once: to pass it over would shorten the scan."""
  if not head.strip(b"\x00"):
    raise InputError(name, f"is {len(head)} zeros or more.", REFETCH)
  if name.lower().endswith(_SUFFIXES):
    known = foreign_format(head)
    fault = f"this is {known[0]}, not DICOM." if known else "is no DICOM file."
    raise InputError(name, fault, known[1] if known else REFETCH)


def is_directory(dataset: Any) -> bool:
  """Tells the table of contents of a disc (DICOMDIR) from its objects.

  Args:
    dataset: with its meta header.

  Returns:
    Whether it is no object itself.
  """
  meta = getattr(dataset, "file_meta", {})
  kinds = dataset.get("SOPClassUID"), meta.get("MediaStorageSOPClassUID")
  return _DICOMDIR in kinds


def _header(dataset: Any, number: int, name: str) -> Header | str:
  """The header of a file, or what it is instead of CT slices."""
  if is_directory(dataset):
    return "DICOMDIR"
  kind = str(dataset.get("SOPClassUID") or "")
  meta = getattr(dataset, "file_meta", {})
  modality = str(dataset.get("Modality") or "")
  if not modality:
    raise InputError(name, "is DICOM without Modality.", REFETCH)
  if modality != "CT":
    return f"{modality} objects"
  if dataset.get("Rows") is None or dataset.get("Columns") is None:
    if kind in ("", *_CT_IMAGES):
      raise InputError(name, "is a CT image without Rows.", REFETCH)
    return "CT objects that are no images"
  if int(dataset.get("SamplesPerPixel", 1)) != 1:
    return "colour pictures"
  frames = _frames(dataset, name)
  if isinstance(frames, str):
    return frames
  if "ModalityLUTSequence" in dataset:
    fault = "gives HU by a table (ModalityLUTSequence)."
    raise InputError(name, fault, "export it with rescale slope.")
  stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
  highest = int(dataset.get("HighBit", stored - 1))
  if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
    raise InputError(name, f"{stored} bits in {allocated} stored.", REFETCH)
  if highest != stored - 1:
    raise InputError(name, f"high bit {highest} of {stored} bits.", REFETCH)
  signed = bool(int(dataset.get("PixelRepresentation", 0)))
  return Header(
    number=number,
    name=name,
    instance=str(dataset.get("SOPInstanceUID") or name),
    series=str(dataset.get("SeriesInstanceUID") or "unnamed"),
    description=str(dataset.get("SeriesDescription") or ""),
    columns=int(dataset.Columns),
    rows=int(dataset.Rows),
    bits=(stored, allocated),
    signed=signed,
    padding=_padding(dataset, signed, allocated),
    syntax=str(meta.get("TransferSyntaxUID") or _guessed_syntax(dataset)),
    lossy=str(dataset.get("LossyImageCompression", "")) == "01",
    facts=_facts(dataset),
    frames=tuple(frames),
  )


def _guessed_syntax(dataset: Any) -> str:
  """What pydicom found in a file without meta header."""
  implicit, little = dataset.original_encoding
  if implicit:
    return "1.2.840.10008.1.2"
  return "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"


def _frames(dataset: Any, name: str) -> list[Frame] | str:
  """The slices, or why there are none."""
  groups = dataset.get("PerFrameFunctionalGroupsSequence")
  count = int(dataset.get("NumberOfFrames") or 1)
  if groups is None:
    if _is_localizer(dataset.get("ImageType")):
      return "localizers"
    if count != 1:
      return "multi-frame images without positions"
    frame = _frame(0, name, lambda key, _: dataset.get(key))
    return "images without position" if frame is None else [frame]
  if len(groups) != count:
    fault = f"describes {len(groups)} of its {count} frames."
    raise InputError(name, fault, REFETCH)
  shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
  frames: list[Frame] = []
  missing: list[int] = []
  left_out = "images without position"
  for index, own in enumerate(groups):

    def find(key: str, group: str, own: Any = own) -> Any:
      """A value of the frame, of all frames, or of the file."""
      for place in (own, shared):
        items = place.get(group)
        if items and items[0].get(key) is not None:
          return items[0].get(key)
      return dataset.get(key)

    kind = find("FrameType", "CTImageFrameTypeSequence")
    if _is_localizer(kind or dataset.get("ImageType")):
      left_out = "localizers"
      continue
    frame = _frame(index, name, find)
    if frame is not None:
      frames.append(frame)
    else:
      missing.append(index)
  if frames and missing:
    fault = f"frame {missing[0]} has no position, others have."
    raise InputError(name, fault, REFETCH)
  return frames or left_out


def _frame(index: int, name: str, find: Any) -> Frame | None:
  """A slice, or None if it has no place in the patient."""
  position = find("ImagePositionPatient", "PlanePositionSequence")
  orientation = find("ImageOrientationPatient", "PlaneOrientationSequence")
  spacing = find("PixelSpacing", "PixelMeasuresSequence")
  if not position or not orientation or not spacing:
    return None
  group = "PixelValueTransformationSequence"
  slope, intercept = (
    find("RescaleSlope", group),
    find("RescaleIntercept", group),
  )
  kind = str(find("RescaleType", group) or "HU")
  if kind not in ("HU", "US", "HU_MOD"):
    fault = f"its values are {kind}, not HU."
    raise InputError(name, fault, "give the series with Hounsfield units.")
  between_rows, between_columns = _numbers(spacing, 2, "PixelSpacing", name)
  unscaled = slope is None or intercept is None
  rescale = [1.0, 0.0] if unscaled else [float(slope), float(intercept)]
  if not all(map(math.isfinite, rescale)) or rescale[0] == 0:
    fault = f"rescale slope {slope}, intercept {intercept}."
    raise InputError(name, fault, REFETCH)
  return Frame(
    index=index,
    position=_numbers(position, 3, "ImagePositionPatient", name),
    orientation=_numbers(orientation, 6, "ImageOrientationPatient", name),
    spacing=(between_columns, between_rows),
    slope=None if unscaled else rescale[0],
    intercept=None if unscaled else rescale[1],
  )


def _numbers(values: Any, count: int, key: str, name: str) -> tuple[float, ...]:
  """Exactly `count` finite numbers."""
  numbers = tuple(float(value) for value in values)
  if len(numbers) != count or not all(map(math.isfinite, numbers)):
    raise InputError(name, f"{key} is {list(values)!r:.80}.", REFETCH)
  return numbers


def _is_localizer(kind: Any) -> bool:
  words = [kind] if isinstance(kind, str) else list(kind or ())
  return any(str(word).upper() in _LOCALIZERS for word in words)


def _padding(
  dataset: Any, signed: bool, allocated: int
) -> tuple[int, int] | None:
  """Range of padding values, as stored values have it.

  GE writes -2000 as 63536 under signed pixels, so values are wrapped.
  """
  value = dataset.get("PixelPaddingValue")
  if value is None or value == "":
    return None
  limit = dataset.get("PixelPaddingRangeLimit")
  ends = []
  for end in (value, value if limit is None or limit == "" else limit):
    wrapped = int(end) % (1 << allocated)
    if signed and wrapped >= 1 << (allocated - 1):
      wrapped -= 1 << allocated
    ends.append(wrapped)
  return min(ends), max(ends)


def _facts(dataset: Any) -> dict[str, str]:
  """What the scanner did, in words; nothing about the patient."""
  facts: dict[str, str] = {}
  shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
  deeper = [
    items[0]
    for group in (
      *("CTReconstructionSequence", "CTXRayDetailsSequence"),
      *("PixelMeasuresSequence", "CTAcquisitionDetailsSequence"),
    )
    if (items := shared.get(group))
  ]
  for fact, key in _FACTS.items():
    for place in (dataset, *deeper):
      value = place.get(key)
      if value is None or value == "":
        continue
      several = not isinstance(value, str) and hasattr(value, "__iter__")
      facts[fact] = "/".join(map(str, value)) if several else str(value)
      break
  return facts
