# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Names what a file really is from its first bytes, and how to mend it."""

from __future__ import annotations

import re

HEAD_BYTES = 1024

_DICOM = "convert its series to NIfTI, for example with dcm2niix."
_CONVERT = "convert it to NIfTI first (SimpleITK or 3D Slicer reads it)."
_UNPACK = "unpack it and give the .nii or .nii.gz inside."
_DOWNLOAD = (
  "the download failed or needs a login; open the file in an editor to see "
  "the message, then fetch it again."
)

# (offset, bytes, what it is, how to mend it)
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
  (128, b"DICM", "a DICOM file", _DICOM),
  (0, b"PK\x03\x04", "a zip archive", _UNPACK),
  (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
  (257, b"ustar", "a tar archive", _UNPACK),
  (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", _UNPACK),
  (0, b"Rar!", "a RAR archive", _UNPACK),
  (0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed", "run `unzstd` on it."),
  (0, b"BZh", "bzip2-compressed", "run `bunzip2` on it."),
  (0, b"\xfd7zXZ\x00", "xz-compressed", "run `unxz` on it."),
  (0, b"\x04\x22\x4d\x18", "LZ4-compressed", "run `unlz4` on it."),
  (0, b"NRRD000", "an NRRD file", _CONVERT),
  (0, b"\x89HDF\r\n\x1a\n", "an HDF5 or MINC-2 file", _CONVERT),
  (0, b"CDF\x01", "a NetCDF or MINC-1 file", _CONVERT),
  (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
  (0, b"\x00\x00\x00\x01\x00\x00", "a FreeSurfer MGH file", _CONVERT),
  (0, b"\x89PNG", "a PNG picture", "give the CT volume, not a picture."),
  (0, b"\xff\xd8\xff", "a JPEG picture", "give the CT volume, not a picture."),
  (0, b"%PDF", "a PDF document", "give the CT volume."),
)

# (pattern on the text without leading blanks, what it is, how to mend it)
_TEXTS: tuple[tuple[bytes, str, str], ...] = (
  (
    rb"version https://git-lfs",
    "a git-LFS pointer, not the file itself",
    "run `git lfs pull` in its repository.",
  ),
  (
    rb"[^\n]*annex/objects/|/annex/",
    "a git-annex pointer, not the file itself",
    "run `git annex get` or `datalad get` on it.",
  ),
  (rb"<!doctype html|<html|<head", "an HTML page", _DOWNLOAD),
  (rb"<\?xml|<error", "an XML page", _DOWNLOAD),
  (rb"[{\[]\s*[\"{\[\d]", "a JSON text", _DOWNLOAD),
  (rb"(objecttype|ndims|comment)\s*=", "a MetaImage header", _CONVERT),
)


def foreign_format(head: bytes) -> tuple[str, str] | None:
  """Recognises a file that is not what its name says.

  Args:
    head: the first `HEAD_BYTES` bytes of the file, or fewer if it is short.

  Returns:
    What the file is, to follow "this is", and the fix; None if unknown.
  """
  for offset, magic, kind, fix in _SIGNATURES:
    if head[offset : offset + len(magic)] == magic:
      return kind, fix
  text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  for pattern, kind, fix in _TEXTS:
    if re.match(pattern, text, re.IGNORECASE):
      return kind, fix
  if text and b"\x00" not in text and text.isascii():
    return "a text file", _DOWNLOAD
  return None


def is_dicom(head: bytes) -> bool:
  """Tells a DICOM file from others.

  Args:
    head: its first bytes, 132 at least.

  Returns:
    Whether it has the magic number, or the first elements of a file without
    preamble.
  """
  return head[128:132] == b"DICM" or head[:4] in (
    b"\x08\x00\x00\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
  )
