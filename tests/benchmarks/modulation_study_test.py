# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vf_jax.models.modulation import ModulationUnit


def test_the_control_of_the_study_sees_nothing_of_the_scan():
  study = importlib.import_module("modulation_study")
  rng = np.random.default_rng(0)
  unit = ModulationUnit(
    kind="film", prototypes=4, width=8, prototype_dropout=0.0
  )

  def two_scans():
    return (
      jnp.asarray(rng.normal(0, 300, (2, 16, 16, 16)), jnp.float32),
      jnp.asarray(rng.uniform(0.5, 3, (2, 3)), jnp.float32),
      jnp.asarray(rng.normal(size=(2, 8)), jnp.float32),
    )

  variables = unit.init(jax.random.key(0), *two_scans())
  seeing = unit.apply(variables, *two_scans()).embedding
  with nn.intercept_methods(study._blank):
    blank = unit.apply(variables, *two_scans()).embedding
    again = unit.apply(variables, *two_scans()).embedding
  assert np.abs(seeing[0] - seeing[1]).max() > 0.1
  assert np.all(np.concatenate([blank, again]) == np.asarray(blank[0]))
  assert np.any(np.asarray(blank[0]) != 0)
