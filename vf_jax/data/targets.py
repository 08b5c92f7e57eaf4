# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the next crop looks: domain, kind of target, case, place.

Sources differ in size a hundredfold and levels of the neck are rare, so each
stage is drawn with a share of its own instead of voxel by voxel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from vf_jax.config import DataConfig
from vf_jax.errors import ConfigError
from vf_jax.labels import VERTEBRAE
from vf_jax.multispine.store import Store

Kind = Literal["foreground", "levels", "lesions", "anywhere"]
_CODES = tuple(level.code for level in VERTEBRAE)


@dataclasses.dataclass(frozen=True)
class Target:
  """What a crop is drawn for.

  Attributes:
    case: place of the case in the store.
    kind: 'foreground' (any vertebra), 'levels' (each level as often),
      'lesions' or 'anywhere'.
    point: what it looks at, in voxels (depth, height, width); None for
      'anywhere'.
  """

  case: int
  kind: Kind
  point: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True)
class _Domain:
  """Cases of one domain, and those that have each kind of target."""

  cases: tuple[int, ...]
  vertebrae: tuple[int, ...]
  lesions: tuple[int, ...]
  levels: tuple[tuple[int, tuple[int, ...]], ...]  # code, cases that have it

  def cases_of(self, kind: Kind) -> tuple[int, ...]:
    if kind == "foreground" or kind == "levels":
      return self.vertebrae
    return self.lesions if kind == "lesions" else self.cases


class Targets:
  """Draws targets; picklable, without state.

  Attributes:
    shares: chance of each domain.
  """

  def __init__(self, store: Store, data: DataConfig, cases: Sequence[int]):
    """Builds the tables.

    Args:
      store: the prepared cases.
      data: shares of domains and kinds.
      cases: places in the store of the cases to draw from.

    Raises:
      ConfigError: if a named domain does not exist or nothing is left.
    """
    self._store = store
    self.shares = domain_shares(store, dict(data.weights), cases)
    kinds: dict[Kind, float] = {
      "foreground": data.foreground,
      "levels": data.levels,
      "lesions": data.lesions,
    }
    kinds["anywhere"] = max(0.0, 1.0 - sum(kinds.values()))
    self._domains, self._kinds = [], []
    for name in self.shares:
      domain = _table(store, name, cases)
      here = {k: s for k, s in kinds.items() if s > 0 and domain.cases_of(k)}
      self._domains.append(domain)
      # What a domain does not have is shared among what it has.
      self._kinds.append(_Choice(here or {"anywhere": 1.0}))
    self._names = _Choice(
      {place: share for place, share in enumerate(self.shares.values())}
    )

  def draw(self, rng: np.random.Generator) -> Target:
    """Draws one target.

    Args:
      rng: of the draw.

    Returns:
      The target.
    """
    place = self._names(rng)
    domain, kind = self._domains[place], self._kinds[place](rng)
    if kind == "levels":
      code, cases = _pick(domain.levels, rng)
      case = _pick(cases, rng)
      return Target(case, kind, self._voxel(case, code, rng))
    case = _pick(domain.cases_of(kind), rng)
    if kind == "foreground":
      return Target(case, kind, self._voxel(case, None, rng))
    if kind == "lesions":
      box = _pick(self._store.records[case].boxes, rng)
      return Target(case, kind, (box[0], box[1], box[2]))
    return Target(case, kind, None)

  def _voxel(self, case, code, rng):
    """A labelled voxel, or a centre where no mask has the level."""
    index = self._store.case(case).index
    low, high = 0, len(index.codes)
    if code is not None:
      low, high = np.searchsorted(index.codes, (code, code + 1))
    if low < high:
      d, h, w = index.voxels[rng.integers(low, high)]
      return float(d), float(h), float(w)
    centres = self._store.records[case].centres
    d, h, w = centres[_pick(_coded(centres), rng) if code is None else code]
    return float(d), float(h), float(w)


def domain_shares(
  store: Store, weights: Mapping[str, float], cases: Sequence[int]
) -> dict[str, float]:
  """Chance of each domain among some cases of a store.

  Args:
    store: the prepared cases.
    weights: domain -> relative share; 1 where not named.
    cases: places in the store of the cases to draw from.

  Returns:
    Domain -> probability, above 0 only, in the order of `store.domains`.

  Raises:
    ConfigError: if a named domain does not exist or nothing is left.
  """
  unknown = set(weights) - set(store.domains)
  if unknown:
    raise ConfigError(
      f"data.weights names {sorted(unknown)}, the store {store.path} has "
      f"{list(store.domains)}. Fix: name its domains."
    )
  present = {store.records[case].domain for case in cases}
  shares = {
    name: weights.get(name, 1.0) for name in store.domains if name in present
  }
  total = sum(shares.values())
  if not total > 0:
    raise ConfigError(
      f"data.weights={dict(weights)} leaves no domain of the {len(cases)} "
      f"cases to draw from (they are of {sorted(present)}). Fix: give one of "
      "these a share above 0."
    )
  return {name: share / total for name, share in shares.items() if share > 0}


class _Choice:
  """Draws a key by its share; a hundredth of the cost of `rng.choice`."""

  def __init__(self, shares: Mapping):
    self._keys = tuple(shares)
    self._edges = np.cumsum([shares[key] for key in self._keys])

  def __call__(self, rng: np.random.Generator):
    place = np.searchsorted(
      self._edges, rng.random() * self._edges[-1], side="right"
    )
    return self._keys[min(int(place), len(self._keys) - 1)]


def _pick(items, rng: np.random.Generator):
  return items[int(rng.integers(len(items)))]


def _coded(centres: Mapping[int, object]) -> list[int]:
  return [code for code in _CODES if code in centres]


def _levels(store: Store, case: int) -> set[int]:
  """Levels of a case; its index is opened only where no centre is known."""
  known = store.records[case].centres
  if known or "masks" not in store.records[case].annotates:
    return set(_coded(known))
  return {int(code) for code in np.unique(store.case(case).index.codes)}


def _table(store: Store, domain: str, cases: Sequence[int]) -> _Domain:
  own = tuple(case for case in cases if store.records[case].domain == domain)
  found = {case: _levels(store, case) for case in own}
  levels = {
    code: tuple(case for case in own if code in found[case]) for code in _CODES
  }
  return _Domain(
    cases=own,
    vertebrae=tuple(case for case in own if found[case]),
    lesions=tuple(case for case in own if store.records[case].boxes),
    levels=tuple((code, having) for code, having in levels.items() if having),
  )
