# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Whole runs, as real processes: killed, stopped, resumed and refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from processes import Process, records

from vf_jax.config import MeshConfig, from_dict
from vf_jax.data.pipeline import make_batches
from vf_jax.errors import ConfigError, InputError, NonFiniteLossError
from vf_jax.io.lock import sole_writer
from vf_jax.multispine.record import ARRAYS, PreparedCase
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import finish, write_case
from vf_jax.parallel.mesh import make_mesh
from vf_jax.train import checkpoint, loop, start
from vf_jax.train.loop import train
from vf_jax.train.state import TrainState

LINE = re.compile(
  r"^step (\d+)/20  loss \d+\.\d{4}  Dice [01]\.\d{3}  "
  r"\d+\.\d\d crops/s  ETA \d+:\d\d:\d\d *$",
  re.MULTILINE,
)
LOGGED = [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]


def progress(process) -> list[int]:
  return [int(step) for step in LINE.findall(process.stderr)]


def test_a_run_writes_its_facts_and_records(uninterrupted, test_config):
  folder = uninterrupted.workdir
  facts = json.loads((folder / "run.json").read_text())
  assert from_dict(facts["config"]) == test_config
  assert facts["packages"]["jax"]
  # Of eight devices, one works.
  assert len(facts["devices"]) == 1
  assert set(facts["mesh"].items()) == {
    ("data", 1), ("fsdp", 1), ("tensor", 1), ("context", 1),
  }  # fmt: skip
  assert uninterrupted.progress.startswith(
    "uses 1 of 8 devices; --config.mesh.data=0 takes all\n"
  )
  assert facts["cases"]["lidc-idri-0001"] == {
    "domain": "lidc",
    "licence": Store(test_config.data.store).records[6].licence,
    "mask": "network",
  }
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [record["step"] for record in found] == LOGGED
  for record in found:
    assert record["perf/crops_per_s"] > 0
    assert record["perf/data_wait_ms"] >= 0
    assert 0 <= record["train/dice"] <= 1
    assert record["train/loss"] > 0
    assert all(math.isfinite(value) for value in record.values())
  assert LINE.findall(uninterrupted.progress) == [str(s) for s in LOGGED]


def test_speed_is_that_of_steps_computed(uninterrupted):
  """And not of steps handed to the devices, as after each checkpoint once."""
  lines = (uninterrupted.workdir / "metrics.jsonl").read_text().splitlines()
  speeds = [json.loads(line)["perf/crops_per_s"] for line in lines]
  assert max(speeds) < 5 * np.median(speeds)


def test_metrics_are_read_one_step_late(test_config, tmp_path, monkeypatch):
  sent, read = 0, {}
  make, merge = loop.jit_train_step, loop._merge

  def counting(config, mesh):
    run = make(config, mesh)

    def step(*arguments):
      nonlocal sent
      sent += 1
      return run(*arguments)

    return step

  def reading(pending, store):
    read[pending[-1][0]] = sent
    return merge(pending, store)

  monkeypatch.setattr(loop, "jit_train_step", counting)
  monkeypatch.setattr(loop, "_merge", reading)
  train(test_config, tmp_path)
  saved = range(5, 21, 5)  # here nothing may be outstanding
  assert read == {step: step + (step not in saved) for step in LOGGED}


def test_a_finished_run_has_nothing_left_to_do(
  uninterrupted, test_config, tmp_path
):
  assert uninterrupted.summary.finished
  assert uninterrupted.summary.step == 20
  shutil.copytree(uninterrupted.workdir, tmp_path / "run")
  optim = dataclasses.replace(test_config.optim, learning_rate=0.9)
  changed = dataclasses.replace(test_config, optim=optim)
  again = train(changed, tmp_path / "run")
  assert (again.step, again.finished) == (20, True)
  # It still says what was trained.
  facts = json.loads((tmp_path / "run" / "run.json").read_text())
  assert from_dict(facts["config"]) == test_config
  assert records(tmp_path / "run") == records(uninterrupted.workdir)
  assert _digest(tmp_path / "run") == _digest(uninterrupted.workdir)


def _digest(workdir):
  return checkpoint.load(workdir)[2]


