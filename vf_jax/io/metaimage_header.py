# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""MetaImage headers, read strictly, with the meaning that ITK gives them.

A header is lines `Key = value` up to `ElementDataFile`. Row i of
`TransformMatrix` is the direction of array axis i in LPS; the first voxel is
at `Offset`. ITK ignores `CenterOfRotation`, `AnatomicalOrientation` and the
intensity function; what they could change is told or refused here.
Source: metaObject.cxx and metaImage.cxx of Kitware/MetaIO; every rule was
compared with SimpleITK 2.5.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError, warn_input
from vf_jax.grid import Grid, Reorientation
from vf_jax.io.lps import lps_grid
from vf_jax.io.sniff import foreign_format

HEAD_BYTES = 1 << 16
LOCAL = "LOCAL"
ELEMENT_TYPES = {
  "MET_CHAR": "i1",
  "MET_UCHAR": "u1",
  "MET_SHORT": "i2",
  "MET_USHORT": "u2",
  "MET_INT": "i4",
  "MET_UINT": "u4",
  # Four bytes on every machine, whatever C calls a long there.
  "MET_LONG": "i4",
  "MET_ULONG": "u4",
  "MET_LONG_LONG": "i8",
  "MET_ULONG_LONG": "u8",
  "MET_FLOAT": "f4",
  "MET_DOUBLE": "f8",
}

_CONVERT = (
  "rewrite it: SimpleITK.WriteImage(SimpleITK.ReadImage('x.mhd'), 'y.mha')."
)
_DAMAGED = "the header is damaged; export or download the file again."
_ORIENT = (
  "if you know how the scan lies, read it with --assume-orientation LPS (or "
  "RAS, ...: where each array axis points)."
)
_LAST_LINE = re.compile(
  rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)\r?(\n|\Z)",
  re.IGNORECASE | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True, eq=False)
class MetaHeader:
  """What a header says, checked.

  Attributes:
    raw: its bytes.
    grid: of one volume.
    frames: how many volumes the data hold.
    dtype: as stored, with byte order.
    compressed: whether the data are one zlib stream.
    compressed_bytes: length of that stream; None if the header is silent.
    data_file: name of the file with the voxels; 'LOCAL' if they follow.
    skip: bytes before the voxels in the data file; -1: they end the file.
    form: 'TransformMatrix' or 'assumed'.
    warnings: faults that do not prevent reading.
  """

  raw: bytes
  grid: Grid
  frames: int
  dtype: np.dtype
  compressed: bool
  compressed_bytes: int | None
  data_file: str
  skip: int
  form: str
  warnings: tuple[str, ...]


def parse_header(
  head: bytes, name: str, assume_orientation: str | None = None
) -> MetaHeader:
  """Reads a header.

  Args:
    head: the first `HEAD_BYTES` bytes of the file, or all of it.
    name: the path, for messages.
    assume_orientation: axis codes, as 'LPS', for a file without
      TransformMatrix; used for no other.

  Returns:
    The header.

  Raises:
    InputError: if it is none, or not of volumes of real numbers in a known
      place.

  Units:
    mm, RAS+.
  """
  raw, fields = _fields(head, name)
  warnings: list[str] = []

  def warn(message: str) -> None:
    warnings.append(warn_input(name, message, stacklevel=5))

  shape, frames, rank = _dimensions(fields, name)
  _refuse_unreadable(fields, name)
  grid, form = _geometry(fields, shape, rank, name, assume_orientation, warn)
  compressed = _flag(fields, "CompressedData", name, default=False)
  size = fields.get("compresseddatasize")
  skip = _integers(fields, "HeaderSize", 1, name, default="0")[0]
  if skip < -1 or (compressed and skip == -1):
    raise InputError(name, f"HeaderSize {skip} makes no sense here.", _CONVERT)
  data_file = _data_file(fields, name)
  if data_file == LOCAL and skip > 0:
    raise InputError(name, "HeaderSize with LOCAL data is unclear.", _CONVERT)
  return MetaHeader(
    raw=raw,
    grid=grid,
    frames=frames,
    dtype=_dtype(fields, name),
    compressed=compressed,
    compressed_bytes=None
    if size is None
    else _integers(fields, "CompressedDataSize", 1, name)[0],
    data_file=data_file,
    skip=skip,
    form=form,
    warnings=tuple(warnings),
  )


def parse_data_file(head: bytes, name: str) -> str:
  """Reads only where a header says that its voxels are.

  Args:
    head: as `parse_header`.
    name: as `parse_header`.

  Returns:
    Name of the file with the voxels, relative to the header's folder; 'LOCAL'
    if they follow.

  Raises:
    InputError: if it is no header, or the voxels are in no file of its folder.
  """
  return _data_file(_fields(head, name)[1], name)


