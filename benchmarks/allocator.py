# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which malloc a contestant runs with.

With that of the C library PyTorch gives every large array back to the kernel
and takes its pages anew, one by one: on two cores without an accelerator a
third to a half of the time of MONAI's networks. Its tuning guide therefore
recommends another allocator; ours puts huge pages behind malloc.

Source:
  PyTorch Recipes, "Performance Tuning Guide", "Switch Memory allocator".
"""

from __future__ import annotations

import ctypes.util
import os
import pathlib
import sys

from vf_jax.huge_pages import restart_with_huge_pages

_PRELOAD = "LD_PRELOAD"
# Keeps what was freed, in huge pages.
_CONF = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"


def restart(ours: bool, jemalloc: bool) -> None:
  """Starts this program anew with its allocator, if it has not got it yet.

  Args:
    ours: with huge pages, as `vf-jax train` does.
    jemalloc: with jemalloc, which keeps freed memory.

  Raises:
    SystemExit: if jemalloc is missing, or was not loaded.
  """
  if ours:
    restart_with_huge_pages()
  if not jemalloc:
    return
  library = require_jemalloc()
  before = os.environ.get(_PRELOAD, "")
  if library in before.split(":"):
    if library not in pathlib.Path("/proc/self/maps").read_text():
      raise SystemExit(f"{library} was not loaded by {_PRELOAD}={before}")
    return
  os.environ[_PRELOAD] = f"{library}:{before}".rstrip(":")
  os.environ["MALLOC_CONF"] = _CONF
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def require_jemalloc() -> str:
  """Name of the library.

  Raises:
    SystemExit: if it is missing.
  """
  library = ctypes.util.find_library("jemalloc")
  if not library:
    raise SystemExit(
      "jemalloc is missing; install it (Debian: apt install libjemalloc2)"
    )
  return library
