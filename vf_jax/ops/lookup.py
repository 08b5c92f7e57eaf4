# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Rows of a small table, one for every voxel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped


def lookup(
  table: Shaped[Array, "batch rows channel"],
  index: Int[Array, "batch depth height width"],
) -> Shaped[Array, "batch depth height width channel"]:
  """Takes a row of each sample's own table for every voxel.

  CPUs gather. A TPU makes a gather of millions of rows a loop that its compiler
  takes half a minute to build and counts at ten times the traffic of
  everything around it, so other backends choose among all rows: a few dozen
  comparisons that join the operations before and after them.

  Args:
    table: one for each sample, of a few dozen rows.
    index: of rows, all of them in the table.

  Returns:
    The rows.
  """
  if jax.default_backend() == "cpu":
    flat = index.reshape(index.shape[0], -1, 1)
    return jnp.take_along_axis(table, flat, axis=1).reshape(
      *index.shape, table.shape[-1]
    )
  index = index[..., None]
  rows = table[:, :, None, None, None, :]
  found = jnp.broadcast_to(rows[:, 0], (*index.shape[:4], table.shape[-1]))
  for row in range(1, table.shape[1]):
    found = jnp.where(index == row, rows[:, row], found)
  return found
