# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Our losses, of the arrays that `make_unetr_golden.losses` draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from vf_jax.losses import level_terms, soft_dice


def _dice(logits, golden):
  truth = golden["truth"]
  return soft_dice(jax.nn.sigmoid(logits), truth, jnp.ones_like(truth))


def _entropy(logits, golden):
  return optax.sigmoid_binary_cross_entropy(logits, golden["truth"]).mean()


def _focal(logits, golden):
  # MONAI takes the mean over space before the sum.
  loss = optax.sigmoid_focal_loss(logits, golden["truth"])
  return loss.mean(axis=(1, 2, 3)).sum()


def _level_dice(levels, golden):
  classes = golden["classes"].astype(jnp.int32)
  return level_terms(levels, classes, jnp.ones(classes.shape))[0][0]


def _level_entropy(levels, golden):
  classes = golden["classes"].astype(jnp.int32)
  return level_terms(levels, classes, jnp.ones(classes.shape))[1][0]


LOSSES = {
  "dice": (_dice, "logits"),
  "entropy": (_entropy, "logits"),
  "focal": (_focal, "logits"),
  "level_dice": (_level_dice, "levels"),
  "level_entropy": (_level_entropy, "levels"),
}
"""Name -> loss, and which of the arrays it is of."""
