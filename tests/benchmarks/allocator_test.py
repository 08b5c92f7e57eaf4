# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import os

import pytest


@pytest.fixture
def allocator(monkeypatch):
  module = importlib.import_module("allocator")
  monkeypatch.setenv("LD_PRELOAD", "")
  monkeypatch.setenv("MALLOC_CONF", "")
  return module


def test_a_missing_allocator_is_said(allocator, monkeypatch):
  monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
  with pytest.raises(SystemExit, match="libjemalloc2"):
    allocator.restart(ours=False, jemalloc=True)


def test_one_restart_loads_the_allocator(allocator, monkeypatch):
  monkeypatch.setattr("ctypes.util.find_library", lambda name: "libj.so.2")
  monkeypatch.setenv("LD_PRELOAD", "libother.so")
  restarts = []
  monkeypatch.setattr("os.execv", lambda *arguments: restarts.append(arguments))
  allocator.restart(ours=False, jemalloc=False)
  assert not restarts
  allocator.restart(ours=False, jemalloc=True)
  assert len(restarts) == 1
  assert os.environ["LD_PRELOAD"] == "libj.so.2:libother.so"
  assert "dirty_decay_ms:-1" in os.environ["MALLOC_CONF"]
  # This process never was started anew.
  with pytest.raises(SystemExit, match="was not loaded"):
    allocator.restart(ours=False, jemalloc=True)
