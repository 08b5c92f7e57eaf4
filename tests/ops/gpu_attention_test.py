# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops.attention import ATTENDED
from vf_jax.ops.gpu_attention import gpu_attention


def _arrays(queries, tokens, heads, dim):
  keys = jax.random.split(jax.random.key(0), 4)
  counts = (queries, tokens, tokens, queries)
  return [
    jax.random.normal(key, (2, count, heads, dim))
    for key, count in zip(keys, counts)
  ]


def _dense(query, key, value):
  logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
  return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)


def _all(function, query, key, value, grad):
  out, pull = jax.vjp(function, query, key, value)
  return (out, *pull(grad))


def _kernel(query, key, value):
  return gpu_attention(query, key, value, True)


@pytest.mark.parametrize(
  ("queries", "tokens", "heads", "dim"),
  [
    (128, 128, 2, 64),  # two full blocks
    (80, 80, 1, 80),  # filled: 48 tokens, 48 channels
    (24, 144, 3, 32),  # a share of the queries
    (5, 5, 2, 8),  # less than the least product
  ],
)
def test_equals_dense_attention_with_gradients(queries, tokens, heads, dim):
  arrays = _arrays(queries, tokens, heads, dim)
  for one, other in zip(_all(_kernel, *arrays), _all(_dense, *arrays)):
    assert one.shape == other.shape
    # Sums in another order: a few units in the last place of fp32.
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_large_logits_do_not_overflow():
  query, key, value, grad = _arrays(128, 128, 1, 64)
  arrays = 40 * query, 40 * key, value, grad
  for one, other in zip(_all(_kernel, *arrays), _all(_dense, *arrays)):
    assert np.isfinite(one).all()
    # Logits of some 10^4 are known to about 10^-3 in fp32.
    np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02)


def test_keeps_the_type_and_accumulates_in_fp32():
  half = [x.astype(jnp.bfloat16) for x in _arrays(128, 128, 2, 64)]
  exact = _all(_dense, *(x.astype(jnp.float32) for x in half))
  for one, other in zip(_all(_kernel, *half), exact):
    assert one.dtype == jnp.bfloat16
    # Roundings to bf16 of shares, of gradients of logits and of the result.
    error = np.abs(one.astype(jnp.float32) - other)
    assert error.max() < 1e-2 * np.abs(other).max()


def test_the_backward_pass_can_keep_the_result_by_name(capsys):
  query, key, value, _ = _arrays(64, 64, 2, 64)
  kept = jax.checkpoint_policies.save_only_these_names(ATTENDED)

  def layer(query, key, value):
    return jnp.sin(_kernel(query, key, value)).sum()

  jax.ad_checkpoint.print_saved_residuals(
    jax.checkpoint(layer, policy=kept), query, key, value
  )
  named = [
    line.split()[0]
    for line in capsys.readouterr().out.splitlines()
    if f"named '{ATTENDED}'" in line
  ]
  # The result and one number a row, and not the result twice.
  assert sorted(named) == ["f32[2,2,64]", "f32[2,64,2,64]"]


@pytest.mark.skipif(
  jax.__version_info__ >= (0, 12), reason="needs a GPU from JAX 0.12 on"
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("tokens", "dim"), [(128, 64), (216, 48)])
def test_lowers_for_a_gpu_without_one(dtype, tokens, dim):
  arrays = [x.astype(dtype) for x in _arrays(tokens, tokens, 2, dim)]

  def both(*arrays):
    return _all(gpu_attention, *arrays)

  lowered = jax.jit(both).trace(*arrays).lower(lowering_platforms=("cuda",))
  # The forward pass and two of the backward pass.
  assert lowered.as_text().count("__gpu$xla.gpu.triton") == 3
