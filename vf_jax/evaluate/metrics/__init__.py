# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Metrics, each with its definition and what it does with what is missing.

NumPy and SciPy only. Points and lengths are mm RAS+.
"""
