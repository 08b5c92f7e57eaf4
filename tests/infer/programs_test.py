# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept, and that it may fail."""

from __future__ import annotations

import os
import stat

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vf_jax.infer import programs


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def test_programs_are_kept_where_the_variable_says(tmp_path, monkeypatch):
  monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "kept"))
  folder = programs.keep_programs()
  assert folder.parent == tmp_path / "kept"
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compilation_cache.reset_cache()
  jax.block_until_ready(jax.jit(lambda x: x * 3.25)(jnp.ones(5)))
  assert any("cache" in name for name in os.listdir(folder))


def test_an_empty_variable_keeps_nothing(monkeypatch):
  monkeypatch.setenv(programs.VARIABLE, "")
  assert programs.keep_programs() is None
  assert jax.config.jax_compilation_cache_dir is None


def test_a_choice_made_for_jax_is_respected(tmp_path, monkeypatch):
  monkeypatch.setenv(programs.VARIABLE, str(tmp_path))
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
  assert programs.keep_programs() is None
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
  assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_harmless(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "file"))
  assert programs.keep_programs() is None
  assert jax.config.jax_compilation_cache_dir is None


def test_the_usual_place_is_the_cache_of_the_user(tmp_path, monkeypatch):
  monkeypatch.delenv(programs.VARIABLE, raising=False)
  monkeypatch.setattr("sys.platform", "linux")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = programs.cache_folder()
  assert folder.parent == tmp_path / "vf_jax" / "programs"
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert programs.cache_folder().is_relative_to(tmp_path / ".cache")
  monkeypatch.setattr("sys.platform", "darwin")
  assert programs.cache_folder().is_relative_to(tmp_path / "Library")
