# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Numbering decoder: a sequence of body centres becomes a chain of levels.

A small transformer looks at each centre and its neighbours along the spine
and gives scores over levels; a linear chain knows that levels only ascend,
that a detection may be false, that a vertebra may be missed, and that T13, L6
and an absent T12 exist but are rare.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vf_jax.labels import VERTEBRAE
from vf_jax.model_config import MAX_ADVANCE
from vf_jax.models.decoders.level_chain import (
  ChainScores,
  emission_scores,
  prefer_next_level,
  transition_scores,
)
from vf_jax.models.layers import Dense, sinusoids
from vf_jax.ops.attention import attention
from vf_jax.ops.sample import sample_trilinear

# A point sees this many neighbours on each side, so that sequences longer than
# those of training mean nothing new.
_REACH = 3


class NumberingDecoder(nn.Module):
  """Reads features at body centres and scores levels along the sequence.

  Attributes:
    width: of the sequence transformer.
    depth: its blocks.
    dtype: compute type; scores are float32.
  """

  width: int
  depth: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    evidence: Float[Array, "batch points channel"],
    points_mm: Float[Array, "batch points 3"],
    mask: Bool[Array, "batch points"],
  ) -> ChainScores:
    """Scores a batch of sequences.

    Args:
      evidence: features of the image at each point.
      points_mm: (depth, height, width) positions in mm, from head to foot.
      mask: True for real points, which come first.

    Returns:
      The scores of the chain.
    """
    batch, count, _ = points_mm.shape
    step = jnp.diff(points_mm, axis=1)
    gap = jnp.sqrt((step**2).sum(axis=-1) + 1e-6)
    gap = gap * (mask[:, 1:] & mask[:, :-1])
    before = jnp.pad(gap, ((0, 0), (1, 0)))
    after = jnp.pad(gap, ((0, 0), (0, 1)))
    x = jnp.concatenate(
      [evidence, sinusoids(before, 4, 80.0), sinusoids(after, 4, 80.0)],
      axis=-1,
    )
    x = Dense(self.width, dtype=self.dtype, name="embed")(x)
    order = np.arange(count)
    near = np.abs(order[:, None] - order[None, :]) <= _REACH
    visible = (mask[:, None, None, :] & near[None, None]) | np.eye(
      count, dtype=bool
    )[None, None]
    heads = max(1, self.width // 32)
    for i in range(self.depth):
      y = nn.LayerNorm(dtype=self.dtype, name=f"attn_norm{i}")(x)
      qkv = Dense(3 * self.width, dtype=self.dtype, name=f"qkv{i}")(y)
      qkv = qkv.reshape(batch, count, 3, heads, self.width // heads)
      y = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=visible)
      x = x + Dense(self.width, dtype=self.dtype, name=f"proj{i}")(
        y.reshape(batch, count, self.width)
      )
      y = nn.LayerNorm(dtype=self.dtype, name=f"mlp_norm{i}")(x)
      y = Dense(2 * self.width, dtype=self.dtype, name=f"up{i}")(y)
      x = x + Dense(self.width, dtype=self.dtype, name=f"down{i}")(nn.gelu(y))
    x = nn.LayerNorm(dtype=jnp.float32, name="norm")(x)
    levels = nn.Dense(len(VERTEBRAE), dtype=jnp.float32, name="levels")(x)
    rejected = nn.Dense(
      1,
      dtype=jnp.float32,
      name="rejected",
      bias_init=nn.initializers.constant(-2.0),
    )(x)
    pair = jnp.concatenate(
      [x[:, :-1], x[:, 1:], sinusoids(gap, 4, 80.0)], axis=-1
    )
    pair = nn.gelu(nn.Dense(self.width, name="pair")(pair))
    advance = nn.Dense(
      MAX_ADVANCE, bias_init=prefer_next_level, name="advance"
    )(pair)
    rare = self.param(
      "rare", nn.initializers.constant(-4.0), (3,)
    )  # T13, L6, absent T12
    return ChainScores(
      emissions=emission_scores(levels, rejected),
      transitions=transition_scores(jax.nn.log_softmax(advance), rare),
      mask=mask,
    )


def read_evidence(
  cells: Float[Array, "batch d h w channel"],
  tokens: Float[Array, "batch td th tw dim"],
  points: Float[Array, "batch points 3"],
  stride: int,
  token: int,
) -> Float[Array, "batch points evidence"]:
  """Features around each point, from fine cells, their mean and tokens.

  Args:
    cells: decoder features.
    tokens: transformer tokens.
    points: (depth, height, width) in voxels of the window.
    stride: voxels per cell edge.
    token: voxels per token edge.

  Returns:
    Concatenated features.
  """
  # The mean over 5^3 cells, axis by axis: 15 sums a cell instead of 125.
  mean = cells
  for axis in range(3):
    edge = tuple(5 if a == axis else 1 for a in range(3))
    mean = nn.avg_pool(mean, edge, (1, 1, 1), "SAME")
  in_cells = (points + 0.5) / stride - 0.5
  in_tokens = (points + 0.5) / token - 0.5
  return jnp.concatenate(
    [
      sample_trilinear(cells, in_cells),
      sample_trilinear(mean, in_cells),
      sample_trilinear(tokens, in_tokens),
    ],
    axis=-1,
  )
