# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What happens before the first step: checks, the first state, the facts."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vf_jax.config import Config
from vf_jax.data.pipeline import domain_names
from vf_jax.errors import ConfigError
from vf_jax.io.atomic import write_text
from vf_jax.multispine.store import Store
from vf_jax.ops.gpu_attention import why_not
from vf_jax.parallel.sharding import state_shardings
from vf_jax.telemetry import device_facts, run_facts
from vf_jax.train.checkpoint import Checkpoints, load
from vf_jax.train.state import TASK_LOG_VARIANCE, TrainState, adopt, init_state


def tell(line: str) -> None:
  """Says something on stderr, once for all processes.

  Args:
    line: for people.
  """
  if jax.process_index() == 0:
    print(line, file=sys.stderr, flush=True)


def tell_devices(mesh: Mesh) -> None:
  """Says that devices stay idle, if some do.

  Args:
    mesh: the devices that work.
  """
  there = jax.device_count()
  if mesh.size < there:
    tell(f"uses {mesh.size} of {there} devices; --config.mesh.data=0 takes all")


def check_kernel(config: Config) -> None:
  """Refuses a kernel of attention that does not run here.

  Args:
    config: the experiment.

  Raises:
    ConfigError: with what these devices lack, and the fix.
  """
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


def check_store(store: Store, config: Config) -> None:
  """Refuses a store that the network was not made for.

  Args:
    store: the prepared cases.
    config: the experiment.

  Raises:
    ConfigError: if spacing or domains do not fit.
  """
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


def start(
  config: Config, mesh: Mesh, checkpoints: Checkpoints, batches: Any
) -> tuple[TrainState, int, list[str] | None]:
  """Draws the first state of a run, or goes on with its newest checkpoint.

  Args:
    config: the experiment.
    mesh: the devices.
    checkpoints: of the run.
    batches: iterator, put where the checkpoint was.

  Returns:
    The state, its step, and the parameters that were drawn beside those of
    `train.init`; None if it did not start from such.

  Raises:
    InputError: if the checkpoint, or the weights of `train.init`, cannot be
      read.
    ConfigError: if these weights do not fit.
  """
  latest = checkpoints.latest
  # NOTE: the same placement in both cases, so that a resumed run executes the
  # very program of the run it goes on with.
  abstract = jax.eval_shape(lambda: init_state(config))
  shardings = state_shardings(mesh, abstract)
  if latest is None:
    init = jax.jit(lambda: init_state(config), out_shardings=shardings)
    return _adopt(init(), config)
  abstract = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract,
    shardings,
  )
  state, data_state = checkpoints.restore(abstract)
  batches.set_state(dict(data_state))
  tell(f"resumed at step {latest}")
  return state, latest, None


def _adopt(
  state: TrainState, config: Config
) -> tuple[TrainState, int, list[str] | None]:
  """Takes the parameters of `train.init`, if it is given."""
  if not config.train.init:
    return state, 0, None
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
  some = ", ".join(fresh[:3]) or "none"
  more = f" and {len(fresh) - 3} more, see run.json" if len(fresh) > 3 else ""
  tell(
    f"{total - len(fresh)} of {total} parameters start from "
    f"{config.train.init}; drawn: {some}{more}"
  )
  return state, 0, fresh


def write_facts(
  folder: pathlib.Path,
  config: Config,
  mesh: Mesh,
  store: Store,
  start: int,
  drawn: list[str] | None,
) -> None:
  """Writes what is trained from now on; what was before stays beside it.

  Args:
    folder: of the run.
    config: the experiment.
    mesh: the devices.
    store: the prepared cases.
    start: step that it starts from.
    drawn: see `start`.
  """
  facts = run_facts() | device_facts(mesh) | {"from_step": start}
  if drawn is not None:
    facts["drawn"] = drawn
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
