# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.config import MeshConfig
from vf_jax.ops.attention import attention
from vf_jax.ops.gpu_attention import gpu_attention
from vf_jax.ops.tpu_attention import tpu_attention
from vf_jax.parallel import attention as module
from vf_jax.parallel.attention import attend, over_mesh
from vf_jax.parallel.mesh import make_mesh


def _arrays():
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, (2, 64, 4, 64)) for key in keys]


@pytest.mark.parametrize("attention_of", [tpu_attention, gpu_attention])
def test_kernel_on_a_mesh_equals_dense_attention_with_gradients(attention_of):
  *arrays, grad = _arrays()

  def kernel(query, key, value):
    return attention_of(query, key, value, True)

  mesh = make_mesh(
    MeshConfig(data=1, fsdp=2, tensor=2, context=2), jax.devices()[:8]
  )
  with jax.set_mesh(mesh):
    found, pull = jax.vjp(
      jax.jit(functools.partial(over_mesh, kernel)), *arrays
    )
    grads = pull(grad)
  wanted, pull = jax.vjp(attention, *arrays)
  for one, other in zip((found, *grads), (wanted, *pull(grad))):
    # Sums in another order: a few units in the last place of fp32.
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_one_sample_stays_whole_on_a_mesh():
  query, key, value, _ = (x[:1, :48] for x in _arrays())
  mesh = make_mesh(
    MeshConfig(data=2, fsdp=1, tensor=1, context=1), jax.devices()[:2]
  )
  with jax.set_mesh(mesh):
    found = over_mesh(attention, query, key, value)
  np.testing.assert_allclose(
    found, attention(query, key, value), rtol=1e-6, atol=1e-6
  )


def test_auto_takes_xla_on_a_cpu():
  query, key, value, _ = _arrays()
  np.testing.assert_array_equal(
    attend(query, key, value, "auto"), attention(query, key, value)
  )


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_kernel_of_another_device_is_refused(device):
  query, key, value, _ = _arrays()
  with pytest.raises(ValueError, match=f"needs a {device.upper()}"):
    attend(query, key, value, device)


@pytest.fixture
def kernels(monkeypatch):
  """Stands in for the kernels; gives those that were taken."""
  taken = []

  def stand_in(name):
    def run(query, key, value):
      taken.append(name)
      return attention(query, key, value)

    return run

  for name in ("gpu_attention", "tpu_attention"):
    monkeypatch.setattr(module, name, stand_in(name))
  return taken


def _as_if_on(monkeypatch, device, capability):
  monkeypatch.setattr(jax, "default_backend", lambda: device)
  chip = types.SimpleNamespace(
    compute_capability=capability, device_kind="a chip"
  )
  monkeypatch.setattr(jax, "local_devices", lambda: [chip])


@pytest.mark.parametrize(
  ("device", "capability", "dtype", "dim", "wanted"),
  [
    ("gpu", "9.0", "bfloat16", 64, ["gpu_attention"]),
    ("gpu", "8.6", "bfloat16", 128, ["gpu_attention"]),
    ("gpu", "7.5", "bfloat16", 64, []),  # no Triton
    ("gpu", "gfx90a", "bfloat16", 64, []),  # no NVIDIA
    ("gpu", "9.0", "float32", 64, []),
    ("gpu", "9.0", "bfloat16", 136, []),  # 256 with its filling
    ("tpu", None, "float32", 64, ["tpu_attention"]),
  ],
)
def test_auto_takes_a_kernel_where_it_runs(
  monkeypatch, kernels, device, capability, dtype, dim, wanted
):
  _as_if_on(monkeypatch, device, capability)
  attend(*[jnp.ones((1, 16, 2, dim), dtype)] * 3, "auto")
  assert kernels == wanted


@pytest.mark.parametrize(
  ("capability", "dim", "reason"),
  [("7.5", 64, "a chip is no NVIDIA Ampere"), ("9.0", 128, "too wide")],
)
def test_a_kernel_that_this_gpu_cannot_run_is_refused(
  monkeypatch, kernels, capability, dim, reason
):
  _as_if_on(monkeypatch, "gpu", capability)
  with pytest.raises(ValueError, match=reason):
    attend(*[jnp.ones((1, 16, 2, dim))] * 3, "gpu")
  attend(*[jnp.ones((1, 16, 2, 64))] * 3, "xla")
  assert kernels == []
