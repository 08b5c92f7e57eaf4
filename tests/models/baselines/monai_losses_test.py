# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vf_jax.losses import soft_dice

GOLDEN = pathlib.Path(__file__).parent / "losses.npz"


def test_soft_dice_is_monais_over_the_batch():
  with np.load(GOLDEN) as file:
    golden = dict(file)
  truth = jnp.asarray(golden["truth"])

  def loss(logits):
    return soft_dice(jax.nn.sigmoid(logits), truth, jnp.ones_like(truth))

  value, grad = jax.value_and_grad(loss)(jnp.asarray(golden["logits"]))
  np.testing.assert_allclose(value, golden["dice"], rtol=1e-5)
  np.testing.assert_allclose(grad, golden["dice_grad"], atol=1e-6)
