# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tells phantoms from the archives whose layout they wear.

A reader sees names of VerSe and says what is true of VerSe: its licence, its
experts. `mark` puts right what it says of a phantom.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from vf_jax.io.text import read_text
from vf_jax.multispine.case import Case
from vf_jax.multispine.identity import PHANTOM
from vf_jax.multispine.phantom.plan import SOURCES

LICENCE = "CC-BY-SA-4.0"
TRUTH = "phantom.json"
"""Name of the file that makes a folder one of phantoms."""
BEGUN = ".phantom/settings.json"
"""Name of the file that does so before all cases are there."""

_FORMAT = PHANTOM
_MAX_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class _Facts:
  """What is true of a folder's phantoms, and in which parts of it they are."""

  licence: str
  origin: str
  sources: tuple[str, ...]


def mark(cases: Iterable[Case]) -> tuple[Case, ...]:
  """Says of every case that `make_phantoms` wrote that it is a phantom.

  Those are the cases below ROOT/<source>, where ROOT holds `phantom.json`, or
  `.phantom/settings.json` of a run that goes on or was killed, which names the
  source.

  Args:
    cases: what a source found.

  Returns:
    The cases in their order; of phantoms, licence and origin are the phantom's
    and `mask_kind` is 'synthetic'. Notes about the real archive are dropped.
  """
  seen: dict[pathlib.Path, _Facts | None] = {}
  marked = []
  for case in cases:
    facts = _facts(case.files[0].parent, seen)
    if facts is not None:
      case = dataclasses.replace(
        case,
        licence=facts.licence,
        origin=facts.origin,
        mask_kind="none" if case.mask is None else "synthetic",
        notes=(),
      )
    marked.append(case)
  return tuple(marked)


def _facts(
  folder: pathlib.Path, seen: dict[pathlib.Path, _Facts | None]
) -> _Facts | None:
  """Of the phantoms that a folder belongs to."""
  path = pathlib.Path(os.path.abspath(folder))
  for below, root in zip((path, *path.parents), path.parents):
    if root not in seen:
      seen[root] = _read(root)
    facts = seen[root]
    if facts is not None and below.name in facts.sources:
      return facts
  return None


def _read(root: pathlib.Path) -> _Facts | None:
  """Of a folder that `make_phantoms` has written or begun."""
  content = _json(root / TRUTH)
  if content.get("format") != _FORMAT:
    content = _json(root / BEGUN)
    if "recipe" not in content:
      return None
  sources = content.get("sources")
  return _Facts(
    licence=str(content.get("licence", LICENCE)),
    origin=f"{_FORMAT}, seed {content.get('seed')}",
    sources=tuple(sources) if isinstance(sources, list) else SOURCES,
  )


def _json(path: pathlib.Path) -> dict[str, Any]:
  """Content of a file; nothing if it is not there or of another kind."""
  if not path.is_file():
    return {}
  try:
    content = json.loads(read_text(path, path.name, _MAX_BYTES, ""))
  except (ValueError, RecursionError):
    return {}
  return content if isinstance(content, dict) else {}
