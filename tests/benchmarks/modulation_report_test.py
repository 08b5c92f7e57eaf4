# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the study of the modulation unit says of scanners left out."""

from __future__ import annotations

import importlib

import pytest

_DOMAINS = ("verse", "covid19")


@pytest.fixture(scope="module")
def report():
  return importlib.import_module("modulation_report")


def run(kind, left_out, seed, missed=(), **dice):
  """Scores of two patients, the second 0.1 better than the first.

  Of the patients `missed` one level more is wrong and the lesion not found.
  """
  return {
    "kind": kind, "unit": "-" if kind == "none" else "now", "seed": seed,
    "left_out": left_out, "augment": "off", "steps": 300, "parameters": 10**6,
    "facts": {"commit": "c" * 40},
    "cases": {
      f"p{patient}-{domain}": {
        "dice": dice[domain] + 0.1 * patient,
        "levels": [[1, 1 + (patient in missed)], [2, 3]],
        "lesions": 1,
        "found": [[0.9, float(patient not in missed)]],
      }
      for patient in (0, 1)
      for domain in _DOMAINS
    },
  }  # fmt: skip


def render(report, runs):
  facts = {"date": "d", "command": "c", "commit": "1", "machine": "m"}
  return report.render({"facts": facts, "runs": runs})


def rows(text, title):
  """Cells of the last table below a title."""
  part = text.split(f"## {title}")[1].split("\n## ")[0]
  table = part.strip().split("\n\n")[-1].splitlines()[2:]
  return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]


def test_a_scanner_costs_what_networks_lose_that_never_saw_it(report):
  runs = [
    run("none", left_out, seed, verse=verse, covid19=0.5 + 0.1 * seed)
    for left_out, verse in ((report.NOTHING, 0.7), ("verse", 0.4))
    for seed in (0, 1)
  ]
  # The third seed has no counterpart, so that it must not count.
  runs.append(run("none", "verse", 2, verse=0.9, covid19=0.9))
  text = render(report, runs)
  (row,) = rows(text, "What leaving a scanner out costs")
  assert row[:3] == ["verse", "2", "-0.300 (-0.300 to -0.300)"]
  assert row[3].startswith("+0.000")
  assert "Difference to no modulation" not in text


def test_without_networks_that_saw_all_nothing_is_said_of_costs(report):
  text = render(report, [run("none", "verse", 0, verse=0.5, covid19=0.5)])
  assert "costs" not in text


def test_the_unit_is_compared_on_seen_scanners_and_on_the_one_left_out(report):
  text = render(
    report,
    [
      run("none", "verse", 0, verse=0.5, covid19=0.6),
      run("film", "verse", 0, verse=0.4, covid19=0.7),
      run("none", report.NOTHING, 0, verse=0.5, covid19=0.6),
      run("film", report.NOTHING, 0, verse=0.7, covid19=0.7),
    ],
  )
  seen, left_out = rows(text, "verse left out")
  assert seen[:4] == ["film", "seen", "1", "+0.100 (+0.100 to +0.100)"]
  assert left_out[1:4] == ["verse", "1", "-0.100 (-0.100 to -0.100)"]
  (both,) = rows(text, "nothing left out")
  assert both[1:4] == ["seen", "1", "+0.150 (+0.150 to +0.150)"]


def test_every_metric_stands_in_its_column_with_its_interval(report):
  text = render(
    report,
    [
      run("none", "verse", 0, missed=(1,), verse=0.5, covid19=0.5),
      run("film", "verse", 0, verse=0.5, covid19=0.5),
    ],
  )
  seen, left_out = rows(text, "verse left out")
  assert (
    seen[3:]
    == left_out[3:]
    == [
      "+0.000 (+0.000 to +0.000)",
      "+0.250 (+0.000 to +0.500)",
      "+0.500 (+0.000 to +1.000)",
    ]
  )


def test_scanners_left_out_are_pooled_where_there_are_several(report):
  runs = [
    run(kind, left_out, 0, verse=verse, covid19=covid19)
    for kind, left_out, verse, covid19 in (
      ("none", "verse", 0.4, 0.5),
      ("film", "verse", 0.5, 0.2),
      ("none", "covid19", 0.1, 0.5),
      ("film", "covid19", 0.9, 0.8),
      ("prototype", "covid19", 0.9, 0.8),
      ("none", report.NOTHING, 0.1, 0.1),
      ("film", report.NOTHING, 0.9, 0.9),
    )
  ]
  # Of another seed than those without the unit.
  runs.append(run("prototype", "verse", 1, verse=0.9, covid19=0.8))
  (row,) = rows(render(report, runs), "What the unit changes on scanners")
  assert row[:3] == ["film", "covid19, verse", "2"]
  assert row[3] == "+0.200 (+0.200 to +0.200)"


def test_film_is_compared_with_its_control_apart_from_no_modulation(report):
  runs = [
    run(kind, "verse", 0, verse=verse, covid19=covid19)
    for kind, verse, covid19 in (
      ("none", 0.1, 0.1),
      ("film", 0.5, 0.6),
      (report.BLANK, 0.4, 0.3),
    )
  ]
  text = render(report, runs)
  seen, left_out = rows(text, "What film gains by seeing the scan")
  assert seen[:3] == ["seen", "1", "+0.300 (+0.300 to +0.300)"]
  assert left_out[:3] == ["left out", "1", "+0.100 (+0.100 to +0.100)"]
  assert "by seeing" not in render(report, runs[:2])
