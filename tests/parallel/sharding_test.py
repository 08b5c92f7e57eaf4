# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A mesh changes where numbers lie, not what they are."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from make_specs import CONFIGS, HERE, load, specs

from vf_jax.config import MeshConfig
from vf_jax.errors import ConfigError
from vf_jax.labels import CODES, VERTEBRAE
from vf_jax.losses import Batch
from vf_jax.models.decoders import unetr
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.sharding import (
  batch_sharding,
  constrain,
  param_spec,
  state_shardings,
)
from vf_jax.train.state import init_params, init_state
from vf_jax.train.step import make_loss

BATCH = 8
MESHES = [
  (2, 4, 1, 1),
  (1, 2, 2, 2),
  *(
    pytest.param(shape, marks=pytest.mark.slow)
    for shape in ((8, 1, 1, 1), (2, 2, 2, 1), (2, 1, 1, 4), (1, 1, 2, 4))
  ),
]
LEAKY_RELU = unetr._leaky_relu
CONVOLUTIONAL = {
  "crop": (64, 32, 16),
  "decoder": "unetr",
  "token": 16,
  "stem_blocks": 0,
  "decoder_blocks": 0,
  "edge_gains": False,
  "feature_size": 4,
  "depth": 5,
  "positions": "learned",
  "deep_supervision": True,
  "lesion_channels": 8,
}


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
  """Programs run once; most of the time is spent on making them."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def _batch(crop) -> Batch:
  """Noise with two vertebrae and a lesion in every crop.

  Noise, because in a constant background thousands of equal values lie at the
  kink of a ReLU together, and rounding decides on which side.
  """
  rng = np.random.default_rng(0)
  image = rng.normal(100, 300, (BATCH, *crop)).astype(np.float32)
  labels = np.zeros((BATCH, *crop), np.uint8)
  labels[:, 4:12, 8:20, 4:14] = 20
  labels[:, 16:24, 8:20, 4:14] = 21
  has_centre = np.zeros((BATCH, CODES), bool)
  has_centre[:, 20:22] = True
  centres = np.zeros((*has_centre.shape, 3), np.float32)
  centres[:, 20], centres[:, 21] = (8, 14, 9), (20, 14, 9)
  order = [level.code for level in VERTEBRAE]
  levels = np.full((BATCH, 4), -1, np.int32)
  levels[:, :2] = order.index(20), order.index(21)
  points = np.zeros((BATCH, 4, 3), np.float32)
  points[:, :2] = centres[:, 20:22]
  yes = jnp.ones(BATCH, bool)
  return Batch(
    image=jnp.asarray(image),
    labels=jnp.asarray(labels),
    spacing_mm=jnp.ones((BATCH, 3)),
    centres=jnp.asarray(centres),
    has_centre=jnp.asarray(has_centre),
    points=jnp.asarray(points),
    point_levels=jnp.asarray(levels),
    point_mask=jnp.asarray(np.arange(4) < 2)[None].repeat(BATCH, 0),
    chain_fits=yes,
    boxes=jnp.full((BATCH, 1, 6), 12.0),
    box_mask=jnp.ones((BATCH, 1), bool),
    domain=jnp.arange(BATCH) % 3,
    has_masks=yes,
    has_levels=yes,
    has_lesions=yes,
    case=jnp.zeros(BATCH, jnp.int32),
  )


class _Reference:
  """Loss and gradients of one device, and those of a mesh against them."""

  def __init__(self, config):
    self.config = config
    loss = make_loss(config)
    self._batch = _batch(config.model.crop)
    params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
    self._params = jax.tree.map(  # nothing is zero, modulation acts
      lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape),
      params,
    )
    self._run = lambda params, batch: jax.value_and_grad(
      lambda p: loss(p, batch, jax.random.key(3))[0]
    )(params)
    self.value, self.grads = jax.device_get(
      jax.jit(self._run)(self._params, self._batch)
    )

  def on(self, shape):
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):
      places = state_shardings(mesh, self._params)
      run = jax.jit(self._run, out_shardings=(None, places))
      value, grads = run(
        jax.device_put(self._params, places),
        jax.device_put(self._batch, batch_sharding(mesh)),
      )
      return jax.device_get((value, grads))

  def differs(self, shape) -> tuple[float, float, dict[str, float]]:
    """Relative difference of the loss, of the gradient as one, and by part."""
    value, grads = self.on(shape)
    theirs = jax.tree_util.tree_leaves_with_path(self.grads)
    whole = _norm(self.grads)
    apart = {
      jax.tree_util.keystr(path, simple=True, separator="/"): (
        _norm(a - b) / max(_norm(b), 1e-4 * whole)
      )
      for a, (path, b) in zip(jax.tree.leaves(grads), theirs)
    }
    return (
      abs(value - self.value) / abs(self.value),
      _apart(grads, self.grads),
      apart,
    )


def _norm(tree) -> float:
  leaves = jax.tree.leaves(tree)
  return np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in leaves))


def _apart(found, expected) -> float:
  difference = jax.tree.map(lambda a, b: a - b, found, expected)
  return _norm(difference) / _norm(expected)


def _reference(test_config, **changes):
  model = dataclasses.replace(test_config.model, **changes)
  return _Reference(dataclasses.replace(test_config, model=model))


@pytest.fixture(scope="module")
def subvoxel(test_config):
  return _reference(test_config, lesion_channels=8)


@pytest.fixture(scope="module")
def convolutional(test_config):
  # A value within rounding of a leaky ReLU's kink may fall on its other side,
  # which moves the gradient by one voxel's share. A smooth function has none.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(unetr, "_leaky_relu", jax.nn.silu)
    yield _reference(test_config, **CONVOLUTIONAL)


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_meshes_agree_with_one_device(subvoxel, shape):
  loss, _, gradients = subvoxel.differs(shape)
  assert loss < 1e-5
  assert max(gradients.values()) < 1e-5


@pytest.mark.parametrize(
  "shape",
  [
    (2, 1, 1, 4),
    pytest.param((1, 2, 2, 2), marks=pytest.mark.slow),
    pytest.param((1, 4, 1, 2), marks=pytest.mark.slow),
    pytest.param((2, 2, 2, 1), marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_depth_is_divided_through_convolutions(convolutional, shape):
  loss, _, gradients = convolutional.differs(shape)
  assert loss < 1e-5
  # The norm after the image's projection lets almost nothing of its gradient
  # through: what is left of large terms is 4e-4 of the whole, and rounded.
  assert gradients.pop("decoder/encoder1/project/kernel") < 1e-3
  assert max(gradients.values()) < 1e-5


@pytest.mark.slow
def test_the_leaky_relu_itself_agrees_as_a_whole(test_config, monkeypatch):
  monkeypatch.setattr(unetr, "_leaky_relu", LEAKY_RELU)
  reference = _reference(test_config, **CONVOLUTIONAL)
  loss, whole, _ = reference.differs((2, 1, 1, 4))
  assert loss < 1e-5
  assert whole < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["subvoxel", "convolutional"])
def test_half_precision_agrees_too(test_config, request, kind):
  single = request.getfixturevalue(kind)
  model = dataclasses.replace(single.config.model, dtype="bfloat16")
  half = _Reference(dataclasses.replace(test_config, model=model))
  rounding = _apart(half.grads, single.grads)
  assert rounding < 5e-2
  for shape in ((1, 2, 2, 2), (2, 1, 1, 4), (1, 4, 1, 2)):
    loss, whole, gradients = half.differs(shape)
    assert loss < 3e-2
    assert np.median(list(gradients.values())) < 3e-2
    # Through the convolutional decoder half precision itself is 0.045 off.
    assert whole < max(3e-2, 1.5 * rounding)


@pytest.mark.parametrize("name", CONFIGS)
def test_specs_are_the_committed_ones(name):
  committed = json.loads((HERE / "specs" / f"{name}.json").read_text())
  assert specs(load(name)) == committed


def test_moments_and_average_lie_with_their_parameters(test_config):
  mesh = make_mesh(MeshConfig(1, 2, 2, 2))
  state = state_shardings(mesh, jax.eval_shape(lambda: init_state(test_config)))
  qkv = state.params["transformer"]["blocks"]["qkv"]["kernel"].spec
  assert qkv == P(None, "fsdp", "tensor")
  moments = jax.tree.leaves(
    state.opt_state, is_leaf=lambda x: isinstance(x, dict)
  )
  trees = [m for m in moments if isinstance(m, dict)] + [state.ema]
  assert len(trees) == 3
  for tree in trees:
    assert tree["transformer"]["blocks"]["qkv"]["kernel"].spec == qkv
  assert state.step.spec == state.key.spec == P()


def test_a_parameter_without_a_rule_is_refused():
  mesh = make_mesh(MeshConfig(1, 2, 2, 2))
  with pytest.raises(ConfigError, match=r"0 sharding rules match.*new/kernel"):
    param_spec("params/new/kernel", (4, 4), mesh)


def test_what_does_not_divide_is_not_divided():
  mesh = make_mesh(MeshConfig(1, 2, 2, 2))
  path = "params/transformer/blocks/qkv/kernel"
  assert param_spec(path, (3, 8, 12), mesh) == P(None, "fsdp", "tensor")
  assert param_spec(path, (3, 7, 12), mesh) == P(None, None, "tensor")
  with jax.set_mesh(mesh):
    place = jax.jit(lambda x: constrain(x, "batch", "depth"))
    assert place(jnp.zeros((3, 4))).sharding.spec == P(None, "context")


def test_without_a_mesh_nothing_is_said():
  x = jnp.zeros((2, 2))
  assert constrain(x, "batch", "depth") is x
