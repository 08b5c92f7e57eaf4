# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the border cuts takes the level beside its neighbour, or none."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.infer.native import Region
from vf_jax.infer.pieces import name_pieces, touches_end
from vf_jax.labels import BY_NAME, VERTEBRAE
from vf_jax.volume import Grid


def named(bodies, above=None, below=None):
  """Levels of bodies and pieces by name; '-' is none."""
  orders = np.array(
    [BY_NAME[b].order if b != "-" else -1 for b in bodies.split()], int
  )
  sure = np.linspace(0.6, 0.9, len(orders))
  levels, confidence, notes = name_pieces(orders, sure, (above, below))
  assert len(levels) == len(confidence)
  assert not len(sure) or confidence[0] == sure[0]
  assert not len(sure) or confidence[-1] == sure[-1]
  names = " ".join("-" if i < 0 else VERTEBRAE[i].name for i in levels)
  return (names, *notes) if notes else names


@pytest.mark.parametrize(
  ("bodies", "above", "below", "wanted"),
  [
    ("L1 L2", None, None, "L1 L2"),
    ("L1 L2", True, True, "T12 L1 L2 L3"),
    ("T2 T3", True, None, "T1 T2 T3"),
    ("T1 T2", True, None, "C7 T1 T2"),
    ("T11 T12", None, True, "T11 T12 L1"),
    ("T12 T13", None, True, "T12 T13 L1"),
    ("T13 L1", True, None, "T12 T13 L1"),
    ("L4 L5", None, True, "L4 L5 -"),
    ("L5 L6", None, True, "L5 L6 -"),
    ("C1 C2", True, None, "- C1 C2"),
    ("C2 C3", True, None, "C1 C2 C3"),
    ("- L1 L2 -", True, True, "- - L1 L2 - -"),
  ],
)
def test_pieces_have_the_usual_level_beside_their_neighbour(
  bodies, above, below, wanted
):
  assert named(bodies, above, below) == wanted


def test_what_the_end_of_the_scan_does_not_cut_is_other_bone():
  assert named("L1 L2", False, False) == (
    "- L1 L2 -",
    "Bone above L1 that no end of the scan cuts was left out.",
    "Bone below L2 that no end of the scan cuts was left out.",
  )
  # Skull and sacrum are where they belong.
  assert named("C1 C2", False, None) == "- C1 C2"
  assert named("L4 L5", None, False) == "L4 L5 -"
  # Above C2 there is C1 and nothing else.
  assert named("C2 C3", False, None) == "C1 C2 C3"


@pytest.mark.parametrize("row", [1, 12, 22])
@pytest.mark.parametrize("turned", [False, True])
def test_an_end_is_one_of_the_scan_itself(row, turned):
  """An oblique scan ends within the grid of the network."""
  ids = np.zeros((24, 10, 10), np.uint8)
  ids[row, 4:6, 4:6] = 3
  # The region begins where the ids do, or later.
  first = min(row, 5)
  part = ids[first:, 2:, 1:]
  region = Region((first, 2, 1), part, part.astype(np.float16))
  grid = Grid((10, 10, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
  affine = np.diag([1.0, 1.0, 4.0, 1.0])
  shape = (20, 20, 12)
  if turned:  # stored from head to foot, first axis along the spine
    affine = np.array(
      [[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-4.0, 0, 0, 44.0], [0, 0, 0, 1]]
    )
    shape = (12, 20, 20)
  assert touches_end(region, 3, grid, Grid(shape, affine)) == (row != 12)
  longer = np.array(shape)
  longer[0 if turned else 2] += 10
  shifted = affine.copy()
  shifted[2, 3] += 20.0 if turned else -20.0
  assert not touches_end(region, 3, grid, Grid(tuple(longer.tolist()), shifted))


def test_nothing_to_number_leaves_pieces_without_a_level():
  levels, confidence, notes = name_pieces(
    np.zeros(0, int), np.zeros(0), (None, None)
  )
  assert len(levels) == len(confidence) == len(notes) == 0
