# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One finished run and one compilation for all tests of training."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vf_jax.train.loop import Summary, train

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> pathlib.Path:
  """Folder of compiled programs, shared with the processes tests start."""
  return tmp_path_factory.mktemp("programs")


@pytest.fixture(autouse=True, scope="module")
def _compile_once(programs):
  """Keeps compiled programs of these tests in `programs`."""
  changed = {
    "jax_compilation_cache_dir": str(programs),
    "jax_persistent_cache_min_compile_time_secs": 1.0,
  }
  before = {name: getattr(jax.config, name) for name in changed}
  for name, value in changed.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run; read only."""

  workdir: pathlib.Path
  summary: Summary
  progress: str


@pytest.fixture(scope="session")
def uninterrupted(test_config, programs, tmp_path_factory) -> Run:
  """A run of the test config from start to end, in this process."""
  workdir = tmp_path_factory.mktemp("uninterrupted")
  progress = io.StringIO()
  with contextlib.redirect_stderr(progress):
    summary = train(test_config, workdir)
  return Run(workdir, summary, progress.getvalue())


class Process:
  """A real `python -m vf_jax train` on the test config."""

  def __init__(self, workdir, programs, *overrides: str):
    self.workdir = pathlib.Path(workdir)
    self._err = self.workdir.with_name(f"{self.workdir.name}.{time.time_ns()}")
    env = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(programs),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
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
