# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Pure array functions; the backend is chosen inside them."""
