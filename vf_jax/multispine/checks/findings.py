# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a check has to say of a case, and its block in the terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from vf_jax.labels import BY_CODE

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_WIDTH = 80
_INDENT = 4


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is odd about a case.

  Attributes:
    severity: 'error': training or measuring on this case would mislead;
      'warning': a person should look; 'note': true and harmless.
    code: short fixed name of the kind of finding, for filters.
    message: one sentence with the numbers it rests on.
    levels: names of the levels concerned, from head to foot.
  """

  severity: Severity
  code: str
  message: str
  levels: tuple[str, ...] = ()


def names_of(codes: Iterable[int]) -> tuple[str, ...]:
  """Names of levels from head to foot.

  Args:
    codes: VerSe codes.

  Returns:
    The names; codes without a level are left out.
  """
  found = [BY_CODE[code] for code in codes if code in BY_CODE]
  return tuple(v.name for v in sorted(found, key=lambda v: v.order))


def in_words(codes: Iterable[int]) -> str:
  """Names levels in a sentence, runs of three and more as `T9-T12`.

  Args:
    codes: VerSe codes.

  Returns:
    The names from head to foot, joined by commas.
  """
  # T13 and L6 are rare: a run goes on over a level that is not there.
  usual = [v.order for v in BY_CODE.values() if v.name not in ("T13", "L6")]
  place = {order: number for number, order in enumerate(sorted(usual))}
  runs: list[list[str]] = []
  last = None
  for name, order in sorted(
    ((BY_CODE[c].name, BY_CODE[c].order) for c in codes if c in BY_CODE),
    key=lambda row: row[1],
  ):
    here = place.get(order)
    if runs and here is not None and last is not None and here == last + 1:
      runs[-1].append(name)
    else:
      runs.append([name])
    last = here
  return ", ".join(
    f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs
  )


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
  """Sorts findings, the worst first, else in the order they were found.

  Args:
    findings: of one case.

  Returns:
    The same findings.
  """
  return tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))


def format_findings(name: str, findings: Sequence[Finding]) -> str:
  """Writes the findings of a case for a terminal.

  Args:
    name: of the case.
    findings: of the case.

  Returns:
    A block of lines without a line end at its end; one line if there is
    nothing to say.
  """
  counts = [
    f"{number} {severity}{'s' if number != 1 else ''}"
    for severity in SEVERITIES
    if (number := sum(f.severity == severity for f in findings))
  ]
  lines = [f"{name}: {', '.join(counts) or 'nothing found'}"]
  for finding in by_severity(findings):
    lead = f"  {finding.severity:<7} {finding.code}: "
    lines += textwrap.wrap(
      lead + finding.message,
      _WIDTH,
      subsequent_indent=" " * (2 * _INDENT + 2),
      break_on_hyphens=False,
      break_long_words=False,
    )
  return "\n".join(lines)
