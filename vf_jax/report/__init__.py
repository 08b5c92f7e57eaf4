# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Pages and pictures for people: what was found in a CT, on one screen."""
