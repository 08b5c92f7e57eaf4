# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The errors that people see: what was read, what is wrong, how to mend it."""

from __future__ import annotations

import os
import warnings


class VfError(Exception):
  """Base of all errors raised on purpose by vf_jax; its text is for people."""


class ConfigError(VfError, ValueError):
  """A configuration that cannot work; names both values and the fix."""


class InputError(VfError, ValueError):
  """An input that is refused.

  Attributes:
    source: the file (or array) that was refused.
    fault: what is wrong with it, in words.
    fix: what the reader can do about it.
  """

  def __init__(self, source: str | os.PathLike[str], fault: str, fix: str = ""):
    self.source = os.fspath(source)
    self.fault = fault
    self.fix = fix
    super().__init__(
      f"{self.source}: {fault}" + (f" Fix: {fix}" if fix else "")
    )


class OutputError(InputError):
  """A place that cannot be written: a full disk, a read-only folder."""


class NonFiniteLossError(VfError):
  """The training loss became NaN or infinite; names the step and its cases."""


class InputWarning(UserWarning):
  """An input that is read, with a fault that its user should know of."""


def install_fix(extra: str) -> str:
  """How to install an extra: no package index has vf_jax.

  Args:
    extra: as pyproject.toml names it.

  Returns:
    The sentence without its end.
  """
  return f"in the folder of vf_jax: pip install '.[{extra}]'"


def warn_input(
  source: str | os.PathLike[str], message: str, stacklevel: int = 3
) -> str:
  """Issues an `InputWarning` and returns its text so that it can be kept.

  Args:
    source: the file the warning is about.
    message: the fault and what was done about it.
    stacklevel: as in `warnings.warn`.

  Returns:
    The message without the source, for reports that name the case already.
  """
  warnings.warn(
    f"{os.fspath(source)}: {message}", InputWarning, stacklevel=stacklevel
  )
  return message
