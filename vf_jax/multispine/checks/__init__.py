# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What is wrong with a case, found before it can teach or measure anything."""