def _fields(head: bytes, name: str) -> tuple[bytes, dict[str, str]]:
  """The header's bytes, and its values by key in lower case."""
  known = foreign_format(head[:1024])
  if known and "MetaImage" not in known[0] and known[0] != "a text file":
    raise InputError(name, f"this is {known[0]}, not MetaImage.", known[1])
  last = _LAST_LINE.search(head)
  if last is None:
    raise InputError(
      name,
      "is no MetaImage header: no line ElementDataFile in its first "
      f"{HEAD_BYTES >> 10} KiB.",
      "give a .mhd or .mha file.",
    )
  raw = head[: last.end()]
  fields: dict[str, str] = {}
  for line in raw.decode("utf-8", "surrogateescape").splitlines():
    # SimpleITK adds what it pleases: `dim[0] = 3`, `0008|0060 = CT`, notes.
    match = re.match(r"\s*(\w+)\s*[=:]\s*(.*?)\s*$", line)
    if match is None:
      continue
    key = match[1].casefold()
    if fields.get(key, match[2]) != match[2]:
      raise InputError(name, f"says {match[1]} twice, differently.", _DAMAGED)
    fields[key] = match[2]
  kind = fields.get("objecttype", "Image")
  if kind.casefold() != "image":
    raise InputError(name, f"holds a MetaIO {kind}, no image.", "give the CT.")
  return raw, fields


def _text(fields, key, name, default=None) -> str:
  text = fields.get(key.casefold(), default)
  if text is None or text == "":
    raise InputError(name, f"lacks {key}.", _DAMAGED)
  return text


def _numbers(fields, key, count, name, default=None) -> list[float]:
  """Exactly `count` finite numbers."""
  text = _text(fields, key, name, default)
  try:
    values = [float(word) for word in text.split()]
  except ValueError:
    values = []
  if len(values) != count or not all(map(math.isfinite, values)):
    fault = f"{key} = {text[:60]}: {count} finite numbers expected."
    raise InputError(name, fault, _DAMAGED)
  return values


def _integers(fields, key, count, name, default=None) -> list[int]:
  values = _numbers(fields, key, count, name, default)
  if any(value != int(value) for value in values):
    raise InputError(name, f"{key} holds fractions.", _DAMAGED)
  return [int(value) for value in values]


def _flag(fields, key, name, default) -> bool:
  """True or False; MetaIO looks at the first letter only."""
  text = fields.get(key.casefold(), str(default)).casefold()
  if text not in ("true", "t", "1", "false", "f", "0"):
    raise InputError(name, f"{key} = {text[:20]}: True or False?", _DAMAGED)
  return text[0] in "t1"


def _dimensions(fields, name) -> tuple[tuple[int, int, int], int, int]:
  """Shape of a volume, number of volumes and number of dimensions."""
  rank = _integers(fields, "NDims", 1, name)[0]
  if not 1 <= rank <= 10:
    raise InputError(name, f"declares {rank} dimensions (NDims).", _DAMAGED)
  sizes = _integers(fields, "DimSize", rank, name)
  if min(sizes) < 1:
    raise InputError(name, f"has an empty axis: DimSize {sizes}.", _DAMAGED)
  if rank < 3:
    raise InputError(
      name,
      f"is a {rank}D image of {' x '.join(map(str, sizes))}, not a volume.",
      "stack the slices of the series into one volume first.",
    )
  x, y, z, *further = sizes
  if sum(size > 1 for size in further) > 1:
    raise InputError(
      name,
      f"has {rank} dimensions: {sizes}.",
      "save the one 3D volume that is wanted.",
    )
  return (x, y, z), math.prod(further), rank


def _refuse_unreadable(fields, name) -> None:
  """What no reader could guess, or two would read differently."""
  if not _flag(fields, "BinaryData", name, default=True):
    raise InputError(name, "holds its voxels as text.", _CONVERT)
  channels = _integers(fields, "ElementNumberOfChannels", 1, name, "1")[0]
  if channels != 1:
    fault = f"holds {channels} channels a voxel, not HU or labels."
    raise InputError(name, fault, "give the CT, with one number a voxel.")
  unit = fields.get("distanceunits", "mm").strip("?").casefold()
  if unit not in ("", "mm"):
    fault = f"DistanceUnits = {unit}: ITK ignores it, others do not."
    raise InputError(name, fault, "give the sizes in mm, DistanceUnits = mm.")
  for key, plain in (("Slope", 1), ("Offset", 0)):
    key = f"ElementToIntensityFunction{key}"
    value = _numbers(fields, key, 1, name, str(plain))[0]
    if value != plain:
      raise InputError(
        name,
        f"{key} = {value:g}: ITK ignores it, others do not.",
        "apply it to the voxels and drop the line.",
      )


def _dtype(fields, name) -> np.dtype:
  kind = _text(fields, "ElementType", name).upper()
  if kind.endswith("_ARRAY"):
    fault = f"ElementType = {kind}: several numbers a voxel."
    raise InputError(name, fault, "give the CT, with one number a voxel.")
  if kind not in ELEMENT_TYPES:
    fault = f"has an unknown ElementType {kind[:40]}."
    raise InputError(name, fault, f"known: {', '.join(ELEMENT_TYPES)}.")
  orders = {
    _flag(fields, key, name, default=False)
    for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    if key.casefold() in fields
  }
  if len(orders) > 1:
    raise InputError(name, "says two byte orders.", "keep the right one.")
  return np.dtype(ELEMENT_TYPES[kind]).newbyteorder(
    ">" if orders == {True} else "<"
  )


