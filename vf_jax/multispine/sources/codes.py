# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tables of label codes that a data set brings along."""

from __future__ import annotations

from collections.abc import Mapping

from vf_jax.labels import CODES

UNNAMED = 254
"""A code that no scheme knows: a mask that holds it is refused."""


def refuse_others(table: Mapping[int, int]) -> dict[int, int]:
  """Makes a table of codes complete: what it does not name is refused.

  A code that a mask holds against its own table would otherwise pass for the
  VerSe level of that number.

  Args:
    table: code in the file -> VerSe code, 0 or 255 (unknown).

  Returns:
    The table, and every other VerSe code -> `UNNAMED`.
  """
  others = {code: UNNAMED for code in range(1, CODES) if code not in table}
  return others | dict(table)
