# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Archives made of empty files: sources read names and side-cars only."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def make_tree(tmp_path):
  """Writes files below a folder that no reader takes for a split's."""

  def make(*names, **contents):
    root = tmp_path / "archive"
    root.mkdir(exist_ok=True)
    for name in names:
      add(root, name, b"")
    for name, content in contents.pop("tables", {}).items():
      text = content if isinstance(content, str) else json.dumps(content)
      add(root, name, text.encode())
    assert not contents
    return root

  def add(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

  return make


@pytest.fixture
def by_name():
  return lambda cases: {case.name: case for case in cases}
