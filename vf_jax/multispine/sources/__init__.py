# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Readers of the layouts that archives of spinal CT come in, one a file."""
