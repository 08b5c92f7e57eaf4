# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
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


def test_variants_of_default_are_joined_by_commas():
  path = pathlib.Path(__file__).parent.parent / "configs" / "default.py"
  default = runpy.run_path(str(path))["get_config"]
  config = from_config_dict(default("-lesions,lesion-decoder"))
  assert config.train.only == ("lesion",)
  assert dict(config.data.weights)["blds"] == 0
  assert from_config_dict(default()).train.only == ()
  # Both stages are one network, or the last could not start from the first.
  assert config.model == from_config_dict(default()).model
  with pytest.raises(ValueError, match="no variant 'lesion'"):
    default("-lesions,lesion")


def test_a_network_that_mostly_stays_as_drawn_is_refused(tiny):
  config = tiny("test")
  config.train.only = ("lesion",)
  with pytest.raises(ConfigError, match=r"train.only=.*Fix: .*train.init"):
    from_config_dict(config)


BASE = runpy.run_path(
  str(pathlib.Path(__file__).parent.parent / "configs" / "base.py")
)["get_config"]


@pytest.mark.parametrize(
  ("variant", "expected"),
  [
    ("unetr", ()),
    ("unetr+identification", ("identification",)),
    ("unetr+identification+lesion", ("identification", "lesion")),
    ("", ("identification", "lesion", "modulation")),
    ("-identification", ("lesion", "modulation")),
    ("-lesion-modulation", ("identification",)),
  ],
)
def test_the_ladder_of_base_adds_and_removes_components(variant, expected):
  model = from_config_dict(BASE(variant)).model
  found = {
    "identification": model.identification,
    "lesion": model.lesion,
    "modulation": model.modulation != "none",
  }
  assert tuple(name for name, there in found.items() if there) == expected
  assert (model.crop, model.token, model.depth) == ((96, 96, 96), 16, 12)
  assert (model.dim, model.heads, model.taps) == (768, 12, (3, 6, 9))


def test_the_top_of_the_ladder_is_base():
  top = from_config_dict(BASE("unetr+identification+lesion+modulation"))
  assert top.model == from_config_dict(BASE()).model


def test_deep_supervision_is_a_variant_of_base():
  assert from_config_dict(BASE("+supervision")).model.deep_supervision


@pytest.mark.parametrize(
  "variant", ["unetr-lesion", "+speed", "lesion", "-supervision", "+Lesion"]
)
def test_unknown_components_of_base_are_refused(variant):
  with pytest.raises(ValueError, match="no variant"):
    BASE(variant)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model.heads": 0}, "model.heads=0 must be above 0"),
    ({"model.token": 0}, "model.token=0 must be above 0"),
    ({"model.mlp_ratio": 0}, "model.mlp_ratio=0 must be above 0"),
    ({"model.sequence_depth": -1}, "model.sequence_depth=-1 is negative"),
    ({"model.sequence_dim": 100}, "heads of 32. Fix: model.sequence_dim=96"),
    ({"train.seed": -1}, "train.seed=-1 is negative"),
    ({"optim.warmup_steps": -5}, "optim.warmup_steps=-5 is negative"),
    ({"optim.learning_rate": math.inf}, "learning_rate=inf is no finite"),
    ({"loss.dice": math.nan}, "loss.dice=nan is no finite number"),
    ({"data.weights": (("a", math.nan),)}, "=nan is no finite number"),
    ({"model.token": 8}, "model.token=8 does not fit.*Fix: model.token=16"),
    ({"model.depth": 4}, "model.depth=4 gives .*Fix: model.depth=5"),
    ({"model.stem_blocks": 1}, "belong to model.decoder='subvoxel'"),
    ({"mesh.context": 4}, "mesh.context=4 does not divide the 6 tokens"),
    ({"mesh.tensor": 5}, "mesh.tensor=5 does not divide the 12 heads"),
    (
      {"mesh.fsdp": 5},
      "mesh.fsdp=5 does not divide the 768.*Fix: mesh",
    ),
    ({"mesh.fsdp": 3}, "data.batch=8.*mesh.fsdp=3.*Fix: data.batch=9"),
    ({"train.micro_batches": 3}, "micro_batches=3. Fix: data.batch=9"),
    (
      {"model.decoder": "subvoxel", "model.deep_supervision": True},
      "deep_supervision=True needs the stages",
    ),
  ],
  ids=str,
)
def test_parts_of_base_that_do_not_fit(changes, message):
  values = from_config_dict(BASE()).to_dict()
  for key, value in changes.items():
    group, name = key.split(".")
    values[group][name] = value
  with pytest.raises(ConfigError, match=message):
    from_dict(values)


@pytest.mark.parametrize("depth", [5, 6, 7, 8, 12])
def test_the_decoder_sees_three_states_before_the_last(depth):
  values = from_config_dict(BASE()).to_dict()
  values["model"]["depth"] = depth
  taps = from_dict(values).model.taps
  assert len({*taps, depth - 1}) == 4


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("model.crop", [96, 60, 64], "model.crop height=60.*Fix: use 64"),
    ("model.token", 6, "model.token=6.*Fix"),
    ("model.dim", 193, "model.dim=193.*model.heads=3.*Fix: model.dim=192"),
    ("model.heads", 48, "'rotary' turns nothing in .* of 4 ch.*model.dim=288"),
    ("model.modulation", "magic", "model.modulation='magic'.*one of"),
    ("model.modulation_version", 1, "version=1 is unknown"),
    ("model.prototypes", 1, "needs at least 2 prototypes"),
    ("model.spacing_mm", 50.0, "outside 0.3-10 mm"),
    ("model.depth", True, "model.depth=True is bool"),
    ("model.depth", 2.5, "model.depth=2.5 is float"),
    ("model.crop", [96, 64], "has 2 entries. Fix: give 3"),
    ("data.foreground", 1.5, "data.foreground=1.5 is outside 0..1"),
    ("data.weights", [["lidc", -1.0]], "negative share"),
    ("loss.dice", -1.0, "loss.dice=-1.0 is negative"),
    ("optim.learning_rate", 0.0, "optim.learning_rate=0.0 must be above 0"),
    ("data.batch", 0, "^data.batch=0 must be above 0"),
    ("predict.batch", 0, "^predict.batch=0 must be above 0"),
    ("predict.min_volume_ml", -1.0, "^predict.min_volume_ml=-1.0 is negative"),
    ("mesh.data", -1, "^mesh.data=-1 is negative. Fix: use 0 or more"),
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


def test_a_decoder_without_blocks_is_not_modulated_alone(tiny):
  values = from_config_dict(tiny()).to_dict()
  values["model"] |= {"modulate": "decoder", "decoder_blocks": 0}
  with pytest.raises(ConfigError, match=r"'decoder' changes nothing.*Fix"):
    from_dict(values)
  # The lesion decoder has a block of its own.
  from_dict(values | {"model": values["model"] | {"lesion_channels": 8}})
  values["model"]["modulation"] = "none"
  from_dict(values)


def test_the_batch_divides_among_the_devices_that_there_are():
  values = from_config_dict(BASE()).to_dict()
  assert values["mesh"]["data"] == 0
  values["train"]["micro_batches"] = 2
  config = from_dict(values)
  config.check_batch(4)
  with pytest.raises(ConfigError, match=r"mesh.data=8.*Fix: data.batch=16\."):
    config.check_batch(8)


def test_missing_key_is_named(tiny):
  values = from_config_dict(tiny()).to_dict()
  del values["optim"]["ema"]
  with pytest.raises(ConfigError, match=r"missing key optim\.ema"):
    from_dict(values)
