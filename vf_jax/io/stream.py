# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Bytes of a plain or gzip file, read to the end and verified."""

from __future__ import annotations

import os
import stat
import zlib
from typing import BinaryIO

from vf_jax.errors import InputError

_CHUNK = 1 << 18
_MAX_PADDING = 1 << 20

DEFLATE_LIMIT = 1032
"""No deflate stream can expand further than this (zlib's technical notes)."""

REFETCH = "the file is incomplete or damaged; copy or download it again."
"""What mends a broken file."""


class ByteStream:
  """Sequential reader of a file's content, decompressed if it is gzip.

  Python's gzip is not used because its users rarely read to the end, where
  the checksum is: a flipped bit then passes unseen.

  Attributes:
    name: the path, for messages.
    size: bytes of the file on disk.
    gzipped: whether the file's first bytes are gzip's, whatever its name.
  """

  def __init__(self, file: BinaryIO, name: str):
    self.name = name
    self.size = os.fstat(file.fileno()).st_size
    self._file = file
    self.gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    self._inflate = zlib.decompressobj(31)
    self._input = b""
    self._peeked = b""

  @property
  def limit(self) -> int:
    """Most bytes that the content can have, known before reading it."""
    return self.size * DEFLATE_LIMIT if self.gzipped else self.size

  def peek(self, count: int) -> bytes:
    """Gives the first bytes without consuming them.

    Args:
      count: how many are wanted; fewer come back if the content is shorter.

    Returns:
      The bytes.

    Raises:
      InputError: if the gzip stream is damaged there.
    """
    while len(self._peeked) < count:
      piece = self._more(count - len(self._peeked))
      if not piece:
        break
      self._peeked += piece
    return self._peeked

  def read_into(self, view: memoryview) -> None:
    """Fills a buffer with the next bytes.

    Args:
      view: a writable view of bytes.

    Raises:
      InputError: if the content ends before or is damaged.
    """
    done = 0
    while done < len(view):
      piece = self._next(min(len(view) - done, _CHUNK * 4))
      if not piece:
        raise InputError(
          self.name,
          f"ends {len(view) - done:,} bytes too early for its header.",
          REFETCH,
        )
      view[done : done + len(piece)] = piece
      done += len(piece)

  def skip(self, count: int) -> None:
    """Reads bytes and drops them.

    Args:
      count: how many.

    Raises:
      InputError: if the content ends before or is damaged.
    """
    scratch = memoryview(bytearray(min(count, _CHUNK * 4)))
    while count > 0:
      part = scratch[: min(count, len(scratch))]
      self.read_into(part)
      count -= len(part)

  def finish(self) -> None:
    """Reads on to the end, so that checksum and length are verified.

    Raises:
      InputError: if the checksum is wrong or something other than a little
        zero padding follows.
    """
    padding = 0
    while piece := self._next(_CHUNK):
      padding += len(piece)
      if piece.strip(b"\x00") or padding > _MAX_PADDING:
        raise InputError(
          self.name,
          "holds more data than its header declares.",
          "header and voxels do not belong together; export it again.",
        )

  def _next(self, count: int) -> bytes:
    """The next bytes, at most `count`; empty at the end."""
    if self._peeked:
      piece, self._peeked = self._peeked[:count], self._peeked[count:]
      return piece
    return self._more(count)

  def _more(self, count: int) -> bytes:
    """The next bytes past those peeked at."""
    try:
      return self._inflated(count) if self.gzipped else self._file.read(count)
    except zlib.error as error:
      raise InputError(
        self.name, f"damaged gzip stream ({error}).", REFETCH
      ) from error
    except OSError as error:
      raise InputError(
        self.name, f"cannot be read to its end: {error.strerror}."
      ) from error

  def _inflated(self, count: int) -> bytes:
    """Decompresses on, through all members of the file."""
    while True:
      if self._inflate.eof and not self._next_member():
        return b""
      data = self._input or self._file.read(_CHUNK)
      if not data:
        raise InputError(self.name, "the gzip stream is cut short.", REFETCH)
      piece = self._inflate.decompress(data, count)
      self._input = self._inflate.unconsumed_tail
      if piece:
        return piece

  def _next_member(self) -> bool:
    """Starts the next gzip member, if there is one after zero padding."""
    rest = self._inflate.unused_data.lstrip(b"\x00")
    while not rest:
      data = self._file.read(_CHUNK)
      if not data:
        return False
      rest = data.lstrip(b"\x00")
    if len(rest) < 2:
      rest += self._file.read(_CHUNK)
    if not rest.startswith(b"\x1f\x8b"):
      raise InputError(
        self.name, "something that is not gzip follows its end.", REFETCH
      )
    self._inflate = zlib.decompressobj(31)
    self._input = rest
    return True


def open_bytes(path: str | os.PathLike[str]) -> BinaryIO:
  """Opens a file for reading, or says what is wrong with its path.

  Args:
    path: any path; blanks and non-ASCII letters are fine.

  Returns:
    The open binary file.

  Raises:
    InputError: if there is no such regular, readable, non-empty file.
  """
  name = os.fspath(path)
  try:
    status = os.stat(name)
    if stat.S_ISDIR(status.st_mode):
      raise InputError(name, "is a folder.", "name a NIfTI file in it.")
    if not stat.S_ISREG(status.st_mode):
      raise InputError(name, "is a device or a pipe.", "name a regular file.")
    if status.st_size == 0:
      raise InputError(name, "is empty (0 bytes).", REFETCH)
    return open(name, "rb")
  except FileNotFoundError as error:
    if os.path.islink(name):
      raise _dangling(name, os.readlink(name)) from error
    raise InputError(
      name, "does not exist.", "check the path and its spelling."
    ) from error
  except PermissionError as error:
    raise InputError(
      name, "may not be read.", f"get the permission: chmod u+r {name!r}."
    ) from error
  except InputError:
    raise
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise InputError(
      name, f"cannot be opened: {reason}.", "check the path."
    ) from error


def _dangling(name: str, goal: str) -> InputError:
  """Explains a symbolic link to nothing; git-annex makes many of them."""
  if "annex/objects" in goal:
    return InputError(
      name,
      "is a git-annex pointer whose content is not here.",
      "run `git annex get` or `datalad get` on it.",
    )
  return InputError(
    name, f"is a symbolic link to {goal!r}, which is missing.", "mend the link."
  )
