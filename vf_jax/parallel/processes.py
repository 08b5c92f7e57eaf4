# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Work divided over the processes of one program."""

from __future__ import annotations

import jax


def split_further(shard: tuple[int, int]) -> tuple[int, int]:
  """Divides the share of a run among the processes of `jax.distributed`.

  Args:
    shard: number of the run, from 1, and how many there are.

  Returns:
    The same for this process; unchanged if it is alone.
  """
  number, count = shard
  processes = jax.process_count()
  return (
    (number - 1) * processes + jax.process_index() + 1,
    count * processes,
  )
