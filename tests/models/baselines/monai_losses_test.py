# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Our losses against the committed float64 answers of MONAI's."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vf_jax.losses import focal_loss, level_terms, soft_dice


@pytest.fixture(scope="module")
def golden():
  with np.load(pathlib.Path(__file__).parent / "losses.npz") as file:
    return {name: jnp.asarray(value) for name, value in file.items()}


def _dice(logits, golden):
  truth = golden["truth"]
  return soft_dice(jax.nn.sigmoid(logits), truth, jnp.ones_like(truth))


def _entropy(logits, golden):
  return optax.sigmoid_binary_cross_entropy(logits, golden["truth"]).mean()


def _focal(logits, golden):
  # Where a heat map has no flanks it is a mask, and ours is MONAI's loss,
  # which takes the mean over space before the sum.
  truth = golden["truth"]
  return focal_loss(logits, truth, truth > 0).mean(axis=(1, 2, 3)).sum()


def _level_dice(levels, golden):
  classes = golden["classes"].astype(jnp.int32)
  return level_terms(levels, classes, jnp.ones(classes.shape))[0]


def _level_entropy(levels, golden):
  classes = golden["classes"].astype(jnp.int32)
  return level_terms(levels, classes, jnp.ones(classes.shape))[1]


@pytest.mark.parametrize(
  ("name", "loss", "of"),
  [
    ("dice", _dice, "logits"),
    ("entropy", _entropy, "logits"),
    ("focal", _focal, "logits"),
    ("level_dice", _level_dice, "levels"),
    ("level_entropy", _level_entropy, "levels"),
  ],
)
def test_losses_are_monais(golden, name, loss, of):
  value, grad = jax.value_and_grad(loss)(golden[of], golden)
  np.testing.assert_allclose(value, golden[name], rtol=1e-5)
  scale = float(jnp.abs(golden[f"{name}_grad"]).max())
  np.testing.assert_allclose(grad, golden[f"{name}_grad"], atol=1e-5 * scale)
