# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""CT from DICOM: a folder, a zip archive or one multi-frame file.

Needs the extra `dicom`. See `dicom_series` for how slices become a volume,
`dicom_headers` for what is read of a file.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vf_jax.errors import InputError, warn_input
from vf_jax.io.dicom_files import Files, open_files
from vf_jax.io.dicom_headers import (
  EMPTY,
  Frame,
  Header,
  Passed,
  import_pydicom,
  read_headers,
)
from vf_jax.io.dicom_pixels import (
  check_decoders,
  decode,
  to_hounsfield,
  trust_padding,
)
from vf_jax.io.dicom_series import (
  SeriesInfo,
  Slice,
  Stack,
  arrange,
  choose,
  describe,
  passed_over,
  stacks_of,
)
from vf_jax.io.nifti import MAX_BYTES
from vf_jax.io.values import settle
from vf_jax.scratch import empty, release
from vf_jax.volume import Source, Volume

# What an object derived from a series asks of every image.
_OWN = [
  *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
  *("FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns"),
  *("ImagePositionPatient", "ImageOrientationPatient"),
]

__all__ = ["SeriesInfo", "list_series", "read", "read_facts", "source_slices"]


def read(
  path: str | os.PathLike[str],
  series: str | None = None,
  *,
  max_bytes: int = MAX_BYTES,
) -> Volume:
  """Reads one CT series as a volume of Hounsfield units.

  Rescale slope and intercept are applied slice by slice; padding becomes air.
  Localizers and objects that are no CT are passed over. Memory holds the
  volume and one slice (for an archive, one file).

  Args:
    path: a folder (searched with its subfolders), a zip archive of one, or a
      multi-frame file.
    series: UID of the series, or enough of its end to be unique; None to take
      the only volume there is.
    max_bytes: largest volume, and largest unpacked archive.

  Returns:
    The volume; axes are along rows, down columns, across slices. int16 where
    that is exact, else int32 or float32.

  Raises:
    InputError: if there is no CT, a choice is needed (it is listed), slices
      are missing, repeated, damaged or unevenly spaced, some alone have no
      rescale, or a decoder is not installed.

  Units:
    HU; affine in mm, RAS+.
  """
  name = os.fspath(path)
  with open_files(name, max_bytes) as files:
    stacks, passed = _stacks(files, name)
    stack = choose(stacks, series, name)
    slices, grid, notes = arrange(stack, name)
    notes += _left_out(stacks, passed, stack)
    if series is None:
      notes += passed_over(stacks, stack)
    _check_size(math.prod(grid.shape), max_bytes, name)
    check_decoders((header.syntax for header, _ in slices), name)
    voxels = _voxels(files, slices, grid.shape, name, notes)
  for note in notes:
    warn_input(name, note)
  header, frame = slices[0]
  rescales = {(f.slope, f.intercept) for _, f in slices}
  plain = len(rescales) == 1 and None not in (frame.slope, frame.intercept)
  kind = "int" if header.signed else "uint"
  source = Source(
    path=name,
    format="dicom",
    dtype=f"{kind}{header.bits[1]}",
    slope=frame.slope if plain and frame.slope is not None else 1.0,
    intercept=frame.intercept if plain and frame.intercept is not None else 0.0,
    form="dicom",
    warnings=tuple(notes),
    grid=grid,
    intact=not notes,
  )
  return Volume(voxels, grid.affine, source)


