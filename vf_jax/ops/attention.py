# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Attention over a 3D grid of tokens, with rotary positions."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vf_jax.ops.cpu_attention import cpu_attention

ATTENDED = "attended"
"""What `jax.checkpoint` may keep of attention, by this name."""


def attention(
  query: Float[Array, "batch tokens heads dim"],
  key: Float[Array, "batch tokens heads dim"],
  value: Float[Array, "batch tokens heads dim"],
  mask: Bool[Array, "batch 1 tokens tokens"] | None = None,
  implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "batch tokens heads dim"]:
  """Scaled dot-product attention, softmax in fp32.

  On a single CPU, 'xla' without a mask is computed for a block of queries at a
  time, so that their logits stay in the cache, with gradients of its own that
  keep no logits: exact up to the order of sums, in about half of the time.

  Args:
    query: queries.
    key: keys.
    value: values.
    mask: True where a query (third axis) may see a key (last axis).
    implementation: 'xla' everywhere, 'cudnn' on GPUs only; never silently
      replaced.

  Returns:
    The attended values.

  Raises:
    ValueError: if the implementation does not exist on this backend.
  """
  if implementation == "cudnn" and jax.default_backend() != "gpu":
    raise ValueError(
      f"attention implementation 'cudnn' needs a GPU, this is "
      f"'{jax.default_backend()}'; set model.attention='xla'"
    )
  if mask is None and implementation == "xla" and _on_one_cpu():
    return cpu_attention(query, key, value)
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation=implementation
  )


def _on_one_cpu() -> bool:
  """On a mesh tokens may be divided, and no loop must run over them."""
  mesh = jax.sharding.get_abstract_mesh()
  return (mesh.empty or mesh.size == 1) and jax.default_backend() == "cpu"


def rotary_angles(
  grid: tuple[int, int, int], head_dim: int
) -> Float[np.ndarray, "tokens pairs"]:
  """Angles of rotary positions on a (depth, height, width) grid.

  Each axis owns a third of the channel pairs; what is left over when
  `head_dim` is not a multiple of 6 stays unrotated.

  Args:
    grid: tokens along depth, height, width.
    head_dim: channels of one head.

  Returns:
    Radians for every token (depth outermost) and channel pair, fp32.

  Source:
    Su et al. 2021, RoFormer (arXiv 2104.09864), applied per axis.
  """
  per_axis = head_dim // 6
  frequencies = 100.0 ** (-np.arange(per_axis) / max(per_axis, 1))
  positions = np.stack(
    np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), axis=-1
  ).reshape(-1, 3)
  angles = positions[:, :, None] * frequencies
  angles = angles.reshape(len(positions), 3 * per_axis)
  rest = head_dim // 2 - 3 * per_axis
  return np.pad(angles, ((0, 0), (0, rest))).astype(np.float32)


def rotate(
  x: Float[Array, "batch tokens heads dim"],
  angles: Float[Array, "tokens pairs"] | Float[np.ndarray, "tokens pairs"],
) -> Float[Array, "batch tokens heads dim"]:
  """Turns channel pairs (i, i + dim/2) by the angles of their token.

  Args:
    x: queries or keys, even `dim`.
    angles: radians from `rotary_angles`.

  Returns:
    The rotated array in the dtype of `x`.
  """
  cos = jnp.cos(angles)[None, :, None, :].astype(x.dtype)
  sin = jnp.sin(angles)[None, :, None, :].astype(x.dtype)
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
