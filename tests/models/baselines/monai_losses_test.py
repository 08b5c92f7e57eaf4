# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Our losses against the committed float64 answers of MONAI's."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from our_losses import LOSSES


@pytest.fixture(scope="module")
def golden():
  with np.load(pathlib.Path(__file__).parent / "losses.npz") as file:
    return {name: jnp.asarray(value) for name, value in file.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_monais(golden, name):
  loss, of = LOSSES[name]
  value, grad = jax.value_and_grad(loss)(golden[of], golden)
  np.testing.assert_allclose(value, golden[name], rtol=1e-5)
  scale = float(jnp.abs(golden[f"{name}_grad"]).max())
  np.testing.assert_allclose(grad, golden[f"{name}_grad"], atol=1e-5 * scale)
