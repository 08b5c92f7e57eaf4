# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.errors import ConfigError, InputError
from vf_jax.models.baselines.monai_unetr import params_from_monai
from vf_jax.models.baselines.unetr import Unetr
from vf_jax.models.layers import stack_blocks, unroll_blocks

HERE = pathlib.Path(__file__).parent
MODELS = {
  "conv": Unetr(2, feature_size=2, dim=6, heads=2, mlp_dim=10),
  "perceptron": Unetr(
    3,
    feature_size=3,
    dim=4,
    heads=2,
    mlp_dim=10,
    residual=False,
    convolve=False,
    qkv_bias=True,
  ),
}


def _parts(golden, kind):
  start = 0
  for name, shape in json.loads(str(golden[f"{kind}_index"])):
    stop = start + int(np.prod(shape))
    yield name, golden[kind][start:stop].reshape(shape)
    start = stop


def _load(name):
  with np.load(HERE / f"unetr_{name}.npz") as file:
    golden = dict(file)
  state = {name: part / 256.0 for name, part in _parts(golden, "weight")}
  return golden, state, jnp.asarray(golden["image"] / 32.0, jnp.float32)


def _loss(model, image):
  def loss(params):
    logits = model.apply({"params": params}, image)
    weight = np.cos(np.arange(logits.size)).reshape(logits.shape)
    return (logits * jnp.asarray(weight, jnp.float32)).mean(), logits

  return loss


@pytest.mark.parametrize("name", ["conv", "perceptron"])
def test_logits_and_gradients_are_monais(name):
  golden, state, image = _load(name)
  model = MODELS[name]
  params = params_from_monai(state, model, image.shape)
  (_, logits), grads = jax.jit(
    jax.value_and_grad(_loss(model, image), has_aux=True)
  )(params)
  np.testing.assert_allclose(
    logits[:, ::3, ::3, ::3], golden["logits"], atol=1e-4, rtol=0
  )
  top = dict(_parts(golden, "top"))
  theirs = {
    name: part / 32767 * top[name] for name, part in _parts(golden, "grad")
  }
  theirs = params_from_monai(theirs, model, image.shape)
  largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
  paths = jax.tree_util.tree_leaves_with_path(grads)
  for (path, ours), other in zip(paths, jax.tree.leaves(theirs)):
    # The norm after it cancels the scale of a one-channel projection, whose
    # gradient is therefore rounding: hence the part of the largest.
    np.testing.assert_allclose(
      ours,
      other,
      rtol=0,
      atol=1e-3 * float(abs(other).max()) + 1e-5 * largest,
      err_msg=jax.tree_util.keystr(path),
    )


def test_scan_equals_unrolled():
  _, state, image = _load("conv")
  model = MODELS["conv"]
  params = params_from_monai(state, model, image.shape)
  unrolled = model.clone(scan=False)
  flat = unroll_blocks(params)
  assert jax.tree.structure(flat) == jax.tree.structure(
    params_from_monai(state, unrolled, image.shape)
  )
  jax.tree.map(np.testing.assert_array_equal, stack_blocks(flat), params)
  one = jax.jit(model.apply)({"params": params}, image)
  other = jax.jit(unrolled.apply)({"params": flat}, image)
  np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: s | {"vit.extra": np.zeros(1)}, "unknown names: vit.extra"),
    (
      lambda s: {k: v for k, v in s.items() if k != "vit.norm.bias"},
      "missing names: vit.norm.bias",
    ),
    (
      lambda s: s | {"vit.norm.bias": np.zeros(7)},
      r"vit.norm.bias has shape \(7,\) instead of \(6,\)",
    ),
  ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
  _, state, image = _load("conv")
  with pytest.raises(InputError, match=message):
    params_from_monai(change(state), MODELS["conv"], image.shape)


@pytest.mark.parametrize(
  ("model", "shape", "message"),
  [
    (MODELS["conv"], (1, 16, 24, 16, 1), "multiple of the token"),
    (Unetr(2, dim=6, heads=4), (1, 16, 16, 16, 1), "heads=4"),
    (Unetr(2, dim=6, heads=2, depth=8), (1, 16, 16, 16, 1), "depth=8"),
  ],
)
def test_settings_that_cannot_work_are_refused(model, shape, message):
  with pytest.raises(ConfigError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_bf16_keeps_parameters_and_logits_in_fp32(remat):
  model = MODELS["perceptron"].clone(dtype=jnp.bfloat16, remat=remat)
  image = jnp.zeros((1, 32, 48, 16, 1))
  logits, variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), image
  )
  assert logits.shape == (1, 32, 48, 16, 3)
  types = {leaf.dtype for leaf in jax.tree.leaves((logits, variables))}
  assert types == {jnp.dtype("float32")}
