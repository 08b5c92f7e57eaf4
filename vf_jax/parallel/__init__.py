# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Meshes of devices and where arrays lie on them."""
