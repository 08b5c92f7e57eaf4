# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VertebraFormer in JAX/Flax for vertebra analysis in spinal CT."""

__version__ = "0.1.0"
