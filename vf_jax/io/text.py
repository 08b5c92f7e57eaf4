# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Small text files, read whole or refused."""

from __future__ import annotations

import os

from vf_jax.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_text(cell: str) -> str:
  """Keeps a spreadsheet from running a cell of a table as a formula.

  Args:
    cell: a name from outside, say.

  Returns:
    The same; with `'` before it if it begins as formulas do.
  """
  return f"'{cell}" if cell[:1] in _FORMULA else cell


def read_text(
  path: str | os.PathLike[str], kind: str, max_bytes: int, fix: str
) -> str:
  """Reads a UTF-8 text of limited size; a byte order mark is dropped.

  Args:
    path: the file.
    kind: what it should be, e.g. 'centroid file', for the errors.
    max_bytes: more than any such file has.
    fix: what to do if it is something else.

  Returns:
    Its text.

  Raises:
    InputError: it cannot be read, is larger, is not UTF-8 or a git-LFS pointer.
  """
  try:
    with open(path, "rb") as file:
      data = file.read(max_bytes + 1)
  except OSError as error:
    raise InputError(path, f"cannot be read: {error.strerror}.") from error
  if len(data) > max_bytes:
    size = max_bytes >> 20
    raise InputError(path, f"is over {size} MiB; no {kind} is.", fix)
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    fault = f"is not UTF-8 text (byte {error.start})."
    raise InputError(path, fault, "save it as UTF-8.") from error
  if text.startswith("version https://git-lfs"):
    fault = "is a git-LFS pointer, not the file itself."
    raise InputError(path, fault, "run `git lfs pull`.")
  return text
