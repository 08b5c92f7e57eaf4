# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Compilation without the passes that only long runs pay back."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from vf_jax.config import AugmentConfig

OFF = AugmentConfig(
  margin=0, rotate_deg=0.0, scale=0.0, elastic_mm=0.0, mirror=0.0, gamma=0.0,
  contrast=0.0, shift=0.0, blur=0.0, slices=0.0, low_resolution=0.0, noise=0.0,
)  # fmt: skip


@pytest.fixture(scope="session")
def quick():
  """`jax.jit` that compiles in half of the time."""

  def jit(function):
    return jax.jit(
      function, compiler_options={"xla_backend_optimization_level": 1}
    )

  return jit


@pytest.fixture(scope="session")
def only():
  """Augmentation with nothing but what is named."""

  def config(**changes) -> AugmentConfig:
    return dataclasses.replace(OFF, **changes)

  return config
