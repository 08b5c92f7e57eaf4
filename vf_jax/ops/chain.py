# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Exact inference in a linear chain: sums and maxima over all paths.

Every function works on one sequence (use `jax.vmap` for a batch). Steps whose
mask is False are skipped; they must all come at the end. Scores are natural
logarithms, fp32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def log_partition(
  emissions: Float[Array, "steps states"],
  transitions: Float[Array, "steps states states"],
  mask: Bool[Array, " steps"],
) -> Float[Array, ""]:
  """Log of the summed exponential scores of all paths (forward algorithm).

  Args:
    emissions: score of each state at each step.
    transitions: `transitions[t, i, j]` = score of moving from state i at step
      t - 1 to j at step t; the first entry is not used.
    mask: True for real steps.

  Returns:
    The log partition function; 0 for a sequence without steps.
  """

  def advance(alpha, step):
    emission, transition, real = step
    moved = jax.nn.logsumexp(alpha[:, None] + transition, axis=0) + emission
    return jnp.where(real, moved, alpha), None

  alpha, _ = jax.lax.scan(
    advance, emissions[0], (emissions[1:], transitions[1:], mask[1:])
  )
  return jnp.where(mask[0], jax.nn.logsumexp(alpha), 0.0)


def path_score(
  emissions: Float[Array, "steps states"],
  transitions: Float[Array, "steps states states"],
  mask: Bool[Array, " steps"],
  path: Int[Array, " steps"],
) -> Float[Array, ""]:
  """Score of one path.

  Args:
    emissions: as in `log_partition`.
    transitions: as in `log_partition`.
    mask: as in `log_partition`.
    path: state of each step; any value where the mask is False.

  Returns:
    The sum of its emissions and transitions.
  """
  steps = jnp.arange(emissions.shape[0])
  states = jnp.where(mask, path, 0)
  stay = jnp.where(mask, emissions[steps, states], 0.0)
  move = transitions[steps[1:], states[:-1], states[1:]]
  return stay.sum() + jnp.where(mask[1:], move, 0.0).sum()


def marginals(
  emissions: Float[Array, "steps states"],
  transitions: Float[Array, "steps states states"],
  mask: Bool[Array, " steps"],
) -> Float[Array, "steps states"]:
  """Probability of each state at each step given the whole sequence.

  Args:
    emissions: as in `log_partition`.
    transitions: as in `log_partition`.
    mask: as in `log_partition`.

  Returns:
    Probabilities, 0 where the mask is False. They are the gradient of the log
    partition function with respect to the emissions.
  """
  return jax.grad(log_partition)(emissions, transitions, mask)


def viterbi(
  emissions: Float[Array, "steps states"],
  transitions: Float[Array, "steps states states"],
  mask: Bool[Array, " steps"],
) -> Int[Array, " steps"]:
  """The path of the highest score; the lowest state wins a tie.

  Args:
    emissions: as in `log_partition`.
    transitions: as in `log_partition`.
    mask: as in `log_partition`.

  Returns:
    State of each step; -1 where the mask is False.
  """
  states = jnp.arange(emissions.shape[1])

  def advance(best, step):
    emission, transition, real = step
    scores = best[:, None] + transition
    back = jnp.where(real, jnp.argmax(scores, axis=0), states)
    return jnp.where(real, scores.max(axis=0) + emission, best), back

  best, back = jax.lax.scan(
    advance, emissions[0], (emissions[1:], transitions[1:], mask[1:])
  )

  def retreat(state, pointer):
    previous = pointer[state]
    return previous, previous

  last = jnp.argmax(best)
  _, earlier = jax.lax.scan(retreat, last, back, reverse=True)
  path = jnp.append(earlier, last)
  return jnp.where(mask, path, -1)
