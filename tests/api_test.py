# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`import vf_jax` as others use it, and the example of docs/api.md."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import vf_jax
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.result import CaseResult, Vertebra

ROOT = pathlib.Path(__file__).parent.parent


def python(*arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]
      ),
      "JAX_NUM_CPU_DEVICES": "1",
    },
  )


def example():
  text = (ROOT / "docs" / "api.md").read_text("utf-8")
  (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  return code


class OneVertebra(Predictor):
  """All of the predictor but the network, which takes long to compile."""

  def _predict(self, volume, case, facts):
    mask = np.zeros(volume.grid.shape, np.uint8)
    mask[:, :, :9] = 22
    found = Vertebra("L3", 22, (0.0, 0.0, 0.0), 0.75, False, 41.0, 100.0)
    notes = ("so it is",)
    return CaseResult(case, volume.grid, mask, (found,), (), notes, {})


def test_example_of_api_md_matches_the_result_types(
  monkeypatch, test_config, capsys
):
  predictor = OneVertebra(config=test_config, params={}, digest="")
  monkeypatch.setattr(vf_jax, "load", lambda: predictor)
  names = {}
  exec(example(), names)
  assert capsys.readouterr().out == ("L3: 75% sure, 41 ml\nwarning: so it is\n")
  assert names["l3"].sum() == names["result"].mask[:, :, :9].size


@pytest.mark.slow
def test_the_example_runs_with_the_shipped_weights(tmp_path):
  (tmp_path / "example.py").write_text(example(), "utf-8")
  done = python(str(tmp_path / "example.py"))
  assert done.returncode == 0, done.stderr
  assert re.search(r"^L3: \d+% sure, \d+ ml$", done.stdout, re.MULTILINE)


def test_importing_the_package_is_cheap():
  done = python("-X", "importtime", "-c", "import vf_jax; dir(vf_jax)")
  modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
  assert "vf_jax" in modules
  assert not modules & {"jax", "numpy", "nibabel", "scipy", "flax"}


def test_every_public_name_is_there_and_no_other():
  for name in vf_jax.__all__:
    assert getattr(vf_jax, name) is not None
    assert name in dir(vf_jax)
  assert not hasattr(vf_jax, "predict_everything")
