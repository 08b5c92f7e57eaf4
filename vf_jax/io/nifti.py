# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""NIfTI in and out: never wrong in silence, never more memory than needed."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import nibabel
import numpy as np
from jaxtyping import Shaped

from vf_jax.errors import InputError
from vf_jax.io.atomic import atomic_write
from vf_jax.io.nifti_geometry import read_geometry
from vf_jax.io.nifti_header import (
  HEADER_BYTES,
  NiftiHeader,
  parse_header,
)
from vf_jax.io.sniff import HEAD_BYTES
from vf_jax.io.stream import ByteStream, open_bytes
from vf_jax.io.values import settle, settle_labels
from vf_jax.scratch import empty, slabs
from vf_jax.volume import Grid, Source, Volume

MAX_BYTES = 8 << 30

_GZIP_LEVEL = 6


def read(
  path: str | os.PathLike[str],
  *,
  assume_orientation: str | None = None,
  index: int | None = None,
  max_bytes: int = MAX_BYTES,
) -> Volume:
  """Reads a CT (or any real-valued volume) from a NIfTI file.

  Slope and intercept are applied. Voxels come out as int8, uint8 or int16 if
  stored so and unscaled; all else becomes int16 where that is exact, else
  int32 where that is exact, else float32. Never float64, never unsigned above
  8 bits, so that differences of HU cannot wrap.

  Args:
    path: a `.nii` or `.nii.gz` file; the content decides, not the name.
    assume_orientation: axis codes such as 'LPS' for a file that names none;
      ignored for files that do.
    index: which volume of a 4D file, from 0.
    max_bytes: largest decompressed content that is accepted.

  Returns:
    The volume in its native axis order, with its `source`. Voxels are in
    Fortran order, as in the file; on the disk if large (`scratch.empty`).

  Raises:
    InputError: if the content is damaged, incomplete or ambiguous.

  Units:
    HU; affine in mm, RAS+.
  """
  name = os.fspath(path)
  stored, header, source = _load(name, assume_orientation, index, max_bytes)
  notes: list[str] = []
  flat = settle(stored, header.slope, header.intercept, name, notes)
  return _volume(flat, source, notes)


def read_labels(
  path: str | os.PathLike[str],
  *,
  assume_orientation: str | None = None,
  index: int | None = None,
  max_bytes: int = MAX_BYTES,
) -> Volume:
  """Reads a mask of label numbers from a NIfTI file.

  Masks stored as floating point (VerSe's own are float64) are accepted if
  every value is a whole number.

  Args:
    path: as `read`.
    assume_orientation: as `read`.
    index: as `read`.
    max_bytes: as `read`.

  Returns:
    The mask as uint8, uint16 or uint32, the smallest that holds its labels.

  Raises:
    InputError: as `read`, and for fractions, negative values, NaN and Inf.

  Units:
    Affine in mm, RAS+.
  """
  name = os.fspath(path)
  stored, header, source = _load(name, assume_orientation, index, max_bytes)
  flat = settle_labels(stored, header.slope, header.intercept, name)
  return _volume(flat, source, [])


def _volume(flat: np.ndarray, source: Source, notes: list[str]) -> Volume:
  """Gives voxels their shape back."""
  grid = source.grid
  assert grid is not None, "_load always sets the grid"
  source = dataclasses.replace(source, warnings=source.warnings + tuple(notes))
  return Volume(flat.reshape(grid.shape, order="F"), grid.affine, source)


