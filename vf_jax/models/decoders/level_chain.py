# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Scores of a chain of levels: what may follow what, and at which price.

Levels only ascend, a detection may be false, a vertebra may be missed, and
T13, L6 and an absent T12 exist but are rare. Both the decoder that reads image
features and the one that reads points alone fill in these scores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vf_jax.labels import VERTEBRAE
from vf_jax.model_config import MAX_ADVANCE
from vf_jax.ops import chain

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

  def tempered(self, temperature: float | Float[Array, ""]) -> ChainScores:
    """Scores divided by a temperature: above 1, less sure of the same levels.

    Args:
      temperature: above 0.

    Returns:
      Scores with the same best path.

    Source:
      Guo et al. 2017, On Calibration of Modern Neural Networks, sec. 4.2, here
      of a whole chain.
    """
    return dataclasses.replace(
      self,
      emissions=self.emissions / temperature,
      transitions=self.transitions / temperature,
    )

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


def prefer_next_level(
  key: Any, shape: tuple[int], dtype: Any
) -> Float[Array, " advances"]:
  """First bias of advances: most neighbours are one level apart.

  Args:
    key: not used; an initializer gets one.
    shape: number of advances, 1 to `MAX_ADVANCE` levels.
    dtype: of the bias.

  Returns:
    Logits, falling by 2 a level.
  """
  del key
  return -2.0 * jnp.arange(shape[0], dtype=dtype)


def _states_of_levels(targets: Int[Array, " points"]) -> Int[Array, " points"]:
  """Chain states of one sequence: false detections remember the last level."""

  def step(last, target):
    last = jnp.where(target >= 0, target, last)
    false = jnp.where(last >= 0, _COUNT + last, _STATES - 1)
    return last, jnp.where(target >= 0, target, false)

  return jax.lax.scan(step, jnp.asarray(-1, targets.dtype), targets)[1]


def emission_scores(
  levels: Float[Array, "batch points levels"],
  rejected: Float[Array, "batch points 1"],
) -> Float[Array, "batch points states"]:
  """Spreads the scores of levels over the states of the chain.

  Args:
    levels: score of each level.
    rejected: score of being no vertebra.

  Returns:
    Emissions of `ChainScores`.
  """
  spread = jnp.broadcast_to(rejected, (*rejected.shape[:2], _STATES - _COUNT))
  # The first point cannot be "false after level l".
  first = np.zeros((levels.shape[1], _STATES - _COUNT), np.float32)
  first[0, :-1] = _IMPOSSIBLE
  return jnp.concatenate([levels, spread + first[None]], axis=-1)


def level_moves(
  advance: Float[Array, "batch pairs advance"], rare: Float[Array, " 3"]
) -> Float[Array, "batch pairs levels levels"]:
  """Score of going from one level to another.

  Args:
    advance: score of going on by 1, 2, ... vertebrae.
    rare: price of T13, of L6, of an absent T12.

  Returns:
    The scores, hugely negative where the order of levels forbids it.
  """
  allowed = _ADVANCE > 0
  move = advance[..., np.maximum(_ADVANCE - 1, 0)]
  move = jnp.where(allowed[None, None], move, _IMPOSSIBLE)
  extra = jnp.zeros((_COUNT, _COUNT)).at[:, _T13].add(rare[0])
  extra = extra.at[:, _L6].add(rare[1])
  move = move + extra[None, None]
  # T11 to L1 is either a missed T12 (two levels on) or an absent one.
  return move.at[:, :, _T11, _L1].set(
    jnp.logaddexp(move[:, :, _T11, _L1], advance[..., 0] + rare[2])
  )


def transition_scores(
  advance: Float[Array, "batch pairs advance"], rare: Float[Array, " 3"]
) -> Float[Array, "batch points states states"]:
  """Transitions of `ChainScores`, false detections in between included.

  Args:
    advance: as in `level_moves`.
    rare: as in `level_moves`.

  Returns:
    The scores; those of the first step are not used.
  """
  batch, pairs, _ = advance.shape
  move = level_moves(advance, rare)
  full = jnp.full((batch, pairs, _STATES, _STATES), _IMPOSSIBLE)
  full = full.at[:, :, :_COUNT, :_COUNT].set(move)
  full = full.at[:, :, _COUNT:-1, :_COUNT].set(move)
  index = np.arange(_COUNT)
  full = full.at[:, :, index, _COUNT + index].set(0.0)
  full = full.at[:, :, _COUNT + index, _COUNT + index].set(0.0)
  full = full.at[:, :, -1, -1].set(0.0)
  full = full.at[:, :, -1, :_COUNT].set(0.0)
  return jnp.pad(full, ((0, 0), (1, 0), (0, 0), (0, 0)))


def level_likelihood(
  levels: Float[Array, "batch points levels"],
  rejected: Float[Array, "batch points 1"],
  moves: Float[Array, "batch pairs levels levels"],
  mask: Bool[Array, "batch points"],
  targets: Int[Array, "batch points"],
) -> Float[Array, " batch"]:
  """Exact -log p of the true levels, as `ChainScores` gives it, for training.

  What comes next depends on the last level only, not on how many false
  detections followed it, so half the states and a quarter of the moves do.

  Args:
    levels: score of each level.
    rejected: score of being no vertebra.
    moves: from `level_moves`.
    mask: True for real points, which come first.
    targets: index into `VERTEBRAE`, or -1 for a false detection.

  Returns:
    One value a sequence; 0 for a sequence without points.
  """

  def one(levels, rejected, moves, mask, targets):
    def advance(carry, step):
      last, none, before, score = carry
      emission, reject, move, real, target = step
      moved = jax.nn.logsumexp(last[:, None] + move, axis=0)
      moved = jnp.logaddexp(moved, none) + emission
      gain = emission[target] + jnp.where(before >= 0, move[before, target], 0)
      gain = jnp.where(target >= 0, gain, reject)
      return (
        jnp.where(real, jnp.logaddexp(moved, last + reject), last),
        jnp.where(real, none + reject, none),
        jnp.where(real & (target >= 0), target, before),
        score + jnp.where(real, gain, 0.0),
      ), None

    first = targets[0]
    score = jnp.where(first >= 0, levels[0, first], rejected[0])
    carry = (levels[0], rejected[0], first, score)
    steps = (levels[1:], rejected[1:], moves, mask[1:], targets[1:])
    (last, none, _, score), _ = jax.lax.scan(advance, carry, steps)
    total = jnp.logaddexp(jax.nn.logsumexp(last), none)
    return jnp.where(mask[0], total - score, 0.0)

  return jax.vmap(one)(levels, rejected[..., 0], moves, mask, targets)
