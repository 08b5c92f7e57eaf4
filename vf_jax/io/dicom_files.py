# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The files of a DICOM series: in a folder, in a zip archive, or one alone."""

from __future__ import annotations

import abc
import contextlib
import io
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import cast

from vf_jax.errors import InputError
from vf_jax.io.results import RUN, read_run
from vf_jax.io.stream import DEFLATE_LIMIT, open_bytes

_MAX_FILES = 50_000
_LOST = "lost+found"  # at the top of a disk; closed to all, and no one's
_FEWER = "give the folder of one examination."


class Files(abc.ABC):
  """Where the files come from.

  Attributes:
    names: path of each file, for messages.
  """

  names: tuple[str, ...]

  @abc.abstractmethod
  def open(self, number: int, whole: bool = False) -> io.BufferedIOBase:
    """Opens a file by its place in `names`.

    Args:
      number: which file.
      whole: whether it will be read to its end, back and forth.

    Returns:
      A seekable binary file.

    Raises:
      InputError: if it cannot be opened.
    """

  @abc.abstractmethod
  def is_empty(self, number: int) -> bool:
    """Whether a file is there, but holds nothing.

    Args:
      number: which file.
    """


class _Folder(Files):
  """All files below a folder, or a single file."""

  def __init__(self, paths: list[str]):
    self.names = tuple(paths)

  def open(self, number: int, whole: bool = False) -> io.BufferedIOBase:
    return cast(io.BufferedIOBase, open_bytes(self.names[number]))

  def is_empty(self, number: int) -> bool:
    try:
      return os.path.getsize(self.names[number]) == 0
    except OSError:
      return False  # `open` says what is wrong


class _Archive(Files):
  """Files of a zip archive, read in memory and never written to disk.

  Hidden ones are left out, and what the macOS Finder adds to each.
  """

  def __init__(self, archive: zipfile.ZipFile, path: str, max_bytes: int):
    self._archive = archive
    self._infos = []
    for info in archive.infolist():
      if info.is_dir():
        continue
      parts = re.split(r"[/\\]", info.filename)
      if ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", parts[0]):
        raise InputError(
          path,
          f"holds {info.filename[:80]!r}, a path out of the archive.",
          "it may be an attack; pack the series anew.",
        )
      if not any(map(_is_hidden, parts)):
        self._infos.append(info)
    self.names = tuple(f"{path}/{info.filename}" for info in self._infos)
    if len(self._infos) > _MAX_FILES:
      raise InputError(path, f"holds {len(self._infos):,} files.", _FEWER)
    for info in self._infos:
      if info.flag_bits & 1:
        fault = f"holds {info.filename[:80]!r}, which is encrypted."
        raise InputError(path, fault, "unpack it with its password first.")
      if info.file_size > info.compress_size * DEFLATE_LIMIT + 64:
        fault = f"declares {info.file_size:,} bytes in {info.filename[:80]!r}"
        fault += f", packed in {info.compress_size:,}: impossible."
        raise InputError(path, fault, "the archive is damaged; pack it anew.")
    total = sum(info.file_size for info in self._infos)
    if total > max_bytes:
      raise InputError(
        path,
        f"holds {total:,} bytes unpacked; the limit is {max_bytes:,}.",
        "pack one series alone, or give its folder unpacked.",
      )

  def open(self, number: int, whole: bool = False) -> io.BufferedIOBase:
    info, name = self._infos[number], self.names[number]
    try:
      # zipfile gives no more bytes than the archive declares, checked above.
      if not whole:
        return io.BufferedReader(self._archive.open(info))  # type: ignore
      return io.BytesIO(self._archive.read(info))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
      raise InputError(
        name, f"is damaged: {error}.", "pack it anew."
      ) from error
    except NotImplementedError as error:
      fault = f"is packed in a way that Python does not know: {error}."
      raise InputError(name, fault, "pack it anew, as plain zip.") from error
    except Exception as error:  # zlib.error is an Exception of its own kind.
      raise InputError(
        name, f"is damaged: {error}.", "pack it anew."
      ) from error

  def is_empty(self, number: int) -> bool:
    return self._infos[number].file_size == 0


def _is_hidden(part: str) -> bool:
  """Whether a part of a path hides what is below it; `.` does not."""
  return part == "__MACOSX" or (part.startswith(".") and part != ".")


@contextlib.contextmanager
def open_files(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Files]:
  """Finds the files of a folder, a zip archive or a single file.

  Args:
    path: any of the three; of a folder the files of `list_files`.
    max_bytes: largest unpacked size of an archive.

  Yields:
    The files, in the order of their names.

  Raises:
    InputError: if there is nothing to read or an archive is not to be
      trusted: paths that lead out of it, encryption, impossible or excessive
      sizes.
  """
  name = os.fspath(path)
  if os.path.isdir(name):
    yield _Folder(list_files(name))
    return
  with open_bytes(name) as file:
    if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
      yield _Folder([name])
      return
    try:
      archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
      fault = f"is a damaged zip archive ({error})."
      raise InputError(name, fault, "copy or download it again.") from error
    with archive:
      yield _Archive(archive, name, max_bytes)


def list_files(folder: str) -> list[str]:
  """Lists the files that a folder's series may be made of.

  Args:
    folder: it is searched as `walk` does, links in it left out.

  Returns:
    Every file, in the order of the names.

  Raises:
    InputError: if there are too many, or a folder cannot be read.
  """
  found: list[str] = []
  for root, names in walk(folder, _refuse, links=False):
    found += [os.path.join(root, name) for name in names]
    if len(found) > _MAX_FILES:
      raise InputError(folder, f"holds over {_MAX_FILES:,} files.", _FEWER)
  return found


def walk(
  top: str | os.PathLike[str],
  refuse: Callable[[OSError], None],
  links: bool,
) -> Iterator[tuple[str, list[str]]]:
  """Walks a folder and its subfolders, each once.

  Args:
    top: the folder.
    refuse: is told of a folder that cannot be read.
    links: whether links to folders are followed, but for those to where the
      walk has been and to a folder that `top` lies in.

  Yields:
    Each folder with the names of its files, sorted; hidden ones, `lost+found`
    and subfolders that hold a result of vf_jax are left out.
  """
  seen = set(map(str, pathlib.Path(os.path.realpath(top)).parents))
  for root, folders, names in os.walk(top, onerror=refuse, followlinks=links):
    real = os.path.realpath(root)
    result = RUN in names and root != os.fspath(top) and read_run(root)
    if real in seen or result:
      folders.clear()
      continue
    seen.add(real)
    folders[:] = sorted(
      f for f in folders if not f.startswith(".") and f != _LOST
    )
    yield root, sorted(n for n in names if not n.startswith("."))


def _refuse(error: OSError) -> None:
  raise InputError(
    error.filename, f"cannot be read: {error.strerror}."
  ) from error
