# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Measures predictions against references: metrics, intervals, tables."""
