# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.models.modulation import ModulationUnit, describe
from vf_jax.models.vertebraformer import VertebraFormer


def _inputs(config, batch=2):
  key = jax.random.key(0)
  image = 300 * jax.random.normal(key, (batch, *config.model.crop))
  spacing = jnp.broadcast_to(jnp.array([0.8, 0.8, 2.0]), (batch, 3))
  points = jnp.broadcast_to(
    jnp.linspace(28, 2, 4)[None, :, None], (batch, 4, 3)
  )
  return image, spacing, points, jnp.ones((batch, 4), bool)


def _model(test_config, **changes):
  model = dataclasses.replace(test_config.model, **changes)
  return dataclasses.replace(test_config, model=model)


@pytest.fixture(scope="module")
def built(test_config):
  inputs = _inputs(test_config)
  model = VertebraFormer(test_config.model)
  return model, model.init(jax.random.key(1), *inputs), inputs


def test_one_forward_pass_gives_every_task(built, test_config):
  model, variables, inputs = built
  out = jax.jit(model.apply)(variables, *inputs)
  crop = test_config.model.crop
  cells = tuple(n // 4 for n in crop)
  assert out.logits.shape == (2, *crop)
  assert out.offsets.shape == (2, *crop, 3)
  assert out.lesions.heat.shape == (2, *cells)
  assert out.lesions.log_size.shape == (2, *cells, 3)
  assert out.chain.emissions.shape[:2] == (2, 4)
  for leaf in jax.tree.leaves(out):
    assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize("crop", [(32, 32, 32), (16, 40, 24)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_types(test_config, crop, dtype):
  config = _model(test_config, crop=crop, dtype=dtype)
  model = VertebraFormer(config.model)
  inputs = _inputs(config, batch=1)
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

  def run(v, *inputs):
    out = model.apply(v, *inputs)
    return out.logits, out.offsets, out.chain.emissions

  logits, offsets, emissions = jax.eval_shape(run, variables, *inputs)
  assert logits.shape == (1, *crop)
  assert logits.dtype == offsets.dtype == emissions.dtype == jnp.float32
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


def test_remat_changes_nothing(built, test_config):
  model, variables, inputs = built
  other = VertebraFormer(_model(test_config, remat="full").model)

  def loss(m):
    return lambda v: (m.apply(v, *inputs).logits ** 2).mean()

  ours = jax.jit(jax.grad(loss(model)))(variables)
  theirs = jax.jit(jax.grad(loss(other)))(variables)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    ours,
    theirs,
  )


def test_modulation_starts_as_identity(built, test_config):
  model, variables, inputs = built
  plain = VertebraFormer(_model(test_config, modulation="none").model)
  params = jax.tree.map(lambda x: x, variables["params"])

  def prune(tree):
    return {
      name: prune(value) if isinstance(value, dict) else value
      for name, value in tree.items()
      if name != "modulation" and "modulate" not in name
    }

  expected = plain.apply({"params": prune(params)}, *inputs)
  found = model.apply(variables, *inputs)
  np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_gradients_reach_every_part(test_config):
  config = _model(test_config, prototype_dropout=0.5)
  model = VertebraFormer(config.model)
  inputs = _inputs(config)
  domain = jnp.array([0, 1])
  variables = model.init(jax.random.key(1), *inputs, domain)
  # Zero-initialised layers pass no gradient on the first step.
  nudged = jax.tree.map(
    lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape),
    variables,
  )

  def loss(v):
    out = model.apply(
      v, *inputs, domain, True, rngs={"prototype": jax.random.key(0)}
    )
    total = (out.logits**2).mean() + (out.offsets**2).mean()
    total += sum((x**2).mean() for x in jax.tree.leaves(out.lesions))
    total += out.chain.negative_log_likelihood(
      jnp.array([[-1, 18, 19, 20], [7, 8, 17, 25]])
    ).mean()
    return total - out.domain.log_mixture[:, 0].mean()

  grads = jax.jit(jax.grad(loss))(nudged)
  dead = [
    jax.tree_util.keystr(path)
    for path, g in jax.tree_util.tree_leaves_with_path(grads)
    if not float(jnp.abs(g).max()) > 0
  ]
  assert dead == []


def test_descriptor_sees_the_scanner_not_the_place():
  rng = np.random.default_rng(0)
  scan = rng.normal(40, 20, (1, 64, 48, 48)).astype(np.float32)
  spacing = jnp.ones((1, 3))
  here = describe(jnp.asarray(scan[:, :32]), spacing)
  there = describe(jnp.asarray(scan[:, 32:]), spacing)
  noisy = describe(jnp.asarray(3 * scan[:, :32]), spacing)
  assert jnp.abs(here - there).max() < 0.02
  assert jnp.abs(here - noisy).max() > 0.2


def test_order_of_prototypes_does_not_matter():
  unit = ModulationUnit("prototype", 5, 8, 0.0)
  image = 100 * jax.random.normal(jax.random.key(0), (2, 8, 8, 8))
  spacing, pooled = jnp.ones((2, 3)), jnp.ones((2, 4))
  variables = unit.init(jax.random.key(1), image, spacing, pooled)
  first = unit.apply(variables, image, spacing, pooled)
  table = variables["params"]["prototypes"]
  order = jnp.array([3, 1, 4, 0, 2])
  shuffled = {"params": variables["params"] | {"prototypes": table[order]}}
  second = unit.apply(shuffled, image, spacing, pooled)
  np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-5)
  np.testing.assert_allclose(
    first.log_mixture[:, order], second.log_mixture, atol=1e-5
  )
