"""The stub patient for all tests of this folder."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

_SPEC = importlib.util.spec_from_file_location(
  "stub", pathlib.Path(__file__).with_name("stub.py")
)
_STUB = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_STUB)


@pytest.fixture(scope="session")
def stub_anatomy():
  """Draws a patient of cylinders: first level, last level, spacing in mm."""
  return _STUB.stub_anatomy