def test_killed_and_resumed_is_as_if_nothing_had_happened(
  uninterrupted, programs, tmp_path
):
  killed = Process(tmp_path / "run", programs)
  killed.until_step(12)  # the checkpoint of step 10 may not be complete
  killed.popen.send_signal(signal.SIGKILL)
  assert killed.wait() == -signal.SIGKILL
  seen = records(tmp_path / "run")
  assert 12 <= max(seen) < 20
  folder = tmp_path / "run" / "checkpoints"
  complete = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
  assert complete
  assert max(complete) % 5 == 0

  again = Process(tmp_path / "run", programs)
  assert again.wait() == 0, again.stderr
  assert "finished at step 20" in again.stdout
  # It went on from the checkpoint, it did not start again, and said so.
  assert f"resumed at step {max(complete)}\n" in again.stderr
  assert progress(again) == [s for s in LOGGED if s > max(complete)]
  expected = records(uninterrupted.workdir)
  assert records(tmp_path / "run") == expected  # to the last digit
  assert list(expected) == LOGGED
  assert len({record["train/loss"] for record in expected.values()}) == 12
  assert _digest(tmp_path / "run") == _digest(uninterrupted.workdir)
  # Three processes so far, and one program, compiled once.
  assert len(list(programs.glob("jit_train_step-*-cache"))) == 1


