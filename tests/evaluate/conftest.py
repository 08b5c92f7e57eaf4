# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Folders that tests write cases to."""

from __future__ import annotations

import pytest
from boxed_spine import Folder


@pytest.fixture
def predictions(tmp_path):
  """Folder of predictions."""
  return Folder(tmp_path / "pred")


@pytest.fixture
def references(tmp_path):
  """Folder of references."""
  return Folder(tmp_path / "ref")
