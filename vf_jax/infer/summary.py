# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`summary.csv`: all cases of a folder, made of what the cases say."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vf_jax.io.atomic import write_text
from vf_jax.io.results import DAMAGED
from vf_jax.io.text import as_text

FAILURES = ".failures"
"""Folder of the cases that were not done, one JSON file each."""

SUMMARY = "summary.csv"

COLUMNS = (
  *("case", "state", "input", "vertebrae", "levels", "least_confidence"),
  *(
    "abstained",
    "lesions",
    "seconds",
    "warnings",
    "fault",
    "checkpoint_sha256",
  ),
)
_ROUNDS = 5
_ANSWER = {True: "yes", False: "no", None: ""}  # none: of an older version


def write_summary(out: str | os.PathLike[str]) -> pathlib.Path:
  """Writes the table of all cases in a folder, whichever run made them.

  It is made anew from the folders, so that runs which share the cases need
  not know of each other: the last to end sees them all.

  Args:
    out: folder of all cases.

  Returns:
    The file. Its columns are `COLUMNS`; a case has state 'done', 'refused' (its
    input) or 'failed' (vf_jax). State and fault are the last word on the case;
    if it is a fault, the other columns tell of an older result, if there is
    one.

  Raises:
    InputError: if it cannot be written.
  """
  folder = pathlib.Path(out)
  path = folder / SUMMARY

  def write() -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in _rows(folder):
      table.writerow(
        {k: as_text(v) if isinstance(v, str) else v for k, v in row.items()}
      )
    write_text(path, text.getvalue())

  until_settled(folder, write)
  return path


def until_settled(folder: pathlib.Path, write: Callable[[], None]) -> None:
  """Writes anew while other runs end cases in the same folder.

  Args:
    folder: of all cases.
    write: makes something of them.
  """
  for _ in range(_ROUNDS):
    before = _look(folder)
    write()
    if _look(folder) == before:
      break


def _look(folder: pathlib.Path) -> list[tuple[str, int]]:
  """Which records there are, and how old."""
  found = []
  for record in _records(folder):
    try:
      found.append((str(record), record.stat().st_mtime_ns))
    except OSError:
      continue
  return found


def _records(folder: pathlib.Path) -> list[pathlib.Path]:
  cases = [p for p in folder.glob("*/run.json") if p.parent.name[0] != "."]
  # The failures last: what a case says of itself is older.
  return [*sorted(cases), *sorted(folder.glob(f"{FAILURES}/*.json"))]


def _rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  rows: dict[str, dict[str, Any]] = {}
  for record in _records(folder):
    try:
      content = json.loads(record.read_text("utf-8"))
      if record.parent.name == FAILURES:
        case = str(content["case"])
        rows[case] = _failed(content, case, rows.get(case))
      else:
        case = record.parent.name
        rows[case] = _done(content, case)
    except DAMAGED:
      continue  # of another program, or gone since
  return [rows[case] for case in sorted(rows)]


def _done(run: Mapping[str, Any], case: str) -> dict[str, Any]:
  found = run["found"]
  return {
    "case": case,
    "state": run["state"],
    "input": run["input"],
    "vertebrae": len(found["levels"]),
    "levels": " ".join(found["levels"]),
    "least_confidence": found["least_confidence"],
    "abstained": _ANSWER[found.get("abstained")],
    "lesions": found["lesions"],
    "seconds": run["seconds"]["total"],
    "warnings": " | ".join(run["warnings"]),
    "checkpoint_sha256": run["checkpoint_sha256"],
  }


def _failed(
  record: Mapping[str, Any], case: str, older: Mapping[str, Any] | None
) -> dict[str, Any]:
  """A case that was not done; the numbers are those of its older result."""
  fault = f"{record['fault']} {record['fix']}".strip()
  kept = older or {"case": case, "input": record["input"]}
  if kept["input"] != record["input"]:
    fault = f"{record['input']}: {fault}"
  state = "failed" if record["traceback"] else "refused"
  return {**kept, "state": state, "fault": fault}
