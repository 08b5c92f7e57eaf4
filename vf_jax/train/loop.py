# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The training loop: data in, checkpoints and metric records out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vf_jax.config import Config
from vf_jax.data.pipeline import domain_names, make_batches
from vf_jax.errors import ConfigError, NonFiniteLossError
from vf_jax.io.atomic import write_text
from vf_jax.io.lock import sole_writer
from vf_jax.multispine.store import Store
from vf_jax.ops.flash_attention import why_not
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.sharding import data_rows, state_shardings
from vf_jax.telemetry import JsonlWriter, device_facts, run_facts
from vf_jax.train.checkpoint import Checkpoints, load
from vf_jax.train.domains import check_domains
from vf_jax.train.state import TASK_LOG_VARIANCE, TrainState, adopt, init_state
from vf_jax.train.step import jit_train_step, place_batch


@dataclasses.dataclass(frozen=True)
class Summary:
  """How a run ended.

  Attributes:
    step: last step done.
    finished: False if it was asked to stop earlier (SIGTERM, Ctrl-C).
    metrics: of the last log interval, without those that no crop told of.
  """

  step: int
  finished: bool
  metrics: Mapping[str, float]


def train(config: Config, workdir: str | os.PathLike[str]) -> Summary:
  """Trains, or goes on training, the experiment of a folder.

  Args:
    config: the experiment.
    workdir: folder of the run; a checkpoint in it is resumed, with the same
      later batches and losses as if nothing had happened.

  Returns:
    How it ended.

  Raises:
    InputError: for an unreadable store or checkpoint, or if another run is
      writing the folder.
    ConfigError: if store, devices and config do not fit.
    NonFiniteLossError: at the first loss that is no number.
  """
  folder = pathlib.Path(workdir)
  _check_kernel(config)
  mesh = make_mesh(config.mesh)
  config.check_batch(mesh.shape["data"])
  store = Store(config.data.store, config.data.cache_mib)
  _check_store(store, config)
  first = jax.process_index() == 0  # the one who writes
  with sole_writer(folder) if first else contextlib.nullcontext():
    checkpoints = Checkpoints(folder, config)
    rows = data_rows(mesh, config.data.batch)
    batches = make_batches(store, config, rows=rows)
    try:
      state, start = _start(config, mesh, checkpoints, batches)
      if 0 < start < config.train.steps:
        check_domains(config, store, folder)
      writer = None
      if first:
        writer = JsonlWriter(folder / "metrics.jsonl")
        writer.drop_after(start)
        if start < config.train.steps:
          _write_facts(folder, config, store, start)
      with jax.set_mesh(mesh):
        return _run(config, mesh, store, state, batches, checkpoints, writer)
    finally:
      checkpoints.close()
      _close(batches)


def _check_kernel(config: Config) -> None:
  """Refuses a kernel of attention that does not run here."""
  wanted, here = config.model.attention, jax.default_backend()
  needs = "gpu" if wanted == "cudnn" else wanted
  m, reason, fix = config.model, "", ""
  if needs in ("gpu", "tpu") and needs != here:
    reason = f"this is a {here}"
  elif wanted == "gpu":
    reason = why_not(m.dim // m.heads, jnp.dtype(m.dtype))
  elif wanted == "cudnn" and m.dtype == "float32":
    reason = "cuDNN does not compute in model.dtype=float32"
    fix = "model.dtype=bfloat16 or "
  elif wanted == "cudnn" and config.mesh.context > 1:
    reason = f"it is not divided over mesh.context={config.mesh.context}"
    fix = "mesh.context=1 or "
  if reason:
    raise ConfigError(
      f"model.attention={wanted} does not run on this device: {reason}. Fix: "
      f"{fix}model.attention=auto."
    )


def _check_store(store: Store, config: Config) -> None:
  if store.spacing_mm != config.model.spacing_mm:
    raise ConfigError(
      f"the store {store.path} was prepared at {store.spacing_mm} mm, "
      f"model.spacing_mm={config.model.spacing_mm}. Fix: prepare it again."
    )
  domains = len(domain_names(store))
  m = config.model
  if m.modulation == "prototype" and domains > m.prototypes:
    raise ConfigError(
      f"the store has {domains - 1} domains and painted crops are one more, "
      f"model.prototypes={m.prototypes}. Fix: model.prototypes={domains}."
    )


def _start(
  config: Config, mesh: Mesh, checkpoints: Checkpoints, batches: Any
) -> tuple[TrainState, int]:
  latest = checkpoints.latest
  # NOTE: the same placement in both cases, so that a resumed run executes the
  # very program of the run it goes on with.
  abstract = jax.eval_shape(lambda: init_state(config))
  shardings = state_shardings(mesh, abstract)
  if latest is None:
    init = jax.jit(lambda: init_state(config), out_shardings=shardings)
    return _adopt(init(), config), 0
  abstract = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract,
    shardings,
  )
  state, data_state = checkpoints.restore(abstract)
  batches.set_state(dict(data_state))
  logging.info("resumed at step %d", latest)
  return state, latest


