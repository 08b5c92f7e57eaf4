# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The chain against the sum over every path."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops import chain


def _case(real, seed=0, steps=4, states=3):
  a, b = jax.random.split(jax.random.key(seed))
  emissions = jax.random.normal(a, (steps, states))
  transitions = jax.random.normal(b, (steps, states, states))
  return emissions, transitions, jnp.arange(steps) < real


def _all_paths(emissions, transitions, real):
  e, t = np.asarray(emissions), np.asarray(transitions)
  scores = {}
  for path in itertools.product(range(e.shape[1]), repeat=real):
    total = sum(e[i, s] for i, s in enumerate(path))
    total += sum(t[i, path[i - 1], path[i]] for i in range(1, real))
    scores[path] = total
  return scores


@pytest.mark.parametrize("real", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_enumeration(real, seed):
  emissions, transitions, mask = _case(real, seed)
  scores = _all_paths(emissions, transitions, real)
  values = np.array(list(scores.values()))
  log_z = np.log(np.exp(values).sum())
  np.testing.assert_allclose(
    chain.log_partition(emissions, transitions, mask), log_z, rtol=1e-5
  )
  best = max(scores, key=scores.get)
  path = np.asarray(chain.viterbi(emissions, transitions, mask))
  assert tuple(path[:real]) == best
  assert (path[real:] == -1).all()
  padded = jnp.asarray([*best, *[2] * (4 - real)])
  np.testing.assert_allclose(
    chain.path_score(emissions, transitions, mask, padded),
    scores[best],
    rtol=1e-5,
  )
  share = np.asarray(chain.marginals(emissions, transitions, mask))
  for step in range(real):
    for state in range(3):
      expected = sum(
        np.exp(v - log_z) for p, v in scores.items() if p[step] == state
      )
      np.testing.assert_allclose(share[step, state], expected, atol=1e-5)
  assert (share[real:] == 0).all()


def test_empty_sequence_has_no_score():
  emissions, transitions, mask = _case(0)
  assert float(chain.log_partition(emissions, transitions, mask)) == 0
