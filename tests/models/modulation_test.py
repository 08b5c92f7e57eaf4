# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The modulation unit: what it reads, what it may not depend on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from vf_jax.demo import DEMO_CT
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.predictor import default_checkpoint
from vf_jax.io.ct import read_ct
from vf_jax.models.modulation import ModulationUnit, mixture_entropy
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.multispine.store import Store
from vf_jax.train.checkpoint import load
from vf_jax.volume import to_canonical, to_network

_QUICK = {"xla_backend_optimization_level": 1}
_CONVOLUTIONAL = {
  "decoder": "unetr", "token": 16, "stem_blocks": 0, "decoder_blocks": 0,
  "edge_gains": False, "feature_size": 4, "depth": 5,
}  # fmt: skip
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


def _draw(unit, *inputs):
  """Parameters of a unit."""
  return jax.jit(unit.init)(jax.random.key(1), *inputs)["params"]


_NOISE = np.random.default_rng(0).standard_normal((2, 16, 16, 16))
_IMAGE = jnp.asarray(300 * _NOISE, jnp.float32)


@pytest.fixture(scope="module")
def small(test_config):
  """The smallest network with every part that is modulated."""

  def build(kind, **changes):
    model = dataclasses.replace(
      test_config.model, crop=(16, 16, 16), channels=8, dim=16, depth=2,
      heads=2, modulation=kind, prototypes=3, prototype_dropout=0.0,
    )  # fmt: skip
    return VertebraFormer(dataclasses.replace(model, **changes))

  return build


def _start(model):
  init = jax.jit(model.init, compiler_options=_QUICK)
  return init(jax.random.key(1), _IMAGE, jnp.tile(_SPACING, (2, 1)))["params"]


def _outputs(model, params):
  out = model.apply({"params": params}, _IMAGE, jnp.tile(_SPACING, (2, 1)))
  return (out.logits, out.offsets, *jax.tree.leaves(out.lesions))


def _shared(names, values):
  """The part of `values` that `names` has too."""
  if not isinstance(names, dict):
    return values
  return {name: _shared(part, values[name]) for name, part in names.items()}


@pytest.mark.parametrize(
  ("changes", "apart"),
  [({}, 1e-6), (_CONVOLUTIONAL, 1e-4)],  # whose norms divide by small numbers
  ids=["cells", "unetr"],
)
def test_an_untrained_unit_changes_nothing(small, changes, apart):
  plain = small("none", **changes)
  names = jax.eval_shape(
    plain.init, jax.random.key(1), _IMAGE, jnp.tile(_SPACING, (2, 1))
  )["params"]
  run = jax.jit(_outputs, static_argnums=0, compiler_options=_QUICK)
  for kind in ("film", "prototype"):
    model = small(kind, **changes)
    params = _start(model)
    found = run(model, params)
    expected = run(plain, _shared(names, params))
    for ours, theirs in zip(found, expected, strict=True):
      # 1 + 0 and x + 0 are exact, but may be fused into other loops.
      np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=apart)


@pytest.fixture(scope="module")
def shares():
  """Mixtures of the shipped network: crops -> share of each prototype."""
  config, params, _ = load(default_checkpoint())
  model = VertebraFormer(config.model)

  def read(crops):
    spacing = jnp.tile(_SPACING, (len(crops), 1))
    out = model.apply({"params": params}, crops, spacing)
    return jnp.exp(out.domain.log_mixture)

  run = jax.jit(read, compiler_options=_QUICK)
  return lambda crops: np.asarray(run(jnp.asarray(crops, jnp.float32)))


def _crops(image, starts):
  """Crops of the size that the shipped network sees."""
  return [
    image[tuple(slice(a, a + n) for a, n in zip(start, (96, 64, 64)))]
    for start in starts
  ]


def _moved(first, second):
  """Share that lies with other prototypes, 0 to 1."""
  return 0.5 * np.abs(first - second).sum(axis=-1)


