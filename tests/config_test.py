# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import pathlib
import runpy

import pytest

from vf_jax.config import Config, from_config_dict, from_dict
from vf_jax.errors import ConfigError
from vf_jax.models.cost import count_cost


@pytest.mark.parametrize("variant", ["", "own", "test"])
def test_tiny_converts_and_round_trips_through_json(tiny, variant):
  config = from_config_dict(tiny(variant))
  assert isinstance(config, Config)
  assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
  assert hash(config) == hash(from_config_dict(tiny(variant)))
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.name = "other"


def test_unknown_variant_is_refused(tiny):
  with pytest.raises(ValueError, match="no variant 'huge'"):
    tiny("huge")


def test_sizes_of_fast_grow():
  path = pathlib.Path(__file__).parent.parent / "configs" / "fast.py"
  fast = runpy.run_path(str(path))
  costs = [
    count_cost(from_config_dict(fast["get_config"](size)).model).forward
    for size in fast["SIZES"]
  ]
  assert costs == sorted(set(costs))
  with pytest.raises(ValueError, match="no variant 'XL'"):
    fast["get_config"]("XL")


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("model.crop", [96, 60, 64], "model.crop height=60.*Fix: use 64"),
    ("model.token", 6, "model.token=6.*Fix"),
    ("model.dim", 193, "model.dim=193.*model.heads=3.*Fix: model.dim=192"),
    ("model.modulation", "magic", "model.modulation='magic'.*one of"),
    ("model.prototypes", 1, "needs at least 2 prototypes"),
    ("model.spacing_mm", 50.0, "outside 0.3-10 mm"),
    ("model.depth", True, "model.depth=True is bool"),
    ("model.depth", 2.5, "model.depth=2.5 is float"),
    ("model.crop", [96, 64], "has 2 entries. Fix: give 3"),
    ("data.foreground", 1.5, "foreground=1.5 is outside 0..1"),
    ("data.weights", [["lidc", -1.0]], "negative share"),
    ("loss.dice", -1.0, "loss.dice=-1.0 is negative"),
    ("optim.learning_rate", 0.0, "learning_rate=0.0 must be above 0"),
    ("optim.warmup_steps", 10**9, "leaves nothing of train.steps"),
    ("predict.overlap", 1.0, "predict.overlap=1.0 must be below 1"),
    ("train.sted", 3, "unknown key train.sted.*did you mean train.seed"),
  ],
)
def test_faults_name_the_key_and_the_fix(tiny, key, value, message):
  values = from_config_dict(tiny()).to_dict()
  group, name = key.split(".")
  values[group][name] = value
  with pytest.raises(ConfigError, match=message):
    from_dict(values)


def test_missing_key_is_named(tiny):
  values = from_config_dict(tiny()).to_dict()
  del values["optim"]["ema"]
  with pytest.raises(ConfigError, match=r"missing key optim\.ema"):
    from_dict(values)
