# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""NIfTI headers, read strictly: every field that matters is checked here."""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from typing import Any

import nibabel
import numpy as np

from vf_jax.errors import InputError, warn_input
from vf_jax.io.sniff import foreign_format

HEADER_BYTES = 540  # NIfTI-2; a NIfTI-1 header is the first 348 of them.
MIN_SLICES = 2

_CONVERT = "convert it: nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')."
REEXPORT = "the header is damaged; export or download the file again."

_DTYPES = {
  2: "u1",
  4: "i2",
  8: "i4",
  16: "f4",
  64: "f8",
  256: "i1",
  512: "u2",
  768: "u4",
  1024: "i8",
  1280: "u8",
}
_USELESS_DTYPES = {
  1: "1-bit voxels",
  32: "complex voxels",
  128: "RGB colour voxels",
  1536: "128-bit float voxels",
  1792: "complex voxels",
  2048: "complex voxels",
  2304: "RGBA colour voxels",
}


@dataclasses.dataclass(frozen=True, eq=False)
class NiftiHeader:
  """What a header says, checked.

  Attributes:
    format: 'nifti1' or 'nifti2'.
    raw: the header bytes as stored.
    byte_order: 'little' or 'big'.
    shape: of one volume.
    frames: how many volumes the file holds.
    dtype: as stored, with byte order.
    offset: where the voxels start in the file.
    slope: the value is the stored number times slope plus intercept.
    intercept: see `slope`.
    warnings: faults that do not prevent reading.
  """

  format: str
  raw: bytes
  byte_order: str
  shape: tuple[int, int, int]
  frames: int
  dtype: np.dtype
  offset: int
  slope: float
  intercept: float
  warnings: tuple[str, ...]

  @property
  def frame_bytes(self) -> int:
    """Stored bytes of one volume."""
    return math.prod(self.shape) * self.dtype.itemsize

  @property
  def struct(self) -> Any:
    """The fields, as a nibabel header that checks nothing."""
    return _struct(self.format, self.raw, self.byte_order)


def parse_header(head: bytes, name: str) -> NiftiHeader:
  """Reads the header apart from its geometry.

  Args:
    head: first bytes of the (decompressed) file, `HEADER_BYTES` at least if
      the file has as many.
    name: the path, for messages.

  Returns:
    The header.

  Raises:
    InputError: if this is not a single-file NIfTI of one or more volumes of
      real numbers.
  """
  format_, byte_order, size = _identify(head, name)
  if len(head) < size:
    raise InputError(
      name, f"ends inside its header ({len(head)} bytes).", REEXPORT
    )
  fields = _struct(format_, head[:size], byte_order)
  _check_magic(format_, head, name)
  shape, frames = _dimensions(fields, name)
  warnings: list[str] = []
  dtype = _stored_dtype(fields, byte_order, name, warnings)
  slope, intercept = _scaling(fields, name, warnings)
  return NiftiHeader(
    format=format_,
    raw=head[:size],
    byte_order=byte_order,
    shape=shape,
    frames=frames,
    dtype=dtype,
    offset=_voxel_offset(fields, size, name),
    slope=slope,
    intercept=intercept,
    warnings=tuple(warnings),
  )


def _struct(format_: str, raw: bytes, byte_order: str) -> Any:
  """Wraps header bytes in nibabel's field names."""
  kind = {
    "nifti1": nibabel.Nifti1Header,
    "nifti2": nibabel.Nifti2Header,
  }[format_]
  endianness = "<" if byte_order == "little" else ">"
  return kind(raw, endianness=endianness, check=False)


def _identify(head: bytes, name: str) -> tuple[str, str, int]:
  """Format, byte order and header size, by the size field at the start."""
  for byte_order, sign in (("little", "<"), ("big", ">")):
    if len(head) >= 4:
      (size,) = struct.unpack(sign + "i", head[:4])
      if size in (348, 540):
        return ("nifti1" if size == 348 else "nifti2"), byte_order, size
  known = foreign_format(head)
  if known:
    raise InputError(name, f"this is {known[0]}, not NIfTI.", known[1])
  if os.path.splitext(name)[1].lower() == ".img":
    raise InputError(name, "is the voxel half of an .hdr/.img pair.", _CONVERT)
  raise InputError(
    name,
    "is not NIfTI: no header size of 348 or 540 at its start.",
    "give a .nii or .nii.gz file.",
  )


