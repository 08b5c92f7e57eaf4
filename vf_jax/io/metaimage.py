# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""MetaImage in and out: `.mhd` with `.raw` or `.zraw`, and `.mha`.

The format of SpineWeb's CT. Headers are read in `metaimage_header`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vf_jax.errors import InputError
from vf_jax.io.atomic import atomic_write
from vf_jax.io.metaimage_header import (
  ELEMENT_TYPES,
  HEAD_BYTES,
  LOCAL,
  MetaHeader,
  parse_data_file,
  parse_header,
)
from vf_jax.io.nifti import MAX_BYTES, one_volume
from vf_jax.io.stream import DEFLATE_LIMIT, REFETCH, open_bytes
from vf_jax.io.values import settle, settle_labels
from vf_jax.scratch import empty, release, slabs
from vf_jax.volume import Source, Volume

_CHUNK = 1 << 20


def read(
  path: str | os.PathLike[str],
  *,
  assume_orientation: str | None = None,
  index: int | None = None,
  max_bytes: int = MAX_BYTES,
) -> Volume:
  """Reads a CT (or any real-valued volume) from a MetaImage file.

  Voxels come out in the dtypes of `nifti.read`. The format has no scaling
  that all programs honour, so a file that asks for one is refused.

  Args:
    path: the `.mhd` or `.mha` file.
    assume_orientation: axis codes such as 'LPS' for a file without
      TransformMatrix; ignored for files that have it.
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
  stored, source = _load(name, assume_orientation, index, max_bytes)
  notes: list[str] = []
  return _volume(settle(stored, 1.0, 0.0, name, notes), source, notes)


def read_labels(
  path: str | os.PathLike[str],
  *,
  assume_orientation: str | None = None,
  index: int | None = None,
  max_bytes: int = MAX_BYTES,
) -> Volume:
  """Reads a mask of label numbers from a MetaImage file.

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
  stored, source = _load(name, assume_orientation, index, max_bytes)
  return _volume(settle_labels(stored, 1.0, 0.0, name), source, [])


def data_file(path: str | os.PathLike[str]) -> pathlib.Path | None:
  """Names the file that holds the voxels of a header.

  Nothing else is asked of the header: one that `read` takes only with
  `assume_orientation` or `index` is no fault here.

  Args:
    path: `.mhd` or `.mha`.

  Returns:
    The file; None if the voxels are in `path` itself.

  Raises:
    InputError: if it is no MetaImage header, or names no file of its folder.
  """
  name = os.fspath(path)
  with open_bytes(name) as file:
    voxels = parse_data_file(file.read(HEAD_BYTES), name)
  if voxels == LOCAL:
    return None
  return pathlib.Path(os.path.dirname(name), voxels)


def _volume(flat: np.ndarray, source: Source, notes: list[str]) -> Volume:
  """Gives voxels their shape back."""
  grid = source.grid
  assert grid is not None, "_load always sets the grid"
  source = dataclasses.replace(source, warnings=source.warnings + tuple(notes))
  return Volume(flat.reshape(grid.shape, order="F"), grid.affine, source)


def _load(
  name: str, assume_orientation: str | None, index: int | None, max_bytes: int
) -> tuple[np.ndarray, Source]:
  """Reads stored numbers, in native byte order, as a flat array."""
  with open_bytes(name) as file:
    header = parse_header(file.read(HEAD_BYTES), name, assume_orientation)
    frame = _frame(header, index, name)
    if header.data_file == LOCAL:
      stored = _voxels(file, len(header.raw), header, frame, name, max_bytes)
    else:
      with _open_data(header.data_file, name) as data:
        stored = _voxels(
          data, max(header.skip, 0), header, frame, name, max_bytes
        )
  if not stored.dtype.isnative:
    for part in slabs(stored):
      stored[part].byteswap(inplace=True)
    stored = stored.view(stored.dtype.newbyteorder("="))
  source = Source(
    path=name,
    format="metaimage",
    dtype=header.dtype.name,
    byte_order="big" if header.dtype.str[0] == ">" else "little",
    form=header.form,
    warnings=header.warnings,
    grid=header.grid,
    header=header.raw,
    intact=not header.warnings,
  )
  return stored, source


def _frame(header: MetaHeader, index: int | None, name: str) -> int:
  """Which volume of the file to take."""
  fix = one_volume(header.frames)
  if index is None and header.frames > 1:
    raise InputError(name, f"holds {header.frames} volumes.", fix)
  if not 0 <= (index or 0) < header.frames:
    raise InputError(name, f"has no volume {index}.", fix)
  return index or 0


def _open_data(data_file: str, name: str) -> BinaryIO:
  """Opens the file with the voxels, beside the header."""
  path = os.path.join(os.path.dirname(name), data_file)
  if not os.path.lexists(path):
    raise InputError(
      name,
      f"its voxels are in {data_file!r}, which is not there.",
      "keep header and data in one folder; after renaming, correct "
      "ElementDataFile.",
    )
  return open_bytes(path)


