# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Was every vertebra found, at its place and under its name?

Points are by level code; a level that is not there, or whose point is NaN, is
absent. With G the true levels, P the predicted ones and I those in both, a
level of I is a *hit* if no other true level is nearer to its predicted point
than its own and its own is at most 20 mm away:

  VerSe: 'other true level' means of I alone, so that a level which was not
    predicted takes no hit away from its neighbour;
  strict: of all G.

Either rate is hits / |G|: a missed vertebra counts against it, a superfluous
one does not (that is `extra`, and precision).

Source: `get_hits` in `utils/eval_utilities.py` of anjany/verse, which rejects
what is further than 20.0 mm, so exactly 20 mm is a hit, and which gives ties
to the lower label.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

HIT_MM = 20.0
Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Identification:
  """What became of the levels of one scan.

  Attributes:
    truth: G, ascending.
    predicted: P, ascending.
    hits: levels that VerSe counts.
    strict_hits: levels that the strict rule counts.
    distance_mm: level of I -> from the predicted to the true point.
  """

  truth: tuple[int, ...]
  predicted: tuple[int, ...]
  hits: tuple[int, ...]
  strict_hits: tuple[int, ...]
  distance_mm: Mapping[int, float]

  @property
  def missing(self) -> tuple[int, ...]:
    """True levels that were not predicted."""
    return tuple(c for c in self.truth if c not in self.distance_mm)

  @property
  def extra(self) -> tuple[int, ...]:
    """Predicted levels that are not there."""
    return tuple(c for c in self.predicted if c not in self.distance_mm)

  @property
  def rate(self) -> float:
    """VerSe's identification rate; NaN if no vertebra is there."""
    return _share(self.hits, self.truth)

  @property
  def strict_rate(self) -> float:
    """The strict rate."""
    return _share(self.strict_hits, self.truth)

  @property
  def precision(self) -> float:
    """Hits by the predicted levels; NaN if nothing was predicted."""
    return _share(self.hits, self.predicted)

  @property
  def mean_distance_mm(self) -> float:
    """d_mean, over I: read it with `missing`. NaN if I is empty."""
    if not self.distance_mm:
      return math.nan
    return math.fsum(self.distance_mm.values()) / len(self.distance_mm)

  @property
  def all_right(self) -> bool:
    """Whether every level is a hit and none is superfluous."""
    return len(self.strict_hits) == len(self.truth) and not self.extra


def identify(
  prediction: Mapping[int, Point], truth: Mapping[int, Point]
) -> Identification:
  """Compares the points of one scan.

  Args:
    prediction: level -> point.
    truth: level -> point.

  Returns:
    What became of each level.

  Units:
    mm, both in one frame.
  """
  found, there = _present(prediction), _present(truth)
  both = [code for code in there if code in found]
  apart = _distances([found[c] for c in both], [there[c] for c in there])
  own = [list(there).index(code) for code in both]
  among_both = apart[:, own]
  distance = {code: float(apart[i, own[i]]) for i, code in enumerate(both)}
  near = [code for code in both if distance[code] <= HIT_MM]
  lenient = among_both.argmin(axis=1) if both else []
  strict = apart.argmin(axis=1) if both else []
  return Identification(
    truth=tuple(there),
    predicted=tuple(found),
    hits=tuple(
      code for i, code in enumerate(both) if code in near and lenient[i] == i
    ),
    strict_hits=tuple(
      code
      for i, code in enumerate(both)
      if code in near and strict[i] == own[i]
    ),
    distance_mm=distance,
  )


def _present(points: Mapping[int, Point]) -> dict[int, Point]:
  """Levels that have a point, ascending."""
  return {
    code: points[code]
    for code in sorted(points)
    if not any(math.isnan(value) for value in points[code])
  }


def _distances(first, second) -> Float64[np.ndarray, "n m"]:
  one = np.array(first, np.float64).reshape(-1, 1, 3)
  other = np.array(second, np.float64).reshape(1, -1, 3)
  return np.linalg.norm(one - other, axis=2)


def _share(part, whole) -> float:
  return len(part) / len(whole) if whole else math.nan