def _adopt(state: TrainState, config: Config) -> TrainState:
  """Takes the parameters of `train.init`, if it is given."""
  if not config.train.init:
    return state
  state, fresh = adopt(state, load(config.train.init)[1])
  total = len(jax.tree.leaves(state.params))
  if len(fresh) == total:
    raise ConfigError(
      f"train.init={config.train.init} shares no parameter with the model. "
      "Fix: name weights of the same decoder and sizes."
    )
  only = {*config.train.only, TASK_LOG_VARIANCE}
  still = [name for name in fresh if name.split("/")[0] not in only]
  if config.train.only and still:
    raise ConfigError(
      f"train.init={config.train.init} has no {still[0]} of this shape, and "
      f"train.only={list(config.train.only)} would leave it at random. Fix: "
      "name weights of the same sizes, or let that part learn, too."
    )
  logging.info(
    "%d of %d parameters start from %s; drawn: %s",
    total - len(fresh), total, config.train.init, ", ".join(fresh) or "none",
  )  # fmt: skip
  return state


def _write_facts(
  folder: pathlib.Path, config: Config, store: Store, start: int
) -> None:
  """Writes what is trained from now on; what was before stays beside it."""
  facts = run_facts() | device_facts() | {"from_step": start}
  facts["config"] = config.to_dict()
  facts["cases"] = {
    r.case: {"domain": r.domain, "licence": r.licence, "mask": r.mask_kind}
    for r in store.records
  }
  path = folder / "run.json"
  with contextlib.suppress(OSError, ValueError):
    before = json.loads(path.read_text("utf-8"))
    if start and isinstance(before, dict):
      earlier = before.pop("earlier", [])
      if before.get("cases") == facts["cases"]:
        del before["cases"]
      facts["earlier"] = [*earlier, before]
  write_text(path, json.dumps(facts, indent=1) + "\n")


def _run(
  config: Config,
  mesh: Mesh,
  store: Store,
  state: TrainState,
  batches: Any,
  checkpoints: Checkpoints,
  writer: JsonlWriter | None,
) -> Summary:
  step_fn = jit_train_step(config, mesh)
  t = config.train
  start = step = int(state.step)
  records = _Records(config, store, writer, start)
  with _stop_signal() as asked_to_stop:
    stop = False
    while step < t.steps and not stop:
      before = time.monotonic()
      arrays = next(batches)
      records.waited(time.monotonic() - before)
      # A copy: what a worker sends holds a file open as long as it lives.
      cases = np.array(arrays["case"])
      state, sums = step_fn(state, place_batch(mesh, arrays))
      step += 1
      # NOTE: after the next step is on its way, so that reading does not
      # make the devices wait.
      records.write()
      records.add(step, sums, cases)
      stop = asked_to_stop(step)
      saving = stop or step % t.checkpoint_every == 0 or step == t.steps
      if step % t.log_every == 0 or saving:
        records.close_interval()
      if saving:
        records.write()
        checkpoints.save(state, batches.get_state(), records.dice())
        records.restart()
  if sys.stderr.isatty():
    print(file=sys.stderr)
  return Summary(step=step, finished=step >= t.steps, metrics=records.metrics)


@dataclasses.dataclass
class _Interval:
  """Steps that share a record."""

  steps: list[tuple[int, Any, np.ndarray]]
  waited: float


