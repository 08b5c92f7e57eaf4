# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops import tpu_attention as module
from vf_jax.ops.attention import attention


@pytest.mark.parametrize(
  ("tokens", "heads", "dim"),
  [
    (64, 2, 64),  # two heads share the lanes
    (48, 4, 32),  # four do
    (48, 3, 16),  # none do: 48 channels
    (30, 1, 128),  # two blocks, the second with two queries of zeros
    (45, 2, 64),  # three blocks, with three
    (15, 3, 16),  # fewer queries than a block
  ],
)
def test_equals_dense_attention_with_gradients(monkeypatch, tokens, heads, dim):
  monkeypatch.setattr(module, "_LOGITS_BYTES", 16 * 4 * tokens)
  keys = jax.random.split(jax.random.key(0), 4)
  arrays = [jax.random.normal(key, (2, tokens, heads, dim)) for key in keys]

  def both(function):
    out, pull = jax.vjp(function, *arrays[:3])
    return (out, *pull(arrays[3]))

  found = both(lambda q, k, v: module.tpu_attention(q, k, v, True))
  wanted = both(attention)
  for one, other in zip(found, wanted):
    # Sums in another order: a few units in the last place of fp32.
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_takes_a_share_of_the_queries():
  keys = jax.random.split(jax.random.key(2), 3)
  query, key, value = (
    jax.random.normal(k, (1, 48, 2, 64), jnp.float32) for k in keys
  )
  whole = module.tpu_attention(query, key, value, True)
  part = module.tpu_attention(query[:, 16:32], key, value, True)
  np.testing.assert_allclose(part, whole[:, 16:32], rtol=1e-6, atol=1e-6)


def test_keeps_the_type_and_accumulates_in_fp32():
  keys = jax.random.split(jax.random.key(1), 3)
  full = [jax.random.normal(key, (1, 64, 2, 64)) for key in keys]
  half = [x.astype(jnp.bfloat16) for x in full]
  found = module.tpu_attention(*half, True)
  assert found.dtype == jnp.bfloat16
  exact = attention(*(x.astype(jnp.float32) for x in half))
  # One rounding to bf16 of the shares and one of the result.
  np.testing.assert_allclose(
    found.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2
  )


@pytest.mark.parametrize("tokens", [1728, 3375, 13824])
def test_blocks_of_queries_fit_the_budget(tokens):
  layout = module._Layout((1, tokens, 12, 64), tokens)
  assert layout.block % 16 == 0
  assert layout.filled % layout.block == 0
  assert 0 <= layout.filled - tokens < 0.05 * tokens
  assert 4 * layout.block * tokens <= module._LOGITS_BYTES


def test_few_queries_are_taken_as_they_are():
  layout = module._Layout((1, 216, 12, 64), 216)
  assert layout.block == layout.filled == 216
