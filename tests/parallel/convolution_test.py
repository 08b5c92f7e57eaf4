# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Convolutions and projections that eight simulated devices share."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vf_jax.config import MeshConfig
from vf_jax.models.encoder import Block
from vf_jax.ops import conv3d as ops
from vf_jax.parallel.convolution import convolve
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.sharding import constrain, state_shardings

# data, fsdp, tensor, context
MESHES = [(2, 1, 1, 4), (1, 2, 2, 2), (8, 1, 1, 1), (1, 1, 1, 8)]


def _arrays(batch=4, depth=16, taps=3, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (batch, depth, 6, 8, 5)).astype(dtype)
  kernel = jax.random.normal(keys[1], (taps, 3, 3, 5, 3))
  grad = jax.random.normal(keys[2], (batch, depth, 6, 8, 3)).astype(dtype)
  return x, kernel, grad


def _with_gradients(function):
  def run(x, kernel, grad):
    found, pull = jax.vjp(function, x, kernel)
    return found, *pull(grad)

  return run


def _divided(shape, arrays):
  """The program of a mesh before and after compiling, and what it gives."""
  mesh = make_mesh(MeshConfig(*shape))
  with jax.set_mesh(mesh):
    spread = NamedSharding(mesh, P(("data", "fsdp"), "context"))
    if len(arrays[0]) % (shape[0] * shape[1]):
      spread = NamedSharding(mesh, P(None, "context"))
    if arrays[0].shape[1] % shape[3]:
      spread = NamedSharding(mesh, P(("data", "fsdp")))
    places = (spread, NamedSharding(mesh, P()), spread)
    run = jax.jit(
      _with_gradients(convolve),
      in_shardings=places,
      out_shardings=places[:1] + places[:2],
    )
    lowered = run.lower(*arrays)
    compiled = lowered.compile()
    return lowered, compiled, compiled(*jax.device_put(arrays, places))


@pytest.mark.parametrize("implementation", ["native", "taps", "winograd", None])
@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_convolution_on_a_mesh_is_that_of_one_device(
  shape, implementation, monkeypatch
):
  if implementation:
    monkeypatch.setattr(ops, "choose_implementation", lambda *_: implementation)
  arrays = _arrays(batch=8)
  wanted = _with_gradients(lambda x, k: ops.conv3d(x, k, "native"))(*arrays)
  *_, found = _divided(shape, arrays)
  for one, other in zip(found, wanted, strict=True):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one, other, atol=1e-5 * scale)


@pytest.mark.parametrize(
  ("batch", "depth", "taps"),
  [(3, 16, 3), (4, 15, 3), (4, 4, 5)],
  ids=["batch", "depth", "reach"],
)
def test_what_does_not_divide_is_convolved_all_the_same(batch, depth, taps):
  arrays = _arrays(batch, depth, taps)
  wanted = _with_gradients(lambda x, k: ops.conv3d(x, k, "native"))(*arrays)
  *_, found = _divided((2, 1, 1, 4), arrays)
  for one, other in zip(found, wanted, strict=True):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one, other, atol=1e-5 * scale)


def test_neighbours_hand_over_rows_and_nobody_gathers():
  _, compiled, _ = _divided((2, 1, 1, 4), _arrays(batch=8))
  text = compiled.as_text()
  assert "collective-permute" in text
  assert not re.search("all-gather|all-to-all", text)
  # Four crops of four rows and a halo on each device.
  assert "f32[4,6,6,8,5]" in text


def test_a_kernel_s_gradient_is_summed_in_its_own_type():
  x, kernel, grad = _arrays(batch=8, dtype=jnp.bfloat16)
  # CPUs sum in float32 whatever they are told: read before they compile.
  lowered, _, found = _divided((2, 1, 1, 4), (x, kernel, grad))
  assert found[2].dtype == jnp.float32
  text = lowered.as_text()
  places = [m.start() for m in re.finditer("stablehlo.all_reduce", text)]
  assert places
  for place in places:
    kind = re.search(r"\) : \(tensor<([^>]+)>\)", text[place:])
    assert kind.group(1) == "3x3x3x5x3xf32"


def test_tokens_are_not_gathered_where_heads_are_divided():
  mesh = make_mesh(MeshConfig(2, 1, 4, 1))
  block = Block(heads=4, mlp_ratio=4, implementation="xla")
  tokens = jax.random.normal(jax.random.key(0), (4, 64, 128))
  params = jax.jit(block.init)(jax.random.key(1), tokens, None, None)["params"]

  def loss(params, tokens):
    tokens = constrain(tokens, "batch", "tokens", None)
    out, _ = block.apply({"params": params}, tokens, None, None)
    return jnp.square(out).sum()

  wanted = jax.jit(jax.value_and_grad(loss))(params, tokens)
  with jax.set_mesh(mesh):
    tree = {"transformer": {"block0": params}}
    places = state_shardings(mesh, tree)["transformer"]["block0"]
    run = jax.jit(jax.value_and_grad(loss), out_shardings=(None, places))
    arguments = jax.device_put(params, places), tokens
    compiled = run.lower(*arguments).compile()
    found = compiled(*arguments)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=1e-5 * float(np.abs(b).max())
    ),
    found,
    wanted,
  )
  moved = re.findall(
    r"f32\[([\d,]+)\]\S* (?:all-gather|all-to-all)", compiled.as_text()
  )
  # Two crops of 64 tokens on a device; kernels are 128 wide and have no 64.
  assert not [shape for shape in moved if "64" in shape.split(",")]
