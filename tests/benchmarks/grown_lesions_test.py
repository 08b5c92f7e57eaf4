# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the table of grown lesions counts."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="module")
def grown():
  return importlib.import_module("grown_lesions")


def cube(start, edge):
  return [[start] * 3, [start + edge] * 3]


@pytest.fixture
def rows():
  """A crop with a small and a large lesion, and one with none.

  The large lesion is found at 0.95, twice; the small one at 0.15.
  """
  return [
    {
      "scores": [0.95, 0.45, 0.15],
      "found": [cube(50, 20), cube(51, 20), cube(0, 10)],
      "in_vertebra": [True, True, False],
      "true": [cube(0, 10), cube(50, 20)],
    },
    {
      "scores": [0.95, 0.01],
      "found": [cube(0, 10), cube(90, 10)],
      "in_vertebra": [False, False],
      "true": [],
    },
  ]


def test_scores_are_true_as_often_as_boxes_of_them_are_right(grown, rows):
  # The second box of a lesion is wrong; what is below all ranges is left out.
  found = dict(zip(grown._SCORES, grown.calibration(rows)))
  assert found[0.9] == (2, 1)
  assert found[0.4] == (1, 0)
  assert found[0.1] == (1, 1)
  assert sum(boxes for boxes, _ in found.values()) == 4


def test_lesions_are_found_by_size_from_a_score_on(grown, rows):
  assert grown.by_size(rows, 0.1) == [(1, 1), (0, 0), (1, 1), (0, 0)]
  assert grown.by_size(rows, 0.2) == [(1, 0), (0, 0), (1, 1), (0, 0)]


def test_boxes_outside_of_vertebrae_can_be_left_out(grown, rows):
  first, second = grown._in_vertebrae(rows)
  assert first["scores"] == [0.95, 0.45]
  assert first["found"] == [cube(50, 20), cube(51, 20)]
  assert (second["scores"], second["found"]) == ([], [])
  assert grown.by_size([first, second], 0.1)[0] == (1, 0)
