# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The table says how many rounds each job had."""

from __future__ import annotations

import argparse
import importlib


def test_table_says_the_rounds_of_each_job(tmp_path, monkeypatch):
  # It limits the threads of the process that imports it.
  monkeypatch.setenv("OMP_NUM_THREADS", "1")
  monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
  metrics = importlib.import_module("metrics")
  results = {
    name: {
      "seconds": {"vf_jax": [1.0] * rounds, "scipy": [3.0] * rounds},
      "found": {"vf_jax": [0.5], "scipy": [0.5]},
    }
    for name, rounds in (("surface", 5), ("AP", 2))
  }
  options = argparse.Namespace(peers=["scipy"], out=str(tmp_path))
  metrics.report(results, options)
  text = (tmp_path / "metrics.md").read_text()
  assert "| surface | scipy | 5 | 3.0 |" in text
  assert "| AP | scipy | 2 | 3.0 |" in text
