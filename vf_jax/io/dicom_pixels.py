# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""DICOM pixels to Hounsfield units: decoders, completeness, padding."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.io.dicom_files import Files
from vf_jax.io.dicom_headers import REFETCH, Frame, Header, import_pydicom

# Padding whose HU lie between may be tissue that an exporter mislabelled.
_TISSUE_HU = (-900, 3000)
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 201, 202, 203)}
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_IMPLICIT = "1.2.840.10008.1.2"
_UNDEFINED = 0xFFFFFFFF


def check_decoders(syntaxes: Iterable[str], name: str) -> None:
  """Refuses pixels that nothing here can decode, before any is read.

  Args:
    syntaxes: transfer syntax UIDs.
    name: what is read, for messages.

  Raises:
    InputError: names the package that is missing.
  """
  pixels = import_pydicom(name, "pydicom.pixels")
  for syntax in sorted(set(syntaxes)):
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of a UID that is none.
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
      fault = f"has pixels in transfer syntax {syntax}, which none can read."
      raise InputError(name, fault, "decompress it: gdcmconv --raw.") from None
    if decoder.is_available:
      continue
    open_jpeg = syntax in _JPEG_2000
    package = "pylibjpeg pylibjpeg-openjpeg" if open_jpeg else "python-gdcm"
    raise InputError(
      name,
      f"has pixels in {decoder.UID.name}, for which no decoder is installed.",
      f"pip install {package}.",
    )


def trust_padding(
  slices: Sequence[tuple[Header, Frame]], notes: list[str]
) -> bool:
  """Judges whether padding can be told from tissue by its value.

  Args:
    slices: header and frame of each.
    notes: what speaks against it is added here.

  Returns:
    Whether padding may be replaced.
  """
  for header, frame in slices:
    if header.padding is None:
      continue
    slope, intercept = frame.slope or 1.0, frame.intercept or 0.0
    ends = [value * slope + intercept for value in header.padding]
    if max(ends) > _TISSUE_HU[0] and min(ends) < _TISSUE_HU[1]:
      notes.append(
        f"names {min(ends):g} to {max(ends):g} HU as padding, which may be "
        "tissue; not replaced."
      )
      return False
  return True


def decode(
  files: Files, header: Header, indices: list[int]
) -> Iterator[np.ndarray]:
  """Decodes some frames of a file.

  Args:
    files: the files.
    header: of the file.
    indices: which frames, ascending.

  Yields:
    Stored values of one frame, (row, column), with the bits that are not used.

  Raises:
    InputError: if the file is cut short or damaged.
  """
  pixels = import_pydicom(header.name, "pydicom.pixels")
  expected = (header.rows, header.columns)
  with files.open(header.number, whole=True) as file:
    _check_complete(file, header)
    frames = pixels.iter_pixels(
      file,
      indices=indices,
      raw=True,
      transfer_syntax_uid=header.syntax,
      # `to_hounsfield` looks at them before it masks them away.
      correct_unused_bits=False,
    )
    # It must end before its file is closed.
    with contextlib.closing(frames):
      for index in indices:
        try:
          with warnings.catch_warnings():
            # Of pixel data longer than needed, of odd values in the header.
            warnings.simplefilter("ignore")
            frame = next(frames)
        except Exception as error:  # A decoder met bytes nobody vouches for.
          said = " ".join(str(error).split())[:200] or type(error).__name__
          fault = f"its pixels cannot be decoded ({said})."
          raise InputError(header.name, fault, REFETCH) from error
        if frame.shape != expected:
          fault = f"its frame {index} is {frame.shape}, not {expected}."
          raise InputError(header.name, fault, REFETCH)
        yield frame


def _check_complete(file: io.BufferedIOBase, header: Header) -> None:
  """Follows the pixel data to its end; some decoders fill up what is cut."""
  pydicom = import_pydicom(header.name)
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      pydicom.dcmread(
        file, stop_before_pixels=True, force=True, specific_tags=["Rows"]
      )
    order = ">" if header.syntax == _BIG_ENDIAN else "<"
    # The position is now that of the pixel data's tag; an implicit file gives
    # no type between it and the length.
    head = file.read(8 if header.syntax == _IMPLICIT else 12)
    (length,) = struct.unpack(order + "I", head[-4:])
    if length != _UNDEFINED:
      complete = file.tell() + length <= size
    else:
      complete = _ends(file, size)
  except Exception as error:  # A parser met bytes that nobody vouches for.
    fault = f"its pixels cannot be found ({error})."
    raise InputError(header.name, fault, REFETCH) from error
  if not complete:
    raise InputError(header.name, "ends inside its pixels.", REFETCH)
  file.seek(0)


def _ends(file: io.BufferedIOBase, size: int) -> bool:
  """Whether a sequence of fragments is closed before the file ends."""
  while True:
    head = file.read(8)
    if len(head) < 8:
      return False
    group, element, length = struct.unpack("<HHI", head)
    if (group, element) == (0xFFFE, 0xE0DD):
      return True
    if (group, element) != (0xFFFE, 0xE000) or file.tell() + length > size:
      return False
    file.seek(length, os.SEEK_CUR)


def to_hounsfield(
  stored: np.ndarray, header: Header, frame: Frame, padding: bool, whole: bool
) -> np.ndarray:
  """Rescales stored values; padding becomes air.

  Args:
    stored: of one frame, (row, column), as `decode` gives it.
    header: of its file.
    frame: its rescale.
    padding: whether padding may be replaced.
    whole: whether slope and intercept are whole numbers.

  Returns:
    HU, int64 if `whole`, else float64.
  """
  raw = stored
  unused = stored.dtype.itemsize * 8 - header.bits[0]
  if unused:
    # Sign bits, or overlays of old, may be in the bits that are not used.
    stored = np.right_shift(np.left_shift(stored, unused), unused)
  slope = 1.0 if frame.slope is None else frame.slope
  intercept = 0.0 if frame.intercept is None else frame.intercept
  values: np.ndarray
  if whole:
    values = stored.astype(np.int64) * int(slope) + int(intercept)
  else:
    values = stored.astype(np.float64) * slope + intercept
  if header.padding is not None and padding:
    low, high = header.padding
    # Padding may fill the bits that are not used, as 63536 in 12 of 16.
    for found in (raw, stored):
      values[(found >= low) & (found <= high)] = AIR_HU
  return values
