# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Temperature of the levels: found where it is known, written, and used."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.cli import USAGE, main
from vf_jax.errors import ConfigError
from vf_jax.infer.calibrate import calibrate, fit
from vf_jax.infer.predictor import Predictor, load
from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.level_chain import ChainScores
from vf_jax.train.checkpoint import write_weights
from vf_jax.train.state import init_params

STORE = pathlib.Path(__file__).parent.parent / "data" / "store"
_STATES = 2 * len(VERTEBRAE) + 1


def chain_of(levels) -> ChainScores:
  """One body, its scores of the levels as given, no false detection."""
  emissions = np.full((1, 1, _STATES), -1e9, np.float32)
  emissions[0, 0, : len(VERTEBRAE)] = levels
  return ChainScores(
    emissions=jnp.asarray(emissions),
    transitions=jnp.zeros((1, 1, _STATES, _STATES)),
    mask=jnp.ones((1, 1), bool),
  )


def untrained(config):
  return jax.jit(lambda: init_params(config, jax.random.key(0)))()


@pytest.mark.parametrize("overdone", [0.5, 1.0, 3.0])
def test_the_factor_by_which_scores_are_overdone_is_found(overdone):
  rng = np.random.default_rng(0)
  chains, truths = [], []
  for _ in range(400):
    honest = rng.normal(scale=2.0, size=len(VERTEBRAE))
    share = np.exp(honest) / np.exp(honest).sum()
    truths.append(np.array([rng.choice(len(VERTEBRAE), p=share)]))
    chains.append(chain_of(overdone * honest))
  found = fit(chains, truths)
  assert found.temperature == pytest.approx(overdone, rel=0.15)
  assert found.nll_after <= found.nll_before
  assert found.mean_confidence_after == pytest.approx(found.right, abs=0.05)
  assert found.bodies == found.cases == 400


def test_tempered_scores_have_the_same_best_path():
  key = jax.random.key(0)
  scores = ChainScores(
    emissions=3 * jax.random.normal(key, (1, 6, _STATES)),
    transitions=jax.random.normal(key, (1, 6, _STATES, _STATES)),
    mask=jnp.ones((1, 6), bool),
  )
  decode = jax.jit(lambda scores, t: scores.tempered(t).decode())
  levels, sure = decode(scores, 1.0)
  softer, less = decode(scores, 2.5)
  np.testing.assert_array_equal(levels, softer)
  assert less.mean() < sure.mean()


def test_the_command_writes_weights_that_carry_it(
  test_config, tmp_path, capsys
):
  weights, out = tmp_path / "weights", tmp_path / "calibrated"
  started = dataclasses.replace(test_config.train, init="/a/path/of/ours")
  config = dataclasses.replace(test_config, train=started)
  digest = write_weights(config, untrained(config), weights)
  arguments = ["calibrate", str(weights), "--store", str(STORE)]
  assert main([*arguments, "--out", str(out)]) == 0
  said = capsys.readouterr().out
  assert "/13 levels right" in said
  assert "vertebrae of 1 scans" in said  # the only one with image and levels
  predictor = load(out)
  temperature = predictor.config.predict.level_temperature
  assert f"temperature {temperature:g}" in said
  assert temperature != 1.0
  assert predictor.digest == digest
  assert predictor.config.train.init == predictor.config.data.store == ""
  config = json.loads((out / "config.json").read_text())
  assert config["predict"]["level_temperature"] == temperature


def test_a_part_without_a_split_is_usage(capsys):
  arguments = ["calibrate", "w", "--store", str(STORE), "--out", "o"]
  assert main([*arguments, "--part", "train"]) == USAGE
  assert "--split FILE" in capsys.readouterr().err


def test_a_store_of_another_spacing_is_refused(test_config):
  model = dataclasses.replace(test_config.model, spacing_mm=3.0)
  config = dataclasses.replace(test_config, model=model)
  predictor = Predictor(config=config, params={}, digest="0" * 64)
  with pytest.raises(ConfigError, match=r"at 2\.0 mm, the network at 3"):
    calibrate(predictor, STORE)


def test_a_gap_that_no_chain_explains_is_passed_over(test_config, monkeypatch):
  from vf_jax.infer import calibrate as module

  def score(predictor, case):
    del predictor, case
    return chain_of(np.zeros(len(VERTEBRAE))), np.array([2, 15])

  monkeypatch.setattr(module, "_score", score)
  said = []
  predictor = Predictor(config=test_config, params={}, digest="0" * 64)
  with pytest.raises(ConfigError, match="levels without a gap"):
    calibrate(predictor, STORE, report=said.append)
  assert any("passed over" in line for line in said)
