# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tells phantoms from the archives whose layout they wear.

A reader sees names of VerSe and says what is true of VerSe: its licence, its
experts. `mark` puts right what it says of a phantom.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from vf_jax.io.text import read_text
from vf_jax.multispine.case import Case
from vf_jax.multispine.identity import PHANTOM

TRUTH = "phantom.json"
"""Name of the file that makes a folder one of phantoms."""

_FORMAT = PHANTOM
_MAX_BYTES = 256 << 20


def mark(cases: Iterable[Case]) -> tuple[Case, ...]:
  """Says of every case below a `phantom.json` that it is a phantom.

  Args:
    cases: what a source found.

  Returns:
    The cases in their order; of phantoms, licence and origin are the phantom's
    and `mask_kind` is 'synthetic'. Notes about the real archive are dropped.
  """
  seen: dict[pathlib.Path, dict[str, str] | None] = {}
  marked = []
  for case in cases:
    facts = _facts(case.files[0].parent, seen)
    if facts is not None:
      case = dataclasses.replace(
        case,
        licence=facts["licence"],
        origin=facts["origin"],
        mask_kind="none" if case.mask is None else "synthetic",
        notes=(),
      )
    marked.append(case)
  return tuple(marked)


def _facts(folder, seen) -> dict[str, str] | None:
  """Licence and origin of the phantoms that a folder belongs to."""
  if folder not in seen:
    path = folder / TRUTH
    if path.is_file():
      seen[folder] = _read(path)
    else:
      above = folder.parent
      seen[folder] = None if above == folder else _facts(above, seen)
  return seen[folder]


def _read(path: pathlib.Path) -> dict[str, str] | None:
  try:
    content = json.loads(read_text(path, "phantom.json", _MAX_BYTES, ""))
  except ValueError:
    return None
  if not isinstance(content, dict) or content.get("format") != _FORMAT:
    return None
  seed = content.get("seed")
  return {
    "licence": str(content.get("licence", "unknown")),
    "origin": f"{_FORMAT}, seed {seed}",
  }
