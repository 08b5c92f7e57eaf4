# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`python -m vf_jax` is `vf-jax`."""

import sys

from vf_jax.cli import main

sys.exit(main())
