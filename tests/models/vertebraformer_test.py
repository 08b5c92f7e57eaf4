# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vf_jax.models.layers import unroll_blocks
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
  return model, jax.jit(model.init)(jax.random.key(1), *inputs), inputs


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


@pytest.mark.parametrize("remat", ["full", "dots", "names", "offload"])
def test_remat_changes_nothing(built, test_config, remat):
  model, variables, inputs = built
  other = VertebraFormer(_model(test_config, remat=remat).model)

  def loss(m):
    return lambda v: (m.apply(v, *inputs).logits ** 2).mean()

  ours = jax.jit(jax.grad(loss(model)))(variables)
  theirs = jax.jit(jax.grad(loss(other)))(variables)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    ours,
    theirs,
  )


def test_remat_keeps_less(test_config):
  config = _model(test_config, depth=8, dim=64)
  inputs = _inputs(config)
  abstract = jax.eval_shape(
    VertebraFormer(config.model).init, jax.random.key(0), *inputs
  )

  def kept(remat):
    model = VertebraFormer(_model(config, remat=remat).model)

    def loss(variables):
      return (model.apply(variables, *inputs).logits ** 2).mean()

    compiled = jax.jit(jax.grad(loss)).lower(abstract).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert kept("full") < kept("dots") < kept("none")


def test_unrolled_blocks_are_the_scanned_ones(built, test_config):
  model, variables, inputs = built
  other = VertebraFormer(_model(test_config, scan=False).model)

  def unrolled(params):
    return params | {"transformer": unroll_blocks(params["transformer"])}

  def loss(model):
    def run(params):
      out = model.apply({"params": params}, *inputs)
      return (out.logits**2).mean() + (out.offsets**2).mean()

    return jax.jit(jax.value_and_grad(run))

  value, grads = loss(model)(variables["params"])
  found, theirs = loss(other)(unrolled(variables["params"]))
  np.testing.assert_allclose(found, value, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    theirs,
    unrolled(grads),
  )


SMALL_BASE = {
  "crop": (32, 48, 32),
  "decoder": "unetr",
  "token": 16,
  "stem_blocks": 0,
  "decoder_blocks": 0,
  "edge_gains": False,
  "feature_size": 4,
  "depth": 5,
  "positions": "learned",
}


@pytest.mark.parametrize("identification", [True, False])
@pytest.mark.parametrize("decoder", ["unetr", "subvoxel"])
def test_every_component_can_be_left_out(test_config, decoder, identification):
  changes = SMALL_BASE if decoder == "unetr" else {}
  config = _model(
    test_config, **changes, identification=identification, lesion=False
  )
  model = VertebraFormer(config.model)
  inputs = _inputs(config, batch=1)
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

  def run(variables):
    out = model.apply(variables, *inputs)
    emissions = None if out.chain is None else out.chain.emissions
    assert out.lesions is None
    return out.logits, out.offsets, out.levels, emissions

  logits, offsets, levels, emissions = jax.eval_shape(run, variables)
  crop = (1, *config.model.crop)
  assert logits.shape == crop
  assert "lesion" not in variables["params"]
  assert ("numbering" in variables["params"]) == identification
  if identification:
    assert offsets.shape == (*crop, 3)
    assert levels is None
    assert emissions.shape[:2] == (1, 4)
  else:
    assert levels.shape == (*crop, 27)  # background, C1-C7, T1-T13, L1-L6
    assert offsets is emissions is None


def test_a_voxel_is_vertebra_where_some_level_outweighs_the_background(
  test_config,
):
  config = _model(test_config, identification=False)
  model = VertebraFormer(config.model)
  inputs = _inputs(config, batch=1)
  out = model.apply(model.init(jax.random.key(0), *inputs), *inputs)
  share = jax.nn.softmax(out.levels)
  np.testing.assert_allclose(
    jax.nn.sigmoid(out.logits), 1 - share[..., 0], atol=1e-5
  )


@pytest.mark.parametrize("modulate", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("decoder", ["unetr", "subvoxel"])
def test_modulation_acts_where_it_is_told(test_config, decoder, modulate):
  changes = SMALL_BASE if decoder == "unetr" else {}
  config = _model(test_config, **changes, modulate=modulate)
  inputs = _inputs(config, batch=1)
  variables = jax.eval_shape(
    VertebraFormer(config.model).init, jax.random.key(0), *inputs
  )
  films = {
    jax.tree_util.keystr(path, simple=True, separator="/").split("/")[1]
    for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    if "film" in jax.tree_util.keystr(path)
  }
  encoder = {"transformer"} | (
    set() if decoder == "unetr" else {"stem_blocks_0"}
  )
  ends = {"decoder"} if decoder == "unetr" else {"decoder_blocks_0"}
  expected = {"encoder": encoder, "decoder": ends, "both": encoder | ends}
  assert films == expected[modulate]


def test_deep_supervision_halves_the_resolution_twice(test_config):
  config = _model(test_config, **SMALL_BASE, deep_supervision=True)
  model = VertebraFormer(config.model)
  inputs = _inputs(config, batch=1)
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

  def run(variables):
    return [m.logits for m in model.apply(variables, *inputs).coarse]

  assert [logits.shape for logits in jax.eval_shape(run, variables)] == [
    (1, 16, 24, 16),
    (1, 8, 12, 8),
  ]


def test_gradients_reach_every_part(test_config):
  config = _model(test_config, prototype_dropout=0.5)
  model = VertebraFormer(config.model)
  inputs = _inputs(config)
  domain = jnp.array([0, 1])
  variables = jax.jit(model.init)(jax.random.key(1), *inputs, domain)
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


@pytest.mark.parametrize("decoder", ["unetr", "subvoxel"])
def test_the_block_of_the_lesion_decoder_sees_contrast_and_bends_no_masks(
  test_config, decoder
):
  changes = SMALL_BASE if decoder == "unetr" else {}
  config = _model(test_config, **changes, lesion_channels=8)
  inputs = _inputs(config, batch=1)
  model = VertebraFormer(config.model)
  params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
  run = jax.jit(lambda p: model.apply({"params": p}, *inputs))
  found = run(params)

  lesion = params["lesion"]
  blind = lesion | {
    "contrast": jax.tree.map(jnp.zeros_like, lesion["contrast"])
  }
  unseen = run(params | {"lesion": blind})
  assert not np.allclose(unseen.lesions.heat, found.lesions.heat, atol=1e-3)

  every = flatten_dict(params, sep="/")
  masks = "segmentation/" if decoder == "subvoxel" else "decoder/out/"
  looked_at = {
    name: leaf
    for name, leaf in every.items()
    if name.startswith(("lesion/block/conv1/", masks))
  }

  def heat(part):
    whole = unflatten_dict(every | part, sep="/")
    return model.apply({"params": whole}, *inputs).lesions.heat.sum()

  grads = jax.jit(jax.grad(heat))(looked_at)
  bent = {name for name, gradient in grads.items() if jnp.any(gradient != 0)}
  assert len(grads) > len(bent) > 0
  assert bent == {name for name in grads if name.startswith("lesion/")}
