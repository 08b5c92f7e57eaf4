# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints and exported weights: exact, few, and never half or damaged."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from vf_jax.errors import ConfigError, InputError, OutputError
from vf_jax.train import checkpoint
from vf_jax.train.checkpoint import Checkpoints
from vf_jax.train.state import TrainState
from vf_jax.train.unreadable import explained


def small_state(step: int, seed: int = 0) -> TrainState:
  """A state with every kind of leaf, and nothing of a network."""
  keys = jax.random.split(jax.random.key(seed), 3)
  return TrainState(
    step=jnp.int32(step),
    params={"a": jax.random.normal(keys[0], (40, 30)), "b": {"c": jnp.ones(3)}},
    ema={"a": jax.random.normal(keys[1], (40, 30)), "b": {"c": jnp.zeros(3)}},
    opt_state=({"mu": jnp.full((40, 30), 1e-30)}, jnp.int32(step)),
    key=keys[2],
  )


def abstract(state):
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def assert_same(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
    assert a.dtype == b.dtype
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)


def restore(folder, config):
  checkpoints = Checkpoints(folder, config)
  try:
    return checkpoints.restore(abstract(small_state(0)))
  finally:
    checkpoints.close()


def write(folder, config, dices):
  """Checkpoints at steps 5, 10, ... with these Dice scores."""
  checkpoints = Checkpoints(folder, config)
  for i, dice in enumerate(dices):
    step = 5 * (i + 1)
    checkpoints.save(
      small_state(step, step), {"global_next_index": 2 * step}, dice
    )
  checkpoints.close()


