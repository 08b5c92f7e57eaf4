# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VertebraFormer: encoder, modulation, decoders. Layers only, no state."""
