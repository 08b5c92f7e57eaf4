# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""State, step, loop and checkpoints of training."""
