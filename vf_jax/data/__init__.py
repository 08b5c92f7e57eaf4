# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From stored cases to batches.

The host draws where to look and reads that window (`targets`, `crops`,
`pipeline`); everything else happens on the device (`augment`).
"""