def _check_magic(format_: str, head: bytes, name: str) -> None:
  """Accepts single files only."""
  magic = head[344:348] if format_ == "nifti1" else head[4:12]
  if format_ == "nifti1":
    if magic.rstrip(b"\x00") == b"n+1":
      return
  elif magic == b"n+2\x00\r\n\x1a\n":
    return
  elif magic.startswith(b"n+2"):
    raise InputError(
      name,
      "has a bad NIfTI-2 magic number: line ends were converted.",
      "transfer it again in binary mode.",
    )
  if magic.startswith((b"ni1", b"ni2")):
    raise InputError(name, "is the header half of an .hdr/.img pair.", _CONVERT)
  known = foreign_format(head)
  if known:
    raise InputError(name, f"this is {known[0]}, not NIfTI.", known[1])
  raise InputError(
    name,
    f"has a bad magic number {magic!r}: an Analyze 7.5 file, whose "
    "orientation is unknown, or a damaged NIfTI.",
    "convert it from the original DICOM, for example with dcm2niix.",
  )


def _dimensions(fields: Any, name: str) -> tuple[tuple[int, int, int], int]:
  """Shape of a volume and the number of volumes."""
  rank, *sizes = (int(size) for size in fields["dim"])
  if not 1 <= rank <= 7:
    raise InputError(name, f"declares {rank} dimensions (dim[0]).", REEXPORT)
  sizes = sizes[:rank]
  if min(sizes) < 1:
    raise InputError(name, f"has an empty axis: dim {sizes}.", REEXPORT)
  if rank < 3 or (sizes[2] == 1 and min(sizes[:2]) > 1):
    raise InputError(
      name,
      f"is a 2D image of {' x '.join(map(str, sizes[:2]))}, not a volume.",
      "stack the slices of the series into one volume first.",
    )
  x, y, z, *further = sizes
  if min(x, y, z) < MIN_SLICES:
    raise InputError(
      name,
      f"has an axis of {min(x, y, z)} voxel: shape {(x, y, z)}; at least "
      f"{MIN_SLICES} are needed.",
      "give a volume, not a single slice or line.",
    )
  if sum(size > 1 for size in further) > 1:
    raise InputError(
      name,
      f"has {rank} dimensions: {sizes}.",
      "save the one 3D volume that is wanted.",
    )
  return (x, y, z), math.prod(further)


def _stored_dtype(
  fields: Any, byte_order: str, name: str, warnings: list[str]
) -> np.dtype:
  """The dtype of the stored numbers."""
  code, bits = int(fields["datatype"]), int(fields["bitpix"])
  if code in _USELESS_DTYPES:
    raise InputError(
      name,
      f"holds {_USELESS_DTYPES[code]} (datatype {code}), not HU or labels.",
      "give the CT itself, with one real number a voxel.",
    )
  if code not in _DTYPES:
    raise InputError(name, f"has an unknown datatype {code}.", REEXPORT)
  dtype = np.dtype(_DTYPES[code]).newbyteorder(
    "<" if byte_order == "little" else ">"
  )
  if bits != dtype.itemsize * 8:
    warnings.append(
      warn_input(
        name,
        f"bitpix {bits} disagrees with datatype {code} ({dtype.name}); the "
        "datatype is used.",
      )
    )
  return dtype


def _scaling(
  fields: Any, name: str, warnings: list[str]
) -> tuple[float, float]:
  """Slope and intercept, by the standard: slope 0 means none."""
  slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
  if slope == 0:
    if intercept != 0:
      warnings.append(
        warn_input(
          name,
          f"slope 0 with intercept {intercept:g}: not scaled, as the NIfTI "
          "standard says.",
        )
      )
    return 1.0, 0.0
  if not math.isfinite(slope):
    warnings.append(
      warn_input(name, f"slope {slope}: the values are not scaled.")
    )
    return 1.0, 0.0
  if not math.isfinite(intercept):
    raise InputError(
      name,
      f"slope {slope:g} with intercept {intercept}: the values are unknown.",
      REEXPORT,
    )
  return slope, intercept


def _voxel_offset(fields: Any, size: int, name: str) -> int:
  """Where the voxels start; after header and extension flag at least."""
  offset = float(fields["vox_offset"])
  if not math.isfinite(offset) or offset != int(offset) or offset < size + 4:
    raise InputError(
      name,
      f"voxels start at byte {offset:g} (vox_offset), inside the header of "
      f"{size + 4} bytes.",
      REEXPORT,
    )
  return int(fields["vox_offset"])
