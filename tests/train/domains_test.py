# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A run keeps the numbers of its domains."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from vf_jax.errors import ConfigError
from vf_jax.multispine.merge import merge
from vf_jax.multispine.store import Store
from vf_jax.train.domains import check_domains
from vf_jax.train.loop import train


@pytest.fixture
def renamed(test_config, tmp_path):
  """The experiment with a store whose domains are called otherwise."""
  merge([("x", test_config.data.store)], tmp_path / "store")
  data = dataclasses.replace(
    test_config.data, store=str(tmp_path / "store"), weights=()
  )
  return dataclasses.replace(test_config, data=data)


def test_other_domains_are_refused_when_a_run_goes_on(
  uninterrupted, renamed, tmp_path
):
  run = tmp_path / "run"
  shutil.copytree(uninterrupted.workdir, run)
  assert train(renamed, run).finished  # nothing is left to do
  shutil.rmtree(run / "checkpoints" / "20")
  before = (run / "run.json").read_bytes()
  said = r"domains \['blds', 'lidc', 'verse'\].*has \['x-blds', .*--workdir"
  with pytest.raises(ConfigError, match=said):
    train(renamed, run)
  assert (run / "run.json").read_bytes() == before


def test_what_has_no_prototypes_or_no_facts_may_go_on(
  uninterrupted, renamed, tmp_path
):
  store = Store(renamed.data.store)
  model = dataclasses.replace(renamed.model, modulation="film")
  other = dataclasses.replace(renamed, model=model)
  check_domains(other, store, uninterrupted.workdir)
  check_domains(renamed, store, tmp_path)
  for text in ("{", "[]", '{"cases": []}', '{"cases": {}}'):
    (tmp_path / "run.json").write_text(text)
    check_domains(renamed, store, tmp_path)
