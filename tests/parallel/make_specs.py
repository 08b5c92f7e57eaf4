# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes how every parameter is divided: specs/<config>.json.

python tests/parallel/make_specs.py

Run by hand when a change of the network or of the rules is meant; the test
compares with what is committed.
"""

from __future__ import annotations

import json
import pathlib
import runpy

import jax
from jax.sharding import AbstractMesh

from vf_jax.config import Config, from_config_dict
from vf_jax.parallel.mesh import AXES
from vf_jax.parallel.sharding import state_shardings
from vf_jax.train.state import init_params

HERE = pathlib.Path(__file__).parent
CONFIGS = {
  "tiny": ("tiny", ""),
  "base-supervision": ("base", "+supervision"),
  "fast-B": ("fast", "B"),
}


def load(name: str) -> Config:
  """The configuration of a specs file."""
  file, variant = CONFIGS[name]
  path = HERE.parent.parent / "configs" / f"{file}.py"
  return from_config_dict(runpy.run_path(str(path))["get_config"](variant))


def specs(config: Config) -> dict[str, list[str | None]]:
  """Path -> its PartitionSpec on a mesh that divides along every axis."""
  mesh = AbstractMesh((2, 2, 2, 2), AXES)
  params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): list(found.spec)
    for path, found in jax.tree_util.tree_leaves_with_path(
      state_shardings(mesh, params)
    )
  }


if __name__ == "__main__":
  for name in CONFIGS:
    text = json.dumps(specs(load(name)), indent=1)
    (HERE / "specs" / f"{name}.json").write_text(text + "\n")