def _voxels(
  file: BinaryIO,
  offset: int,
  header: MetaHeader,
  frame: int,
  name: str,
  max_bytes: int,
) -> np.ndarray:
  """One volume of the data, after every check that needs no memory."""
  count = math.prod(header.grid.shape)
  frame_bytes = count * header.dtype.itemsize
  total = header.frames * frame_bytes
  size = os.fstat(file.fileno()).st_size
  declared = (
    f"declares {' x '.join(map(str, header.grid.shape))} voxels of "
    f"{header.dtype.name}, {total:,} bytes"
  )
  if header.skip == -1:
    offset = max(size - total, offset)
  held = size - offset
  limit = held * DEFLATE_LIMIT if header.compressed else held
  cut = header.compressed and (header.compressed_bytes or 0) > held
  if total > limit or cut:
    raise InputError(name, f"{declared}; its data hold {held:,}.", REFETCH)
  if total > max_bytes:
    raise InputError(
      name,
      f"{declared}; the limit is {max_bytes:,}.",
      "crop the scan, or resample it to larger voxels.",
    )
  if held > total and not header.compressed:
    raise InputError(
      name,
      f"{declared}; its data hold {held:,}.",
      "header and voxels do not belong together; export it again.",
    )
  file.seek(offset)
  stored = empty(count, header.dtype)
  pieces = _inflated(file, name) if header.compressed else _plain(file)
  _copy(pieces, frame * frame_bytes, stored, total, name)
  return stored


def _plain(file: BinaryIO) -> Iterator[bytes]:
  while piece := file.read(_CHUNK):
    yield piece


def _inflated(file: BinaryIO, name: str) -> Iterator[bytes]:
  """Content of a zlib (or gzip) stream, checked to its end."""
  inflate = zlib.decompressobj(47)
  data = b""
  try:
    while not inflate.eof:
      data = data or file.read(_CHUNK)
      if not data:
        raise InputError(name, "its compressed data are cut short.", REFETCH)
      yield inflate.decompress(data, _CHUNK)
      data = inflate.unconsumed_tail
  except zlib.error as error:
    fault = f"its compressed data are damaged ({error})."
    raise InputError(name, fault, REFETCH) from error


def _copy(
  pieces: Iterator[bytes],
  start: int,
  stored: np.ndarray,
  total: int,
  name: str,
) -> None:
  """Copies a part of the content out of its `total` bytes."""
  view = stored.view(np.uint8).data
  done = 0
  for piece in pieces:
    low, high = max(done, start), min(done + len(piece), start + len(view))
    if low < high:
      view[low - start : high - start] = piece[low - done : high - done]
      release(stored)
    done += len(piece)
    if done > total:
      break
  if done != total:
    fault = f"holds {done:,} bytes or more of voxels; {total:,} are declared."
    raise InputError(name, fault, REFETCH)


def write(path: str | os.PathLike[str], volume: Volume) -> None:
  """Writes a volume as MetaImage, uncompressed.

  The same data give the same bytes. A `.mha` is one file and appears whole
  or not at all. Of a `.mhd` the `.raw` beside it is replaced first, so a run
  that is killed in between leaves an older header with newer voxels: use
  `.mha` where an existing file is written over.

  Args:
    path: ends in `.mhd` or `.mha`.
    volume: integers, floats or bool; stored as they are (bool as uint8,
      float16 as float32).

  Raises:
    InputError: if the name has another ending, the dtype has no place in
      MetaImage or the file cannot be written.

  Units:
    mm.
  """
  name = os.fspath(path)
  stem, ending = os.path.splitext(name)
  if ending.lower() not in (".mhd", ".mha"):
    raise InputError(name, "is no MetaImage name.", "end it in .mhd or .mha.")
  kind, dtype = _written_type(volume.voxels.dtype, name)
  local = ending.lower() == ".mha"
  raw = LOCAL if local else os.path.basename(stem) + ".raw"
  header = _header_text(volume, kind, raw).encode("utf-8", "surrogateescape")
  if not local:
    with atomic_write(stem + ".raw") as file:
      _write_voxels(file, volume.voxels, dtype)
  with atomic_write(name) as file:
    file.write(header)
    if local:
      _write_voxels(file, volume.voxels, dtype)


def _write_voxels(file: BinaryIO, voxels: np.ndarray, dtype: np.dtype) -> None:
  for layer in range(voxels.shape[2]):
    file.write(voxels[:, :, layer].astype(dtype).tobytes(order="F"))


def _written_type(dtype: np.dtype, name: str) -> tuple[str, np.dtype]:
  """ElementType and little-endian dtype for an array."""
  if dtype == np.float16:
    dtype = np.dtype("f4")
  code = "u1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"
  for kind, known in ELEMENT_TYPES.items():
    if known == code:
      return kind, np.dtype("<" + code)
  raise InputError(
    name, f"MetaImage files hold no {dtype}.", "convert it to int16 or float32."
  )


def _header_text(volume: Volume, kind: str, raw: str) -> str:
  """The header in the order of keys that ITK writes."""
  columns = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3, :3]
  origin = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3, 3]
  spacing = np.array(volume.spacing)
  rows = (columns / spacing).T
  came_from = str.maketrans("RLAPIS", "LRPASI")
  letters = "".join(volume.axis_codes).translate(came_from)
  lines = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": _words(rows.ravel()),
    "Offset": _words(origin),
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": letters,
    "ElementSpacing": _words(spacing),
    "DimSize": " ".join(map(str, volume.voxels.shape)),
    "ElementType": kind,
    "ElementDataFile": raw,
  }
  return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _words(values: np.ndarray) -> str:
  """Numbers that read back to the bit; no negative zeros."""
  return " ".join(repr(value + 0.0) for value in values.tolist())
