# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Numbering decoder: a sequence of body centres becomes a chain of levels.

A small transformer looks at each centre and its neighbours along the spine
and gives scores over levels; a linear chain knows that levels only ascend,
that a detection may be false, that a vertebra may be missed, and that T13, L6
and an absent T12 exist but are rare.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vf_jax.config import MAX_ADVANCE
from vf_jax.labels import VERTEBRAE
from vf_jax.models.layers import sinusoids
from vf_jax.ops import chain
from vf_jax.ops.attention import attention
from vf_jax.ops.sample import sample_trilinear

_COUNT = len(VERTEBRAE)
_STATES = 2 * _COUNT + 1
_IMPOSSIBLE = -1e9


def _advance_table() -> np.ndarray:
  """Vertebrae passed from level i to j in usual anatomy; 0 = not allowed."""
  names = [level.name for level in VERTEBRAE]
  table = np.zeros((_COUNT, _COUNT), np.int32)
  for i in range(_COUNT):
    for j in range(i + 1, _COUNT):
      between = [n for n in names[i + 1 : j] if n not in ("T13", "L6")]
      table[i, j] = len(between) + 1
  table[table > MAX_ADVANCE] = 0
  return table


_ADVANCE = _advance_table()
_NAMES = [level.name for level in VERTEBRAE]
_T11, _T13, _L1, _L6 = (_NAMES.index(n) for n in ("T11", "T13", "L1", "L6"))


@flax.struct.dataclass
class ChainScores:
  """Scores of a chain over `2 * levels + 1` states.

  State l < levels means "this is level l"; state levels + l means "not a
  vertebra, and the last true one was l"; the last state means "not a vertebra,
  and none came before".

  Attributes:
    emissions: score of each state.
    transitions: score of each move, first step unused.
    mask: True for real points.
  """

  emissions: Float[Array, "batch points states"]
  transitions: Float[Array, "batch points states states"]
  mask: Bool[Array, "batch points"]

  def negative_log_likelihood(
    self, targets: Int[Array, "batch points"]
  ) -> Float[Array, " batch"]:
    """Exact -log p of the true levels.

    Args:
      targets: index into `VERTEBRAE`, or -1 for a false detection.

    Returns:
      One value a sequence; 0 for a sequence without points.
    """
    path = jax.vmap(_states_of_levels)(targets)
    score = jax.vmap(chain.path_score)(
      self.emissions, self.transitions, self.mask, path
    )
    total = jax.vmap(chain.log_partition)(
      self.emissions, self.transitions, self.mask
    )
    return jnp.where(self.mask.any(axis=1), total - score, 0.0)

  def decode(
    self,
  ) -> tuple[Int[Array, "batch points"], Float[Array, "batch points"]]:
    """Returns the best levels (-1 = not a vertebra) and their marginals."""
    path = jax.vmap(chain.viterbi)(self.emissions, self.transitions, self.mask)
    share = jax.vmap(chain.marginals)(
      self.emissions, self.transitions, self.mask
    )
    level_share = share[..., :_COUNT]
    rejected = share[..., _COUNT:].sum(axis=-1)
    levels = jnp.where((path >= 0) & (path < _COUNT), path, -1)
    chosen = jnp.take_along_axis(
      level_share, jnp.maximum(levels, 0)[..., None], axis=-1
    )[..., 0]
    confidence = jnp.where(levels >= 0, chosen, rejected)
    return levels, jnp.where(self.mask, confidence, 0.0)


def _states_of_levels(targets: Int[Array, " points"]) -> Int[Array, " points"]:
  """Chain states of one sequence: false detections remember the last level."""

  def step(last, target):
    last = jnp.where(target >= 0, target, last)
    false = jnp.where(last >= 0, _COUNT + last, _STATES - 1)
    return last, jnp.where(target >= 0, target, false)

  return jax.lax.scan(step, jnp.asarray(-1, targets.dtype), targets)[1]