def kept(folder):
  return sorted(int(p.name) for p in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def pristine(test_config, tmp_path_factory):
  folder = tmp_path_factory.mktemp("pristine")
  write(folder, test_config, [0.1, 0.2])
  return folder


@pytest.fixture
def run(pristine, tmp_path):
  shutil.copytree(pristine, tmp_path / "run")
  return tmp_path / "run"


@pytest.mark.parametrize(
  ("dices", "steps"),
  [
    ([0.1], [5]),
    ([0.1, 0.9, 0.2, 0.3, 0.4], [10, 20, 25]),
    ([0.9, 0.1, 0.2, 0.3, 0.95], [20, 25]),
    ([0.5, 0.1, 0.2, 0.3, 0.1], [5, 20, 25]),
    ([None, 0.3, None, 0.1, 0.2], [10, 20, 25]),
    ([None, None, None, None], [15, 20]),
  ],
)
def test_the_latest_two_and_the_best_are_kept(
  test_config, tmp_path, dices, steps
):
  assert test_config.train.keep == 2
  write(tmp_path, test_config, dices)
  assert kept(tmp_path) == steps


def test_what_was_saved_comes_back_to_the_bit(run, test_config):
  state, data_state = restore(run, test_config)
  assert_same(state, small_state(10, 10))
  assert dict(data_state) == {"global_next_index": 20}


def test_a_state_may_be_given_away_while_it_is_written(
  test_config, tmp_path, monkeypatch
):
  def blocking(*_, **__):
    raise AssertionError("training waits for the disk")

  monkeypatch.setattr(
    ocp.training.Checkpointer, "save_checkpointables", blocking
  )
  step = jax.jit(
    lambda state: state.replace(
      step=state.step + 1,
      params=jax.tree.map(lambda x: x + 1, state.params),
      ema=jax.tree.map(lambda x: x - 1, state.ema),
    ),
    donate_argnums=0,
  )
  checkpoints, state = Checkpoints(tmp_path, test_config), small_state(5, 5)
  checkpoints.save(state, {"global_next_index": 10}, None)
  for _ in range(20):
    state = step(state)
  jax.block_until_ready(state)
  checkpoints.wait()
  assert kept(tmp_path) == [5]
  checkpoints.close()
  found, _ = restore(tmp_path, test_config)
  assert_same(found, small_state(5, 5))


def test_a_run_without_checkpoint_has_no_latest(test_config, tmp_path):
  checkpoints = Checkpoints(tmp_path, test_config)
  assert checkpoints.latest is None
  checkpoints.close()


def test_a_checkpoint_cut_off_while_written_is_passed_over(run, test_config):
  # What a kill leaves: the step under a temporary name.
  source = run / "checkpoints" / "10"
  left = run / "checkpoints" / "15.orbax-checkpoint-tmp"
  shutil.copytree(source, left)
  (left / "state" / "manifest.ocdbt").unlink()
  state, _ = restore(run, test_config)
  assert int(state.step) == 10
  assert not left.exists()


def numbers_of(folder: pathlib.Path) -> pathlib.Path:
  """The file with the numbers of the state."""
  files = [p for p in folder.rglob("d/*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, place):
  data = bytearray(path.read_bytes())
  data[int(place * len(data))] ^= 0xFF
  path.write_bytes(bytes(data))


@pytest.mark.parametrize(
  "damage",
  [
    lambda step: cut(numbers_of(step / "state" / "ocdbt.process_0")),
    lambda step: cut(step / "state" / "manifest.ocdbt"),
    lambda step: cut(step / "state" / "_METADATA"),
    lambda step: (step / "state" / "_METADATA").unlink(),
    lambda step: shutil.rmtree(step / "state"),
    lambda step: shutil.rmtree(step / "data"),
    lambda step: shutil.rmtree(step / "config"),
  ],
  ids=[
    "numbers", "manifest", "metadata", "no metadata", "no state", "no data",
    "no config",
  ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_by_name(run, test_config, damage):
  damage(run / "checkpoints" / "10")
  with pytest.raises(InputError, match="the checkpoint cannot be read") as e:
    restore(run, test_config)
  assert e.value.source == str(run / "checkpoints" / "10")
  assert "remove the damaged step folder" in e.value.fix
  # Doing so helps.
  shutil.rmtree(run / "checkpoints" / "10")
  state, _ = restore(run, test_config)
  assert int(state.step) == 5


@pytest.mark.parametrize(
  "fault",
  [
    MemoryError(),
    OSError(5, "Input/output error"),
    ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
  ],
  ids=["memory", "disk", "device"],
)
def test_what_the_machine_lacks_is_no_damage(fault):
  with pytest.raises(InputError, match="cannot be read") as e, explained("10"):
    raise RuntimeError("a part of the library") from fault
  assert "may be whole: try again" in e.value.fix
  assert "remove" not in e.value.fix


def test_a_configuration_that_is_refused_is_no_damage():
  with pytest.raises(InputError, match=r"^10: its conf.*refused: depth=4") as e:
    with explained("10"):
      raise ConfigError("depth=4 is too low. Fix: raise it.")
  assert "remove" not in e.value.fix


def test_a_changed_number_is_noticed(run, test_config):
  step = run / "checkpoints" / "10"
  path = numbers_of(step / "state" / "ocdbt.process_0")
  whole = path.read_bytes()
  refused = 0
  for place in np.linspace(0, 0.999, 16):
    path.write_bytes(whole)
    flip(path, place)
    try:
      state, _ = restore(run, test_config)
    except InputError:
      refused += 1
    else:  # a byte that means nothing
      assert_same(state, small_state(10, 10))
  assert refused >= 12


def test_checkpoints_from_before_the_digest_are_read(run, test_config):
  path = run / "checkpoints" / "10" / "_CHECKPOINT_METADATA"
  values = json.loads(path.read_text())
  assert set(values["custom_metadata"]) == {"sha256_ema", "sha256_rest"}
  for digest in ({}, {"sha256": checkpoint._digest(small_state(10, 10))}):
    values["custom_metadata"] = digest
    path.write_text(json.dumps(values))
    state, _ = restore(run, test_config)
    assert_same(state, small_state(10, 10))
  values["custom_metadata"] = {"sha256": "0" * 64}
  path.write_text(json.dumps(values))
  with pytest.raises(InputError, match="its numbers have changed since"):
    restore(run, test_config)


def test_another_model_is_refused_before_anything_is_read(run, test_config):
  model = dataclasses.replace(test_config.model, depth=3)
  other = dataclasses.replace(test_config, model=model)
  with pytest.raises(
    InputError, match=r"trained with model\.depth=2, the config says 3"
  ) as error:
    restore(run, other)
  assert "--config.model.depth=2" in error.value.fix
  loss = dataclasses.replace(test_config.loss, weighting="uncertainty")
  with pytest.raises(InputError, match=r"trained with loss\.weighting=fixed"):
    restore(run, dataclasses.replace(test_config, loss=loss))
  train = dataclasses.replace(test_config.train, only=("lesion",), init="w")
  with pytest.raises(InputError, match=r"trained with train\.only=\(\)"):
    restore(run, dataclasses.replace(test_config, train=train))
  # Everything else of the experiment may change between two starts.
  data = dataclasses.replace(test_config.data, foreground=0.1)
  restore(run, dataclasses.replace(test_config, data=data))


@pytest.fixture(scope="module")
def exported(uninterrupted, tmp_path_factory):
  out = tmp_path_factory.mktemp("exported") / "weights"
  return out, checkpoint.export(uninterrupted.workdir, out)


def test_exported_weights_are_the_average_of_the_run(
  exported, uninterrupted, test_config
):
  out, digest = exported
  config, params, found = checkpoint.load(out)
  run_config, ema, of_run = checkpoint.load(uninterrupted.workdir)
  # Which kernel it was trained with is of no use elsewhere, nor is the store.
  model = dataclasses.replace(test_config.model, attention="auto")
  anywhere = dataclasses.replace(test_config, model=model)
  assert run_config == anywhere
  nowhere = dataclasses.replace(test_config.data, store="")
  assert config == dataclasses.replace(anywhere, data=nowhere)
  assert_same(params, ema)
  assert digest == found == of_run
  assert digest == (out / "sha256").read_text().strip()
  assert [p.name for p in out.parent.iterdir()] == ["weights"]
  # Not the raw parameters, and not those of the start.
  checkpoints = Checkpoints(uninterrupted.workdir, test_config)
  state, _ = checkpoints.restore(_abstract(test_config))
  checkpoints.close()
  assert_same(params, state.ema)
  different = jax.tree.map(
    lambda a, b: bool((a != b).any()), state.ema, state.params
  )
  assert np.mean(jax.tree.leaves(different)) > 0.9


def _abstract(config):
  from vf_jax.train.state import init_state

  return abstract(jax.eval_shape(lambda: init_state(config)))


def test_of_a_run_the_average_alone_is_read(uninterrupted, monkeypatch):
  """The rest is three times as large, and a device may not hold it all."""
  read, usual = [], ocp.training.Checkpointer.load_checkpointables

  def load(self, *arguments):
    found = usual(self, *arguments)
    read.append(found.get("state"))
    return found

  monkeypatch.setattr(ocp.training.Checkpointer, "load_checkpointables", load)
  _, params, _ = checkpoint.load(uninterrupted.workdir)
  state = read[-1]
  assert_same(params, state.ema)
  rest = jax.tree.leaves(state.replace(ema=None))
  assert len(rest) > 3 * len(jax.tree.leaves(params))
  assert set(rest) == {ocp.PLACEHOLDER}


def test_a_changed_number_of_the_average_is_noticed(uninterrupted, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(uninterrupted.workdir, run)
  digest = checkpoint.load(run)[2]
  path = run / "checkpoints" / "20" / "_CHECKPOINT_METADATA"
  values = json.loads(path.read_text())
  assert values["custom_metadata"]["sha256_ema"] == digest
  values["custom_metadata"]["sha256_ema"] = "0" * 64
  path.write_text(json.dumps(values))
  with pytest.raises(InputError, match="its numbers have changed since"):
    checkpoint.load(run)


def test_export_replaces_weights(exported, uninterrupted, tmp_path):
  out = tmp_path / "weights"
  shutil.copytree(exported[0], out)
  (out / "sha256").write_text("of before")
  assert checkpoint.export(uninterrupted.workdir, out) == exported[1]
  checkpoint.load(out)
  assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_export_replaces_nothing_else(uninterrupted, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(uninterrupted.workdir, run)
  mine, file = tmp_path / "mine", tmp_path / "file"
  mine.mkdir()
  (mine / "thesis.txt").write_text("years of work")
  file.write_text("x")
  before = sorted(tmp_path.rglob("*"))
  for out, fault in ((run, "holds .lock"), (mine, "thesis"), (file, "a file")):
    with pytest.raises(OutputError, match=fault):
      checkpoint.export(run, out)
  assert sorted(tmp_path.rglob("*")) == before


def test_weights_are_for_any_device(uninterrupted, test_config, tmp_path):
  model = dataclasses.replace(test_config.model, attention="cudnn")
  # Weights of a part that learned alone are as whole as any.
  train = dataclasses.replace(test_config.train, only=("lesion",), init="w")
  config = dataclasses.replace(test_config, model=model, train=train)
  params = checkpoint.load(uninterrupted.workdir)[1]
  checkpoint.write_weights(config, params, tmp_path / "weights")
  found, _, _ = checkpoint.load(tmp_path / "weights")
  assert found.model.attention == "auto"
  assert found.train.init == ""
  assert found.train.only == ()


def test_a_changed_byte_in_the_weights_is_refused(exported, tmp_path):
  source = numbers_of(exported[0] / "params").relative_to(exported[0])
  refused = 0
  for number, place in enumerate((0.2, 0.4, 0.6, 0.8)):
    out = tmp_path / f"weights{number}"
    shutil.copytree(exported[0], out)
    flip(out / source, place)
    try:
      _, _, digest = checkpoint.load(out)
    except InputError as error:
      refused += 1
      text = str(error)
      named = text.startswith(f"{out}: ") and "Fix: " in text
    else:
      named = digest == exported[1]  # a byte that means nothing
    assert named
  assert refused >= 3


def widen(path):
  """The configuration of a model of twice the channels."""
  values = json.loads(path.read_text())
  values["model"]["channels"] *= 2
  path.write_text(json.dumps(values))


@pytest.mark.parametrize(
  ("damage", "match"),
  [
    (lambda w: (w / "sha256").write_text("0" * 64), "SHA-256 .*: damaged"),
    (lambda w: (w / "sha256").unlink(), "config or digest is damaged"),
    (lambda w: (w / "config.json").write_text("{"), "config or digest"),
    (lambda w: (w / "config.json").write_text("{}"), "config or digest"),
    (lambda w: (w / "config.json").unlink(), "neither a run"),
    (lambda w: widen(w / "config.json"), "of another model than its"),
    (lambda w: shutil.rmtree(w / "params"), "cannot be read"),
    (lambda w: cut(numbers_of(w / "params")), "cannot be read"),
  ],
)
def test_damaged_weights_are_refused_by_name(exported, tmp_path, damage, match):
  out = tmp_path / "weights"
  shutil.copytree(exported[0], out)
  damage(out)
  with pytest.raises(InputError, match=match) as error:
    checkpoint.load(out)
  assert error.value.source == str(out)
  assert error.value.fix


def test_what_is_no_run_is_refused(tmp_path):
  for call in (
    lambda: checkpoint.load(tmp_path),
    lambda: checkpoint.export(tmp_path, tmp_path / "out"),
  ):
    with pytest.raises(InputError, match=r"checkpoints/"):
      call()
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError, match="holds no complete checkpoint"):
    checkpoint.export(tmp_path, tmp_path / "out")
  assert not (tmp_path / "out").exists()
