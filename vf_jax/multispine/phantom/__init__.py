# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Modelled patients with known vertebrae, and the scanner that images them."""
