# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Metric records that survive a kill, and the facts beside every result."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess

import jax
import pytest

import vf_jax
from vf_jax import telemetry
from vf_jax.config import MeshConfig
from vf_jax.parallel.mesh import make_mesh
from vf_jax.telemetry import JsonlWriter, device_facts, run_facts


def steps(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_every_record_is_a_line_at_once(tmp_path):
  writer = JsonlWriter(tmp_path / "m.jsonl")
  for step in (1, 2):
    writer.write({"step": step, "train/loss": 0.1 * step})
    assert steps(writer.path) == list(range(1, step + 1))
  last = writer.path.read_text().splitlines()[-1]
  assert json.loads(last) == {"step": 2, "train/loss": 0.2}


@pytest.mark.parametrize("torn", ["", '{"step": 9', "{}", "\n", "nonsense"])
def test_records_of_a_cut_run_are_dropped(tmp_path, torn):
  writer = JsonlWriter(tmp_path / "m.jsonl")
  for step in (2, 4, 5, 6, 8):
    writer.write({"step": step, "x": step / 3})
  before = writer.path.read_text().splitlines()
  with writer.path.open("a") as file:
    file.write(torn)
  writer.drop_after(5)
  assert writer.path.read_text().splitlines() == before[:3]  # to the letter
  writer.write({"step": 6})
  assert steps(writer.path) == [2, 4, 5, 6]
  assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_nothing_to_drop_is_no_fault(tmp_path):
  writer = JsonlWriter(tmp_path / "m.jsonl")
  writer.drop_after(0)
  assert not writer.path.exists()
  writer.write({"step": 1})
  writer.drop_after(0)
  assert writer.path.read_text() == ""


def test_facts_name_versions_command_and_devices():
  facts = run_facts() | device_facts()
  assert json.loads(json.dumps(facts)) == facts
  assert facts["vf_jax"] == vf_jax.__version__
  assert facts["packages"]["jax"] == jax.__version__
  for name in ("flax", "grain", "orbax-checkpoint", "numpy"):
    assert facts["packages"][name] == importlib.metadata.version(name)
  assert facts["backend"] == "cpu"
  assert len(facts["devices"]) == jax.device_count()
  assert facts["processes"] == 1
  mesh = make_mesh(MeshConfig(2, 1, 1, 2))
  facts = device_facts(mesh)
  assert json.loads(json.dumps(facts)) == facts
  assert len(facts["devices"]) == 4
  assert facts["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1, "context": 2}


def test_commit_is_that_of_the_source_tree(tmp_path, monkeypatch):
  module = tmp_path / "vf_jax" / "telemetry.py"
  module.parent.mkdir()
  module.write_text("one\n")
  monkeypatch.setattr(telemetry, "__file__", str(module))
  assert run_facts()["git"] is None  # as installed from a wheel

  def git(*arguments):
    return subprocess.run(
      ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
      cwd=tmp_path,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  git("init", "-q")
  git("add", ".")
  git("commit", "-q", "-m", "one")
  commit = git("rev-parse", "HEAD")
  assert run_facts()["git"] == commit
  (tmp_path / "untracked").write_text("")
  assert run_facts()["git"] == commit
  module.write_text("two\n")
  assert run_facts()["git"] == f"{commit}+changes"


def test_a_missing_package_is_no_fault(monkeypatch):
  monkeypatch.setattr(telemetry, "_PACKAGES", ("jax", "no-such-package"))
  versions = run_facts()["packages"]
  assert versions == {"jax": jax.__version__, "no-such-package": None}
