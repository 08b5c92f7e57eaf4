# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Runs independent jobs: on the cores of this machine, or on a Dask cluster.

A job whose worker dies (killed, out of memory) is given to another one; it is
given up after `ATTEMPTS` deaths, and the others go on.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import datetime
import multiprocessing
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from vf_jax.errors import ConfigError, install_fix
from vf_jax.threads import usable_cores

ATTEMPTS = 3
CONNECT_SECONDS = 20  # a scheduler has to answer within
# Jobs of a worker before all are replaced by fresh ones: it bounds what leaks.
# NOTE: not by `max_tasks_per_child`: from Python 3.11 to summer 2026 a pool
# whose workers all reach it waits for ever (python/cpython issue 115634).
_RECYCLE = 32
_MEMORY_PER_WORKER = 3 << 30  # bytes, a 512x512x600 CT with its mask

Result = TypeVar("Result")


class WorkerDiedError(Exception):
  """The worker of a job died `ATTEMPTS` times."""


def default_workers() -> int:
  """As many workers as cores that this process may use and memory feeds."""
  fed = available_memory() // _MEMORY_PER_WORKER
  return max(1, min(usable_cores(), fed))


def available_memory(root: pathlib.Path = pathlib.Path("/")) -> int:
  """Bytes that this process and its children may still take.

  What files occupy counts as available, as the kernel gives it back, and no
  more than a container or a batch system allows.

  Args:
    root: folder that holds `proc` and `sys`.

  Returns:
    MemAvailable of the machine, at most the limit of any control group (of
    version 1 or 2) that the process is in; free memory where Linux does not
    say.
  """
  found = re.search(
    r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE
  )
  if found:
    available = int(found[1]) << 10
  else:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  limits = [
    int(text)
    for path in _limit_files(root)
    if (text := _text(path).strip()).isdecimal()
  ]
  return min([available, *limits])


def _limit_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Where limits of memory are, from the own control group up to all."""
  mount = root / "sys/fs/cgroup"
  for line in _text(root / "proc/self/cgroup").splitlines():
    _, _, rest = line.partition(":")
    controllers, _, group = rest.partition(":")
    if not controllers:
      base, name = mount, "memory.max"
    elif "memory" in controllers.split(","):
      base, name = mount / "memory", "memory.limit_in_bytes"
    else:
      continue
    own = pathlib.PurePosixPath(group.lstrip("/"))
    for folder in (own, *own.parents):
      yield base / folder / name


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except (OSError, ValueError):
    return ""


def run_jobs(
  work: Callable[[Any], Result],
  jobs: Mapping[str, Any],
  *,
  workers: int | None = None,
  scheduler: str | None = None,
) -> Iterator[tuple[str, Result | BaseException]]:
  """Runs every job once, in whatever order they end.

  Args:
    work: what to do; a module-level function.
    jobs: name -> argument of `work`; both are pickled.
    workers: processes; 0 runs in this process, None asks `default_workers`.
    scheduler: address of a Dask scheduler whose workers do it instead; they
      need vf_jax and the same paths.

  Yields:
    Name and result; the exception instead of a result if `work` raised it,
    `WorkerDiedError` if its worker kept dying.

  Raises:
    ConfigError: if the scheduler cannot be used.
  """
  if scheduler is not None:
    yield from _on_cluster(work, jobs, scheduler)
  elif workers == 0:
    for name, job in jobs.items():
      yield name, _caught(work, job)
  else:
    yield from _on_cores(work, jobs, workers or default_workers())


def _caught(work, job):
  try:
    return work(job)
  except Exception as error:
    return error


def _on_cores(work, jobs, workers):
  waiting = dict(jobs)
  deaths = dict.fromkeys(jobs, 0)
  while waiting:
    # NOTE: one at a time after a death: it shows whose job it was.
    alone = any(deaths[name] for name in waiting)
    batch = list(waiting)[: 1 if alone else workers * _RECYCLE]
    try:
      for name, result in _in_pool(
        work, {n: waiting[n] for n in batch}, workers
      ):
        del waiting[name]
        yield name, result
    except concurrent.futures.process.BrokenProcessPool:
      for name in batch:
        if name in waiting:
          deaths[name] += 1
          if deaths[name] >= ATTEMPTS:
            del waiting[name]
            yield name, WorkerDiedError("its worker was killed")


def _in_pool(work, jobs, workers):
  # spawn: JAX and TensorStore have threads, which fork does not carry over.
  pool = concurrent.futures.ProcessPoolExecutor(
    min(workers, len(jobs)),
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_die_with_parent,
  )
  try:
    futures = {pool.submit(_caught, work, job): n for n, job in jobs.items()}
    for future in concurrent.futures.as_completed(futures):
      yield futures[future], future.result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _die_with_parent() -> None:
  """Ends this worker when its parent is killed; nobody would wait for it."""
  parent = multiprocessing.parent_process()
  if parent is None:
    return

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _on_cluster(work, jobs, scheduler):
  try:
    from dask import distributed
  except ImportError as error:
    raise ConfigError(
      f"--scheduler needs Dask. Fix: {install_fix('cluster')}."
    ) from error
  try:
    client = distributed.Client(
      scheduler, timeout=CONNECT_SECONDS, set_as_default=False
    )
  except (OSError, ValueError) as error:
    raise ConfigError(
      f"no Dask scheduler answers at {scheduler} ({error}). Fix: start "
      "`dask scheduler` and give its address, tcp://HOST:8786."
    ) from error
  with client:
    futures = {
      client.submit(_caught, work, job, key=f"vf-{n}", pure=False): n
      for n, job in jobs.items()
    }
    for future in distributed.as_completed(futures, loop=client.loop):
      name = futures[future]
      fault = future.exception()
      if isinstance(fault, distributed.KilledWorker):
        yield name, WorkerDiedError("its workers were killed")
      else:
        yield name, fault if fault is not None else future.result()
      future.release()


def show_progress(done: int, total: int, began: float) -> None:
  """Writes one line of progress to stderr.

  Args:
    done: finished jobs.
    total: all jobs.
    began: `time.monotonic()` at the start.
  """
  rest = (time.monotonic() - began) / max(done, 1) * (total - done)
  width = 24
  bar = "#" * round(width * done / max(total, 1))
  line = (
    f"[{bar:<{width}}] {done}/{total} cases  "
    f"ETA {datetime.timedelta(seconds=int(rest))}"
  )
  if sys.stderr.isatty():
    end = "\n" if done == total else ""
    print(f"\r{line}", end=end, file=sys.stderr, flush=True)
  elif done == total or done % max(1, total // 20) == 0:
    print(line, file=sys.stderr, flush=True)
