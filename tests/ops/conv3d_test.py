# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import functools
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import TypeCheckError

from vf_jax.ops.conv3d import Implementation, choose_implementation, conv3d
from vf_jax.ops.winograd import winograd

ALL = get_args(Implementation)
# Batch, depth, height, width; kernel; channels in and out.
CASES = [
  ((2, 5, 4, 3), (3, 3, 3), 5, 3),
  ((1, 2, 3, 7), (3, 1, 5), 1, 4),
  ((2, 3, 5, 4), (1, 1, 1), 3, 5),
  ((1, 1, 4, 5), (5, 3, 1), 2, 3),
]


def _native(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )


def _inputs(shape, size, cin, cout, dtype=jnp.float32):
  random = np.random.default_rng(0)
  return tuple(
    jnp.asarray(random.standard_normal(size), dtype)
    for size in ((*shape, cin), (*size, cin, cout))
  )


def _with_gradients(f):
  def total(x, kernel):
    y = f(x, kernel)
    weight = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return (y * weight).sum(), y

  def run(x, kernel):
    (_, y), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(x, kernel)
    return (y, *grads)

  return run


@functools.cache
def _by_lax(case):
  return jax.jit(_with_gradients(_native))(*_inputs(*case))


def _close(ours, theirs, tolerance):
  for one, other in zip(ours, theirs, strict=True):
    assert one.dtype == other.dtype
    one, other = (np.asarray(part, np.float64) for part in (one, other))
    # Of the largest: sums in another order differ by that, not by their own.
    np.testing.assert_allclose(
      one, other, rtol=0, atol=tolerance * abs(other).max()
    )


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_lax(case, implementation):
  x, kernel = _inputs(*case)
  if implementation == "winograd" and kernel.shape[0] != 3:
    with pytest.raises(ValueError, match="3 depth taps"):
      conv3d(x, kernel, implementation)
    return
  ours = functools.partial(conv3d, implementation=implementation)
  _close(jax.jit(_with_gradients(ours))(x, kernel), _by_lax(case), 1e-5)


@pytest.mark.parametrize("implementation", ALL)
def test_bfloat16_stays_bfloat16(implementation):
  x, kernel = _inputs((1, 8, 6, 5), (3, 3, 3), 4, 3, jnp.bfloat16)
  ours = conv3d(x, kernel, implementation)
  # Winograd's factors of up to 8 cost three of bfloat16's eight digits.
  tolerance = 1e-1 if implementation == "winograd" else 2e-2
  _close([ours], [_native(x, kernel)], tolerance)


@pytest.mark.parametrize("implementation", ALL)
def test_transformations_of_jax_keep_the_result(implementation):
  x, kernel = _inputs((3, 2, 5, 4, 3), (3, 3, 3), 2, 2)
  ours = _with_gradients(
    jax.checkpoint(functools.partial(conv3d, implementation=implementation))
  )
  theirs = jax.vmap(_with_gradients(_native), (0, None))(x, kernel)
  _close(jax.jit(jax.vmap(ours, (0, None)))(x, kernel), theirs, 1e-5)
  _, scanned = jax.lax.scan(lambda c, part: (c, ours(part, kernel)), 0, x)
  _close(scanned, theirs, 1e-5)


def _mesh(shape):
  return jax.make_mesh(
    shape,
    ("data", "fsdp", "tensor", "context"),
    axis_types=(AxisType.Auto,) * 4,
  )


# NOTE: 'native' is missing: XLA partitions it wrongly on this mesh.
@pytest.mark.parametrize("implementation", ["taps", "channels", "winograd"])
def test_sharded_equals_one_device(implementation):
  mesh = _mesh((1, 2, 2, 2))
  case = ((2, 8, 4, 5), (3, 3, 3), 8, 8)
  run = _with_gradients(
    functools.partial(conv3d, implementation=implementation)
  )
  places = (
    NamedSharding(mesh, P("data", "context", None, None, "tensor")),
    NamedSharding(mesh, P(None, None, None, "fsdp", "tensor")),
  )
  sharded = jax.jit(
    run, in_shardings=places, out_shardings=(places[0], *places)
  )(*_inputs(*case))
  _close(sharded, _by_lax(case), 1e-5)


