# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.models.decoders import level_chain, numbering
from vf_jax.models.decoders.numbering import (
  VERTEBRAE,
  ChainScores,
  NumberingDecoder,
)

NAMES = [level.name for level in VERTEBRAE]
COUNT = len(NAMES)


def _chain(names_or_none, strength=6.0, rare=-4.0):
  """A chain whose evidence points at the given levels (None = nothing)."""
  points = len(names_or_none)
  levels = np.zeros((1, points, COUNT), np.float32)
  for i, name in enumerate(names_or_none):
    if name is not None:
      levels[0, i, NAMES.index(name)] = strength
  advance = jax.nn.log_softmax(-2.0 * jnp.arange(numbering.MAX_ADVANCE))
  return ChainScores(
    emissions=level_chain.emission_scores(
      jnp.asarray(levels), jnp.full((1, points, 1), -2.0)
    ),
    transitions=level_chain.transition_scores(
      jnp.broadcast_to(advance, (1, points - 1, numbering.MAX_ADVANCE)),
      jnp.full(3, rare),
    ),
    mask=jnp.ones((1, points), bool),
  )


def _decode(chain):
  levels, confidence = chain.decode()
  names = [NAMES[i] if i >= 0 else "-" for i in np.asarray(levels)[0]]
  return names, np.asarray(confidence)[0]


def test_neighbours_name_a_vertebra_without_evidence():
  names, sure = _decode(_chain(["T11", None, "L1", None, "L3"]))
  assert names == ["T11", "T12", "L1", "L2", "L3"]
  assert (sure > 0.8).all()


def test_one_wrong_voice_is_outvoted():
  names, _ = _decode(_chain(["L1", "L2", "L2", "L4", "L5"]))
  assert names == ["L1", "L2", "L3", "L4", "L5"]


def test_missed_vertebra_leaves_a_gap():
  names, _ = _decode(_chain(["T10", "T12", "L1"], strength=12.0))
  assert names == ["T10", "T12", "L1"]


def test_variants_are_allowed_but_need_evidence():
  weak = _decode(_chain(["T12", "T13", "L1"], strength=2.0))[0]
  strong = _decode(_chain(["T12", "T13", "L1"], strength=20.0))[0]
  assert weak != ["T12", "T13", "L1"]
  assert strong == ["T12", "T13", "L1"]
  absent = _decode(_chain(["T10", "T11", "L1", "L2"], strength=20.0))[0]
  assert absent == ["T10", "T11", "L1", "L2"]
  six = _decode(_chain(["L4", "L5", "L6"], strength=20.0))[0]
  assert six == ["L4", "L5", "L6"]


def test_false_detection_is_rejected_and_the_count_goes_on():
  chain = _chain(["L1", None, "L2", "L3"], strength=12.0)
  names, sure = _decode(chain)
  assert names == ["L1", "-", "L2", "L3"]
  assert sure.min() > 0.5


@pytest.mark.parametrize(
  "targets",
  [[0, 1, 2, 3], [-1, 19, 20, 21], [17, -1, -1, 20], [-1, -1, -1, -1]],
)
def test_likelihood_is_a_probability(targets):
  chain = _chain([None] * 4)
  value = float(chain.negative_log_likelihood(jnp.array([targets]))[0])
  assert 0 < value < 1e6


def test_order_that_anatomy_forbids_has_no_probability():
  chain = _chain([None] * 2)
  assert chain.negative_log_likelihood(jnp.array([[20, 19]]))[0] > 1e6


def test_all_sequences_sum_to_one():
  chain = _chain([None, "L2"])
  total, rows = 0.0, COUNT + 1
  for first in range(-1, COUNT):
    targets = jnp.array([[first, second] for second in range(-1, COUNT)])
    many = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (rows, *x.shape[1:])), chain
    )
    total += float(jnp.exp(-many.negative_log_likelihood(targets)).sum())
  np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_padding_changes_nothing():
  decoder = NumberingDecoder(width=16, depth=2)
  key = jax.random.key(0)
  evidence = jax.random.normal(key, (1, 5, 7))
  place = jnp.linspace(150, 10, 5)[None, :, None] * jnp.array([[[1.0, 0, 0]]])
  mask = jnp.ones((1, 5), bool)
  variables = decoder.init(key, evidence, place, mask)
  short = decoder.apply(variables, evidence, place, mask).decode()
  wide = decoder.apply(
    variables,
    jnp.pad(evidence, ((0, 0), (0, 3), (0, 0)), constant_values=5.0),
    jnp.pad(place, ((0, 0), (0, 3), (0, 0)), constant_values=9.0),
    jnp.pad(mask, ((0, 0), (0, 3))),
  ).decode()
  np.testing.assert_array_equal(short[0], wide[0][:, :5])
  np.testing.assert_allclose(short[1], wide[1][:, :5], atol=1e-5)
