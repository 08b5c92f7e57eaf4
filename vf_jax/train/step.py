# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One training step: (state, windows) -> (state, metric sums)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vf_jax.config import Config
from vf_jax.data.augment.augmentation import augment
from vf_jax.data.augment.patches import Patches
from vf_jax.losses import Batch, Sums, total_loss
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.train.state import TrainState, make_optimizer

Step = Callable[[TrainState, Patches], tuple[TrainState, Sums]]


def make_train_step(config: Config) -> Step:
  """Builds the step of an experiment.

  Args:
    config: the experiment.

  Returns:
    A pure function for `jax.jit(step, donate_argnums=0)`. It augments the
    windows first, under keys of their own. Its metrics are (numerator,
    denominator) sums, divided on the host.
  """
  model = VertebraFormer(config.model)
  optimizer = make_optimizer(config)

  def loss_fn(params, batch: Batch, key):
    outputs: Any = model.apply(
      {"params": params},
      batch.image,
      batch.spacing_mm,
      batch.points,
      batch.point_mask,
      batch.domain,
      True,
      rngs={"prototype": key},
    )
    return total_loss(outputs, batch, config.loss, config.model.spacing_mm)

  def train_step(
    state: TrainState, patches: Patches
  ) -> tuple[TrainState, Sums]:
    batch = augment(patches, config.model, config.data.augment)
    key = jax.random.fold_in(state.key, state.step)
    (_, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # A short memory at first, so that the average is not that of the start.
    done = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.optim.ema, (1 + done) / (10 + done))
    ema = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new, state.ema, params
    )
    sums = sums | {"grad_norm": (optax.tree.norm(grads), jnp.ones(()))}
    return (
      TrainState(
        step=state.step + 1,
        params=params,
        ema=ema,
        opt_state=opt_state,
        key=state.key,
      ),
      sums,
    )

  return train_step