def test_sigterm_saves_and_stops_in_order(
  uninterrupted, programs, test_config, tmp_path
):
  stopped = Process(tmp_path / "run", programs)
  stopped.until_step(2)
  stopped.popen.send_signal(signal.SIGTERM)
  assert stopped.wait() == 130, stopped.stderr
  step = int(re.search(r"stopped, .* at step (\d+):", stopped.stdout)[1])
  assert 2 <= step < 20
  assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
  # Nothing is lost: the steps since the last record have one of their own.
  assert max(records(tmp_path / "run")) == step

  summary = train(test_config, tmp_path / "run")
  assert (summary.step, summary.finished) == (20, True)
  expected, found = records(uninterrupted.workdir), records(tmp_path / "run")
  # A stop between two records splits the sums of the one around it.
  around = min(s for s in LOGGED if s >= step)
  for logged in LOGGED:
    if logged != around or step in LOGGED:
      assert found[logged] == expected[logged]
  assert set(found) == {*LOGGED, step}
  assert _digest(tmp_path / "run") == _digest(uninterrupted.workdir)
  facts = json.loads((tmp_path / "run" / "run.json").read_text())
  assert (facts["from_step"], len(facts["earlier"])) == (step, 1)
  assert facts["earlier"][0]["from_step"] == 0
  assert facts["earlier"][0]["git"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_stops_after_a_step_as_sigterm_does(number):
  usual = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with loop._stop_signal() as asked:
      assert not asked(1)
      signal.raise_signal(number)
      assert asked(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is usual[signal.SIGTERM]
  finally:
    signal.signal(signal.SIGINT, before)


def test_of_several_processes_ctrl_c_asks_all_as_sigterm_does(monkeypatch):
  monkeypatch.setattr("jax.process_count", lambda: 2)
  heard = []
  before = {
    signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    # As JAX does, which tells the other processes.
    signal.SIGTERM: signal.signal(signal.SIGTERM, lambda n, _: heard.append(n)),
  }
  try:
    with loop._stop_signal():
      signal.raise_signal(signal.SIGINT)
      assert heard == [signal.SIGTERM]
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def test_a_second_ctrl_c_ends_a_run_at_once():
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with loop._stop_signal() as asked:
      signal.raise_signal(signal.SIGINT)
      assert asked(1)
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_run_in_the_background_ignores_ctrl_c_as_its_shell_wants():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with loop._stop_signal() as asked:
      signal.raise_signal(signal.SIGINT)
      assert not asked(1)
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_run_goes_on_on_another_mesh(uninterrupted, test_config, tmp_path):
  shutil.copytree(uninterrupted.workdir, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
  mesh = MeshConfig(data=2, fsdp=1, tensor=2, context=2)
  model = dataclasses.replace(test_config.model, remat="full")
  summary = train(
    dataclasses.replace(test_config, mesh=mesh, model=model), tmp_path / "run"
  )
  assert (summary.step, summary.finished) == (20, True)
  expected, found = records(uninterrupted.workdir), records(tmp_path / "run")
  assert list(found) == LOGGED
  assert found[15] == expected[15]
  for step in (16, 18, 20):
    for name in ("train/loss", "train/dice", "train/grad_norm"):
      before, after = float(expected[step][name]), float(found[step][name])
      assert after == pytest.approx(before, rel=1e-3)


def _poisoned(test_config, folder):
  """The store, with a case whose spacing is no number; first step it hits."""
  shutil.copytree(test_config.data.store, folder)
  store = Store(folder)
  case = store.case(store.names.index("lidc-idri-0001"))
  record = dataclasses.replace(case.record, native_spacing_mm=(np.nan,) * 3)
  arrays = {
    name: case.read(name, (0, 0, 0), case.shape, 0)
    if name in case.arrays
    else None
    for name in ARRAYS
  }
  write_case(folder, PreparedCase(record=record, **arrays))
  finish(folder, store.names, store.spacing_mm)
  stream = make_batches(Store(folder), test_config)
  for step in range(1, 5):
    cases = {Store(folder).names[i] for i in next(stream)["case"]}
    if "lidc-idri-0001" in cases:
      return step, cases
  raise AssertionError("no lidc among the first crops")


def test_a_folder_that_another_run_writes_is_refused(test_config, tmp_path):
  fault = "is being written by another run"
  with sole_writer(tmp_path), pytest.raises(InputError, match=fault):
    train(test_config, tmp_path)


def test_an_error_cuts_no_checkpoint_off(test_config, tmp_path, monkeypatch):
  def fails(config, mesh, store, state, batches, checkpoints, writer):
    checkpoints.save(state, batches.get_state(), None)
    raise NonFiniteLossError("after a checkpoint")

  monkeypatch.setattr(loop, "_run", fails)
  with pytest.raises(NonFiniteLossError):
    train(test_config, tmp_path)
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["0"]


def test_a_loss_that_is_no_number_stops_the_run(
  test_config, programs, tmp_path
):
  step, cases = _poisoned(test_config, tmp_path / "store")
  process = Process(
    tmp_path / "run", programs, f"--config.data.store={tmp_path / 'store'}"
  )
  assert process.wait() == 4
  message = process.stderr.splitlines()[-1]
  assert message.startswith(f"vf-jax: the loss of step {step} is nan")
  assert f"cases of its batch: {', '.join(sorted(cases))}. " in message
  assert "Fix: " in message
  assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_checkpoint_of_another_model_is_refused(
  uninterrupted, programs, tmp_path
):
  shutil.copytree(uninterrupted.workdir, tmp_path / "run")
  before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
  process = Process(tmp_path / "run", programs, "--config.model.dim=64")
  assert process.wait() == 3
  message = process.stderr.splitlines()[-1]
  assert "was trained with model.dim=32, the config says 64" in message
  assert "--config.model.dim=32" in message
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_store_of_another_spacing_is_refused(test_config, tmp_path):
  model = dataclasses.replace(test_config.model, spacing_mm=1.0)
  config = dataclasses.replace(test_config, model=model)
  with pytest.raises(ConfigError, match=r"at 2\.0 mm.*spacing_mm=1\.0"):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_among_all_devices_is_refused(
  test_config, tmp_path
):
  mesh = MeshConfig(data=0, fsdp=1, tensor=1, context=1)
  wrong = dataclasses.replace(test_config, mesh=mesh)
  with pytest.raises(ConfigError, match=r"mesh\.data=8.*Fix: data\.batch=8\."):
    train(wrong, tmp_path)


def test_more_domains_than_prototypes_are_refused(test_config, tmp_path):
  model = dataclasses.replace(test_config.model, prototypes=3)
  config = dataclasses.replace(test_config, model=model)
  with pytest.raises(ConfigError, match=r"3 domains .*prototypes=3") as e:
    train(config, tmp_path / "run")
  assert "Fix: model.prototypes=4" in str(e.value)


def test_what_would_stay_at_random_is_refused(
  uninterrupted, test_config, tmp_path
):
  settings = dataclasses.replace(
    test_config.train, init=str(uninterrupted.workdir), only=("lesion",)
  )
  model = dataclasses.replace(test_config.model, sequence_depth=3)
  config = dataclasses.replace(test_config, model=model, train=settings)
  with pytest.raises(
    ConfigError, match=r"has no numbering/\S+2\S* .*leave it at random.*Fix: "
  ):
    train(config, tmp_path / "run")


def test_what_other_weights_do_not_give_is_told(
  test_config, tmp_path, monkeypatch, capsys
):
  found = {"lesion": {"bias": jnp.ones(3)}}
  drawn = {"numbering": {name: jnp.zeros(3) for name in "abcde"}}
  monkeypatch.setattr(start, "load", lambda _: (test_config, found, ""))
  settings = dataclasses.replace(test_config.train, init="weights")
  config = dataclasses.replace(test_config, train=settings)
  params = drawn | {"lesion": {"bias": jnp.zeros(3)}}
  state = TrainState(jnp.int32(0), params, params, (), None)
  state, step, fresh = start._adopt(state, config)
  assert step == 0
  assert fresh == [f"numbering/{name}" for name in "abcde"]
  assert capsys.readouterr().err == (
    "1 of 6 parameters start from weights; drawn: numbering/a, numbering/b, "
    "numbering/c and 2 more, see run.json\n"
  )
  store, mesh = Store(config.data.store), make_mesh(config.mesh)
  start.write_facts(tmp_path, config, mesh, store, step, fresh)
  assert json.loads((tmp_path / "run.json").read_text())["drawn"] == fresh


@pytest.mark.parametrize(
  ("attention", "here", "reason"),
  [
    ("gpu", "cpu", "this is a cpu"),
    ("cudnn", "tpu", "this is a tpu"),
    ("gpu", "gpu", "channels a head in float32 are too wide"),
  ],
)
def test_a_kernel_that_the_devices_lack_is_refused(
  test_config, tmp_path, monkeypatch, attention, here, reason
):
  model = dataclasses.replace(
    test_config.model, attention=attention, dim=384, heads=3, dtype="float32"
  )
  config = dataclasses.replace(test_config, model=model)
  monkeypatch.setattr("jax.default_backend", lambda: here)
  with pytest.raises(ConfigError, match=f"{attention} does not run.*{reason}"):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("dtype", "context", "fix"),
  [
    ("float32", 1, r"model\.dtype=bfloat16 or model\.attention=auto"),
    ("bfloat16", 2, r"mesh\.context=1 or model\.attention=auto"),
  ],
)
def test_what_cudnn_cannot_do_is_refused(
  test_config, tmp_path, monkeypatch, dtype, context, fix
):
  model = dataclasses.replace(test_config.model, attention="cudnn", dtype=dtype)
  mesh = dataclasses.replace(test_config.mesh, context=context)
  config = dataclasses.replace(test_config, model=model, mesh=mesh)
  monkeypatch.setattr("jax.default_backend", lambda: "gpu")
  with pytest.raises(ConfigError, match=rf"cudnn does not run.*Fix: {fix}\."):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def _records(test_config):
  store = Store(test_config.data.store)
  return loop._Records(test_config, store, None, 0)


def test_what_no_crop_tells_of_is_left_out(test_config):
  """Instead of a Dice of 0 that a checkpoint would be judged by."""
  records, one = _records(test_config), jnp.ones(())
  known = {"loss": (2 * one, one), "grad_norm": (one, one)}
  nothing = {"dice": (0 * one, 0 * one), "level_accuracy": (0 * one, 0 * one)}
  cases = np.zeros(1, np.int32)
  records.add(1, known | nothing, cases)
  records.close_interval()
  records.write()
  assert records.metrics == {"loss": 2, "grad_norm": 1}
  assert records.dice() is None
  loop._progress(1, 2, records.metrics, 1.0, 0.0)
  records.add(2, known | {"dice": (one, 2 * one)}, cases)
  records.close_interval()
  records.write()
  assert records.dice() == 0.5  # the mean of one interval, not of two


def test_one_of_several_processes_says_whose_cases_it_names(
  test_config, monkeypatch
):
  store, one = Store(test_config.data.store), jnp.ones(())
  sums = {"loss": (jnp.nan * one, one), "grad_norm": (one, one)}
  step = [(3, sums, np.zeros(1, np.int32))]
  named = f"cases of its batch%s: {store.names[0]}. Fix: "
  for count, whose in (1, ""), (2, " that this one of 2 processes read"):
    monkeypatch.setattr("jax.process_count", lambda count=count: count)
    with pytest.raises(NonFiniteLossError, match=named % whose):
      loop._merge(step, store)
