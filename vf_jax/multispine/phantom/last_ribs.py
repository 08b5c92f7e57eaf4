# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How long the lowest ribs are, which may tell T12, T13 and L1 apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

_T12_MM, _T13_MM = (40.0, 140.0), (30.0, 80.0)
_SHORT_T13 = 0.8  # share of patients with T13


def last_ribs(
  names: Sequence[str], rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
  """Draws how long the ribs of T12 and T13 are.

  T13 is what a radiologist would call so: a vertebra with ribs between T12
  and an L1 without, five lumbar ones below it, 25 above the sacrum. Its ribs
  are mostly rudimentary, and never so short that the transverse process hides
  them. Ribs of T12 may be as short, which is why counting ribs misleads. L1
  has none: lumbar ribs are left out. Where T12 is absent, T11 bears the last
  ribs, which end like usual ones of T12.

  Args:
    names: levels of the patient.
    rng: the draw.

  Returns:
    Level -> length of the left and the right rib from its head, mm.
  """
  found: dict[str, tuple[float, float]] = {}
  if "T12" in names:
    found["T12"] = _both(rng.normal(100, 28), 0.08, _T12_MM, rng)
  if "T13" in names:
    low, high = _T13_MM
    if rng.random() < _SHORT_T13:
      length, spread = rng.uniform(low, high), 0.2
    else:
      length, spread, high = rng.normal(100, 20), 0.08, _T12_MM[1]
    # No rib is longer than the one above it.
    limits = low, min(high, *found["T12"])
    found["T13"] = _both(length, spread, limits, rng)
  return found


def _both(length, spread, limits, rng) -> tuple[float, float]:
  left, right = np.clip(length * (1 + rng.uniform(-spread, spread, 2)), *limits)
  return float(left), float(right)


def start_of(
  path: Float64[np.ndarray, "points 3"], length_mm: float
) -> Float64[np.ndarray, "some 3"]:
  """Cuts a path off.

  Args:
    path: mm RAS+.
    length_mm: of what is kept; all of a path that is shorter.

  Returns:
    The path from its first point on.
  """
  steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
  far = np.concatenate([[0], np.cumsum(steps)])
  end = [np.interp(length_mm, far, column) for column in path.T]
  return np.concatenate([path[far < length_mm - 1e-3], [end]])
