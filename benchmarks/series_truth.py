# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Do the truths of two scans of one patient name the same bones alike?

The distances from body to body are a spine's own. If those of one scan fit the
other's clearly better one level up or down, the two truths contradict: whoever
numbers both alike has one of the scans wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vf_jax.labels import VERTEBRAE

_T13 = next(i for i, level in enumerate(VERTEBRAE) if level.name == "T13")
_SHIFTS = (-1, 0, 1)
_LEAST = 4  # distances that a comparison needs
_CLEAR = 0.7  # of the second best misfit
_COPIES = 5  # of each pair, to see how often chance contradicts


def best_shift(
  one: Mapping[int, float], other: Mapping[int, float]
) -> int | None:
  """Levels that the second scan's names are ahead of the first's.

  Args:
    one: level -> a length of the first scan, mm.
    other: the same of the second.

  Returns:
    -1, 0 or 1, or None if they cannot be compared or none fits clearly best.
  """
  misfits = {}
  for shift in _SHIFTS:
    apart = [one[k] - other[k + shift] for k in one if k + shift in other]
    if len(apart) < _LEAST:
      return None
    misfits[shift] = float(np.sqrt(np.mean(np.square(apart))))
  first, second = sorted(misfits, key=misfits.__getitem__)[:2]
  return first if misfits[first] < _CLEAR * misfits[second] else None


def compare_series(prepared: Sequence[Any], seed: int = 0) -> dict[str, int]:
  """Compares the truths of every two scans of a patient.

  Args:
    prepared: from `vf_jax.train.numbering.prepare`.
    seed: of the copies.

  Returns:
    Pairs by verdict; how many contradictions the detected pedicles confirm, by
    the distance from left to right; and, of copies of one scan that differ by
    as much as two scans that agree, how many seem to contradict.
  """
  series: dict[str, list[Any]] = {}
  for scan in prepared:
    series.setdefault(scan.scan.patient, []).append(scan)
  names = ("pairs", "agree", "contradict", "undecided", "confirmed", "refuted")
  out = dict.fromkeys((*names, "copies", "copies_contradict"), 0)
  noise, agreeing = [], []
  for own in series.values():
    for a, b in itertools.combinations(own, 2):
      one, other = _gaps(a), _gaps(b)
      shift = best_shift(one, other)
      out["pairs"] += 1
      if shift is None:
        out["undecided"] += 1
      elif shift == 0:
        out["agree"] += 1
        noise += [one[k] - other[k] for k in one if k in other]
        agreeing.append((one, other))
      else:
        out["contradict"] += 1
        seen = best_shift(_widths(a), _widths(b))
        out["confirmed"] += seen == shift
        out["refuted"] += seen is not None and seen != shift
  rng = np.random.default_rng(seed)
  for one, other in agreeing * _COPIES:
    copy = {k: one[k] + rng.choice(noise) for k in other if k in one}
    out["copies"] += 1
    out["copies_contradict"] += best_shift(one, copy) in (-1, 1)
  return out


def _plain(level: int) -> int:
  """Levels without T13, so that neighbours differ by one."""
  return level - (level >= _T13)


def _gaps(scan: Any) -> dict[int, float]:
  """Level -> distance to the next body, by the truth."""
  levels = [_plain(int(level)) for level in scan.scan.levels]
  place = dict(zip(levels, scan.scan.bodies))
  return {
    level: float(np.linalg.norm(place[level + 1] - place[level]))
    for level in place
    if level + 1 in place
  }


def _widths(scan: Any) -> dict[int, float]:
  """True level -> distance of its detected pedicles."""
  side = scan.candidates.pedicles
  return {
    _plain(int(level)): float(side[i, 0, 0] - side[i, 1, 0])
    for i, level in enumerate(scan.targets)
    if level >= 0 and scan.candidates.paired[i].all()
  }
