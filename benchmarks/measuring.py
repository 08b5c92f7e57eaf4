# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: fresh processes in turn, facts, tables."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def machine() -> str:
  """Names the processor, its cores and the memory."""
  model = platform.processor() or "unknown processor"
  for line in _lines("/proc/cpuinfo"):
    if line.startswith("model name"):
      model = line.split(":", 1)[1].strip()
      break
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
  return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def facts() -> dict[str, Any]:
  """Date, command, commit, machine and versions, for the head of a table."""
  from vf_jax.telemetry import run_facts

  found = run_facts()
  return {
    "date": datetime.date.today().isoformat(),
    "command": " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
    "commit": found["git"],
    "machine": machine(),
    "python": found["python"],
    "packages": found["packages"],
  }


def origin(facts: Mapping[str, Any]) -> str:
  """Says in words when, how, from what and where a table was made.

  Args:
    facts: of `facts()`.

  Returns:
    The beginning of a sentence.
  """
  return (
    f"{facts['date']}, `python benchmarks/{facts['command']}`, commit "
    f"{facts['commit']}, {facts['machine']}"
  )


def peak_rss_bytes() -> int:
  """Peak resident memory of this process and its children together.

  Returns:
    Sum of the peaks of every process of the tree; shared pages count in each.
  """
  total, waiting = 0, [os.getpid()]
  while waiting:
    pid = waiting.pop()
    for line in _lines(f"/proc/{pid}/status"):
      if line.startswith("VmHWM"):
        total += int(line.split()[1]) * 1024
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
      waiting += [int(child) for child in "".join(_lines(task)).split()]
  return total


def run_alone(script: str, *arguments: str) -> dict[str, Any]:
  """Runs a script in a fresh process and reads the JSON of its last line.

  Args:
    script: path of the Python file.
    *arguments: of it.

  Returns:
    What it printed.

  Raises:
    RuntimeError: if it failed; with what it said.
  """
  done = subprocess.run(
    [sys.executable, script, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(
      f"{script} {' '.join(arguments)} ended with {done.returncode}:\n"
      f"{done.stderr[-4000:]}"
    )
  return json.loads(done.stdout.strip().splitlines()[-1])


def usage(*arguments: str) -> tuple[float, float]:
  """Runs a Python process and measures it.

  NOTE: the peak of a child begins at what this process has in memory.

  Args:
    *arguments: of Python.

  Returns:
    Seconds and peak of resident memory, MiB.

  Raises:
    RuntimeError: if it failed.
  """
  began = time.monotonic()
  process = subprocess.Popen(
    [sys.executable, *arguments], stdout=subprocess.DEVNULL
  )
  _, status, used = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f"{arguments} ended with {status}")
  return time.monotonic() - began, used.ru_maxrss / 1024


def interleave(
  script: str, settings: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
  """Measures several settings in turn, round after round.

  Args:
    script: path of the Python file.
    settings: name -> arguments that measure it.
    rounds: how often each is measured.

  Returns:
    Name -> what each round printed.
  """
  results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
  for turn in range(rounds):
    for name, arguments in settings.items():
      results[name].append(run_alone(script, *arguments))
      print(
        f"round {turn + 1}/{rounds} {name}: {results[name][-1]}", flush=True
      )
  return results


def median(values: Iterable[float]) -> float:
  """The median."""
  return statistics.median(values)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Renders a Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(
    "| " + " | ".join(str(cell) for cell in line) + " |" for line in lines
  )


def write(folder: str, name: str, result: Any, text: str) -> None:
  """Writes a benchmark's result for programs and for people.

  Args:
    folder: of both files, made if missing.
    name: of both, without ending.
    result: for `NAME.json`.
    text: Markdown for `NAME.md`, without its last line end.
  """
  place = pathlib.Path(folder)
  place.mkdir(parents=True, exist_ok=True)
  (place / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
  (place / f"{name}.md").write_text(text + "\n")


def _lines(path: str | os.PathLike[str]) -> list[str]:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except OSError:
    return []
