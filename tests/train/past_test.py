# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A run keeps the numbers of its domains, and tells of other settings."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import pytest

from vf_jax.config import from_dict
from vf_jax.errors import ConfigError
from vf_jax.multispine.merge import merge
from vf_jax.multispine.store import Store
from vf_jax.train.loop import train
from vf_jax.train.past import changed_settings, check_domains


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


def test_what_changes_later_steps_is_told(
  uninterrupted, test_config, tmp_path, capsys
):
  values = test_config.to_dict()
  changes = {
    "data.batch": 4, "data.weights": [], "data.augment.noise": 0.25,
    "loss.lesion": 0.5, "optim.learning_rate": 0.25, "train.steps": 40,
    "train.micro_batches": 2, "train.seed": 7,
  }  # fmt: skip
  expected = []
  for key, now in changes.items():
    *groups, name = key.split(".")
    group = functools.reduce(dict.__getitem__, groups, values)
    expected.append(f"{key} was {group[name]!r}, is {now!r}")
    group[name] = now
  # How it is read and how often it is written down changes no step.
  values["data"] |= {"workers": 2, "threads": 3, "prefetch": 5, "cache_mib": 1}
  values["train"] |= {"log_every": 3, "checkpoint_every": 7, "keep": 9}
  found = changed_settings(from_dict(values), uninterrupted.workdir)
  assert sorted(found) == sorted(expected)

  run = tmp_path / "run"
  shutil.copytree(uninterrupted.workdir, run)
  settings = dataclasses.replace(test_config.train, steps=10)
  train(dataclasses.replace(test_config, train=settings), run)
  said = capsys.readouterr().err
  assert "settings are not those of before: train.steps was 20, is 10" in said


def test_another_split_is_told(uninterrupted, test_config, tmp_path):
  assert changed_settings(test_config, uninterrupted.workdir) == []
  data = dataclasses.replace(test_config.data, split="s.json", part="test")
  other = dataclasses.replace(test_config, data=data)
  assert changed_settings(other, uninterrupted.workdir) == [
    "data.split was '', is 's.json'",
    "data.part was 'train', is 'test'",
  ]
  assert changed_settings(other, tmp_path) == []
  for text in ("{", "[]", '{"config": []}', '{"config": {"data": 1}}'):
    (tmp_path / "run.json").write_text(text)
    assert changed_settings(other, tmp_path) == []
