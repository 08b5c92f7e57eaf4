# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Exit codes of `vf-jax`; docs/operations.md tells them to people."""

DONE = 0
FAILED = 1  # a fault of vf_jax itself; Python's own for an exception
USAGE = 2  # or configuration; argparse's own
REFUSED = 3
NON_FINITE = 4
INTERRUPTED = 130  # 128 + SIGINT, as of shells
