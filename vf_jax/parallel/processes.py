# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Work divided over the processes of one program."""

from __future__ import annotations

import inspect
import os
from typing import Any

import jax
from jax.extend.backend import clear_backends

from vf_jax.errors import ConfigError

_PARTING = 10
"""Seconds that a process which ends waits for the others (JAX: 300)."""


def split_further(shard: tuple[int, int]) -> tuple[int, int]:
  """Divides the share of a run among the processes of `jax.distributed`.

  Args:
    shard: number of the run, from 1, and how many there are.

  Returns:
    The same for this process; unchanged if it is alone.
  """
  number, count = shard
  processes = jax.process_count()
  return (
    (number - 1) * processes + jax.process_index() + 1,
    count * processes,
  )


def meet() -> tuple[int, int]:
  """Finds the number of this process among those of a cluster.

  JAX knows its way in SLURM, Open MPI, Kubernetes and TPU pods; elsewhere the
  variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID tell.
  Once all have met they part: who stays joined ends with any that dies, waits
  for the slowest, and on GPUs would tune programs together with processes that
  may never compile them.

  NOTE: must be called before anything else of JAX.

  Returns:
    Number of this process, from 1, and how many there are.

  Raises:
    ConfigError: if there is no cluster, or the others do not come.
  """
  # Its handler of SIGTERM would replace that of the program.
  jax.config.update("jax_enable_preemption_service", False)
  _initialize("; or use --shard")
  share = jax.process_index() + 1, jax.process_count()
  jax.distributed.shutdown()
  clear_backends()
  return share


def join() -> None:
  """Makes this process one of a cluster's, for one computation over all.

  Who is found, and how, says `meet`. All stay joined to the end: a SIGTERM to
  any of them is told to all (`multihost_utils.reached_preemption_sync_point`).
  Where one ends by an error JAX aborts the others some seconds later.

  NOTE: must be called before anything else of JAX.

  Raises:
    ConfigError: if there is no cluster, or the others do not come.
  """
  # Who fails waits at its exit for the others, which wait for it elsewhere.
  _initialize("", shutdown_timeout_seconds=_PARTING)


def _initialize(otherwise: str, **timeouts: Any) -> None:
  known = inspect.signature(jax.distributed.initialize).parameters
  try:
    jax.distributed.initialize(
      num_processes=_number("JAX_NUM_PROCESSES"),
      process_id=_number("JAX_PROCESS_ID"),
      **{name: timeouts[name] for name in timeouts if name in known},
    )
  except (ValueError, RuntimeError, IndexError) as error:
    said = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(
      f"--distributed finds no cluster ({said}). Fix: start it by srun or "
      "mpirun, or set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and "
      f"JAX_PROCESS_ID{otherwise}."
    ) from error


def _number(variable: str) -> int | None:
  text = os.environ.get(variable)
  return None if text is None else int(text)
