# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""jemalloc behind malloc, for peers at their best.

With the C library's malloc PyTorch gives every large array back to the kernel
and takes its pages anew, one by one: on two cores without an accelerator half
of the time of MONAI's networks. Its tuning guide therefore recommends another
allocator.

Source:
  PyTorch Recipes, "Performance Tuning Guide", "Switch Memory allocator".
"""

from __future__ import annotations

import ctypes.util
import os
import sys

_PRELOAD = "LD_PRELOAD"
# Keeps what was freed, in huge pages.
_CONF = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"


def restart_with_jemalloc() -> None:
  """Starts this program anew with jemalloc, once; it keeps its number.

  Raises:
    SystemExit: if the library is missing.
  """
  library = ctypes.util.find_library("jemalloc")
  if not library:
    raise SystemExit(
      "jemalloc is missing; install it (Debian: apt install libjemalloc2)"
    )
  if os.environ.get(_PRELOAD) == library:
    return
  os.environ |= {_PRELOAD: library, "MALLOC_CONF": _CONF}
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
