# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What happens to crops on the device: pure functions under explicit keys."""
