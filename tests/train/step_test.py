# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One training step: what it changes, what it reuses, that it learns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vf_jax.data.augment.augmentation import augment
from vf_jax.data.augment.patches import Patches
from vf_jax.data.pipeline import make_batches
from vf_jax.multispine.store import Store
from vf_jax.train.state import TASK_LOG_VARIANCE, init_state
from vf_jax.train.step import make_loss, make_train_step


@pytest.fixture(scope="module")
def step(test_config):
  return jax.jit(make_train_step(test_config), donate_argnums=0)


@pytest.fixture(scope="module")
def start(test_config):
  """A fresh state at every call; the step consumes it."""
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.jit(lambda: init_state(test_config), out_shardings=sharding)


@pytest.fixture(scope="module")
def batches(test_config):
  stream = make_batches(Store(test_config.data.store), test_config)
  return [
    Patches(**{k: jnp.asarray(v) for k, v in next(stream).items()})
    for _ in range(8)
  ]


def host(tree):
  return jax.tree.map(
    lambda x: np.asarray(
      jax.random.key_data(x)
      if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )


def assert_same(first, second):
  jax.tree.map(np.testing.assert_array_equal, host(first), host(second))


def _at_peak(state):
  """Holds the schedule, made for 20 steps, at its full learning rate."""
  counts = jax.tree.map(
    lambda x: jnp.full_like(x, 2) if x.dtype == jnp.int32 else x,
    state.opt_state,
  )
  return state.replace(opt_state=counts)


def test_loss_of_one_crop_falls(step, start, batches):
  def shows_levels(patches):
    away = patches.centres - (np.array([[patches.image.shape[1:]]]) - 1) / 2
    near = (abs(away) < 12).all(axis=-1) & patches.has_centre
    return bool((near.any(axis=1) & patches.has_levels).all())

  # The seed is part of the batch: it gives the same crop every time.
  batch = next(b for b in batches if shows_levels(b))
  state = start()
  losses = []
  for _ in range(40):
    state, sums = step(_at_peak(state), batch)
    losses.append({k: float(top / max(n, 1)) for k, (top, n) in sums.items()})
  first, last = losses[0], losses[-1]
  assert last["loss"] < 0.65 * first["loss"]
  for name in ("dice", "cross_entropy", "offset", "numbering", "domain"):
    assert last[f"loss_{name}"] < 0.93 * first[f"loss_{name}"], name
  assert last["level_accuracy"] == 1


def test_one_program_serves_every_batch(step, start, batches):
  state = start()
  for batch in batches:
    state, _ = step(state, batch)
  assert step._cache_size() == 1


def test_the_old_state_is_given_away_and_its_memory_used_again(
  step, start, batches
):
  def places(state):
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)}

  old = start()
  params_before = places(old.params) | places(old.ema) | places(old.opt_state)
  new, _ = step(old, batches[0])
  jax.block_until_ready(new)
  params_after = places(new.params) | places(new.ema) | places(new.opt_state)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
  assert len(params_before & params_after) > 0.9 * len(params_before)
  with pytest.raises((RuntimeError, ValueError), match="deleted"):
    step(old, batches[0])


def test_same_state_and_batch_give_the_same_bits(step, start, batches):
  first, second = start(), start()
  assert_same(first, second)
  for batch in batches[:3]:
    first, ours = step(first, batch)
    second, theirs = step(second, batch)
    assert_same(ours, theirs)
  assert_same(first, second)


def test_what_a_step_changes(step, start, batches):
  state = start()
  state, _ = step(state, batches[0])
  before = host(state)
  state, sums = step(state, batches[1])
  after = host(state)
  assert (before.step, after.step) == (1, 2)
  np.testing.assert_array_equal(before.key, after.key)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), before.params, after.params
  )
  assert np.mean(jax.tree.leaves(moved)) > 0.95
  # The average has a short memory at first: (1 + 1) / (10 + 1).
  decay = np.float32(2 / 11)
  jax.tree.map(
    lambda old, new, found: np.testing.assert_allclose(
      found, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7
    ),
    before.ema,
    after.params,
    after.ema,
  )
  assert float(sums["grad_norm"][0]) > 0
  assert float(sums["loss"][1]) == 1


