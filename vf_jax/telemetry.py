# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Metric records and the facts of a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import vf_jax
from vf_jax.io.atomic import write_text

_PACKAGES = (
  "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
  "scipy", "nibabel", "ml_collections",
)  # fmt: skip


class JsonlWriter:
  """Appends one JSON object a line; every line is flushed.

  Attributes:
    path: the file.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = pathlib.Path(path)

  def write(self, values: Mapping[str, Any]) -> None:
    """Appends a record.

    Args:
      values: JSON types.
    """
    with self.path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(dict(values)) + "\n")

  def drop_after(self, step: int) -> None:
    """Removes records beyond a step, those of a run that was cut off.

    Args:
      step: the last step to keep.
    """
    if not self.path.exists():
      return
    kept = []
    for line in self.path.read_text(encoding="utf-8").splitlines():
      try:
        if json.loads(line)["step"] <= step:
          kept.append(line)
      except (ValueError, KeyError):  # a line cut by the kill
        continue
    write_text(self.path, "".join(f"{line}\n" for line in kept))


def run_facts() -> dict[str, Any]:
  """Versions, git commit and machine, to be written beside every result.

  Returns:
    JSON types.
  """
  versions: dict[str, str | None] = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
    "vf_jax": vf_jax.__version__,
    "git": _git_commit(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": versions,
    "command": sys.argv,
  }


def device_facts(mesh: Any = None) -> dict[str, Any]:
  """Backend and devices as JAX sees them.

  Args:
    mesh: whose devices and axes alone are named; None names all devices.

  Returns:
    JSON types.
  """
  import jax

  devices = jax.devices() if mesh is None else mesh.devices.flat
  return {
    "backend": jax.default_backend(),
    "devices": [str(device) for device in devices],
    **({} if mesh is None else {"mesh": dict(mesh.shape)}),
    "processes": jax.process_count(),
  }


def _git_commit() -> str | None:
  """Commit of the source tree; None for an installed package."""
  root = pathlib.Path(__file__).resolve().parent.parent
  if not (root / ".git").exists():
    return None
  try:
    commit = subprocess.run(
      ["git", "-C", str(root), "rev-parse", "HEAD"],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()
    dirty = subprocess.run(
      ["git", "-C", str(root), "status", "--porcelain", "-uno"],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
  return commit + ("+changes" if dirty else "")
