# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Reads a CT, whatever it is stored as: the content decides, not the name."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Literal

import numpy as np

from vf_jax.errors import InputError, warn_input
from vf_jax.io import nifti
from vf_jax.io.sniff import HEAD_BYTES, is_dicom
from vf_jax.io.stream import open_bytes
from vf_jax.scratch import empty, slabs
from vf_jax.volume import Volume

Kind = Literal["nifti", "metaimage", "dicom"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_SUFFIX = re.compile(r"\.(nii(\.gz)?|gz|mha|mhd|zip|dcm)$", re.IGNORECASE)
_METAIMAGE = re.compile(rb"\s*(objecttype|ndims|comment)\s*=", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class InputOptions:
  """What a user may say about inputs that do not say it themselves.

  Attributes:
    assume_orientation: axis codes for NIfTI and MetaImage files without any,
      e.g. 'LPS'; DICOM always has them.
    index: volume of a 4D NIfTI or MetaImage file; refused for DICOM.
    hu_offset: added to the voxels, for files without their rescale intercept.
    series: UID of a DICOM series, or the end of it, where there are several;
      other formats have none.
  """

  assume_orientation: str | None = None
  index: int | None = None
  hu_offset: int = 0
  series: str | None = None


AS_STORED = InputOptions()
"""Nothing said: files have to say it themselves."""


def case_name(path: str | os.PathLike[str]) -> str:
  """Name of a case: the name of its file without `_ct` and suffix.

  Args:
    path: of the CT, a file or a folder.

  Returns:
    E.g. `sub-verse004` for `sub-verse004_ct.nii.gz`.
  """
  name = os.path.basename(os.path.abspath(path))
  if not os.path.isdir(path):
    name = _SUFFIX.sub("", name)
  # Without its dots no name is hidden, or leads out of the folder.
  return name.removesuffix("_ct").lstrip(".") or "case"


def kind_of(path: str | os.PathLike[str]) -> Kind:
  """Recognises how a CT is stored.

  Args:
    path: a file or a folder.

  Returns:
    'dicom' for a folder, a zip archive and a DICOM file, 'metaimage' for mhd
    and mha; 'nifti' for all else, whose reader names what it is not.

  Raises:
    InputError: if it is not there or cannot be read.
  """
  if os.path.isdir(path):
    return "dicom"
  with open_bytes(path) as file:
    head = file.read(HEAD_BYTES)
  if is_dicom(head) or head[:4] in _ZIP:
    return "dicom"
  return "metaimage" if _METAIMAGE.match(head) else "nifti"


def read_ct(
  path: str | os.PathLike[str], options: InputOptions = AS_STORED
) -> Volume:
  """Reads a CT from NIfTI, MetaImage or DICOM.

  Args:
    path: a NIfTI or MetaImage file, a DICOM file of many frames, a folder of
      DICOM files or a zip archive of one.
    options: what the input does not say itself.

  Returns:
    The volume on its own grid.

  Raises:
    InputError: if the content is damaged, incomplete or ambiguous, or an index
      is given for DICOM.

  Units:
    HU; affine in mm, RAS+.
  """
  kind = kind_of(path)
  if kind == "dicom":
    from vf_jax.io import dicom

    if options.index is not None:
      raise InputError(
        path,
        "is DICOM, which has no volumes to choose by --index.",
        "leave it out; --series chooses one of several series.",
      )
    volume = dicom.read(path, options.series)
  elif kind == "metaimage":
    from vf_jax.io import metaimage

    volume = metaimage.read(
      path, assume_orientation=options.assume_orientation, index=options.index
    )
  else:
    volume = nifti.read(
      path, assume_orientation=options.assume_orientation, index=options.index
    )
  volume = _tell_unused(volume, kind, path, options)
  return _shift(volume, options.hu_offset) if options.hu_offset else volume


def _tell_unused(
  volume: Volume,
  kind: Kind,
  path: str | os.PathLike[str],
  options: InputOptions,
) -> Volume:
  """Warns of what was said about a file that says it itself."""
  source = volume.source
  unused = []
  if options.assume_orientation and source and source.form != "assumed":
    unused.append("names its orientation: --assume-orientation was not used.")
  if options.series and kind != "dicom":
    unused.append("is not DICOM: --series was not used.")
  if not source or not unused:
    return volume
  notes = [warn_input(path, note, stacklevel=4) for note in unused]
  source = dataclasses.replace(source, warnings=(*source.warnings, *notes))
  return dataclasses.replace(volume, source=source)


def _shift(volume: Volume, offset: int) -> Volume:
  """Adds HU to all voxels; what int16 cannot hold saturates."""
  limits = np.iinfo(np.int16)
  shifted = empty(volume.voxels.shape, np.int16)
  for part in slabs(shifted, volume.voxels):
    values = volume.voxels[..., part]
    if values.dtype.kind == "f":
      values = np.rint(np.clip(values.astype(np.float64), -(10**6), 10**6))
    wide = values.astype(np.int64) + offset
    shifted[..., part] = np.clip(wide, limits.min, limits.max)
  return dataclasses.replace(volume, voxels=shifted)