def _load(
  name: str, assume_orientation: str | None, index: int | None, max_bytes: int
) -> tuple[np.ndarray, NiftiHeader, Source]:
  """Reads stored numbers, in native byte order, as a flat array."""
  with open_bytes(name) as file:
    stream = ByteStream(file, name)
    header = parse_header(stream.peek(max(HEADER_BYTES, HEAD_BYTES)), name)
    geometry = read_geometry(header, name, assume_orientation)
    frame = _frame(header, index, name)
    _check_size(header, stream, max_bytes)
    stored = empty(header.frame_bytes // header.dtype.itemsize, header.dtype)
    stream.skip(header.offset + frame * header.frame_bytes)
    for part in slabs(stored):
      stream.read_into(stored[part].view(np.uint8).data)
    stream.skip((header.frames - 1 - frame) * header.frame_bytes)
    stream.finish()
  if not stored.dtype.isnative:
    for part in slabs(stored):
      stored[part].byteswap(inplace=True)
    stored = stored.view(stored.dtype.newbyteorder("="))
  source = Source(
    path=name,
    format=header.format,
    dtype=header.dtype.name,
    byte_order=header.byte_order,
    slope=header.slope,
    intercept=header.intercept,
    form=geometry.form,
    spatial_unit=geometry.spatial_unit,
    warnings=header.warnings + geometry.warnings,
    grid=geometry.grid,
    header=header.raw,
    intact=geometry.intact,
  )
  return stored, header, source


def _frame(header: NiftiHeader, index: int | None, name: str) -> int:
  """Which volume of the file to take."""
  if index is None and header.frames > 1:
    raise InputError(
      name, f"holds {header.frames} volumes.", one_volume(header.frames)
    )
  if not 0 <= (index or 0) < header.frames:
    raise InputError(
      name,
      f"has no volume {index}: it holds {header.frames}.",
      one_volume(header.frames),
    )
  return index or 0


def one_volume(frames: int) -> str:
  """Says how to take one volume of a file, whichever command reads it.

  Args:
    frames: how many the file holds.

  Returns:
    A sentence for an error.
  """
  return (
    "write one of them to a file of its own, or, for `vf-jax predict`, "
    f"choose one with --index 0 to {frames - 1}."
  )


def _check_size(
  header: NiftiHeader, stream: ByteStream, max_bytes: int
) -> None:
  """Refuses, before allocation, what cannot be or must not be so large."""
  needed = header.offset + header.frames * header.frame_bytes
  declared = f"declares {' x '.join(map(str, header.shape))} voxels" + (
    f" in {header.frames} volumes" if header.frames > 1 else ""
  )
  if needed > stream.limit:
    raise InputError(
      stream.name,
      f"{declared}, {needed:,} bytes with the header, which a file of "
      f"{stream.size:,} bytes cannot hold.",
      "the file is cut short or its header is damaged; fetch it again.",
    )
  if needed > max_bytes:
    raise InputError(
      stream.name,
      f"{declared}, {needed:,} bytes; the limit is {max_bytes:,}.",
      "crop the scan, or resample it to larger voxels.",
    )


def write(
  path: str | os.PathLike[str],
  data: Volume | Shaped[np.ndarray, "x y z"],
  like: Volume | Grid | None = None,
) -> None:
  """Writes a volume as NIfTI, with the geometry of the file it belongs to.

  If `like` was read from a NIfTI file whose geometry is without fault, the
  geometry fields are copied to the bit, so that every program shows the
  result exactly on the input. A repaired geometry is written as repaired.
  The same data give the same bytes, compressed or not.

  Args:
    path: ends in `.nii` or `.nii.gz`. Appears only when whole.
    data: a volume, or an array on the grid of `like`. Integers, floats and
      bool; stored as they are (bool as uint8, float16 as float32).
    like: the volume or grid whose geometry is written; `data` by default.

  Raises:
    InputError: if the shapes disagree, the name has another ending, the
      dtype has no place in NIfTI or the file cannot be written.

  Units:
    mm.
  """
  name = os.fspath(path)
  voxels = data.voxels if isinstance(data, Volume) else data
  if like is None:
    if not isinstance(data, Volume):
      raise InputError(name, "an array has no geometry.", "give `like`.")
    like = data
  grid = like.grid if isinstance(like, Volume) else like
  if voxels.shape != grid.shape:
    raise InputError(
      name, f"array {voxels.shape} does not fit the grid {grid.shape}."
    )
  zipped = name.lower().endswith(".gz")
  if not name.lower().endswith((".nii", ".nii.gz")):
    raise InputError(name, "is no NIfTI name.", "end it in .nii or .nii.gz.")
  dtype = _written_dtype(voxels.dtype, name)
  source = like.source if isinstance(like, Volume) else None
  header = _written_header(grid, source)
  header.set_data_dtype(dtype)
  with atomic_write(name) as file:
    with _compressor(file, zipped) as output:
      output.write(header.binaryblock + b"\x00\x00\x00\x00")
      for part in slabs(voxels):
        for layer in range(part.start, part.stop):
          output.write(voxels[:, :, layer].astype(dtype).tobytes(order="F"))


@contextlib.contextmanager
def _compressor(file: BinaryIO, zipped: bool) -> Iterator[Any]:
  """The file itself, or gzip without time and name."""
  if not zipped:
    yield file
    return
  with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as output:
    yield output


def _written_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
  """The little-endian NIfTI dtype for an array."""
  if dtype.kind == "b":
    return np.dtype("u1")
  if dtype == np.float16:
    return np.dtype("<f4")
  if dtype.kind not in "iuf" or dtype.itemsize > 8:
    raise InputError(
      name, f"NIfTI files hold no {dtype}.", "convert it to int16 or float32."
    )
  return dtype.newbyteorder("<")


def _written_header(grid: Grid, source: Source | None) -> Any:
  """A little-endian header with the geometry of the grid."""
  large = max(grid.shape) > np.iinfo(np.int16).max
  raw = _raw_geometry(grid, source)
  kind = nibabel.Nifti1Header
  if large or isinstance(raw, nibabel.Nifti2Header):
    kind = nibabel.Nifti2Header
  header = kind(endianness="<")
  header.set_data_shape(grid.shape)
  header["scl_slope"], header["scl_inter"] = 1, 0
  header["vox_offset"] = header.sizeof_hdr + 4
  header["magic"] = header.single_magic
  if raw is not None:
    for field in _GEOMETRY_FIELDS:
      header[field] = raw[field]
    header["pixdim"][:4] = raw["pixdim"][:4]
    header["xyzt_units"] = int(raw["xyzt_units"]) & 7
    return header
  header["pixdim"][1:4] = grid.spacing
  header["xyzt_units"] = 2
  header.set_sform(grid.affine, code=1)
  # A qform cannot tell of shear; a reader that wants one gets none then.
  directions = grid.affine[:3, :3] / np.array(grid.spacing)
  if np.allclose(directions.T @ directions, np.eye(3), atol=1e-5):
    header.set_qform(grid.affine, code=1)
  return header


_GEOMETRY_FIELDS = (
  "qform_code",
  "sform_code",
  "quatern_b",
  "quatern_c",
  "quatern_d",
  "qoffset_x",
  "qoffset_y",
  "qoffset_z",
  "srow_x",
  "srow_y",
  "srow_z",
)


def _raw_geometry(grid: Grid, source: Source | None) -> Any:
  """The header to copy from, if the grid is still the file's own."""
  if source is None or source.grid is None or not source.intact:
    return None
  same = grid.shape == source.grid.shape and np.array_equal(
    grid.affine, source.grid.affine
  )
  kinds = {"nifti1": nibabel.Nifti1Header, "nifti2": nibabel.Nifti2Header}
  if not same or source.format not in kinds:
    return None
  endianness = "<" if source.byte_order == "little" else ">"
  return kinds[source.format](source.header, endianness, check=False)
