# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept from one run to the next.

Compiling the network takes longer than predicting a short scan with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

import jax

VARIABLE = "VF_JAX_CACHE"
"""Environment variable that names the folder; empty: nothing is kept."""

_OWN_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_programs() -> pathlib.Path | None:
  """Has JAX keep what it compiles in the user's cache folder.

  A folder that somebody already chose for JAX is left as it is. A folder that
  cannot be made or written means that nothing is kept, no more.

  Returns:
    The folder, or None if nothing is kept or JAX has one already.
  """
  chosen = jax.config.values.get("jax_compilation_cache_dir")
  if chosen or os.environ.get(_OWN_VARIABLE):
    return None
  folder = cache_folder()
  if folder is None:
    return None
  with contextlib.suppress(OSError):
    # Programs are run as they are: nobody else may write them.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
      jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
      return folder
  return None


def cache_folder() -> pathlib.Path | None:
  """The folder for compiled programs of this machine.

  Returns:
    A folder that need not exist; None if `VF_JAX_CACHE` is empty or the user
    has no home.
  """
  chosen = os.environ.get(VARIABLE)
  if chosen == "":
    return None
  if chosen:
    return pathlib.Path(chosen) / _machine()
  try:
    home = pathlib.Path.home()
  except RuntimeError:
    return None
  if sys.platform == "darwin":
    base = home / "Library" / "Caches"
  elif sys.platform == "win32":
    base = pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData")
  else:
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
  return base / "vf_jax" / "programs" / _machine()


def _machine() -> str:
  """Name of the processor's abilities: homes are shared between machines.

  NOTE: a program for a CPU with other instructions would end the process.
  """
  text = platform.machine() + platform.processor()
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines():
      if line.startswith(("flags", "Features", "model name")):
        text += line
  return hashlib.sha256(text.encode()).hexdigest()[:12]
