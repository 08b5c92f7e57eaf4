# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A run keeps the numbers of its domains, and tells of other data."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from vf_jax.errors import ConfigError
from vf_jax.multispine.merge import merge
from vf_jax.multispine.store import Store
from vf_jax.train.loop import train
from vf_jax.train.past import changed_data, check_domains


@pytest.fixture
def renamed(test_config, tmp_path):
  """The experiment with a store whose domains are called otherwise."""
  merge([("x", test_config.data.store)], tmp_path / "store")
  data = dataclasses.replace(
    test_config.data, store=str(tmp_path / "store"), weights=()
  )
  return dataclasses.replace(test_config, data=data)


def test_other_domains_are_refused_when_a_run_goes_on(
  uninterrupted, renamed, tmp_path, capsys
):
  run = tmp_path / "run"
  shutil.copytree(uninterrupted.workdir, run)
  assert train(renamed, run).finished  # nothing is left to do
  assert "not those of before: data.store was" in capsys.readouterr().err
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


def test_another_split_is_told(uninterrupted, test_config, tmp_path):
  assert changed_data(test_config, uninterrupted.workdir) == []
  data = dataclasses.replace(test_config.data, split="s.json", part="test")
  other = dataclasses.replace(test_config, data=data)
  assert changed_data(other, uninterrupted.workdir) == [
    "data.split was '', is 's.json'",
    "data.part was 'train', is 'test'",
  ]
  assert changed_data(other, tmp_path) == []
  for text in ("{", "[]", '{"config": []}', '{"config": {"data": 1}}'):
    (tmp_path / "run.json").write_text(text)
    assert changed_data(other, tmp_path) == []
