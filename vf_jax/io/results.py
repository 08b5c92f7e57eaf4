# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How a folder that `vf-jax predict` wrote is told from others."""

from __future__ import annotations

import json
import os
from typing import Any

RUN = "run.json"
"""What a result was made of and by; training writes one too."""
DAMAGED = (
  *(OSError, ValueError, LookupError, TypeError, AttributeError),
  RecursionError,
)
"""What reading an entry of a damaged JSON file may raise."""


def read_run(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Reads what a result says of itself.

  Args:
    folder: any.

  Returns:
    Content of its `run.json`; None if it has none of `vf-jax predict`.
  """
  try:
    with open(os.path.join(folder, RUN), encoding="utf-8") as file:
      run = json.load(file)
  except (OSError, ValueError, RecursionError):
    return None
  if not isinstance(run, dict) or not isinstance(run.get("request"), dict):
    return None
  return run
