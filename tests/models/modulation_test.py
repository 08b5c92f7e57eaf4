# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The modulation unit: what it reads, what it may not depend on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from vf_jax.hounsfield import AIR_HU
from vf_jax.models.modulation import (
  ModulationUnit,
  describe,
  mixture_entropy,
)
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.multispine.store import Store

_QUICK = {"xla_backend_optimization_level": 1}
_SPACING = jnp.array([[0.7, 0.7, 2.5]])


def _unit(kind="prototype", prototypes=5, dropout=0.0):
  return ModulationUnit(kind, prototypes, 12, dropout)


def _scans(count, noise_hu, seed=0):
  """Noise of some strength around soft tissue."""
  rng = np.random.default_rng(seed)
  shape = (count, 16, 16, 16)
  return jnp.asarray(40 + noise_hu * rng.standard_normal(shape), jnp.float32)


def _inputs(image, seed=0):
  count = image.shape[0]
  pooled = np.random.default_rng(seed).standard_normal((count, 4))
  return image, jnp.tile(_SPACING, (count, 1)), jnp.asarray(pooled, jnp.float32)


@pytest.fixture(scope="module")
def real(test_config) -> np.ndarray:
  """The real chest CT, 2 mm."""
  store = Store(test_config.data.store)
  case = store.case(store.names.index("lidc-idri-0001"))
  image = case.read("image", (0, 0, 0), case.shape, AIR_HU)
  return image.astype(np.float32)


@pytest.fixture(scope="module")
def small(test_config):
  """The smallest network with every part that is modulated."""

  def build(kind):
    model = dataclasses.replace(
      test_config.model, crop=(16, 16, 16), channels=8, dim=16, depth=2,
      heads=2, modulation=kind, prototypes=3, prototype_dropout=0.0,
    )  # fmt: skip
    return VertebraFormer(model)

  return build


def _describe(image):
  return np.asarray(describe(jnp.asarray(image)[None], _SPACING))[0]


def _distance(first, second):
  return float(np.linalg.norm(_describe(first) - _describe(second)))


def _crops(image, shift):
  """Pairs of crops of 48^3 along the spine of the chest CT."""
  middle = np.array(image.shape) // 2
  for depth in (40, 70, 100):
    start = np.array([depth, middle[1] - 34, middle[2] - 24])
    other = start + shift
    yield tuple(
      image[tuple(slice(a, a + 48) for a in place)] for place in (start, other)
    )


_RECONSTRUCTIONS = {
  "smooth kernel": lambda x: ndimage.gaussian_filter(x, (0, 0.8, 0.8)),
  "thick slices": lambda x: ndimage.uniform_filter1d(x, 3, axis=0),
  "noise": lambda x: (
    x + 40 * np.random.default_rng(0).standard_normal(x.shape)
  ).astype(np.float32),
  "contrast": lambda x: np.where(x > -200, 1.15 * x + 30, x),
}


@pytest.mark.parametrize("name", _RECONSTRUCTIONS)
def test_descriptor_tells_scanners_apart_and_not_places(real, name):
  # A shift by a sixth of the crop brings other ribs and vessels into view, so
  # the descriptor cannot stay equal; but it must move less than by the
  # mildest change of the scanner here.
  change = _RECONSTRUCTIONS[name]
  moved = [_distance(a, b) for a, b in _crops(real, (8, 0, 0))]
  rescanned = [_distance(a, change(a)) for a, _ in _crops(real, (8, 0, 0))]
  assert max(moved) < min(rescanned)
  assert np.mean(moved) < 0.5 * np.mean(rescanned)


def test_descriptor_ignores_screws_and_what_lies_outside(real):
  crop = next(_crops(real, (0, 0, 0)))[0]
  screws = crop.copy()
  screws[20:23, 16:19, 10:30] = 3000.0
  padded = np.where(crop < -900, -2000.0, crop)
  assert _distance(crop, screws) < 0.05
  assert _distance(crop, padded) < 0.01


def test_a_window_of_air_has_a_finite_descriptor():
  found = _describe(np.full((16, 16, 16), -1000, np.float32))
  np.testing.assert_array_equal(found[:-3], 0.0)
  assert np.isfinite(found).all()


def test_thick_slices_show_along_their_axis():
  rng = np.random.default_rng(0)
  scan = 40 + 30 * rng.standard_normal((32, 32, 32)).astype(np.float32)
  thick = ndimage.uniform_filter1d(scan, 4, axis=0)
  found = _describe(thick)[25:-3].reshape(3, 11)
  bend = (found**2) @ np.arange(11)
  assert bend[0] < 0.75 * bend[1:].min()


@pytest.mark.parametrize("kind", ["film", "prototype"])
def test_an_untrained_unit_changes_nothing(small, kind):
  image = 300 * jax.random.normal(jax.random.key(0), (2, 16, 16, 16))
  spacing = jnp.tile(_SPACING, (2, 1))
  model, plain = small(kind), small("none")
  params = model.init(jax.random.key(1), image, spacing)["params"]
  bare = plain.init(jax.random.key(2), image, spacing)["params"]
  bare = _shared(bare, params)

  def run(net, values):
    apply = jax.jit(net.apply, compiler_options=_QUICK)
    out = apply({"params": values}, image, spacing)
    return out.logits, out.offsets, out.lesions

  jax.tree.map(
    # 1 + 0 and x + 0 are exact, but fused into other loops.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    run(model, params),
    run(plain, bare),
  )


