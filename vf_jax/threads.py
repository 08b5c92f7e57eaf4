# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Threads for work that NumPy and SciPy do without Python's lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor


def usable_cores() -> int:
  """Cores that this process may use; those of the machine if none says."""
  try:
    return len(os.sched_getaffinity(0))
  except (AttributeError, OSError):  # Linux only
    return os.cpu_count() or 1


def pool(most: int) -> ThreadPoolExecutor:
  """Threads, one a core.

  Args:
    most: of them, as each of them needs memory.

  Returns:
    A pool, to be closed.
  """
  return ThreadPoolExecutor(min(most, usable_cores()))
