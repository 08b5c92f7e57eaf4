# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The committed table of models is that of the configurations."""

from __future__ import annotations

import importlib
import pathlib

_DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_docs_have_the_models_as_they_are():
  table = importlib.import_module("model_table").table()
  assert table in (_DOCS / "models.md").read_text()
