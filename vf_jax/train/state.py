# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Everything that training changes, and the optimizer that changes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from vf_jax.config import Config
from vf_jax.errors import ConfigError
from vf_jax.models.layers import stack_blocks, unroll_blocks
from vf_jax.models.vertebraformer import VertebraFormer

Params = Any
TASK_LOG_VARIANCE = "task_log_variance"
"""Beside the network's parameters if `loss.weighting` is 'uncertainty'."""


@flax.struct.dataclass
class TrainState:
  """State of one run.

  Fields are untyped because abstract states (shapes and shardings only) pass
  through the same class.

  Attributes:
    step: steps done, int32 scalar.
    params: parameters, float32.
    ema: averaged parameters, used for prediction.
    opt_state: of the optimizer, for the parameters that learn.
    key: root of all randomness on the device.
  """

  step: Any
  params: Params
  ema: Params
  opt_state: Any
  key: Any


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """Clipping and AdamW on a warm-up cosine; decay on kernels only.

  Args:
    config: the experiment.

  Returns:
    The transformation.
  """
  o = config.optim
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=o.learning_rate,
    warmup_steps=o.warmup_steps,
    decay_steps=config.train.steps,
    end_value=0.01 * o.learning_rate,
  )
  return optax.chain(
    optax.clip_by_global_norm(o.clip_norm),
    optax.adamw(
      schedule,
      b2=0.98,
      weight_decay=o.weight_decay,
      mask=lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
      ),
    ),
  )


def learned(params: Params, only: Sequence[str]) -> Params:
  """The parameters that learn.

  Args:
    params: of the network.
    only: names of the parts that do; none for all.

  Returns:
    These parts, and the variances of the tasks if there are such.

  Raises:
    ConfigError: if the network has no part of such a name.
  """
  missing = sorted(set(only) - set(params))
  if missing:
    raise ConfigError(
      f"train.only names '{missing[0]}', which is no part of this network. "
      f"Fix: use some of {sorted(params)}."
    )
  if not only:
    return params
  # NOTE: variances that stay would be fixed weights.
  every = (*only, TASK_LOG_VARIANCE)
  return {name: params[name] for name in every if name in params}


def init_params(config: Config, key: Key[Array, ""]) -> Params:
  """Draws the parameters of the network.

  Args:
    config: the experiment.
    key: of the draw.

  Returns:
    Nested dict of float32 arrays.
  """
  m = config.model
  model = VertebraFormer(m)
  variables = model.init(
    key,
    jnp.zeros((1, *m.crop)),
    jnp.ones((1, 3)),
    jnp.zeros((1, m.max_points, 3)),
    jnp.zeros((1, m.max_points), bool),
    jnp.zeros((1,), jnp.int32),
  )
  params = dict(variables["params"])
  if config.loss.weighting == "uncertainty":
    params[TASK_LOG_VARIANCE] = {
      name: jnp.zeros(()) for name in config.loss.weights
    }
  return params


def init_state(config: Config) -> TrainState:
  """The state before the first step; jit-compatible.

  Args:
    config: the experiment.

  Returns:
    The state, the same for the same seed.
  """
  key = jax.random.key(config.train.seed)
  draw, root = jax.random.split(key)
  params = init_params(config, draw)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    opt_state=make_optimizer(config).init(learned(params, config.train.only)),
    key=root,
  )


def adopt(state: TrainState, found: Params) -> tuple[TrainState, list[str]]:
  """Starts a state from the parameters of another model, as far as they fit.

  Blocks of the transformer are stacked or unrolled as the state has them.

  Args:
    state: before the first step.
    found: nested dict of arrays.

  Returns:
    The state with every parameter of `found` that has its name and shape, and
    the names of those that stay as drawn.
  """
  found = _arranged(found, state.params)
  known = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(found)
  }
  fresh: list[str] = []

  def choose(path, own):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    leaf = known.get(name)
    if leaf is None or leaf.shape != own.shape:
      fresh.append(name)
      return own
    # Each process has the whole array and gives its devices their parts.
    host = np.asarray(leaf, own.dtype)
    return jax.make_array_from_callback(
      own.shape, own.sharding, lambda place: host[place]
    )

  params = jax.tree_util.tree_map_with_path(choose, state.params)
  # NOTE: memory of its own, because the step gives both away.
  ema = jax.tree.map(jnp.copy, params)
  return dataclasses.replace(state, params=params, ema=ema), fresh


def _arranged(found: Params, own: Params) -> Params:
  """`model.scan` names and stacks the same parameters in another way."""
  theirs, ours = found.get("transformer", {}), own.get("transformer", {})
  if "blocks" in theirs and "block0" in ours:
    return found | {"transformer": unroll_blocks(theirs)}
  if "block0" in theirs and "blocks" in ours:
    return found | {"transformer": stack_blocks(theirs)}
  return found
