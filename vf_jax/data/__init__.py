# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From prepared cases to batches: crops, augmentation, the Grain pipeline."""