class NumberingDecoder(nn.Module):
  """Reads features at body centres and scores levels along the sequence.

  Attributes:
    width: of the sequence transformer.
    depth: its blocks.
    reach: a point sees this many neighbours on each side, so that sequences
      longer than those of training mean nothing new.
    dtype: compute type; scores are float32.
  """

  width: int
  depth: int
  reach: int = 3
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
    x = nn.Dense(self.width, dtype=self.dtype, name="embed")(x)
    order = np.arange(count)
    near = np.abs(order[:, None] - order[None, :]) <= self.reach
    visible = (mask[:, None, None, :] & near[None, None]) | np.eye(
      count, dtype=bool
    )[None, None]
    heads = max(1, self.width // 32)
    for i in range(self.depth):
      y = nn.LayerNorm(dtype=self.dtype, name=f"attn_norm{i}")(x)
      qkv = nn.Dense(3 * self.width, dtype=self.dtype, name=f"qkv{i}")(y)
      qkv = qkv.reshape(batch, count, 3, heads, self.width // heads)
      y = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=visible)
      x = x + nn.Dense(self.width, dtype=self.dtype, name=f"proj{i}")(
        y.reshape(batch, count, self.width)
      )
      y = nn.LayerNorm(dtype=self.dtype, name=f"mlp_norm{i}")(x)
      y = nn.Dense(2 * self.width, dtype=self.dtype, name=f"up{i}")(y)
      x = x + nn.Dense(self.width, dtype=self.dtype, name=f"down{i}")(
        nn.gelu(y)
      )
    x = nn.LayerNorm(dtype=jnp.float32, name="norm")(x)
    levels = nn.Dense(_COUNT, dtype=jnp.float32, name="levels")(x)
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
    # NOTE: most neighbours are one level apart; the bias says so from the
    # first step on.
    advance = nn.Dense(
      MAX_ADVANCE,
      name="advance",
      bias_init=lambda key, shape, dtype: (
        -2.0 * jnp.arange(shape[0], dtype=dtype)
      ),
    )(pair)
    rare = self.param(
      "rare", nn.initializers.constant(-4.0), (3,)
    )  # T13, L6, absent T12
    return ChainScores(
      emissions=_emissions(levels, rejected),
      transitions=_transitions(jax.nn.log_softmax(advance), rare),
      mask=mask,
    )


def _emissions(
  levels: Float[Array, "batch points levels"],
  rejected: Float[Array, "batch points 1"],
) -> Float[Array, "batch points states"]:
  spread = jnp.broadcast_to(rejected, (*rejected.shape[:2], _STATES - _COUNT))
  # The first point cannot be "false after level l".
  first = np.zeros((levels.shape[1], _STATES - _COUNT), np.float32)
  first[0, :-1] = _IMPOSSIBLE
  return jnp.concatenate([levels, spread + first[None]], axis=-1)


def _transitions(
  advance: Float[Array, "batch pairs advance"], rare: Float[Array, " 3"]
) -> Float[Array, "batch points states states"]:
  batch, pairs, _ = advance.shape
  allowed = _ADVANCE > 0
  move = advance[..., np.maximum(_ADVANCE - 1, 0)]
  move = jnp.where(allowed[None, None], move, _IMPOSSIBLE)
  extra = jnp.zeros((_COUNT, _COUNT)).at[:, _T13].add(rare[0])
  extra = extra.at[:, _L6].add(rare[1])
  move = move + extra[None, None]
  # T11 to L1 is either a missed T12 (two levels on) or an absent one.
  move = move.at[:, :, _T11, _L1].set(
    jnp.logaddexp(move[:, :, _T11, _L1], advance[..., 0] + rare[2])
  )
  full = jnp.full((batch, pairs, _STATES, _STATES), _IMPOSSIBLE)
  full = full.at[:, :, :_COUNT, :_COUNT].set(move)
  full = full.at[:, :, _COUNT:-1, :_COUNT].set(move)
  index = np.arange(_COUNT)
  full = full.at[:, :, index, _COUNT + index].set(0.0)
  full = full.at[:, :, _COUNT + index, _COUNT + index].set(0.0)
  full = full.at[:, :, -1, -1].set(0.0)
  full = full.at[:, :, -1, :_COUNT].set(0.0)
  return jnp.pad(full, ((0, 0), (1, 0), (0, 0), (0, 0)))


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
  edge = (1, 5, 5, 5, 1)
  mean = nn.avg_pool(cells, edge[1:4], (1, 1, 1), "SAME")
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
