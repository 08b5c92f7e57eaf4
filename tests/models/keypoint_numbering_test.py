# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The short likelihood equals the long one; padding and origin are nothing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.keypoint_numbering import (
  KeypointBatch,
  KeypointNumbering,
  LevelScores,
  decode_expected_accuracy,
  keypoint_features,
  scan_confidence,
)

NAMES = [level.name for level in VERTEBRAE]
COUNT = len(NAMES)


def _scores(points, seed=0, real=None):
  keys = jax.random.split(jax.random.key(seed), 3)
  mask = jnp.arange(points) < (points if real is None else real)
  return LevelScores(
    levels=2 * jax.random.normal(keys[0], (1, points, COUNT)),
    rejected=jax.random.normal(keys[1], (1, points, 1)),
    advance=jax.nn.log_softmax(jax.random.normal(keys[2], (1, points - 1, 6))),
    rare=jnp.array([-2.0, -1.0, -0.5]),
    mask=mask[None],
  )


def _batch(points, seed=0):
  rng = np.random.default_rng(seed)
  height = -30.0 * np.arange(points)
  place = rng.normal(0, 3, (1, points, 3))
  place[0, :, 2] += height
  return KeypointBatch(
    points=jnp.asarray(place, jnp.float32),
    pedicles=jnp.asarray(rng.normal(0, 15, (1, points, 2, 3)), jnp.float32),
    paired=jnp.ones((1, points, 2)),
    scores=jnp.asarray(rng.normal(0, 3, (1, points, 3)), jnp.float32),
    made=jnp.zeros((1, points)),
    mask=jnp.ones((1, points), bool),
    targets=jnp.full((1, points), -1),
  )


@pytest.mark.parametrize(
  "targets",
  [
    [17, 18, 20, 21, 22],
    [-1, 17, -1, 20, 25],
    [18, 20, -1, -1, 21],
    [-1, -1, -1, -1, -1],
  ],
)
def test_short_likelihood_equals_that_of_the_whole_chain(targets):
  targets = jnp.array([targets])
  for real in (5, 3, 0):
    scores = _scores(5, real=real)
    np.testing.assert_allclose(
      scores.negative_log_likelihood(targets),
      scores.chain().negative_log_likelihood(targets),
      rtol=1e-5,  # sums in another order
      atol=1e-5,
    )


def test_marginals_are_probabilities():
  marginals = np.asarray(_scores(6, real=4).marginals())
  np.testing.assert_allclose(marginals[0, :4].sum(axis=-1), 1.0, atol=1e-5)
  assert (marginals[0, 4:] == 0).all()


def test_decoding_keeps_to_the_order_of_levels():
  marginals = np.full((1, 4, COUNT + 1), 1e-3, np.float32)
  for point, name in enumerate(("L1", "L2", "L2", "L3")):
    marginals[0, point, NAMES.index(name)] = 0.6 if point != 2 else 0.5
  marginals[0, 2, COUNT] = 0.4
  levels, sure = decode_expected_accuracy(
    jnp.asarray(marginals), jnp.ones((1, 4), bool)
  )
  named = [NAMES[i] if i >= 0 else "-" for i in np.asarray(levels)[0]]
  assert named == ["L1", "L2", "-", "L3"]
  np.testing.assert_allclose(sure[0], [0.6, 0.6, 0.4, 0.6])


def test_decoding_prefers_the_numbering_that_most_of_the_sum_agrees_on():
  """Three sequences: the most probable one is not the best on average."""
  marginals = np.zeros((1, 3, COUNT + 1), np.float32)
  low, high = NAMES.index("L1"), NAMES.index("L2")
  marginals[0, 0, [low, high, COUNT]] = [0.3, 0.4, 0.3]
  for i in (1, 2):
    marginals[0, i, [low + i, high + i]] = [0.6, 0.4]
  levels, _ = decode_expected_accuracy(
    jnp.asarray(marginals), jnp.ones((1, 3), bool)
  )
  assert np.asarray(levels)[0, 1:].tolist() == [low + 1, low + 2]


def test_padding_and_origin_change_nothing():
  model = KeypointNumbering(width=8, depth=2, heads=2)
  batch = _batch(5)
  params = jax.jit(model.init)(jax.random.key(1), batch)
  marginals = jax.jit(lambda one: model.apply(params, one).marginals())
  short = marginals(batch)
  moved = jnp.asarray([[[100.0, -50.0, 700.0]]])
  wide = KeypointBatch(
    **{
      f.name: jnp.pad(
        getattr(batch, f.name),
        [(0, 0), (0, 3)] + [(0, 0)] * (getattr(batch, f.name).ndim - 2),
      )
      for f in dataclasses.fields(batch)
    }
  )
  wide = wide.replace(points=wide.points + moved)
  long = marginals(wide)
  # Positions of 700 mm leave 1e-4 mm of a float32.
  np.testing.assert_allclose(short, long[:, :5], atol=2e-4)


def test_features_are_near_one_and_finite_for_a_single_point():
  for points in (1, 2, 9):
    out = np.asarray(jax.jit(keypoint_features)(_batch(max(points, 2))))
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 12
  lone = _batch(2).replace(mask=jnp.array([[True, False]]))
  assert np.isfinite(np.asarray(keypoint_features(lone))).all()
  grad = jax.grad(lambda p: keypoint_features(lone.replace(points=p)).sum())
  assert np.isfinite(np.asarray(grad(lone.points))).all()


def test_confidence_of_a_scan_forgives_an_end_but_not_every_body():
  end = np.array([0.2, 0.9, 0.9, 0.9, 0.9])
  assert scan_confidence(end) == pytest.approx(0.9)
  assert scan_confidence(np.full(5, 0.6)) == pytest.approx(0.6)
  assert scan_confidence(np.array([0.4, 0.8])) == pytest.approx(0.5)
  assert scan_confidence(np.zeros(0)) == 0.0
