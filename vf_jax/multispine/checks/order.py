# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Are the levels of a scan in order, complete and at plausible distances?"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Float64

from vf_jax.labels import BY_CODE, SACRUM, Level
from vf_jax.multispine.checks.findings import Finding, in_words
from vf_jax.multispine.neighbours import skipped, usual_distance

Triple = tuple[float, float, float]

# Limits of a distance over the usual one, see `neighbours`: the second row is
# for cervical vertebrae, whose points scatter more, the third for scans with
# too few pairs to know the patient's scale.
_USUAL, _CERVICAL, _FEW = (0.65, 1.5), (0.55, 1.65), (0.55, 1.75)
_SCALES = (0.75, 1.3)
_PAIRS_FOR_SCALE = 3
# Least fall over the usual distance; cervical spines may run nearly level.
_FALL, _CERVICAL_FALL = 0.3, 0.12


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two annotated vertebrae with none between them.

  Attributes:
    upper: the one nearer the head by its name.
    lower: the other.
    missing: levels that should be annotated between them.
    distance_mm: between their centres.
    fall_mm: how much lower the lower one lies.
    usual_mm: distance in an average adult.
  """

  upper: Level
  lower: Level
  missing: tuple[Level, ...]
  distance_mm: float
  fall_mm: float
  usual_mm: float

  @property
  def ratio(self) -> float:
    """Distance over usual distance."""
    return self.distance_mm / self.usual_mm

  @property
  def cervical(self) -> bool:
    """Whether the upper one is a cervical vertebra."""
    return self.upper.region == "cervical"

  @property
  def codes(self) -> tuple[int, int]:
    """VerSe codes of the two."""
    return self.upper.code, self.lower.code


def check_order(
  centres: Mapping[int, Triple], kind: str, unsure: Iterable[int] = ()
) -> list[Finding]:
  """Checks names, order and distances of the vertebrae of one scan.

  Args:
    centres: VerSe code -> centre, mm RAS+; the sacrum is passed over.
    kind: 'body' or 'mask', what the centres are.
    unsure: codes whose centre is not that of the whole vertebra because the
      field of view cuts it; they count for the order only.

  Returns:
    The findings.
  """
  levels = sorted(
    (BY_CODE[c] for c in centres if c != SACRUM.code), key=lambda v: v.order
  )
  points = np.array([centres[v.code] for v in levels], float).reshape(-1, 3)
  pairs = list(_pairs(levels, points, kind))
  unsure = frozenset(unsure)
  found = _upside_down(levels, pairs) or list(_check_falls(pairs, unsure))
  jumbled = {code for f in found for code in _codes_of(f)}
  sound = [
    pair
    for pair in pairs
    if not unsure & set(pair.codes) and not jumbled & set(pair.codes)
  ]
  whole = [pair.ratio for pair in sound if not pair.missing]
  scale = float(np.median(whole)) if len(whole) >= _PAIRS_FOR_SCALE else None
  if scale is not None and not _SCALES[0] <= scale <= _SCALES[1]:
    found.append(
      Finding(
        "warning",
        "scale",
        f"all distances are {scale:.2f} times those of an average adult: a"
        " wrong spacing, or a child?",
      )
    )
  found += _check_gaps(pairs, unsure, scale)
  found += _check_distances(sound, scale)
  return found + _name_variants(levels)


def _pairs(
  levels: list[Level], points: Float64[np.ndarray, "levels 3"], kind: str
) -> Iterator[Pair]:
  for (upper, first), (lower, second) in itertools.pairwise(
    zip(levels, points, strict=True)
  ):
    yield Pair(
      upper,
      lower,
      skipped(upper, lower),
      float(np.linalg.norm(first - second)),
      float(first[2] - second[2]),
      usual_distance(upper, lower, kind),
    )


def _upside_down(levels: list[Level], pairs: list[Pair]) -> list[Finding]:
  if len(pairs) < 2 or sum(pair.fall_mm for pair in pairs) >= 0:
    return []
  rising = sum(pair.fall_mm < 0 for pair in pairs)
  if rising < len(pairs) * 0.8:
    return []
  text = (
    f"{levels[0].name} lies below {levels[-1].name} and so do {rising} of"
    f" {len(pairs)} neighbours: the numbers run the wrong way, or the header"
    " turns the patient upside down."
  )
  return [Finding("error", "upside_down", text, tuple(v.name for v in levels))]


def _check_falls(
  pairs: list[Pair], unsure: frozenset[int]
) -> Iterator[Finding]:
  """Every vertebra lies below the one above it.

  Of a cut one the tip of a spinous process may be all there is: it may lie
  lower than the next vertebra.
  """
  for pair in pairs:
    if unsure & set(pair.codes):
      continue
    names = (pair.upper.name, pair.lower.name)
    least = _CERVICAL_FALL if pair.cervical else _FALL
    if pair.fall_mm <= 0:
      yield Finding(
        "error",
        "order",
        f"{names[0]} lies {-pair.fall_mm:.0f} mm below {names[1]}: are the"
        " two swapped?",
        names,
      )
    elif pair.fall_mm < least * pair.usual_mm:
      yield Finding(
        "warning",
        "same_height",
        f"{names[0]} and {names[1]} lie at nearly the same height,"
        f" {pair.fall_mm:.0f} mm apart.",
        names,
      )


def _check_gaps(
  pairs: list[Pair], unsure: frozenset[int], scale: float | None
) -> Iterator[Finding]:
  """Levels that lie between annotated ones and are not there."""
  for pair in pairs:
    if not pair.missing:
      continue
    one = pair.usual_mm / (1 + len(pair.missing)) * (scale or 1.0)
    steps = pair.distance_mm / one
    text = (
      f"{in_words(v.code for v in pair.missing)} is not annotated between"
      f" {pair.upper.name} and {pair.lower.name}"
    )
    names = (pair.upper.name, pair.lower.name)
    if unsure & set(pair.codes):
      yield Finding("error", "gap", f"{text}.", names)
    elif steps < 1.5:
      text += f", which are {pair.distance_mm:.0f} mm apart and so neighbours:"
      yield Finding("error", "jump", f"{text} the numbering jumps.", names)
    else:
      text += f"; there is room for {round(steps) - 1}"
      text += f" ({pair.distance_mm:.0f} mm)."
      yield Finding("error", "gap", text, names)


def _check_distances(
  pairs: list[Pair], scale: float | None
) -> Iterator[Finding]:
  """Distances between neighbours, for the size of this patient."""
  for pair in pairs:
    if pair.missing:
      continue
    low, high = _CERVICAL if pair.cervical else _USUAL
    if scale is None:
      low, high = _FEW
    usual = pair.usual_mm * (scale or 1.0)
    names = (pair.upper.name, pair.lower.name)
    text = (
      f"{names[0]} and {names[1]} are {pair.distance_mm:.0f} mm apart; in"
      f" {'this patient' if scale else 'adults'} {usual:.0f} mm are usual."
    )
    if pair.distance_mm < low * usual:
      text += " One vertebra in two pieces, or a collapsed one?"
      yield Finding("warning", "too_close", text, names)
    elif pair.distance_mm > high * usual:
      text += " Is a vertebra left out between them?"
      yield Finding("warning", "too_far", text, names)


def _name_variants(levels: list[Level]) -> list[Finding]:
  """Rare anatomy, to be known when numbering is measured."""
  names = {v.name for v in levels}
  rare: list[str] = [name for name in ("T13", "L6") if name in names]
  if {"T11", "L1"} <= names and not {"T12", "T13"} & names:
    rare.append("no T12")
  if not rare:
    return []
  text = f"rare anatomy, or rare numbering: {', '.join(rare)}."
  if {"T13", "L6"} <= names:
    text += " Both at once are hardly ever seen together."
  concerned = tuple(name for name in ("T13", "L6") if name in names)
  return [Finding("note", "variant", text, concerned)]


def _codes_of(finding: Finding) -> list[int]:
  return [v.code for v in BY_CODE.values() if v.name in finding.levels]
