# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The training loop: data in, checkpoints and metric records out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vf_jax.config import Config
from vf_jax.data.pipeline import make_batches
from vf_jax.errors import NonFiniteLossError
from vf_jax.io.lock import sole_writer
from vf_jax.multispine.store import Store
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.sharding import data_rows
from vf_jax.telemetry import JsonlWriter
from vf_jax.train.checkpoint import Checkpoints
from vf_jax.train.past import changed_settings, check_domains
from vf_jax.train.start import (
  check_kernel,
  check_store,
  start,
  tell,
  tell_devices,
  write_facts,
)
from vf_jax.train.state import TrainState
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
      later batches and losses as if nothing had happened; settings that change
      these are told.

  Returns:
    How it ended.

  Raises:
    InputError: for an unreadable store or checkpoint, or if another run is
      writing the folder.
    ConfigError: if store, devices and config do not fit.
    NonFiniteLossError: at the first loss that is no number.
  """
  folder = pathlib.Path(workdir)
  check_kernel(config)
  mesh = make_mesh(config.mesh)
  config.check_batch(mesh.shape["data"])
  store = Store(config.data.store, config.data.cache_mib)
  check_store(store, config)
  tell_devices(mesh)
  first = jax.process_index() == 0  # the one who writes
  rows = data_rows(mesh, config.data.batch)
  with (
    sole_writer(folder) if first else contextlib.nullcontext(),
    contextlib.closing(Checkpoints(folder, config)) as checkpoints,
    contextlib.closing(make_batches(store, config, rows=rows)) as batches,
  ):
    state, done, drawn = start(config, mesh, checkpoints, batches)
    if 0 < done < config.train.steps:
      check_domains(config, store, folder)
    if done and (changes := changed_settings(config, folder)):
      tell(f"settings are not those of before: {'; '.join(changes)}")
    writer = None
    if first:
      writer = JsonlWriter(folder / "metrics.jsonl")
      writer.drop_after(done)
      if done < config.train.steps:
        write_facts(folder, config, mesh, store, done, drawn)
    with jax.set_mesh(mesh):
      return _run(config, mesh, store, state, batches, checkpoints, writer)


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
    # NOTE: here, where a signal to stop does not cut the last one off.
    checkpoints.wait()
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
