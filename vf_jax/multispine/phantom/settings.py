# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What phantoms can be asked for; the rest is refused before any is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from vf_jax.errors import ConfigError, InputError
from vf_jax.labels import SACRUM, VERTEBRAE, level
from vf_jax.multispine.phantom.domains import Size
from vf_jax.multispine.phantom.plan import SOURCES, UNSAID
from vf_jax.multispine.phantom.spine import VARIANTS, level_names

Span = tuple[str, str]

_LEAST = 1e-3  # share of patients that one is found among with patience


def check_settings(
  cases: int, seed: int, first: int, sources: Sequence[str], size: str
) -> None:
  """Refuses numbers, archives and sizes that there cannot be.

  Args:
    cases: how many.
    seed: of everything.
    first: number of the first case.
    sources: names of archives.
    size: 'small' or 'full'.

  Raises:
    ConfigError: one of them makes no sense.
  """
  if cases < 1 or seed < 0 or first < 0:
    raise ConfigError(
      f"{cases} cases from number {first} with seed {seed}. Fix: ask for at "
      "least one case, and a seed and a number of 0 or more."
    )
  unknown = [name for name in sources if name not in SOURCES]
  if unknown or not sources or len(set(sources)) != len(sources):
    raise ConfigError(
      f"sources {', '.join(sources) or '(none)'}. Fix: name some of "
      f"{', '.join(SOURCES)}, each once."
    )
  if size not in get_args(Size):
    raise ConfigError(
      f"size {size!r}. Fix: use one of {', '.join(get_args(Size))}."
    )


def check_variants(shares: Mapping[str, float], sources: Sequence[str]) -> None:
  """Refuses shares that are none, and those that leave an archive nobody.

  Args:
    shares: of patients with each variant.
    sources: names of archives.

  Raises:
    ConfigError: a variant is unknown, the shares are not from 0 to 1 in all, or
      an archive has no codes for any of the patients.
  """
  told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
  # NaN is less and more than nothing: only what lies between is a share.
  right = all(0 <= share <= 1 for share in shares.values())
  if set(shares) - set(VARIANTS) or not right or sum(shares.values()) > 1:
    raise ConfigError(
      f"shares of variants: {told}. Fix: name some of {', '.join(VARIANTS)}, "
      "with shares from 0 to 1 in all."
    )
  for source in sources:
    unsaid = UNSAID.get(source, ())
    if 1 - math.fsum(shares.get(name, 0) for name in unsaid) < _LEAST:
      raise ConfigError(
        f"shares of variants: {told}; the codes of {source} have no "
        f"{' or '.join(unsaid)}, and hardly a patient is without. Fix: make "
        f"other patients more common, or leave {source} out of the sources."
      )


def checked_spans(
  spans: Sequence[Span], shares: Mapping[str, float]
) -> tuple[Span, ...]:
  """Refuses spans that are none, and those that patients have nothing of.

  Args:
    spans: first and last level in view.
    shares: of patients with each variant.

  Returns:
    The spans with the names of levels as everywhere.

  Raises:
    ConfigError: a level is unknown, the first is not a vertebra above the last,
      or none between them is in every usual patient, nor in all of these.
  """
  usual = level_names("usual")
  checked = []
  for span in spans:
    try:
      first, last = map(level, span)
    except InputError as error:
      raise ConfigError(
        f"span {'-'.join(span)}: {error.fault} Fix: {error.fix}"
      ) from None
    if first.order > last.order or first == SACRUM:
      raise ConfigError(
        f"no span from {first.name} to {last.name}. Fix: give a vertebra and "
        "one below it, or the sacrum."
      )
    names = [v.name for v in VERTEBRAE if first.order <= v.order <= last.order]
    if not any(name in usual or shares.get(name) == 1 for name in names):
      raise ConfigError(
        f"span {first.name}-{last.name}: not every patient has "
        f"{' or '.join(names)}. Fix: widen it to a level that all have, or "
        "give it to all by the shares of variants."
      )
    checked.append((first.name, last.name))
  return tuple(checked)
