# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The first state of a run, and the optimizer on a few numbers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vf_jax.errors import ConfigError
from vf_jax.train.state import (
  TASK_LOG_VARIANCE,
  TrainState,
  adopt,
  init_params,
  init_state,
  learned,
  make_optimizer,
)


def _config(test_config, **changes):
  optim = dataclasses.replace(test_config.optim, **changes)
  return dataclasses.replace(test_config, optim=optim)


def _draw(config):
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.jit(lambda: init_state(config), out_shardings=sharding)()


@pytest.fixture(scope="module")
def state(test_config):
  return _draw(test_config)


def test_the_average_starts_at_the_parameters_in_memory_of_its_own(state):
  for param, ema in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True
  ):
    assert param.dtype == jnp.float32
    np.testing.assert_array_equal(param, ema)
    assert param.unsafe_buffer_pointer() != ema.unsafe_buffer_pointer()
  assert int(state.step) == 0
  assert state.step.dtype == jnp.int32


def test_the_seed_draws_the_parameters(test_config, state):
  again = _draw(test_config)
  jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
  assert jax.random.key_data(state.key).tolist() == (
    jax.random.key_data(again.key).tolist()
  )
  # The root of later randomness is not the key that drew the parameters.
  draw, root = jax.random.split(jax.random.key(test_config.train.seed))
  assert (jax.random.key_data(state.key) == jax.random.key_data(root)).all()
  assert (jax.random.key_data(root) != jax.random.key_data(draw)).any()


def test_what_fits_of_other_weights_is_taken(state):
  found = jax.tree.map(lambda x: x + 1, state.ema)
  name = sorted(found)[0]
  kept = sorted(found[name])[0]
  found[name][kept] = jax.tree.map(lambda x: x[..., None], found[name][kept])
  found |= {"of another decoder": jnp.zeros(3)}
  started, fresh = adopt(state, found)
  assert fresh
  assert all(word.startswith(f"{name}/{kept}") for word in fresh)
  changed = jax.tree.map(
    lambda a, b: bool((a == b).all()), started.params, state.params
  )
  same = jax.tree_util.tree_leaves_with_path(changed)
  assert sum(equal for _, equal in same) == len(fresh)
  for param, ema in zip(
    jax.tree.leaves(started.params), jax.tree.leaves(started.ema), strict=True
  ):
    np.testing.assert_array_equal(param, ema)
    assert param.unsafe_buffer_pointer() != ema.unsafe_buffer_pointer()


def test_blocks_are_stacked_or_unrolled_as_the_state_has_them():
  def of(transformer):
    params = {"transformer": transformer}
    return TrainState(jnp.int32(0), params, params, (), None)

  def block(value):
    return {"qkv": {"kernel": jnp.full((3, 4), value)}}

  unrolled = {f"block{i}": block(float(i)) for i in range(11)}
  kernels = jnp.stack([b["qkv"]["kernel"] for b in unrolled.values()])
  stacked = {"blocks": {"qkv": {"kernel": kernels}}}
  for theirs, ours in (stacked, unrolled), (unrolled, stacked):
    empty = of(jax.tree.map(jnp.zeros_like, ours))
    started, fresh = adopt(empty, {"transformer": theirs})
    assert fresh == []
    jax.tree.map(
      np.testing.assert_array_equal, started.params, {"transformer": ours}
    )


def _update(config, grads, params, steps=1):
  optimizer = make_optimizer(config)
  opt_state = optimizer.init(params)
  for _ in range(steps):
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  return params


PARAMS = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}


def test_only_kernels_decay(test_config):
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  config = _config(test_config, weight_decay=0.5)
  after = _update(config, zero, PARAMS, steps=3)
  # Learning rates 0, 0.5e-3 and 1e-3 of the warm-up.
  expected = 3 * (1 - 0.5 * 0.5e-3) * (1 - 0.5 * 1e-3)
  np.testing.assert_allclose(after["kernel"], expected, rtol=1e-6)
  np.testing.assert_array_equal(after["bias"], PARAMS["bias"])


@pytest.mark.parametrize("scan", [True, False])
def test_only_kernels_of_the_model_decay(test_config, scan):
  model = dataclasses.replace(test_config.model, scan=scan)
  config = dataclasses.replace(
    _config(test_config, weight_decay=0.5), model=model
  )
  params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
  ones = jax.tree.map(jnp.ones_like, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  after = _update(config, zero, ones, steps=3)
  decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, leaf in jax.tree_util.tree_leaves_with_path(after)
    if bool((leaf != 1).any())
  }
  assert decayed
  assert {name.rpartition("/")[2] for name in decayed} == {"kernel"}


def test_the_schedule_rises_and_falls(test_config):
  config = _config(test_config, weight_decay=0.0)
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  places = [
    float(_update(config, ones, PARAMS, steps)["bias"][0])
    for steps in range(1, 24)
  ]
  rates = -np.diff(places, prepend=3.0)  # Adam's step on a steady gradient
  assert rates[0] == 0
  assert np.argmax(rates) == 2
  assert rates[2] == pytest.approx(1e-3, rel=0.02)
  assert (np.diff(rates[3:20]) < 0).all()
  np.testing.assert_allclose(rates[21:], 1e-5, rtol=0.1)


def test_gradients_are_clipped_as_a_whole(test_config):
  config = _config(test_config, clip_norm=1.0)
  large = {"kernel": jnp.full((2, 2), 300.0), "bias": jnp.full(2, 400.0)}
  small = jax.tree.map(lambda g: g / optax.tree.norm(large), large)
  optimizer = make_optimizer(config)
  state = optimizer.init(PARAMS)
  _, ours = optimizer.update(large, state, PARAMS)
  _, theirs = optimizer.update(small, state, PARAMS)
  moments = [x for x in jax.tree.leaves(ours) if x.dtype == jnp.float32]
  assert max(float(x.max()) for x in moments) < 0.1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs
  )


def test_parts_that_learn_are_named(state):
  found = learned(state.params, ("lesion",))
  assert list(found) == ["lesion"]
  jax.tree.map(
    np.testing.assert_array_equal, found, {"lesion": state.params["lesion"]}
  )
  assert learned(state.params, ()) is state.params
  with pytest.raises(
    ConfigError, match=r"'lesions'.*Fix: use some of .*lesion"
  ):
    learned(state.params, ("lesion", "lesions"))


def test_the_variances_of_tasks_learn_beside_any_part():
  params = {"lesion": 1, "numbering": 2, TASK_LOG_VARIANCE: 3}
  assert learned(params, ("lesion",)) == {"lesion": 1, TASK_LOG_VARIANCE: 3}
