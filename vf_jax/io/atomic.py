# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Files that are either there in full or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO

from vf_jax.errors import InputError, OutputError

PARTS = ".vf-*.part"
"""What `atomic_write` calls a file that is not whole yet."""

OLD = ".old"
"""End of the name of a folder that `replace_folder` puts aside."""

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # there is a folder
_TRIES = 20


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Opens a file for writing that appears under its name only when whole.

  The bytes go to a hidden file in the same folder, which replaces `path` in
  one step after they have reached the disk. A run that is killed or fills
  the disk leaves the old file as it was; two runs writing the same path
  leave one of the two results, never a mixture.

  Args:
    path: where the file is to be. A symbolic link is followed, an existing
      file keeps its permissions.

  Yields:
    A binary file, seekable and readable too.

  Raises:
    InputError: if the folder is missing, not writable or full.
  """
  name = os.fspath(path)
  target = os.path.realpath(name)
  if os.path.isdir(target):
    raise InputError(name, "is a folder, not a file.", "name a file in it.")
  folder = os.path.dirname(target)
  part = os.path.join(folder, PARTS.replace("*", secrets.token_hex(8)))
  try:
    # Mode 0o666 leaves the permissions to the user's umask, as open() does.
    descriptor = os.open(
      part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666
    )
  except OSError as error:
    raise _refusal(name, error) from error
  try:
    try:
      with os.fdopen(descriptor, "w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      with contextlib.suppress(FileNotFoundError):
        os.chmod(part, os.stat(target).st_mode & 0o7777)
      os.replace(part, target)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(part)
      raise
  except OSError as error:
    # The body may fail on files of its own; only ours are explained here.
    if error.filename not in (None, part, target):
      raise
    raise _refusal(name, error) from error
  _sync_folder(folder)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes bytes to a file atomically.

  Args:
    path: where the file is to be.
    data: its whole content.

  Raises:
    InputError: as `atomic_write`.
  """
  with atomic_write(path) as file:
    file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  r"""Writes UTF-8 text to a file atomically, line ends as given.

  A name of a file may hold bytes that are no text; Python reads them as lone
  surrogates, and they are written as `\udcfc`, which JSON reads back.

  Args:
    path: where the file is to be.
    text: its whole content.

  Raises:
    InputError: as `atomic_write`.
  """
  write_bytes(path, text.encode("utf-8", "backslashreplace"))


_BINARY = getattr(os, "O_BINARY", 0)


def _refusal(name: str, error: OSError) -> InputError:
  """Says why a file could not be written."""
  folder = os.path.dirname(os.path.realpath(name))
  fix = "check the folder's permissions and the free space of its disk."
  if not os.path.isdir(folder):
    fix = f"make the folder first: mkdir -p {folder!r}."
  reason = error.strerror or str(error)
  return InputError(name, f"cannot be written: {reason}.", fix)


def _sync_folder(folder: str) -> None:
  """Makes the new name survive a power cut, where the system can."""
  # Some network disks and Windows cannot sync a folder; the file is whole.
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder for results, and those above it, unless it is there.

  Args:
    folder: of `--out`.

  Raises:
    InputError: if it cannot be made.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      folder, f"cannot be made ({error.strerror}).", "change --out."
    ) from error


def replace_folder(part: pathlib.Path, target: pathlib.Path) -> None:
  """Puts a whole folder in the place of an older one, if there is any.

  Two programs may do so at once: one of the two folders stays, whole. The older
  one is away for a moment, as a hidden folder beside it, and is then removed.

  Args:
    part: the new folder, on the disk of the other.
    target: its place.

  Raises:
    OutputError: if others keep writing it; `OSError` as `os.replace`.
  """
  for _ in range(_TRIES):
    try:
      os.replace(part, target)
      return
    except OSError as error:
      if error.errno not in _TAKEN:
        raise
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}{OLD}")
    try:
      with contextlib.suppress(FileNotFoundError):  # the other was faster
        os.replace(target, old)
      os.replace(part, target)
    except BaseException as error:
      # NOTE: first of all: Ctrl-C between the two must not lose both.
      if not os.path.lexists(target):
        with contextlib.suppress(OSError):
          os.replace(old, target)
      if os.path.lexists(target):
        shutil.rmtree(old, ignore_errors=True)
      taken = isinstance(error, OSError) and error.errno in _TAKEN
      if not taken:
        raise
    else:
      shutil.rmtree(old, ignore_errors=True)
      return
  raise OutputError(
    target,
    "other runs keep writing it.",
    "let one run write a folder, or give the runs different --shard.",
  )
