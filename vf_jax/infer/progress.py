# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a run over many cases says while it runs."""

from __future__ import annotations

import pathlib
import shutil
import sys
import time
from typing import Protocol, runtime_checkable

from vf_jax.infer.result import CaseResult

_BAR = 20


@runtime_checkable
class Stream(Protocol):
  """What of a text file is used."""

  def write(self, text: str, /) -> object:
    """Writes a text."""

  def flush(self) -> object:
    """Brings it out."""

  def isatty(self) -> bool:
    """Whether it is a terminal."""


class Progress:
  """One line a case; on a terminal also a bar that stays below them.

  Results go to standard output, faults and warnings to standard error. What
  cannot be shown is no fault of the run: a reader that went away (`| head -1`)
  or a full disk ends no case.

  Attributes:
    total: number of cases.
  """

  def __init__(
    self, total: int, out: Stream | None = None, err: Stream | None = None
  ):
    self.total = total
    self._out = sys.stdout if out is None else out
    self._err = sys.stderr if err is None else err
    # Python has no stream where the shell closed it (`2>&-`).
    terminal = self._err is not None and self._err.isatty()
    self._bar = total > 1 and terminal
    self._lost = ""  # why lines are missing from standard output
    self._passed = 0  # cases that are through, in whatever way
    self._spent: list[float] = []  # seconds of those that were computed
    self._began = time.monotonic()

  def begin(self, case: str) -> None:
    """Says which case is under way.

    Args:
      case: its name.
    """
    self._began = time.monotonic()
    if self._bar:
      full = _BAR * self._passed // self.total
      line = f"[{'#' * full}{'.' * (_BAR - full)}] {self._count()} {case}"
      width = shutil.get_terminal_size().columns - 1
      self._show(self._err, f"\r\x1b[K{line[:width]}")

  def finish(self, result: CaseResult, out: pathlib.Path) -> None:
    """Says what was found.

    Args:
      result: of the case.
      out: folder of all cases.
    """
    self._spent.append(time.monotonic() - self._began)
    self._passed += 1
    found = ", ".join(v.level for v in result.vertebrae) or "no vertebra"
    case = result.case
    self._say(
      f"{case}: {found} ({self._spent[-1]:.1f} s) -> "
      f"{out}/{case}/{case}_report.html"
    )
    for note in result.warnings:
      self._fault(f"{case}: warning: {note}")

  def skip(self, case: str) -> None:
    """Says that a case was there already.

    Args:
      case: its name.
    """
    self._passed += 1
    self._say(f"{case}: done before (--overwrite to do it again)")

  def refuse(self, fault: str) -> None:
    """Says why a case was not done.

    Args:
      fault: in words, the file named.
    """
    self._passed += 1
    self._fault(f"vf-jax: {fault}")

  def conclude(self, text: str) -> None:
    """Shows a line after all cases.

    Args:
      text: a sentence on all of them.
    """
    self._show(self._out, text + "\n")

  def close(self) -> None:
    """Takes the bar away, and says if lines were lost on the way."""
    self._clear()
    if self._lost:
      self._fault(f"vf-jax: warning: not all lines were shown: {self._lost}")

  def _say(self, text: str) -> None:
    self._clear()
    head = f"[{self._count()}] " if self.total > 1 else ""
    self._show(self._out, head + text + "\n")

  def _fault(self, text: str) -> None:
    self._clear()
    self._show(self._err, text + "\n")

  def _clear(self) -> None:
    if self._bar:
      self._show(self._err, "\r\x1b[K")

  def _show(self, stream: Stream | None, text: str) -> None:
    if stream is None:
      return
    try:
      stream.write(text)
      stream.flush()
    except BrokenPipeError:
      pass  # its reader has seen enough
    except (OSError, ValueError) as error:  # ValueError: it was closed
      if stream is self._out:
        self._lost = getattr(error, "strerror", None) or str(error)

  def _count(self) -> str:
    """As `3/20, 12 min left`."""
    left = self.total - self._passed
    if not left or not self._spent:
      return f"{self._passed}/{self.total}"
    seconds = left * sum(self._spent) / len(self._spent)
    return f"{self._passed}/{self.total}, {_duration(seconds)} left"


def _duration(seconds: float) -> str:
  """Seconds as people say them."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  if seconds < 5400:
    return f"{seconds / 60:.0f} min"
  return f"{seconds / 3600:.1f} h"
