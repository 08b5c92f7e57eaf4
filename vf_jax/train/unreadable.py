# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What it means that a checkpoint cannot be read, and what mends it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vf_jax.errors import ConfigError, InputError

DAMAGED = (
  "remove the damaged step folder to use the one before, or train again."
)
_OTHER_SHAPE = "is not compatible with the stored shape"
_NO_ROOM = "RESOURCE_EXHAUSTED"  # of a device, or of the file library


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the library's errors about a broken checkpoint into ours.

  Args:
    path: of the checkpoint.

  Raises:
    InputError: for any error inside. It says that the checkpoint is damaged
      only where neither memory nor the file system may be the reason.
  """
  try:
    yield
  except InputError:
    raise
  except ConfigError as error:
    raise InputError(
      path,
      f"its configuration is refused: {error}",
      "read it with the version of vf_jax that made it.",
    ) from error
  except Exception as error:
    chain = [error, *_causes(error)]
    # The outer ones speak of the library's own parts.
    first = str(chain[-1]).strip().splitlines() or [type(chain[-1]).__name__]
    fault, fix = f"the checkpoint cannot be read ({first[0][:200]}).", DAMAGED
    if _OTHER_SHAPE in first[0]:
      fault = (
        "its numbers are of another model than its configuration says "
        f"({first[0].split('. ')[0]})."
      )
      fix = "keep the files of one export, or one run, together."
    elif any(_is_of_the_machine(link) for link in chain):
      fix = (
        "the checkpoint may be whole: try again, with more memory or where "
        "its files can be read."
      )
    raise InputError(path, fault, fix) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
  while (deeper := error.__cause__ or error.__context__) is not None:
    yield deeper
    error = deeper


def _is_of_the_machine(error: BaseException) -> bool:
  """Whether the same files may be read elsewhere, or later."""
  if isinstance(error, OSError):
    return not isinstance(error, FileNotFoundError)
  return isinstance(error, MemoryError) or _NO_ROOM in str(error)
