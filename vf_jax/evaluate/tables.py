# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What an evaluation writes: two CSV tables, a JSON and a Markdown summary."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vf_jax.evaluate.measure import CaseMeasures, MeasureOptions
from vf_jax.evaluate.summary import Measure
from vf_jax.io.text import as_text
from vf_jax.labels import BY_CODE

_NONE = "-"


def case_table(
  cases: Iterable[CaseMeasures],
  measured: MeasureOptions,
  lesion_score: float,
) -> str:
  """One row a case, as CSV.

  Args:
    cases: what was measured.
    measured: how.
    lesion_score: least score of the detections that are counted.

  Returns:
    The text. Cells are empty where there is no number.
  """
  tolerances = [f"nsd_{mm:g}mm" for mm in measured.tolerances_mm]
  header = (
    "case", "patient", "prediction", "vertebrae", "missed", "extra", "excused",
    "dice", "dice_instance", "dice_spine", *tolerances, "points",
    "missing_points", "id_hits", "id_hits_strict", "id_rate_verse",
    "id_rate_strict", "d_mean_mm", "all_levels_right", "prediction_points",
    "reference_points", "lesions", "detections", "lesions_found_iou",
    "lesions_found_near", "notes",
  )  # fmt: skip
  return _csv(
    header, (_case_row(case, measured, lesion_score) for case in cases)
  )


def _case_row(
  case: CaseMeasures, measured: MeasureOptions, lesion_score: float
) -> list[Any]:
  true, id_, lesions = case.true_vertebrae, case.identification, case.lesions

  def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

  def names(codes: Iterable[int]) -> str:
    return " ".join(BY_CODE[code].name for code in codes)

  row: list[Any] = [case.name, case.patient, case.state]
  if id_ is None:
    row += [""] * (17 + len(measured.tolerances_mm))
  else:
    row += [
      len(true),
      names(v.code for v in true if v.state == "missed"),
      names(case.extra),
      names(v.code for v in case.vertebrae if v.state == "excused"),
      mean([v.dice for v in true]),
      mean([v.matched_dice for v in true]),
      case.spine_dice,
      *(
        mean([v.nsd[n] for v in true])
        for n in range(len(measured.tolerances_mm))
      ),
      len(id_.truth),
      names(id_.missing),
      len(id_.hits),
      len(id_.strict_hits),
      id_.rate,
      id_.strict_rate,
      id_.mean_distance_mm,
      ("yes" if case.all_right else "no") if id_.truth else "",
      *case.point_kinds,
    ]
  if lesions is None:
    row += [""] * 4
  else:
    counted = lesions.scores >= lesion_score
    row += [
      lesions.lesions,
      int(counted.sum()),
      int(lesions.right_iou[counted].sum()),
      int(lesions.right_near[counted].sum()),
    ]
  return [*row, " | ".join(case.notes)]


def vertebra_table(
  cases: Iterable[CaseMeasures], measured: MeasureOptions
) -> str:
  """One row a level of a case, as CSV.

  Args:
    cases: what was measured.
    measured: how.

  Returns:
    The text; superfluous and excused levels have rows too, which no mean
    contains.
  """
  header = (
    "case", "patient", "level", "code", "state", "cut", "true_ml",
    "predicted_ml", "dice", *(f"nsd_{mm:g}mm" for mm in measured.tolerances_mm),
    "hd_mm", "hd95_mm", "assd_mm", "matched_level", "matched_dice",
    "distance_mm", "id_hit", "id_hit_strict",
  )  # fmt: skip
  rows = []
  for case in cases:
    for v in case.vertebrae:
      matched = BY_CODE[v.matched_code].name if v.matched_code else ""
      hits = ["yes" if hit else "no" for hit in (v.hit, v.strict_hit)]
      masks: list[Any] = [v.dice, *v.nsd, v.hd_mm, v.hd95_mm, v.assd_mm]
      if not v.true_ml:
        masks = [""] * len(masks)
      rows.append(
        [
          case.name, case.patient, v.level, v.code, v.state,
          "yes" if v.cut else "no", v.true_ml, v.predicted_ml, *masks, matched,
          v.matched_dice if v.true_ml else "", v.distance_mm,
          *(hits if v.has_point else ("", "")),
        ]
      )  # fmt: skip
  return _csv(header, rows)


def summary_json(facts: Mapping[str, Any], measures: Iterable[Measure]) -> str:
  """The summary for programs.

  Args:
    facts: of the run and its cases; JSON types.
    measures: the numbers.

  Returns:
    The text. A number that does not exist is null, an infinite one 'inf'.
  """
  rows = [
    {
      "name": m.name,
      "value": _json_number(m.value),
      "low": _json_number(m.interval.low),
      "high": _json_number(m.interval.high),
      "method": m.method,
      "note": m.interval.note,
      "unit": m.unit,
      "of": m.count,
      "definition": m.definition,
    }
    for m in measures
  ]
  return json.dumps({**facts, "measures": rows}, indent=1, allow_nan=False)


def summary_markdown(
  lines: Sequence[str], measures: Iterable[Measure], replicates: int
) -> str:
  """The summary for people.

  Args:
    lines: sentences on the cases, put above the table.
    measures: the numbers.
    replicates: of the bootstrap.

  Returns:
    The text.
  """
  head = f"95 % interval ({replicates:,} resamples of patients)"
  rows = [
    "# Evaluation",
    "",
    *(f"- {line}" for line in lines),
    "",
    f"| measure | value | {head} | of | definition |",
    "| --- | --- | --- | --- | --- |",
  ]
  for m in measures:
    interval = f"{_interval(m)} {'' if _empty(m) else m.method}".strip()
    if m.interval.note:
      interval = f"{interval} ({m.interval.note})"
    rows.append(
      f"| {m.name} | {_value(m)} | {interval} | {m.count} | {m.definition} |"
    )
  return "\n".join(rows) + "\n"


def summary_terminal(measures: Iterable[Measure], width: int) -> str:
  """The summary for a terminal: two or three lines a number.

  Args:
    measures: the numbers.
    width: of the terminal.

  Returns:
    The text.
  """
  lines = []
  for m in measures:
    lines.append(f"{m.name:<22}{_value(m):>10}  {_interval(m):<18} {m.count}")
    lines += textwrap.wrap(
      m.definition,
      max(width, 50),
      initial_indent=" " * 6,
      subsequent_indent=" " * 6,
    )
  return "\n".join(lines)


def _value(measure: Measure) -> str:
  if math.isnan(measure.value):
    return _NONE
  return _digits(measure.value, measure.unit) + (
    f" {measure.unit}" if measure.unit else ""
  )


def _interval(measure: Measure) -> str:
  if _empty(measure):
    return _NONE
  low, high = measure.interval.low, measure.interval.high
  return f"[{_digits(low, measure.unit)}, {_digits(high, measure.unit)}]"


def _empty(measure: Measure) -> bool:
  return math.isnan(measure.interval.low) or math.isnan(measure.interval.high)


def _digits(value: float, unit: str) -> str:
  return f"{value:.2f}" if unit else f"{value:.4f}"


def _json_number(value: float) -> float | str | None:
  if math.isnan(value):
    return None
  return float(value) if math.isfinite(value) else "inf"


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(header)
  for row in rows:
    assert len(row) == len(header), "a cell would stand under another heading"
    table.writerow([_cell(value) for value in row])
  return text.getvalue()


def _cell(value: Any) -> Any:
  if isinstance(value, str):
    return as_text(value)
  if not isinstance(value, float):
    return value
  return "" if math.isnan(value) else f"{value:.4f}"