class _Records:
  """Metrics of the steps, read from the devices one step late.

  All processes read them, so that all stop at a loss that is no number; one has
  a writer.
  """

  def __init__(
    self, config: Config, store: Store, writer: JsonlWriter | None, start: int
  ):
    self.metrics: dict[str, float] = {}
    self._config = config
    self._store = store
    self._writer = writer
    self._start = start
    self._began = self._last = time.monotonic()
    self._waited = 0.0
    self._open: list[tuple[int, Any, np.ndarray]] = []
    self._closed: _Interval | None = None
    self._dice: list[float] = []

  def waited(self, seconds: float) -> None:
    """Counts time spent waiting for data."""
    self._waited += seconds

  def add(self, step: int, sums: Any, cases: np.ndarray) -> None:
    """Keeps the sums of a step, which may still be computed.

    Waits for the step before: were the host many steps ahead, a signal to stop
    would be heard that much later.
    """
    if self._open:
      jax.block_until_ready(self._open[-1][1])
    self._open.append((step, sums, cases))

  def close_interval(self) -> None:
    """Ends an interval; its numbers start on their way to the host."""
    for leaf in jax.tree.leaves([sums for _, sums, _ in self._open]):
      leaf.copy_to_host_async()
    self._closed = _Interval(self._open, self._waited)
    self._open, self._waited = [], 0.0

  def write(self) -> None:
    """Writes the record of an interval that has ended."""
    if self._closed is None:
      return
    interval, self._closed = self._closed, None
    self.metrics = _merge(interval.steps, self._store)
    # What was read has been computed: the time counts from the last reading.
    now = time.monotonic()
    seconds, self._last = now - self._last, now
    if "dice" in self.metrics:
      self._dice.append(self.metrics["dice"])
    if self._writer is None:
      return
    step, count = interval.steps[-1][0], len(interval.steps)
    crops = count * self._config.data.batch
    speed = crops / max(seconds, 1e-9)
    elapsed = now - self._began
    self._writer.write(
      {
        "step": step,
        **{f"train/{k}": v for k, v in self.metrics.items()},
        "perf/crops_per_s": speed,
        "perf/data_wait_ms": 1000 * interval.waited / count,
        "time_s": elapsed,
      }
    )
    steps = self._config.train.steps
    rest = (steps - step) * elapsed / max(step - self._start, 1)
    _progress(step, steps, self.metrics, speed, rest)

  def dice(self) -> float | None:
    """Mean training Dice since the last checkpoint; None if no crop had one."""
    return float(np.mean(self._dice)) if self._dice else None

  def restart(self) -> None:
    """Starts a new stretch after a checkpoint, whose time does not count."""
    self._dice = []
    self._last = time.monotonic()


def _merge(
  pending: list[tuple[int, Any, np.ndarray]], store: Store
) -> dict[str, float]:
  """Adds the sums of several steps; stops at a loss that is no number.

  What nothing in these steps tells of, as no crop annotates it, is left out.
  """
  totals: dict[str, np.ndarray] = {}
  for step, sums, cases in pending:
    values = jax.device_get(sums)
    loss, norm = (float(values[name][0]) for name in ("loss", "grad_norm"))
    if not (math.isfinite(loss) and math.isfinite(norm)):
      names = ", ".join(sorted({store.names[i] for i in cases}))
      of = jax.process_count()
      own = f" that this one of {of} processes read" if of > 1 else ""
      raise NonFiniteLossError(
        f"the loss of step {step} is {loss}, the norm of its gradient {norm}; "
        f"cases of its batch{own}: {names}. "
        "Fix: look at these cases, or lower optim.learning_rate; rerun to "
        "resume from the last checkpoint."
      )
    for name, pair in values.items():
      totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, float)
  return {
    name: float(top / bottom)
    for name, (top, bottom) in totals.items()
    if bottom > 0
  }


def _progress(step, steps, metrics, speed, rest) -> None:
  dice = f"{metrics['dice']:.3f}" if "dice" in metrics else "-    "
  line = (
    f"step {step}/{steps}  loss {metrics['loss']:.4f}  "
    f"Dice {dice}  {speed:.2f} crops/s  "
    f"ETA {int(rest // 3600)}:{int(rest // 60) % 60:02d}:{int(rest) % 60:02d}"
  )
  if sys.stderr.isatty():
    print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)
  else:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
  """Says after a step whether to save and end there: by SIGTERM or Ctrl-C.

  A second Ctrl-C ends it at once. Several processes end after the same step,
  whichever of them was sent one of these.
  """
  joined = jax.process_count() > 1
  seen: list[int] = []

  def asked(step: int) -> bool:
    if joined:
      return bool(multihost_utils.reached_preemption_sync_point(step))
    return bool(seen)

  def stop(number: int, _: Any) -> None:
    if number == signal.SIGINT and number in seen:
      raise KeyboardInterrupt
    seen.append(number)
    if joined:  # JAX listens for SIGTERM and tells the others
      signal.raise_signal(signal.SIGTERM)

  old: dict[int, Any] = {}
  try:
    for wanted in (signal.SIGINT, *(() if joined else (signal.SIGTERM,))):
      # A shell has its background jobs ignore Ctrl-C.
      if signal.getsignal(wanted) != signal.SIG_IGN:
        old[wanted] = signal.signal(wanted, stop)
  except ValueError:  # not the main thread: nobody signals us
    yield asked
    return
  try:
    yield asked
  finally:
    for caught, before in old.items():
      signal.signal(caught, before)


def _close(batches: Any) -> None:
  close = getattr(batches, "close", None)
  if close is not None:
    close()
