# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Large memory pages for training on a CPU."""

from __future__ import annotations

import os
import platform
import sys

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"


def restart_with_huge_pages() -> None:
  """Starts this program anew with huge pages behind malloc, once.

  A step touches gigabytes of activations, and in pages of 4 KiB the look-up of
  addresses costs time: with huge pages a step of fast:S took 0.72, 0.88 and
  0.91 of it (three pairs of runs on two cores; GLIBC_TUNABLES with hugetlb=0
  and 1 before `benchmarks/same_job.py measure`). The C library reads the
  setting only when a process starts, hence the restart, which costs some 20 ms
  and keeps the process number. Does nothing where the setting does not exist
  (not glibc, before 2.35) or was chosen by the user.

  Source:
    GNU C Library manual, "Memory Allocation Tunables", glibc.malloc.hugetlb.
  """
  chosen = os.environ.get(_VARIABLE, "")
  if _TUNABLE in chosen or not _glibc_has_it():
    return
  tunables = f"{chosen}:" if chosen else ""
  os.environ[_VARIABLE] = f"{tunables}{_TUNABLE}=1"
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _glibc_has_it() -> bool:
  name, version = platform.libc_ver()
  parts = version.split(".")
  return name == "glibc" and tuple(map(int, parts[:2])) >= (2, 35)
