# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The page that `numbering_limits.py` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import measuring


def text(results: Mapping[str, Any], coverages: Sequence[float]) -> str:
  """Renders the results.

  Args:
    results: of `numbering_limits.py`.
    coverages: shares of scans that the references answer.

  Returns:
    Markdown.
  """
  series = results["series"]
  by_source = results["sources"]
  rest = series["agree"] + series["contradict"]
  return "\n\n".join(
    [
      "# Limits of the numbering by points",
      f"{results['date']}, `{results['command']}`, commit "
      f"{results['commit']}, {results['machine']}.",
      "Where the network loses bodies of patients that were held back "
      "(shifted: under a third of the scan's bodies are right):",
      measuring.table(
        [
          *("source", "true bodies", "identified", "no candidate", "shifted"),
          *("other", "shifted scans"),
        ],
        [
          [
            *(name, row["bodies"], _share(row["hit"] / max(1, row["bodies"]))),
            *(row["no candidate"], row["shifted"], row["other"]),
            f"{row['shifted scans']} of {by_source[name]['scans']}",
          ]
          for name, row in results["losses"].items()
        ],
      ),
      "What the truth names the lowest body, and how the thoracolumbar "
      "junction by the detector's scores differs from the truth's (minus: it "
      "calls more bodies lumbar):",
      measuring.table(
        ["source", "lowest", "border"],
        [
          [
            name,
            _counts({k: v for k, v in row["lowest"].items() if v > 4}),
            _counts(row["border"]),
          ]
          for name, row in by_source.items()
        ],
      ),
      "Two scans of one patient, compared by the distances of their true "
      f"bodies: of {series['pairs']} pairs {series['undecided']} show no clear "
      f"best fit; of the other {rest}, {series['contradict']} fit best one "
      "level apart, so that one of the two truths is wrong. The widths of the "
      f"detected pedicles confirm {series['confirmed']} of these and speak "
      f"against {series['refuted']}. Of {series['copies']} copies that differ "
      "from their scan as agreeing pairs do, "
      f"{series['copies_contradict']} seem to contradict.",
      "Methods that are told which candidates are true bodies and only place "
      "the border, on patients that were held back (5 folds): share of bodies "
      "in scans with a border that are right, by share of scans answered; the "
      "share the method expects by its own confidence; the share of all true "
      "bodies, if nothing else were lost but those without a candidate:",
      measuring.table(
        [
          "method",
          *(f"{100 * c:.0f} %" for c in coverages),
          "expects",
          "of all bodies",
          *(f"wrong scans, {name}" for name in by_source),
        ],
        [
          [
            name,
            *map(_share, row["right"]),
            _share(row["expected"]),
            _share(row["of_all"]),
            *(row["wrong_scans"][source] for source in by_source),
          ]
          for name, row in results["references"].items()
        ],
      )
      + "\n",
    ]
  )


def _share(value: float) -> str:
  return f"{100 * value:.2f} %"


def _counts(values: Mapping[str, int]) -> str:
  return ", ".join(f"{name}: {count}" for name, count in values.items())
