# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How far apart neighbouring vertebrae lie, and which are neighbours.

Medians in mm between the centres of a vertebra and the next one below.

Source:
  body: body points of 1,947 scans of VID (ImFusionGmbH, training part, from
    CT colonography, Pancreas-CT and VerSe) and of 80 scans of VerSe'19;
    15,700 pairs. 99.9 % of patients are within 0.80-1.22 of the table as a
    whole; of 16,500 single distances, once the patient's scale is taken out,
    0.04 % lie below 0.65 and 0.08 % above 1.5 (the latter are mostly scans
    whose annotation leaves a vertebra out between T12 and L1).
  mask: centres of mass of the masks of 103 scans of VerSe'20 (C. Payer's
    landmarks); 1,200 pairs, none outside 0.65-1.45. T12-T13 and T13-L1 are
    two scans each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vf_jax.labels import BY_CODE, BY_NAME, SACRUM, VERTEBRAE, Level

_NAMES = [v.name for v in VERTEBRAE]
_BODY = (
  17.5, 23.6, 17.6, 17.1, 16.5, 17.3, 19.5,  # C1..C7
  20.6, 20.8, 20.9, 21.5, 22.1, 22.5, 23.2, 24.0, 25.2, 27.2, 29.6, 32.3,
  35.0,  # T13
  34.4, 35.7, 36.4, 36.2, 37.2, 37.2,  # L1..L6
)  # fmt: skip
_MASK = (
  16.9, 18.5, 15.7, 15.7, 16.3, 17.6, 18.8,
  20.8, 21.9, 22.1, 22.3, 23.0, 23.6, 24.2, 24.8, 25.4, 27.4, 29.7, 32.1,
  35.0,
  33.5, 34.2, 33.9, 31.4, 31.0, 31.0,
)  # fmt: skip
BELOW_MM: Mapping[str, Mapping[str, float]] = MappingProxyType(
  {
    "body": MappingProxyType(dict(zip(_NAMES, _BODY, strict=True))),
    "mask": MappingProxyType(dict(zip(_NAMES, _MASK, strict=True))),
  }
)
"""Kind of centre -> level -> usual distance to the next level below, mm."""

_RARE = frozenset({"T13", "L6"})


def skipped(upper: Level, lower: Level) -> tuple[Level, ...]:
  """Levels that should lie between two annotated ones.

  T13 and L6 are rare, and T12 is missing in people with eleven pairs of ribs,
  so an absence of these alone is no gap.

  Args:
    upper: a vertebra.
    lower: one below it.

  Returns:
    The levels that are missing, from head to foot; empty for neighbours.
  """
  between = [
    v for v in VERTEBRAE[upper.order + 1 : lower.order] if v.name not in _RARE
  ]
  return () if [v.name for v in between] == ["T12"] else tuple(between)


def usual_distance(upper: Level, lower: Level, kind: str) -> float:
  """Usual distance along the spine between the centres of two vertebrae.

  Args:
    upper: a vertebra.
    lower: one below it.
    kind: 'body' or 'mask', what the centres are.

  Returns:
    Sum over the levels between them, T13 and L6 left out, in mm.
  """
  table = BELOW_MM["mask" if kind == "mask" else "body"]
  steps = (upper, *skipped(upper, lower))
  return sum(table[v.name] for v in steps)


def next_above(codes: Iterable[int]) -> Level | None:
  """The level that lies above the first of these.

  Args:
    codes: VerSe codes of a scan.

  Returns:
    The level; None above C1 or if there is no vertebra.
  """
  orders = _orders(codes)
  if not orders or orders[0] == 0:
    return None
  above = VERTEBRAE[orders[0] - 1]
  # Above L1 lies T12; T13 would have to be seen to be known.
  return VERTEBRAE[above.order - 1] if above.name in _RARE else above


def next_below(codes: Iterable[int]) -> Level | None:
  """The level of the vertebra that lies below the last of these.

  Below L5 and L6 lies the sacrum. A cut L6 below L5 cannot be told from it
  without an annotation and is rarer than one in ten.

  Args:
    codes: VerSe codes of a scan, with 26 if the sacrum is annotated.

  Returns:
    The level; None above the sacrum or if there is no vertebra.
  """
  codes = tuple(codes)
  orders = _orders(codes)
  if not orders or SACRUM.code in codes:
    return None
  last = VERTEBRAE[orders[-1]]
  if last.order >= BY_NAME["L5"].order:
    return None
  below = VERTEBRAE[last.order + 1]
  return VERTEBRAE[below.order + 1] if below.name in _RARE else below


def _orders(codes: Iterable[int]) -> list[int]:
  levels = (BY_CODE[code] for code in codes if code in BY_CODE)
  return sorted(v.order for v in levels if v != SACRUM)
