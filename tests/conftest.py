# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Settings of every test, made before JAX starts."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

from jaxtyping import install_import_hook

# Annotations are enforced in tests only; production pays nothing.
install_import_hook("vf_jax", "beartype.beartype")

import hypothesis  # noqa: E402
import jax  # noqa: E402
from absl import flags  # noqa: E402

if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
hypothesis.settings.register_profile(
  "vf", deadline=None, max_examples=25, derandomize=True
)
hypothesis.settings.load_profile("vf")
