# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The benchmark: sources, preparation and the store of prepared cases."""
