# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Small sets of named arrays in one `.npz`, with facts and a checksum beside.

For parameters of a few hundred kB; those of the image networks belong to
`train/checkpoint`. Nothing in such a file can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vf_jax.errors import InputError
from vf_jax.io.atomic import atomic_write, write_text
from vf_jax.io.text import read_text

_MAX_BYTES = 64 << 20
_STAMP = (1980, 1, 1, 0, 0, 0)


def write_arrays(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
) -> str:
  """Writes `path`, and `path` with .json for .npz; the same bytes every time.

  Args:
    path: ends in .npz.
    arrays: by name.
    facts: JSON types, kept beside.

  Returns:
    SHA-256 of the arrays' file.
  """
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in sorted(arrays):
      one = io.BytesIO()
      np.lib.format.write_array(one, np.asarray(arrays[name]), (1, 0), False)
      # NOTE: numpy.savez stamps the hour; a fixed one keeps the checksum.
      info = zipfile.ZipInfo(f"{name}.npy", _STAMP)
      info.compress_type = zipfile.ZIP_DEFLATED
      archive.writestr(info, one.getvalue())
  data = buffer.getvalue()
  digest = hashlib.sha256(data).hexdigest()
  with atomic_write(path) as file:
    file.write(data)
  text = json.dumps({**facts, "sha256": digest}, indent=2)
  write_text(_beside(path), text + "\n")
  return digest


def read_arrays(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads what `write_arrays` wrote.

  Args:
    path: the .npz file.

  Returns:
    The arrays and the facts.

  Raises:
    InputError: either file is missing, damaged, or not of the other.
  """
  fix = "export the weights again, or reinstall vf_jax."
  text = read_text(_beside(path), "description of weights", 1 << 20, fix)
  try:
    facts = json.loads(text)
    expected = facts["sha256"]
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(_beside(path), "is no description.", fix) from error
  try:
    with open(path, "rb") as file:
      data = file.read(_MAX_BYTES + 1)
  except OSError as error:
    raise InputError(path, f"cannot be read: {error.strerror}.", fix) from error
  if hashlib.sha256(data).hexdigest() != expected:
    fault = "is damaged: its SHA-256 is not the one beside it."
    raise InputError(path, fault, fix)
  with np.load(io.BytesIO(data), allow_pickle=False) as archive:
    return {name: archive[name] for name in archive.files}, facts


def _beside(path: str | os.PathLike[str]) -> str:
  return os.path.splitext(os.fspath(path))[0] + ".json"
