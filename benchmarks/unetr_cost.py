# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Analytic count of UNETR's multiplications and additions, by part."""

from __future__ import annotations


def flops(
  side: int,
  classes: int = 27,
  size: int = 16,
  dim: int = 768,
  depth: int = 12,
  mlp_dim: int = 3072,
) -> dict[str, float]:
  """Counts the forward pass of one crop of one channel.

  Args:
    side: edge of the crop in voxels, a multiple of 16.
    classes: output channels.
    size: feature size.
    dim: width of the transformer.
    depth: blocks.
    mlp_dim: hidden width of the MLP.

  Returns:
    Part -> FLOPs (a multiply-add counts two).
  """
  tokens = (side // 16) ** 3
  matrix = 4 * dim * dim + 2 * dim * mlp_dim
  transformer = 2 * tokens * (16**3 * dim + depth * matrix)
  transformer += depth * 4 * tokens * tokens * dim

  def block(level: int, cin: int) -> float:
    """Two 3x3x3 convolutions and a projection at 1/2^level resolution."""
    cout = size * 2**level
    taps = 27 * (cin * cout + cout * cout) + (cin != cout) * cin * cout
    return 2.0 * (side // 2**level) ** 3 * taps

  def up(level: int, cin: int) -> float:
    """A doubling that ends at 1/2^level."""
    return 2.0 * (side // 2**level) ** 3 * cin * size * 2**level

  convolutions, doublings = block(0, 1), 0.0
  for level in (1, 2, 3):
    width = size * 2**level
    doublings += up(3, dim) * width / (size * 8)
    for finer in range(2, level - 1, -1):
      voxels = (side // 2**finer) ** 3
      doublings += 2.0 * voxels * width * width
      convolutions += 2.0 * voxels * 27 * 2 * width * width
  below = dim
  for level in (3, 2, 1, 0):
    width = size * 2**level
    doublings += up(level, below)
    convolutions += block(level, 2 * width)
    below = width
  return {
    "transformer": transformer,
    "convolutions": convolutions,
    "doublings": doublings,
    "output": 2.0 * side**3 * size * classes,
  }
