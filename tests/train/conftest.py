# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One finished run and one compilation for all tests of training."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib

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
