# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Measures a folder of predictions against a folder of references."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from vf_jax.errors import InputError
from vf_jax.evaluate.cases import Matching, match_cases
from vf_jax.evaluate.measure import (
  MEASURE_DEFAULTS,
  CaseMeasures,
  MeasureOptions,
  measure_case,
)
from vf_jax.evaluate.summary import (
  SUMMARY_DEFAULTS,
  Measure,
  SummaryOptions,
  summarise,
)
from vf_jax.evaluate.tables import (
  case_table,
  summary_json,
  summary_markdown,
  vertebra_table,
)
from vf_jax.io.atomic import make_folder, write_text
from vf_jax.jobs import run_jobs
from vf_jax.telemetry import run_facts

FILES = ("cases.csv", "vertebrae.csv", "summary.json", "summary.md")


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What came out.

  Attributes:
    cases: what was measured, by name.
    measures: the numbers of the set.
    matching: the cases found.
    refused: name -> why, for references that could not be read: they are in
      no number. Refused predictions are among the cases, as missed.
    failed: name -> why, for cases on which vf_jax itself failed: they are in
      no number either.
    lines: sentences on the cases.
  """

  cases: tuple[CaseMeasures, ...]
  measures: tuple[Measure, ...]
  matching: Matching
  refused: dict[str, str]
  failed: dict[str, str]
  lines: tuple[str, ...]

  @property
  def clean(self) -> bool:
    """Whether no file was refused."""
    return not self.refused and all(c.state != "refused" for c in self.cases)


def evaluate(
  predictions: str | os.PathLike[str],
  references: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  patients: str | os.PathLike[str] | None = None,
  measured: MeasureOptions = MEASURE_DEFAULTS,
  summed: SummaryOptions = SUMMARY_DEFAULTS,
  workers: int | None = None,
  report: Callable[[CaseMeasures], None] = lambda case: None,
) -> Evaluation:
  """Measures every case of the references and writes the tables.

  A reference without a prediction, or whose prediction is refused, counts as
  missed from head to foot: it is never left out.

  Args:
    predictions: folder, see `cases`.
    references: folder, see `cases`.
    out: folder for `FILES`, made if missing; older ones are replaced.
    patients: CSV with the columns case and patient.
    measured: what is measured of a case.
    summed: how a set is summed up.
    workers: processes; 0 works in this one, None takes the cores.
    report: called with each case when it is done.

  Returns:
    What was written.

  Raises:
    ConfigError: no case is in both folders.
    InputError: a folder or table cannot be read or written, or no reference
      at all. If vf_jax itself failed on what could be read, tables without a
      case say so.
  """
  matching = match_cases(predictions, references, patients)
  folder = pathlib.Path(out)
  make_folder(folder)
  jobs = {pair.reference.name: (pair, measured) for pair in matching.pairs}
  found: dict[str, CaseMeasures] = {}
  refused: dict[str, str] = {}
  failed: dict[str, str] = {}
  if len(jobs) == 1:
    workers = 0
  for name, result in run_jobs(measure_case, jobs, workers=workers):
    if isinstance(result, CaseMeasures):
      found[name] = result
      report(result)
    elif isinstance(result, InputError):
      refused[name] = str(result)
    else:  # One case must not cost the others.
      failed[name] = f"{type(result).__name__}: {result}"
  if not found and not failed:
    first = refused[min(refused)]
    raise InputError(
      references, f"holds no reference that can be read; the first: {first}"
    )
  cases = tuple(found[name] for name in sorted(found))
  measures = summarise(cases, summed, measured)
  lines = _describe(
    cases, matching, refused, failed, min(measured.tolerances_mm)
  )
  facts: dict[str, Any] = {
    "predictions": os.fspath(predictions),
    "references": os.fspath(references),
    "cases": len(cases),
    "patients": len({case.patient for case in cases}),
    "without_prediction": list(matching.without_prediction),
    "without_reference": list(matching.without_reference),
    "refused_predictions": [c.name for c in cases if c.state == "refused"],
    "refused_references": refused,
    "failed": failed,
    "options": dataclasses.asdict(measured) | dataclasses.asdict(summed),
    "run": run_facts(),
  }
  texts = (
    case_table(cases, measured, summed.lesion_score),
    vertebra_table(cases, measured),
    summary_json(facts, measures) + "\n",
    summary_markdown(lines, measures, summed.replicates),
  )
  for file, text in zip(FILES, texts):
    write_text(folder / file, text)
  return Evaluation(cases, measures, matching, refused, failed, lines)


def _describe(
  cases: Sequence[CaseMeasures],
  matching: Matching,
  refused: dict[str, str],
  failed: dict[str, str],
  tolerance_mm: float,
) -> tuple[str, ...]:
  patients = len({case.patient for case in cases})
  lines = [f"{len(cases)} scans of {patients} patients."]
  for names, words in (
    (
      [c.name for c in cases if c.state == "missing"],
      "without a prediction, counted as missed from head to foot",
    ),
    (
      [c.name for c in cases if c.state == "refused"],
      "with a refused prediction, counted as missed from head to foot",
    ),
    (list(refused), "with a refused reference, in no number"),
    (list(failed), "on which vf_jax failed, in no number"),
    (
      list(matching.without_reference),
      "predicted without a reference, in no number",
    ),
  ):
    if names:
      lines.append(f"{len(names)} {words}: {', '.join(names)}.")
  kinds = [c.point_kinds for c in cases if c.identification is not None]
  # A case without a prediction has no points of its own.
  ours = {kind for kind, _ in kinds} - {"none"}
  theirs = {kind for _, kind in kinds} - {"none"}
  words_of = {
    "body": "body centres from files",
    "mask": "centres of mass of whole vertebrae",
    "derived": "body centres derived from masks",
  }
  for side, found in (("predictions", ours), ("references", theirs)):
    if found:
      words = "; ".join(words_of[kind] for kind in sorted(found))
      lines.append(f"Points of the {side}: {words}.")
  coarse = sum(case.spacing_mm > tolerance_mm for case in cases)
  if coarse:
    lines.append(
      f"{coarse} scans have a spacing above {tolerance_mm:g} mm: there a "
      "tolerance of less than a voxel asks for the very same surface."
    )
  return tuple(lines)
