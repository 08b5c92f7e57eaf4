# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from vf_jax.labels import BY_NAME
from vf_jax.multispine.checks.findings import (
  Finding,
  by_severity,
  format_findings,
  in_words,
  names_of,
)


def _codes(*names):
  return [BY_NAME[name].code for name in names]


def test_levels_are_named_from_head_to_foot():
  assert names_of(_codes("L1", "T13", "T12", "C1")) == (
    "C1", "T12", "T13", "L1",
  )  # fmt: skip


def test_runs_are_shortened_and_rare_levels_do_not_join_them():
  assert in_words(_codes("T11", "T10", "T12", "L1")) == "T10-L1"
  assert in_words(_codes("L1", "L3")) == "L1, L3"
  assert in_words(_codes("L3", "L4")) == "L3, L4"
  assert in_words(_codes("T11", "T12", "T13")) == "T11, T12, T13"
  assert in_words([]) == ""


def test_the_worst_finding_comes_first_and_lines_fit_the_terminal():
  found = [
    Finding("note", "cut", "cut."),
    Finding("error", "gap", "a long sentence about a gap " * 6),
    Finding("warning", "volume", "small."),
  ]
  assert [f.code for f in by_severity(found)] == ["gap", "volume", "cut"]
  text = format_findings("case-1", found)
  lines = text.splitlines()
  assert lines[0] == "case-1: 1 error, 1 warning, 1 note"
  assert lines[1].startswith("  error   gap: a long")
  assert max(map(len, lines)) <= 80
  assert not text.endswith("\n")


def test_nothing_found_is_one_line():
  assert format_findings("a", []) == "a: nothing found"
