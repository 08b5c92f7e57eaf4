# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One training step: (state, windows) -> (state, metric sums)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vf_jax.config import Config
from vf_jax.data.augment.augmentation import augment
from vf_jax.data.augment.patches import Patches
from vf_jax.losses import Batch, Sums, total_loss
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.parallel.sharding import batch_sharding, constrain, state_shardings
from vf_jax.train.state import (
  TASK_LOG_VARIANCE,
  TrainState,
  init_state,
  learned,
  make_optimizer,
)

Step = Callable[[TrainState, Patches], tuple[TrainState, Sums]]
Loss = Callable[[Any, Batch, Any], tuple[Any, Sums]]


def make_loss(config: Config) -> Loss:
  """Builds the loss of an experiment.

  Args:
    config: the experiment.

  Returns:
    A pure function (parameters, crops, key) -> (loss, metric sums).
  """
  model = VertebraFormer(config.model)

  def loss(params, batch: Batch, key):
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
    return total_loss(
      outputs,
      batch,
      config.loss,
      config.model.spacing_mm,
      params.get(TASK_LOG_VARIANCE),
    )

  return loss


def make_train_step(config: Config) -> Step:
  """Builds the step of an experiment.

  Args:
    config: the experiment.

  Returns:
    A pure function for `jax.jit(step, donate_argnums=0)`. It augments the
    windows first, under keys of their own. Its metrics are (numerator,
    denominator) sums, divided on the host.
  """
  loss = make_loss(config)
  optimizer, only = make_optimizer(config), config.train.only

  def differentiate(params, patches: Patches, key):
    batch = augment(patches, config.model, config.data.augment)

    def of_learned(part):
      return loss(params | part, batch, key)

    own = learned(params, only)
    (_, sums), grads = jax.value_and_grad(of_learned, has_aux=True)(own)
    return grads, sums

  def train_step(
    state: TrainState, patches: Patches
  ) -> tuple[TrainState, Sums]:
    key = jax.random.fold_in(state.key, state.step)
    parts = config.train.micro_batches
    if parts == 1:
      grads, sums = differentiate(state.params, patches, key)
    else:
      grads, sums = _in_turn(differentiate, state.params, patches, key, parts)
    own = learned(state.params, only)
    updates, opt_state = optimizer.update(grads, state.opt_state, own)
    params = state.params | optax.apply_updates(own, updates)
    # A short memory at first, so that the average is not that of the start.
    done = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.optim.ema, (1 + done) / (10 + done))
    ema = jax.tree.map(
      lambda old, new: old + (1 - decay) * (new - old), state.ema, params
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


def _in_turn(differentiate, params, patches: Patches, key, parts: int):
  """Mean gradient and summed metrics of the parts of a batch, by one scan.

  Sample i belongs to part i % parts, so that every device keeps its samples.
  """

  def split(leaf):
    whole = leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:])
    rest = (None,) * (leaf.ndim - 1)
    return constrain(whole.swapaxes(0, 1), None, "batch", *rest)

  def one(total, part):
    index, samples = part
    found = differentiate(params, samples, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, total, found), None

  parted = jax.tree.map(split, patches)
  first = jax.tree.map(lambda leaf: leaf[0], parted)
  shapes = jax.eval_shape(lambda p: differentiate(params, p, key), first)
  start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  (grads, sums), _ = jax.lax.scan(one, start, (jnp.arange(parts), parted))
  return jax.tree.map(lambda g: g / parts, grads), sums


def jit_train_step(config: Config, mesh: Mesh) -> Any:
  """The step, divided over a mesh; the old state's memory is used again.

  Args:
    config: the experiment.
    mesh: the devices.

  Returns:
    The jitted step, to be called or lowered inside `jax.set_mesh(mesh)`.
  """
  state = state_shardings(mesh, jax.eval_shape(lambda: init_state(config)))
  return jax.jit(
    make_train_step(config), donate_argnums=0, out_shardings=(state, None)
  )


def place_batch(mesh: Mesh, arrays: Mapping[str, np.ndarray]) -> Patches:
  """Hands this process' share of a global batch to its devices.

  Args:
    mesh: the devices.
    arrays: fields of `Patches` on the host.

  Returns:
    Global arrays, divided over `data` and `fsdp`.
  """
  sharding = batch_sharding(mesh)
  return Patches(
    **{
      name: jax.make_array_from_process_local_data(sharding, value)
      for name, value in arrays.items()
    }
  )
