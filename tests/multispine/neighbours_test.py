# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vf_jax.labels import BY_NAME
from vf_jax.multispine.neighbours import (
  BELOW_MM,
  next_above,
  next_below,
  skipped,
  usual_distance,
)


def _code(name):
  return BY_NAME[name].code


@pytest.mark.parametrize(
  ("upper", "lower", "missing"),
  [
    ("T11", "T12", []),
    ("T12", "L1", []),
    ("T11", "L1", []),  # eleven pairs of ribs
    ("T12", "T13", []),
    ("T13", "L1", []),
    ("L5", "L6", []),
    ("T9", "T11", ["T10"]),
    ("T10", "L1", ["T11", "T12"]),
    ("L4", "L6", ["L5"]),
  ],
)
def test_only_usual_levels_can_be_missing(upper, lower, missing):
  found = skipped(BY_NAME[upper], BY_NAME[lower])
  assert [v.name for v in found] == missing


def test_distance_adds_up_over_missing_levels():
  table = BELOW_MM["body"]
  far = usual_distance(BY_NAME["T9"], BY_NAME["T11"], "body")
  assert far == pytest.approx(table["T9"] + table["T10"])
  assert usual_distance(BY_NAME["L4"], BY_NAME["L5"], "mask") == 31.4


@pytest.mark.parametrize(
  ("first", "above"),
  [("C1", None), ("C2", "C1"), ("L1", "T12"), ("T13", "T12"), ("T1", "C7")],
)
def test_next_above(first, above):
  found = next_above([_code(first), _code("L3")])
  assert (found and found.name) == above


@pytest.mark.parametrize(
  ("last", "below"),
  [("T12", "L1"), ("T13", "L1"), ("L4", "L5"), ("L5", None), ("L6", None)],
)
def test_next_below(last, below):
  found = next_below([_code("C7"), _code(last)])
  assert (found and found.name) == below


def test_nothing_goes_on_below_a_sacrum_or_without_vertebrae():
  assert next_below([_code("L4"), _code("sacrum")]) is None
  assert next_below([]) is None
  assert next_above([_code("sacrum")]) is None