def _shared(names, values):
  """The part of `values` that `names` has too."""
  return {
    name: _shared(part, values[name])
    if isinstance(part, dict)
    else values[name]
    for name, part in names.items()
  }


def test_order_of_prototypes_does_not_matter():
  order = np.array([3, 1, 4, 0, 2])
  unit = _unit(dropout=1.0)
  image, spacing, pooled = _inputs(_scans(3, 30))
  domain = jnp.array([0, 4, 2])
  params = unit.init(jax.random.key(1), image, spacing, pooled)["params"]
  shuffled = params | {"prototypes": params["prototypes"][order]}

  def run(values, own):
    return unit.apply(
      {"params": values}, image, spacing, pooled, own, True,
      rngs={"prototype": jax.random.key(0)},
    )  # fmt: skip

  first = run(params, domain)
  second = run(shuffled, jnp.asarray(np.argsort(order))[domain])
  # Sums over prototypes are taken in another order.
  np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-5)
  np.testing.assert_allclose(
    first.log_mixture[:, order], second.log_mixture, atol=1e-5
  )


def test_dropout_masks_the_own_prototype_only_in_training():
  image, spacing, pooled = _inputs(_scans(2, 30))
  domain = jnp.array([1, 3])
  unit = _unit(dropout=1.0)
  variables = unit.init(jax.random.key(1), image, spacing, pooled)
  table = variables["params"]["prototypes"]

  def run(train):
    return unit.apply(
      variables, image, spacing, pooled, domain, train,
      rngs={"prototype": jax.random.key(0)},
    )  # fmt: skip

  share = np.exp(np.asarray(run(True).log_mixture))
  np.testing.assert_allclose(run(False).embedding, share @ table, atol=1e-5)
  share[np.arange(2), np.asarray(domain)] = 0.0
  share /= share.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(run(True).embedding, share @ table, atol=1e-5)


def test_entropy_of_mixtures():
  shares = jnp.array([[1.0, 1e-30, 1e-30], [1 / 3, 1 / 3, 1 / 3]])
  np.testing.assert_allclose(
    mixture_entropy(jnp.log(shares)), [0.0, np.log(3)], atol=1e-6
  )


def test_a_new_unit_is_undecided_and_no_scan_makes_it_certain():
  unit = _unit()
  image, spacing, pooled = _inputs(_scans(4, 30))
  entropies = []
  for seed in range(8):
    variables = unit.init(jax.random.key(seed), image, spacing, pooled)
    state = unit.apply(variables, image, spacing, pooled)
    entropies.append(float(mixture_entropy(state.log_mixture).mean()))
  assert np.mean(entropies) > 0.6 * np.log(5)
  # A scan like none before: bounded logits leave the others their share.
  wild = unit.apply(variables, 100 * image, 1e3 * spacing, 1e3 * pooled)
  assert float(wild.log_mixture.min()) > -(8.0 + np.log(5))


def test_an_unseen_scanner_is_a_mixture_of_known_ones():
  unit = _unit(prototypes=2)
  known = jnp.concatenate([_scans(8, 4, 1), _scans(8, 90, 2)])
  domain = jnp.repeat(jnp.arange(2), 8)
  image, spacing, pooled = _inputs(known)
  params = unit.init(jax.random.key(0), image, spacing, pooled)["params"]
  tx = optax.adam(3e-3)

  @jax.jit
  def train(params):
    def loss(values):
      found = unit.apply({"params": values}, image, spacing, pooled)
      return -jnp.take_along_axis(
        found.log_mixture, domain[:, None], axis=1
      ).mean()

    def step(carry, _):
      values, state = carry
      updates, state = tx.update(jax.grad(loss)(values), state)
      return (optax.apply_updates(values, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=150)[0][0]

  params = train(params)

  def look(noise_hu):
    inputs = _inputs(_scans(8, noise_hu, 3), seed=3)
    return unit.apply({"params": params}, *inputs).log_mixture

  seen, between = look(4), look(19)
  assert (np.asarray(seen).argmax(axis=1) == 0).all()
  assert (np.asarray(look(90)).argmax(axis=1) == 1).all()
  more = mixture_entropy(between).mean() / mixture_entropy(seen).mean()
  assert more > 2.0


@pytest.mark.parametrize("kind", ["film", "prototype"])
def test_gradients_reach_every_part_after_the_first_step(small, kind):
  model = small(kind)
  image = 300 * jax.random.normal(jax.random.key(0), (2, 16, 16, 16))
  spacing = jnp.tile(_SPACING, (2, 1))
  params = model.init(jax.random.key(1), image, spacing)["params"]

  def loss(values):
    out = model.apply({"params": values}, image, spacing)
    parts = (out.logits, out.offsets, *jax.tree.leaves(out.lesions))
    return sum(jnp.square(part - 1.0).mean() for part in parts)

  grad = jax.jit(jax.grad(loss), compiler_options=_QUICK)

  def dead(tree):
    return [
      jax.tree_util.keystr(path)
      for path, g in jax.tree_util.tree_leaves_with_path(tree)
      if not float(jnp.abs(g).max()) > 0
    ]

  first = grad(params)
  # Layers that are zero pass nothing on; only the domain loss, which is not
  # in this loss, could move the unit itself in the first step.
  assert all(name.startswith("['modulation']") for name in dead(first))
  assert len(dead(first)) == len(jax.tree.leaves(params["modulation"]))
  moved = jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), params, first)
  assert dead(grad(moved)) == []
