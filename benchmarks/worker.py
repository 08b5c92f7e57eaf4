# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Long-lived processes that compute one at a time, when asked.

Two libraries in one process share the cores with each other's thread pools,
and a fresh process a measurement would compile again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import measuring


class Worker:
  """A script that answers commands.

  Args:
    script: path of a Python file whose `main` calls `serve`.
    *arguments: of it.
  """

  def __init__(self, script: str | pathlib.Path, *arguments: str) -> None:
    self._name = " ".join([pathlib.Path(script).name, *arguments])
    self._process = subprocess.Popen(
      [sys.executable, str(script), *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def ask(self, *command: str) -> Any:
    """Sends a command and waits for its answer.

    Raises:
      RuntimeError: if the worker died.
    """
    assert self._process.stdin
    assert self._process.stdout
    # Threads of the side that computed before must have gone to sleep.
    time.sleep(0.2)
    self._process.stdin.write(" ".join(command) + "\n")
    self._process.stdin.flush()
    for line in self._process.stdout:
      if line.startswith("answer "):
        return json.loads(line.removeprefix("answer "))
    raise RuntimeError(f"{self._name} ended before it answered {command}")

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin
    self._process.stdin.close()
    self._process.wait()


def facts_with_peers() -> dict[str, Any]:
  """What `measuring.facts` says, and the peers' versions (None: missing)."""
  facts = measuring.facts()
  for name in ("torch", "monai"):
    try:
      facts["packages"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      facts["packages"][name] = None
  return facts


def limit_threads(count: int) -> None:
  """Binds this process to some cores; before any library makes its threads."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
  os.environ["OMP_NUM_THREADS"] = str(count)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")


def serve(side: Any) -> None:
  """Answers commands `method arguments...` until the input ends.

  Args:
    side: whose methods are called; they return what JSON can hold.
  """
  for line in sys.stdin:
    name, *arguments = line.split()
    answer = getattr(side, name)(*arguments)
    print("answer " + json.dumps(answer), flush=True)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
  """Times one call.

  Args:
    function: what to call.

  Returns:
    Seconds on the clock, and seconds of processor time of all threads: the
    second hardly changes when others use the machine, too.
  """
  began, used = time.perf_counter(), time.process_time()
  function()
  return time.perf_counter() - began, time.process_time() - used
