# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Path templates such as `ct/{subject}/{case}.nii.gz`, filled or searched."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping

PLACEHOLDERS = ("case", "subject", "series")
_PLACE = re.compile(r"\{([^{}]*)\}")
_PIECE = re.compile(r"\{(\w+)\}|(\*\*/)|(\*)")


def placeholders(template: str) -> tuple[str, ...]:
  """Names in braces, in their order, each once.

  Args:
    template: text with or without placeholders.

  Returns:
    The names.
  """
  return tuple(dict.fromkeys(_PLACE.findall(template)))


def fill(template: str, values: Mapping[str, str]) -> str:
  """Puts values in the place of their names in braces.

  Args:
    template: text.
    values: name -> value; a name that is not here stays as it is.

  Returns:
    The text.
  """
  return _PLACE.sub(lambda m: values.get(m[1], m[0]), template)


def search(
  template: str, root: pathlib.Path, paths: Iterable[pathlib.Path]
) -> list[tuple[pathlib.Path, dict[str, str]]]:
  """Finds the paths that a template describes.

  A placeholder stands for a part of one folder's or file's name, as short as
  may be and the same wherever it is repeated; `*` for any part of a name, `**/`
  for any folders.

  Args:
    template: relative to `root`, with '/' between folders.
    root: folder.
    paths: files and folders below it.

  Returns:
    Path and values of the placeholders, in the order of `paths`.
  """
  pattern, at, seen = "", 0, set()
  for piece in _PIECE.finditer(template):
    pattern += re.escape(template[at : piece.start()])
    at = piece.end()
    if piece[1]:
      name = piece[1]
      pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
      seen.add(name)
    else:
      pattern += "(?:[^/]+/)*" if piece[2] else "[^/]*"
  wanted = re.compile(pattern + re.escape(template[at:].rstrip("/")))
  found = []
  for path in paths:
    if match := wanted.fullmatch(path.relative_to(root).as_posix()):
      found.append((path, match.groupdict()))
  return found