def list_series(
  path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> tuple[SeriesInfo, ...]:
  """Lists the CT series in a folder, archive or file, largest first.

  Args:
    path: as `read`.
    max_bytes: as `read`.

  Returns:
    What could be given to `read` as `series`.

  Raises:
    InputError: if there is no CT or a file is damaged.
  """
  name = os.fspath(path)
  with open_files(name, max_bytes) as files:
    stacks, _ = _stacks(files, name)
    return tuple(describe(stack) for stack in stacks)


def read_facts(
  path: str | os.PathLike[str],
  series: str | None = None,
  *,
  max_bytes: int = MAX_BYTES,
) -> Mapping[str, str]:
  """Reads facts of scanner and reconstruction; never of the patient.

  Args:
    path: as `read`.
    series: as `read`.
    max_bytes: as `read`.

  Returns:
    Those known of 'manufacturer', 'model', 'kernel', 'kvp',
    'slice_thickness_mm', 'gantry_tilt_deg', 'patient_position' (as HFS) and
    'body_part'.

  Raises:
    InputError: as `read`.
  """
  name = os.fspath(path)
  with open_files(name, max_bytes) as files:
    stacks, _ = _stacks(files, name)
    return dict(choose(stacks, series, name).slices[0][0].facts)


def source_slices(
  path: str | os.PathLike[str],
  series: str | None = None,
  *,
  max_bytes: int = MAX_BYTES,
) -> list[tuple[Any, int]]:
  """Reads the headers of a series, for objects derived from it.

  Only the first is whole; of the others memory holds what tells them apart.

  Args:
    path: as `read`.
    series: as `read`.
    max_bytes: as `read`.

  Returns:
    For every slice of the volume, in its order, the pydicom dataset of its file
    without pixels, and the index of its frame. These hold the patient's name.

  Raises:
    InputError: as `read`.
  """
  name = os.fspath(path)
  pydicom = import_pydicom(name)
  with open_files(name, max_bytes) as files:
    stacks, _ = _stacks(files, name)
    slices, _, _ = arrange(choose(stacks, series, name), name)
    datasets: dict[int, Any] = {}
    for header, _ in slices:
      tags = _OWN if datasets else None
      if header.number not in datasets:
        with files.open(header.number) as file, warnings.catch_warnings():
          warnings.simplefilter("ignore")
          datasets[header.number] = pydicom.dcmread(
            file, stop_before_pixels=True, force=True, specific_tags=tags
          )
  return [(datasets[header.number], frame.index) for header, frame in slices]


def _stacks(files: Files, name: str) -> tuple[list[Stack], Passed]:
  """All stacks of CT slices; at least one."""
  headers, passed = read_headers(files, name)
  stacks = stacks_of(headers)
  if not stacks:
    kinds: dict[str, int] = {}
    for (kind, _), count in passed.items():
      kinds[kind] = kinds.get(kind, 0) + count
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    raise InputError(
      name,
      f"holds no CT slices ({found or 'no files'}).",
      "give the folder of a CT series, its zip, or a multi-frame CT file.",
    )
  return stacks, passed


def _left_out(
  stacks: Sequence[Stack], passed: Passed, chosen: Stack
) -> list[str]:
  """What of the files that may be of the series is not in the volume."""
  uid = chosen.uid.split("#")[0]
  notes = [
    f"{count} {kind} of the same series are left out."
    for (kind, series), count in passed.items()
    if series == uid
  ]
  count = sum(
    len(stack.slices)
    for stack in stacks
    if stack is not chosen and stack.uid.split("#")[0] == uid
  )
  if count:
    notes.append(
      f"{count} images of the same series differ in plane or size and are "
      "left out."
    )
  if passed[EMPTY, ""]:
    notes.append(f"{passed[EMPTY, '']} empty files were passed over.")
  return notes


def _check_size(count: int, max_bytes: int, name: str) -> None:
  """Refuses what is too large, before anything is allocated."""
  if count * 2 > max_bytes:
    fault = f"declares {count:,} voxels; the limit is {max_bytes:,} bytes."
    fix = "give the slices of the spine alone, or a coarser reconstruction."
    raise InputError(name, fault, fix)


def _voxels(
  files: Files,
  slices: Sequence[Slice],
  shape: tuple[int, int, int],
  name: str,
  notes: list[str],
) -> np.ndarray:
  """Decodes all slices into one array."""
  rescales = {(frame.slope, frame.intercept) for _, frame in slices}
  unscaled = sum(frame.slope is None for _, frame in slices)
  if unscaled and len(rescales) > 1:
    raise InputError(
      name,
      f"{unscaled} of {len(slices)} slices have no rescale slope and "
      "intercept, the others have.",
      "export the series again; without them, those slices are not in HU.",
    )
  if unscaled:
    notes.append("has no rescale slope and intercept; values as stored.")
  elif len(rescales) > 1:
    notes.append(f"has {len(rescales)} rescales; each slice got its own.")
  if any(header.lossy for header, _ in slices):
    notes.append("was compressed with loss.")
  whole = all(
    float(value or 0).is_integer() for rescale in rescales for value in rescale
  )
  padding = trust_padding(slices, notes)
  voxels = empty(shape, np.int16 if whole else np.float32)
  # In the order of the file, each of which is opened once.
  jobs: dict[int, list[tuple[Frame, int]]] = {}
  headers: dict[int, Header] = {}
  for place, (header, frame) in enumerate(slices):
    headers[header.number] = header
    jobs.setdefault(header.number, []).append((frame, place))
  for number, wanted in sorted(jobs.items()):
    header = headers[number]
    wanted.sort(key=lambda pair: pair[0].index)
    indices = [frame.index for frame, _ in wanted]
    decoded = decode(files, header, indices)
    for (frame, place), stored in zip(wanted, decoded, strict=True):
      values = to_hounsfield(stored, header, frame, padding, whole)
      if voxels.dtype == np.int16 and not _fits(values):
        voxels = voxels.astype(np.int32, order="F")
      voxels[:, :, place] = values.T
    release(voxels)
  if whole:
    return voxels
  flat = settle(voxels.reshape(-1, order="F"), 1.0, 0.0, name, notes)
  return flat.reshape(shape, order="F")


def _fits(values: np.ndarray) -> bool:
  limits = np.iinfo(np.int16)
  return bool(limits.min <= values.min() and values.max() <= limits.max)
