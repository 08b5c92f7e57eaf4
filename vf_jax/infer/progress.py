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

  Results go to standard output, faults and warnings to standard error.

  Attributes:
    total: number of cases.
  """

  def __init__(
    self, total: int, out: Stream | None = None, err: Stream | None = None
  ):
    self.total = total
    self._out = sys.stdout if out is None else out
    self._err = sys.stderr if err is None else err
    self._bar = total > 1 and self._err.isatty()
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
      self._err.write(f"\r\x1b[K{line[:width]}")
      self._err.flush()

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

  def close(self) -> None:
    """Takes the bar away."""
    self._clear()

  def _say(self, text: str) -> None:
    self._clear()
    head = f"[{self._count()}] " if self.total > 1 else ""
    print(head + text, file=self._out, flush=True)

  def _fault(self, text: str) -> None:
    self._clear()
    print(text, file=self._err, flush=True)

  def _clear(self) -> None:
    if self._bar:
      self._err.write("\r\x1b[K")
      self._err.flush()

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