def test_the_first_steps_warm_up(step, start, batches):
  state = start()
  first = host(state.params)
  state, _ = step(state, batches[0])
  assert_same(state.params, first)  # the learning rate starts at 0
  state, _ = step(state, batches[0])
  largest = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), host(state.params), first
  )
  # Half of the peak 1e-3: no entry moves further under Adam, decay apart.
  assert 2e-4 < max(jax.tree.leaves(largest)) < 6e-4


def _changed(config, **groups):
  return dataclasses.replace(
    config,
    **{
      name: dataclasses.replace(getattr(config, name), **changes)
      for name, changes in groups.items()
    },
  )


@pytest.fixture
def quick_programs():
  """Programs that run once or twice need not be fast."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("quick_programs")
def test_micro_batches_average_their_gradients(test_config, batches):
  config = _changed(
    test_config,
    data={"batch": 4},
    train={"micro_batches": 2},
    model={"prototype_dropout": 0.0},
  )
  pair = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *batches[:2])
  parts = [  # sample i belongs to part i % 2
    jax.tree.map(lambda x, first=first: x[first::2], pair) for first in (0, 1)
  ]
  state = jax.jit(lambda: init_state(config))()
  differentiate = jax.jit(jax.value_and_grad(make_loss(config), has_aux=True))
  change = jax.jit(
    lambda part: augment(part, config.model, config.data.augment)
  )
  grads, sums = [], []
  for part in parts:
    (_, found), grad = differentiate(state.params, change(part), state.key)
    grads.append(grad)
    sums.append(found)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
  _, ours = jax.jit(make_train_step(config))(state, pair)
  np.testing.assert_allclose(
    ours["grad_norm"][0], optax.tree.norm(mean), rtol=1e-4
  )
  for name in ("dice", "loss", "level_accuracy", "loss_lesion"):
    for place in (0, 1):
      both = sums[0][name][place] + sums[1][name][place]
      np.testing.assert_allclose(ours[name][place], both, rtol=1e-5)


@pytest.mark.usefixtures("quick_programs")
def test_variances_are_learned_beside_the_network(test_config, batches):
  config = _changed(test_config, loss={"weighting": "uncertainty"})
  state = jax.jit(lambda: init_state(config))()
  step = jax.jit(make_train_step(config))
  for batch in batches[:3]:
    state, _ = step(state, batch)
  learned = state.params[TASK_LOG_VARIANCE]
  assert set(learned) == set(config.loss.weights)
  assert all(float(value) != 0 for value in learned.values())


@pytest.mark.parametrize("parts", [1, 2])
def test_only_the_parts_named_change(test_config, start, batches, parts):
  train = dataclasses.replace(
    test_config.train, only=("lesion",), init="w", micro_batches=parts
  )
  config = dataclasses.replace(test_config, train=train)
  step = jax.jit(make_train_step(config))
  before = start().params
  state = jax.jit(lambda: init_state(config))()
  state = state.replace(params=before, ema=before)
  for batch in batches[:3]:
    state, _ = step(_at_peak(state), batch)
  for found in (host(state.params), host(state.ema)):
    assert_same(found | {"lesion": host(before)["lesion"]}, before)
    moved = jax.tree.map(
      lambda a, b: bool((a != b).any()), found["lesion"], host(before)["lesion"]
    )
    assert all(jax.tree.leaves(moved))
  learn = jax.tree.structure(before["lesion"]).num_leaves
  assert (
    len([m for m in jax.tree.leaves(state.opt_state) if m.ndim]) == 2 * learn
  )
