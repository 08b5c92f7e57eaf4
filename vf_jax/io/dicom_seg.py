# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A vertebra mask as DICOM SEG, on the slices of the series it was made of.

Needs the extra `dicom`. One binary segment a vertebra, coded by SNOMED CT as
DICOM PS3.16 CID 7603 has it; T13 and L6, which that table lacks, are coded
'Vertebra' and told by their label. Patient and study are those of the series.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

import vf_jax
from vf_jax.errors import InputError, install_fix
from vf_jax.io.atomic import atomic_write
from vf_jax.io.dicom import source_slices
from vf_jax.io.dicom_headers import import_pydicom
from vf_jax.labels import BY_CODE
from vf_jax.scratch import empty, release, slabs

# May be empty in a SEG, but not missing.
_NEEDED = (
  *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
  *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
  "ReferringPhysicianName",
)
# LO, 64 characters; and ST, 1024.
_UNSURE = "Vertebrae; level unsure: all may be shifted, a person decides"
_UNSURE_SEGMENT = (
  "Level unsure: all levels of this scan may be shifted; a person should "
  "decide."
)
_CODED = {
  *(f"C{n}" for n in range(1, 8)),
  *(f"T{n}" for n in range(1, 13)),
  *(f"L{n}" for n in range(1, 6)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class SegSource:
  """The series that a mask was made of.

  Attributes:
    name: what was read, for messages.
    images: pydicom datasets without pixels, as highdicom wants them.
    order: slice of the volume of each frame of `images`.
    notes: what the series lacks and was made up for.
  """

  name: str
  images: tuple[Any, ...]
  order: tuple[int, ...]
  notes: tuple[str, ...]


def read_source(
  path: str | os.PathLike[str], series: str | None = None
) -> SegSource:
  """Reads what a DICOM SEG repeats of its series.

  Args:
    path: what was given to `dicom.read`.
    series: what was given to `dicom.read`.

  Returns:
    The series, its identifiers filled up where an anonymizer emptied them.

  Raises:
    InputError: if highdicom is not installed, or no SEG can be made of the
      series.
  """
  name = os.fspath(path)
  _import_highdicom(name)
  images, order = _images(source_slices(name, series), name)
  return SegSource(name, tuple(images), tuple(order), _fill_up(images, name))


def write_dicom_seg(
  path: str | os.PathLike[str],
  mask: UInt8[np.ndarray, "x y z"],
  source: SegSource,
  checkpoint: str,
  *,
  abstained: bool = False,
) -> None:
  """Writes a mask as DICOM SEG.

  Args:
    path: of the file, which appears when whole.
    mask: VerSe codes on the grid of the series, as `dicom.read` gives it.
    source: the series.
    checkpoint: digest of the weights, named in the file.
    abstained: whether all levels may be shifted; the descriptions of the
      file and of its segments say so.

  Raises:
    InputError: if the mask is empty or does not lie on the series, or the
      series lacks what a SEG must repeat of it.
  """
  hd = _import_highdicom(source.name)
  if mask.shape[2] != len(source.order):
    fault = f"has {len(source.order)} slices, the mask {mask.shape[2]}."
    raise InputError(source.name, fault)
  codes = _codes_in(mask)
  if not codes:
    raise InputError(path, "a DICOM SEG cannot be empty.")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of odd values that the series has
      segmentation = hd.seg.Segmentation(
        source_images=source.images,
        pixel_array=_segment_numbers(mask, codes, source.order),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_describe(hd, codes, checkpoint, abstained),
        series_instance_uid=hd.UID(),
        series_number=_number(source.images[0]) + 1000,
        series_description="Vertebrae (vf_jax), not for clinical use",
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="vf_jax",
        manufacturer_model_name="VertebraFormer",
        software_versions=vf_jax.__version__,
        device_serial_number=checkpoint[:16],
        specific_character_set="ISO_IR 192",
        content_label="VERTEBRAE",
        content_description=_UNSURE if abstained else "Vertebrae by level",
        omit_empty_frames=True,
      )
  except (AttributeError, TypeError, ValueError, KeyError) as error:
    raise InputError(
      source.name,
      f"lacks what a DICOM SEG must repeat of it ({error}).",
      "leave --dicom-seg out, or restore the series' headers.",
    ) from error
  with atomic_write(path) as file, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    segmentation.save_as(file)


def _import_highdicom(name: str) -> Any:
  try:
    import highdicom
    import highdicom.seg
  except ImportError as error:
    raise InputError(
      name,
      "DICOM SEG needs highdicom, which is not installed.",
      f"{install_fix('dicom')}, or leave --dicom-seg out.",
    ) from error
  return highdicom


def _codes_in(mask: UInt8[np.ndarray, "x y z"]) -> list[int]:
  """The codes of a mask but 0, ascending."""
  found: set[int] = set()
  for part in slabs(mask):
    found.update(np.unique(mask[..., part]).tolist())
  return sorted(found - {0})


def _segment_numbers(
  mask: UInt8[np.ndarray, "x y z"], codes: list[int], order: Sequence[int]
) -> UInt8[np.ndarray, "frames rows columns"]:
  """Segments, from 1 in the order of the codes, for the frames of a series.

  The only copy of the mask, and it is on the disk if it is large.
  """
  table = np.zeros(256, np.uint8)
  table[codes] = np.arange(1, len(codes) + 1)
  columns, rows, _ = mask.shape
  numbers = empty((len(order), rows, columns), np.uint8, "C")
  for frame, place in enumerate(order):
    numbers[frame] = table[mask[:, :, place].T]
    release(mask, numbers)
  return numbers


def _images(
  slices: list[tuple[Any, int]], name: str
) -> tuple[list[Any], list[int]]:
  """The series as highdicom wants it, and the slice of each of its frames."""
  if all(frame == 0 and _frames(image) == 1 for image, frame in slices):
    return [image for image, _ in slices], list(range(len(slices)))
  first = slices[0][0]
  own = all(image is first for image, _ in slices)
  if not own or _frames(first) != len(slices):
    raise InputError(
      name,
      "a DICOM SEG on several multi-frame files, or on some of the frames of "
      "one, cannot be written.",
      "leave --dicom-seg out.",
    )
  places = {frame: place for place, (_, frame) in enumerate(slices)}
  return [first], [places[frame] for frame in range(len(slices))]


def _fill_up(images: list[Any], name: str) -> tuple[str, ...]:
  """Gives images the identifiers that they lack; says which.

  The file's own meta header names the image; made-up numbers are the same for
  all images and in every run.
  """
  uid = import_pydicom(name, "pydicom.uid")
  first = images[0]
  place = str(first.get("FrameOfReferenceUID") or os.path.basename(name))
  missing = []
  for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
    if first.get(key):
      continue
    missing.append(key)
    made_up = uid.generate_uid(entropy_srcs=[key, place])
    for image in images:
      setattr(image, key, made_up)
  for number, image in enumerate(images):
    meta = getattr(image, "file_meta", {})
    if not image.get("SOPClassUID"):
      kind = meta.get("MediaStorageSOPClassUID") or uid.CTImageStorage
      image.SOPClassUID = kind
    if not image.get("SOPInstanceUID"):
      sources = ["image", place, str(number)]
      image.SOPInstanceUID = meta.get(
        "MediaStorageSOPInstanceUID"
      ) or uid.generate_uid(entropy_srcs=sources)
  for key in _NEEDED:
    if key not in first:
      setattr(first, key, "")
  if not missing:
    return ()
  return (
    f"The series lacks {', '.join(missing)}; the DICOM SEG has made-up ones "
    "and will not be filed with it.",
  )


def _frames(image: Any) -> int:
  return int(image.get("NumberOfFrames") or 1)


def _number(image: Any) -> int:
  return int(image.get("SeriesNumber") or 0) % 100_000


def _describe(
  hd: Any, codes: list[int], checkpoint: str, abstained: bool
) -> list[Any]:
  """One description a segment, in the order of the codes."""
  codedict = import_pydicom("DICOM SEG", "pydicom.sr.codedict").codes
  algorithm = hd.AlgorithmIdentificationSequence(
    name="vf_jax VertebraFormer",
    family=codedict.cid7162.ArtificialIntelligence,
    version=vf_jax.__version__,
    source="vf_jax",
    parameters={"checkpoint_sha256": checkpoint},
  )
  described = []
  for number, code in enumerate(codes, 1):
    level = BY_CODE[code].name
    kind = f"{level}Vertebra" if level in _CODED else "Vertebra"
    described.append(
      hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=level,
        segmented_property_category=codedict.SCT.AnatomicalStructure,
        segmented_property_type=getattr(codedict.SCT, kind),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_id=f"vertebra {level}",
        tracking_uid=hd.UID(),
        anatomic_regions=[codedict.SCT.Spine],
      )
    )
    if abstained:
      # highdicom has no argument for it.
      described[-1].SegmentDescription = _UNSURE_SEGMENT
  return described
