# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The networks that VertebraFormer is compared with."""
