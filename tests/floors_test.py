# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""No import runs back up between the floors of docs/architecture.md."""

import ast
import pathlib

import pytest

import vf_jax

ROOT = pathlib.Path(vf_jax.__file__).parent
FLOORS = [
  {"errors", "typed", "scratch", "huge_pages", "threads"},
  {
    "labels",
    "volume",
    "grid",
    "resampling",
    "hounsfield",
    "ops",
    "model_config",
    "config",
    "parallel",
  },
  {"io", "models", "losses", "telemetry", "jobs"},
  {"multispine", "data"},
  {"train", "infer", "evaluate"},
  {"report"},
  {
    "demo",
    "cli",
    "cli_data",
    "cli_evaluate",
    "cli_predict",
    "cli_types",
    "exit_codes",
    "__main__",
  },
]
RANK = {room: rank for rank, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(parts):
  return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
  here = _room(path.relative_to(ROOT).parts)
  assert here in RANK, f"{here} has no floor"
  for name in _imports(path):
    parts = name.split(".")
    if parts[0] == "vf_jax" and len(parts) > 1 and parts[1] in RANK:
      assert RANK[parts[1]] <= RANK[here], f"{path.name} imports {name}"
      if here == "infer" and parts[1] == "train":
        assert parts[2:3] == ["checkpoint"], f"{path.name} imports {name}"
    assert "_src" not in parts, f"{path.name} imports the private {name}"


@pytest.mark.parametrize(
  ("tool", "owner"),
  [
    ("orbax", "train/checkpoint.py"),
    ("grain", "data/pipeline.py"),
    ("jax.shard_map", "parallel"),
    ("nibabel", "io"),
    ("pydicom", "io/dicom"),
    ("highdicom", "io/dicom_seg.py"),
    ("tensorstore", "multispine/store"),
    ("dask", "jobs.py"),
    ("distributed", "jobs.py"),
    ("yaml", "multispine/sources"),
  ],
)
def test_sharp_tools_have_one_owner(tool, owner):
  users = {
    path.relative_to(ROOT).as_posix()
    for path in FILES
    if any(f"{name}.".startswith(f"{tool}.") for name in _imports(path))
  }
  assert all(user.startswith(owner) for user in users), users
