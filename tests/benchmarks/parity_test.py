# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Missed limits are called so, and differences are measured as said."""

from __future__ import annotations

import importlib

import jax.numpy as jnp
import pytest


@pytest.fixture(scope="module")
def parity():
  return importlib.import_module("parity")


@pytest.mark.parametrize(
  ("errors", "kept"),
  [
    ((1e-5, 1e-4), True),
    ((1e-5, None), True),
    ((2e-4, 1e-4), False),
    ((1e-5, 2e-3), False),
    ((float("nan"), 1e-4), False),
  ],
)
def test_a_missed_limit_is_called_so(parity, errors, kept):
  row = {"what": "x", "batch": 1, "errors": errors, "limits": parity.LOGITS}
  assert parity.holds(row) == kept
  facts = {"date": "d", "command": "c", "commit": "1", "machine": "m"}
  text = parity.render({"facts": facts | {"packages": {}}, "rows": [row]})
  assert ("| yes |" in text) == kept
  assert ("| **no** |" in text) != kept


def test_gradients_are_compared_with_their_largest(parity):
  theirs = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([1e-9])}
  ours = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([2e-3])}
  # Rounding beside the largest of all is not an error of its own size.
  assert parity.gradient_error(ours, theirs) == pytest.approx(0.05, rel=1e-3)
  ours = {"a": jnp.array([1.5, -4.0]), "b": jnp.array([1e-9])}
  assert parity.gradient_error(ours, theirs) == pytest.approx(0.5 / 4.04)