def test_default_is_the_choice_for_this_backend():
  x, kernel = _inputs((1, 16, 16, 16), (3, 3, 3), 5, 3)
  traced = [
    re.sub(
      "0x[0-9a-f]+",
      "address",
      str(jax.make_jaxpr(lambda x, k, n=name: conv3d(x, k, n))(x, kernel)),
    )
    for name in (None, "winograd", "native")
  ]
  assert traced[0] == traced[1] != traced[2]


def test_choice_follows_backend_shape_and_type():
  shape, kernel = (1, 16, 16, 16, 16), (3, 3, 3, 16, 16)
  full, half = jnp.dtype("float32"), jnp.dtype("bfloat16")
  choose = choose_implementation
  assert choose("gpu", shape, kernel, full) == "native"
  assert choose("tpu", shape, kernel, half) == "native"
  assert choose("cpu", shape, kernel, full) == "winograd"
  assert choose("cpu", shape, kernel, half) == "taps"
  assert choose("cpu", (1, 12, 12, 12, 16), kernel, full) == "winograd"
  assert choose("cpu", (1, 8, 8, 8, 16), kernel, full) == "taps"
  assert choose("cpu", shape, (1, 1, 1, 16, 16), full) == "taps"
  assert choose("cpu", shape, (3, 3, 3, 1, 16), full) == "channels"


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_a_halo_is_seen_and_left_out(implementation):
  x, kernel = _inputs((2, 8, 6, 5), (3, 3, 3), 5, 3)
  found = conv3d(x, kernel, implementation, halo=1)
  whole = conv3d(x, kernel, "native")
  np.testing.assert_allclose(
    found, whole[:, 1:-1], atol=1e-5 * np.abs(whole).max()
  )
  with pytest.raises(ValueError, match="halo of 2"):
    conv3d(x, kernel, implementation, halo=2)


def test_unknown_implementation_is_refused():
  # The annotation refuses it first where annotations are checked.
  with pytest.raises((ValueError, TypeCheckError), match="fast"):
    conv3d(*_inputs((1, 2, 2, 2), (1, 1, 1), 1, 1), "fast")


def test_even_kernel_is_refused():
  with pytest.raises(ValueError, match="odd"):
    conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((2, 3, 3, 1, 1)))


@pytest.mark.parametrize("depth", [9, 12, 14])
def test_winograd_in_steps_is_winograd_at_once(depth, monkeypatch):
  x, kernel = _inputs((2, depth, 3, 4), (3, 3, 3), 2, 3)
  # Without gradients, steps of four depths; with them all at once.
  monkeypatch.setattr("vf_jax.ops.winograd._STEP_BYTES", 1)
  monkeypatch.setattr("vf_jax.ops.winograd._LARGE_BYTES", 1)
  steps = jax.jit(winograd)
  assert "while" in steps.lower(x, kernel).as_text()
  at_once, gradients = jax.jit(lambda *a: jax.vjp(winograd, *a))(x, kernel)
  _close([steps(x, kernel)], [at_once], 1e-6)
  _close([at_once], [_native(x, kernel)], 1e-5)
  assert len(gradients(at_once)) == 2


def test_winograd_in_steps_refuses_other_depths_of_the_kernel(monkeypatch):
  monkeypatch.setattr("vf_jax.ops.winograd._STEP_BYTES", 1)
  monkeypatch.setattr("vf_jax.ops.winograd._LARGE_BYTES", 1)
  x, kernel = _inputs((1, 12, 3, 4), (5, 3, 3), 2, 3)
  with pytest.raises(ValueError, match="3 depth taps"):
    winograd(x, kernel)
