# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One writer to a folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from vf_jax.errors import InputError


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Holds a folder, so that a second run is refused instead of mixed in.

  The lock goes with the process: one that was killed leaves the folder free.

  Args:
    folder: made if missing; gets a hidden, empty file `.lock`.

  Yields:
    Nothing.

  Raises:
    InputError: if another run holds it, or it cannot be written.
  """
  import fcntl

  try:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    lock = (pathlib.Path(folder) / ".lock").open("w")
  except OSError as error:
    raise InputError(
      folder, f"cannot be written: {error.strerror}.", "check the permissions."
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise InputError(
        folder, "is being written by another run.", "wait for it to end."
      ) from error
    yield