def _geometry(fields, shape, rank, name, assumed, warn) -> tuple[Grid, str]:
  """The grid, and what says so."""
  key = "ElementSpacing" if "elementspacing" in fields else "ElementSize"
  spacing = np.array(_numbers(fields, key, rank, name))[:3]
  if (spacing < 0).any():
    warn(f"{key} is negative: the axis is turned, as ITK does.")
  origin = np.array(
    _numbers(fields, _first(fields, _ORIGINS), rank, name, "0 " * rank)
  )[:3]
  matrix_key = _first(fields, _MATRICES)
  letters = fields.get("anatomicalorientation", "?")[:3].upper()
  letters = "" if "?" in letters else letters
  if matrix_key.casefold() in fields:
    matrix = _matrix(fields, matrix_key, rank, name)
    grid = lps_grid(shape, matrix.T * spacing, origin, name)
    if letters and not _agree(letters, grid):
      warn(
        f"AnatomicalOrientation {letters} disagrees with {matrix_key}, which "
        "is used."
      )
    rows = np.linalg.norm(matrix, axis=1)
    if (np.abs(rows - 1) > 1e-3).any():
      warn(
        f"{matrix_key} is not made of unit vectors: voxels are "
        f"{np.round(grid.spacing, 5)} mm."
      )
    form = "TransformMatrix"
  elif assumed is not None:
    grid = lps_grid(shape, _assumed(assumed, name) * spacing, origin, name)
    warn(f"names no orientation; {assumed} assumed.")
    form = "assumed"
  elif letters in ("", "RAI"):
    # The default of the format, and LPS to ITK.
    grid = lps_grid(shape, np.diag(spacing), origin, name)
    if not letters:
      warn("names no orientation; LPS, the format's default, is assumed.")
    form = "assumed"
  else:
    raise InputError(
      name,
      f"has AnatomicalOrientation {letters} but no TransformMatrix: ITK would "
      "read it as RAI, others not.",
      _ORIENT,
    )
  center = fields.get("centerofrotation", "0").split()
  if any(word.strip("0.+-") for word in center):
    warn("CenterOfRotation is not zero; it is not used, as in ITK.")
  return grid, form


def _agree(letters: str, grid: Grid) -> bool:
  """Whether letters (where each axis comes from) suit an affine.

  They need not be its closest axis codes: for oblique volumes ITK chooses
  them axis by axis. What is found is another direction altogether.
  """
  steps = (grid.affine[:3, :3] / grid.spacing).T
  return len(letters) == 3 and all(
    float(steps[axis] @ _COMES_FROM.get(letter, np.zeros(3))) > 0
    for axis, letter in enumerate(letters)
  )


_COMES_FROM = dict(zip("LPIRAS", np.vstack([np.eye(3), -np.eye(3)])))
_ORIGINS = ("Offset", "Position", "Origin")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")


def _first(fields, keys: tuple[str, ...]) -> str:
  """The name by which a file calls something that has several."""
  return next((key for key in keys if key.casefold() in fields), keys[0])


def _matrix(fields, key, rank, name) -> Float64[np.ndarray, "3 3"]:
  """Directions of the first three axes, one a row."""
  matrix = np.array(_numbers(fields, key, rank * rank, name))
  matrix = matrix.reshape(rank, rank)
  if matrix[:3, 3:].any() or matrix[3:, :3].any():
    fault = f"{key} mixes space with a further dimension."
    raise InputError(name, fault, "save the one 3D volume that is wanted.")
  return matrix[:3, :3]


def _assumed(codes: str, name: str) -> Float64[np.ndarray, "3 3"]:
  """Unit steps in LPS for axis codes."""
  try:
    turn = Reorientation.between("LPS", codes)
  except InputError as error:
    fault = f"assumed orientation: {error.fault}"
    raise InputError(name, fault, _ORIENT) from error
  columns = np.zeros((3, 3))
  for column, (row, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
    columns[row, column] = -1 if flip else 1
  return columns


def _data_file(fields, name) -> str:
  """The data file's name, which may not lead out of the header's folder."""
  text = _text(fields, "ElementDataFile", name)
  if text.casefold() == "local":
    return LOCAL
  if text.split()[0].casefold() == "list" or "%" in text:
    fault = "spreads its voxels over several files (LIST or a pattern)."
    raise InputError(name, fault, _CONVERT)
  plain = os.path.normpath(text.replace("\\", "/"))
  if (
    "\x00" in text
    or os.path.isabs(plain)
    or re.match(r"[A-Za-z]:", plain)
    or plain.split("/")[0] == ".."
  ):
    raise InputError(
      name,
      f"ElementDataFile = {text[:80]} leads out of its folder.",
      "put both files in one folder and name the data file without a path.",
    )
  return plain
