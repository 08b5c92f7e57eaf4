# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Training as a process of its own, and the records that it leaves."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from cluster import alone

ROOT = pathlib.Path(__file__).parent.parent.parent


class Process:
  """A real `python -m vf_jax train` on the test config."""

  def __init__(self, workdir, programs, *overrides: str, **variables: str):
    self.workdir = pathlib.Path(workdir)
    self._err = self.workdir.with_name(f"{self.workdir.name}.{time.time_ns()}")
    env = {
      **alone(),
      "JAX_COMPILATION_CACHE_DIR": str(programs),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
      **variables,
    }
    with self._err.open("w") as err:
      self.popen = subprocess.Popen(
        [
          sys.executable, "-m", "vf_jax", "train", "--config",
          f"{ROOT / 'configs' / 'tiny.py'}:test", "--workdir", str(workdir),
          *overrides,
        ],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=err,
      )  # fmt: skip

  @property
  def stderr(self) -> str:
    return self._err.read_text()

  def wait(self) -> int:
    """Waits for its end; the exit code."""
    self.stdout, _ = self.popen.communicate(timeout=240)
    return self.popen.returncode

  def until_step(self, step: int) -> None:
    """Waits until a record of that step, or a later one, is written."""
    end = time.monotonic() + 240
    while not any(found >= step for found in records(self.workdir)):
      assert self.popen.poll() is None, self.stderr
      assert time.monotonic() < end
      time.sleep(0.002)


def records(workdir) -> dict[int, dict[str, Any]]:
  """Step -> metrics of training, as printed in metrics.jsonl."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  found = {}
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      values = json.loads(line)
    except ValueError:  # it is being written
      continue
    found[values["step"]] = {
      name: repr(value)
      for name, value in values.items()
      if name.startswith("train/")
    }
  return found
