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
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vf_jax.config import Config
from vf_jax.data.augment.patches import Patches
from vf_jax.data.pipeline import domain_names, make_batches
from vf_jax.errors import ConfigError, NonFiniteLossError
from vf_jax.io.atomic import write_text
from vf_jax.multispine.store import Store
from vf_jax.telemetry import JsonlWriter, device_facts, run_facts
from vf_jax.train.checkpoint import Checkpoints
from vf_jax.train.state import TrainState, init_state
from vf_jax.train.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Summary:
  """How a run ended.

  Attributes:
    step: last step done.
    finished: False if it was asked to stop earlier (SIGTERM).
    metrics: of the last log interval.
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
    InputError: for an unreadable store or checkpoint.
    ConfigError: if store and config do not fit.
    NonFiniteLossError: at the first loss that is no number.
  """
  folder = pathlib.Path(workdir)
  store = Store(config.data.store, config.data.cache_mib)
  _check_store(store, config)
  folder.mkdir(parents=True, exist_ok=True)
  checkpoints = Checkpoints(folder, config)
  batches = make_batches(store, config)
  try:
    state, start = _start(config, checkpoints, batches)
    writer = JsonlWriter(folder / "metrics.jsonl")
    writer.drop_after(start)
    _write_facts(folder, config, store)
    return _run(config, store, state, batches, checkpoints, writer)
  finally:
    checkpoints.close()
    _close(batches)


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
      f"the store has {domains} domains, model.prototypes={m.prototypes}. "
      f"Fix: model.prototypes={domains}."
    )


def _start(
  config: Config, checkpoints: Checkpoints, batches: Any
) -> tuple[TrainState, int]:
  latest = checkpoints.latest
  # NOTE: the same placement in both cases, so that a resumed run executes the
  # very program of the run it goes on with.
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  if latest is None:
    init = jax.jit(lambda: init_state(config), out_shardings=sharding)
    return init(), 0
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(lambda: init_state(config)),
  )
  state, data_state = checkpoints.restore(abstract)
  batches.set_state(dict(data_state))
  logging.info("resumed at step %d", latest)
  return state, latest


def _write_facts(folder: pathlib.Path, config: Config, store: Store) -> None:
  facts = run_facts() | device_facts()
  facts["config"] = config.to_dict()
  facts["cases"] = {
    r.case: {"domain": r.domain, "licence": r.licence, "mask": r.mask_kind}
    for r in store.records
  }
  write_text(folder / "run.json", json.dumps(facts, indent=1) + "\n")


def _run(
  config: Config,
  store: Store,
  state: TrainState,
  batches: Any,
  checkpoints: Checkpoints,
  writer: JsonlWriter,
) -> Summary:
  step_fn = jax.jit(make_train_step(config), donate_argnums=0)
  t = config.train
  start = step = int(state.step)
  pending: list[tuple[int, Any, np.ndarray]] = []
  dice_since_save: list[float] = []
  metrics: dict[str, float] = {}
  began = time.monotonic()
  last_log, waited = began, 0.0
  with _stop_signal() as stopping:
    stop = False
    while step < t.steps and not stop:
      before = time.monotonic()
      arrays = next(batches)
      waited += time.monotonic() - before
      # A copy: what a worker sends holds a file open as long as it lives.
      cases = np.array(arrays["case"])
      patches = Patches(**{name: jnp.asarray(v) for name, v in arrays.items()})
      state, sums = step_fn(state, patches)
      step += 1
      pending.append((step, sums, cases))
      stop = bool(stopping)
      saving = stop or step % t.checkpoint_every == 0 or step == t.steps
      if step % t.log_every == 0 or saving:
        metrics = _merge(pending, store)
        dice_since_save.append(metrics["dice"])
        now = time.monotonic()
        speed = len(pending) * config.data.batch / max(now - last_log, 1e-9)
        rest = (t.steps - step) * (now - began) / max(step - start, 1)
        writer.write(
          {
            "step": step,
            **{f"train/{k}": v for k, v in metrics.items()},
            "perf/crops_per_s": speed,
            "perf/data_wait_ms": 1000 * waited / len(pending),
            "time_s": now - began,
          }
        )
        _progress(step, t.steps, metrics, speed, rest)
        pending, last_log, waited = [], now, 0.0
      if saving:
        dice = float(np.mean(dice_since_save))
        checkpoints.save(state, batches.get_state(), {"dice": dice})
        dice_since_save = []
        last_log = time.monotonic()
  if sys.stderr.isatty():
    print(file=sys.stderr)
  return Summary(step=step, finished=step >= t.steps, metrics=metrics)


def _merge(
  pending: list[tuple[int, Any, np.ndarray]], store: Store
) -> dict[str, float]:
  """Adds the sums of several steps; stops at a loss that is no number."""
  totals: dict[str, np.ndarray] = {}
  for step, sums, cases in pending:
    values = jax.device_get(sums)
    loss, norm = (float(values[name][0]) for name in ("loss", "grad_norm"))
    if not (math.isfinite(loss) and math.isfinite(norm)):
      names = ", ".join(sorted({store.names[i] for i in cases}))
      raise NonFiniteLossError(
        f"the loss of step {step} is {loss}, the norm of its gradient {norm}; "
        f"cases of its batch: {names}. "
        "Fix: look at these cases, or lower optim.learning_rate; rerun to "
        "resume from the last checkpoint."
      )
    for name, pair in values.items():
      totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, float)
  return {
    name: float(top / bottom) if bottom > 0 else 0.0
    for name, (top, bottom) in totals.items()
  }


def _progress(step, steps, metrics, speed, rest) -> None:
  line = (
    f"step {step}/{steps}  loss {metrics['loss']:.4f}  "
    f"Dice {metrics['dice']:.3f}  {speed:.2f} crops/s  "
    f"ETA {int(rest // 3600)}:{int(rest // 60) % 60:02d}:{int(rest) % 60:02d}"
  )
  if sys.stderr.isatty():
    print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)
  else:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
  """Collects SIGTERM, so that the loop can save and end in order."""
  seen: list[int] = []
  try:
    old = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
  except ValueError:  # not the main thread: nobody signals us
    yield seen
    return
  try:
    yield seen
  finally:
    signal.signal(signal.SIGTERM, old)


def _close(batches: Any) -> None:
  close = getattr(batches, "close", None)
  if close is not None:
    close()