def test_the_shipped_mixture_follows_the_scanner_and_not_the_crop(
  shares, test_config
):
  store = Store(test_config.data.store)
  case = store.case(store.names.index("lidc-idri-0001"))
  chest = case.read("image", (0, 0, 0), case.shape, AIR_HU)
  # Another scanner's abdomen, with the same spacing told.
  demo = to_canonical(read_ct(DEMO_CT))
  abdomen = ndimage.zoom(to_network(demo.voxels), 3 / 2, order=1)
  steps = range(0, 72, 8)
  crops = [
    *_crops(chest, [(depth, 25, 29) for depth in steps]),
    *_crops(chest, [(depth, 33, 29) for depth in steps]),
    *_crops(abdomen, [(depth, 48, 60) for depth in (0, 24, 48, 72)]),
  ]
  along, ahead, other = np.split(shares(np.stack(crops)), (9, 18))
  # Steps of 16 mm along the spine.
  assert _moved(along[1:], along[:-1]).max() < 0.05
  # The whole chest, and a step to the front, which shows more of the lungs.
  assert _moved(along[:, None], along[None]).max() < 0.2
  assert _moved(along, ahead).max() < 0.2
  assert _moved(along[:, None], other[None]).min() > 0.3


def test_order_of_prototypes_does_not_matter():
  order = np.array([3, 1, 4, 0, 2])
  unit = _unit(dropout=1.0)
  image, spacing, pooled = _inputs(_scans(3, 30))
  domain = jnp.array([0, 4, 2])
  params = _draw(unit, image, spacing, pooled)
  shuffled = params | {"prototypes": params["prototypes"][order]}

  @jax.jit
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
  params = _draw(unit, image, spacing, pooled)
  table = params["prototypes"]

  @functools.partial(jax.jit, static_argnums=0)
  def run(train):
    return unit.apply(
      {"params": params}, image, spacing, pooled, domain, train,
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
  init, apply = jax.jit(unit.init), jax.jit(unit.apply)
  entropies = []
  for seed in range(8):
    variables = init(jax.random.key(seed), image, spacing, pooled)
    state = apply(variables, image, spacing, pooled)
    entropies.append(float(mixture_entropy(state.log_mixture).mean()))
  assert np.mean(entropies) > 0.6 * np.log(5)
  # A scan like none before: bounded logits leave the others their share.
  wild = apply(variables, 100 * image, 1e3 * spacing, 1e3 * pooled)
  assert float(wild.log_mixture.min()) > -(8.0 + np.log(5))


def test_an_unseen_scanner_is_a_mixture_of_known_ones():
  unit = _unit(prototypes=2)
  known = jnp.concatenate([_scans(8, 4, 1), _scans(8, 90, 2)])
  domain = jnp.repeat(jnp.arange(2), 8)
  image, spacing, pooled = _inputs(known)
  params = _draw(unit, image, spacing, pooled)
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

  apply = jax.jit(unit.apply)

  def look(noise_hu):
    inputs = _inputs(_scans(8, noise_hu, 3), seed=3)
    return apply({"params": params}, *inputs).log_mixture

  seen, between = look(4), look(19)
  assert (np.asarray(seen).argmax(axis=1) == 0).all()
  assert (np.asarray(look(90)).argmax(axis=1) == 1).all()
  more = mixture_entropy(between).mean() / mixture_entropy(seen).mean()
  assert more > 2.0


def test_gradients_reach_every_part_after_the_first_step(small):
  model = small("prototype")
  params = _start(model)

  def loss(values):
    return sum(jnp.square(x - 1.0).mean() for x in _outputs(model, values))

  grad = jax.jit(jax.grad(loss), compiler_options=_QUICK)

  def dead(tree):
    return {
      jax.tree_util.keystr(path)
      for path, g in jax.tree_util.tree_leaves_with_path(tree)
      if not float(jnp.abs(g).max()) > 0
    }

  # Numbering has no points here.
  rest = {name: part for name, part in params.items() if name != "numbering"}
  first = grad(rest)
  # Layers that are zero pass nothing on: in the first step only the domain
  # loss, which is not part of this one, would move the unit itself.
  own = jax.tree_util.tree_leaves_with_path({"modulation": rest["modulation"]})
  assert dead(first) == {jax.tree_util.keystr(path) for path, _ in own}
  moved = jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), rest, first)
  assert dead(grad(moved)) == set()
