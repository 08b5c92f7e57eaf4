# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Jobs run once each, whatever happens to their workers."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vf_jax.errors import ConfigError
from vf_jax.jobs import (
  ATTEMPTS,
  WorkerDiedError,
  available_memory,
  default_workers,
  run_jobs,
)


def _double(value):
  if value == 13:
    raise ValueError("thirteen")
  return 2 * value


def _die_once(marker):
  if marker and not os.path.exists(marker):
    pathlib.Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)
  return "done"


def _die(name):
  if name == "bad":
    os.kill(os.getpid(), signal.SIGKILL)
  return name


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_exceptions_come_back_by_name(workers):
  jobs = {"a": 1, "b": 13, "c": 3}
  results = dict(run_jobs(_double, jobs, workers=workers))
  assert results["a"] == 2
  assert results["c"] == 6
  assert isinstance(results["b"], ValueError)


def _process(_):
  return os.getpid()


def test_workers_are_replaced_and_every_job_is_done(monkeypatch):
  monkeypatch.setattr("vf_jax.jobs._RECYCLE", 2)
  jobs = {str(number): number for number in range(5)}
  results = dict(run_jobs(_process, jobs, workers=1))
  assert sorted(results) == sorted(jobs)
  assert len(set(results.values())) == 3


def _machine(root, available_gib, **files):
  root.mkdir()
  text = (
    f"MemTotal: {64 << 20} kB\nMemFree: {1 << 20} kB\n"
    f"MemAvailable:   {available_gib << 20} kB\n"
  )
  for name, content in {"proc/meminfo": text, **files}.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  return root


def test_memory_is_what_files_give_back_and_groups_allow(tmp_path):
  gib = 1 << 30
  plain = _machine(tmp_path / "plain", 40)
  assert available_memory(plain) == 40 * gib
  group = {"proc/self/cgroup": "0::/job.slice/step\n"}
  folder = "sys/fs/cgroup"
  second = group | {
    f"{folder}/job.slice/memory.max": f"{8 * gib}\n",
    f"{folder}/job.slice/step/memory.max": "max\n",
  }
  assert available_memory(_machine(tmp_path / "v2", 40, **second)) == 8 * gib
  assert available_memory(_machine(tmp_path / "full", 4, **second)) == 4 * gib
  inside = {
    "proc/self/cgroup": "0::/\n",
    f"{folder}/memory.max": f"{6 * gib}\n",
  }
  assert available_memory(_machine(tmp_path / "box", 40, **inside)) == 6 * gib
  first = {
    "proc/self/cgroup": "4:cpu:/x\n3:hugetlb,memory:/docker/1\n0::/\n",
    # In a container the group's own folder is not there.
    f"{folder}/memory/memory.limit_in_bytes": f"{5 * gib}\n",
    f"{folder}/cpu/x/memory.limit_in_bytes": "1\n",
  }
  assert available_memory(_machine(tmp_path / "v1", 40, **first)) == 5 * gib


def test_where_linux_does_not_say_free_memory_counts(tmp_path):
  pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  assert 0 < available_memory(tmp_path) <= pages
  assert default_workers() >= 1


def test_a_killed_worker_costs_no_job(tmp_path):
  jobs = {"a": str(tmp_path / "dead"), "b": "", "c": ""}
  results = dict(run_jobs(_die_once, jobs, workers=2))
  assert results == dict.fromkeys("abc", "done")
  assert (tmp_path / "dead").exists()


def test_a_job_that_kills_its_workers_is_given_up_and_named():
  jobs = {"good": "good", "bad": "bad", "late": "late"}
  results = dict(run_jobs(_die, jobs, workers=2))
  assert results["good"] == "good"
  assert results["late"] == "late"
  assert isinstance(results["bad"], WorkerDiedError)
  assert ATTEMPTS > 1


def test_workers_end_with_a_killed_parent(tmp_path):
  script = tmp_path / "run.py"
  script.write_text(
    textwrap.dedent(f"""
    import os, pathlib, sys, time
    from vf_jax.jobs import run_jobs

    def work(name):
      pathlib.Path({str(tmp_path)!r}, name).write_text(str(os.getpid()))
      time.sleep(60)

    if __name__ == "__main__":
      list(run_jobs(work, {{"pid": "pid"}}, workers=1))
    """)
  )
  run = subprocess.Popen([sys.executable, str(script)])
  pid = _wait_for(tmp_path / "pid", run)
  run.kill()
  run.wait()
  deadline = time.monotonic() + 20
  while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
    if "Z" in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]:
      break
    time.sleep(0.05)
  else:
    assert not os.path.exists(f"/proc/{pid}"), "the worker outlived its parent"


def _wait_for(path, run):
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline and run.poll() is None:
    if path.exists() and path.read_text():
      return int(path.read_text())
    time.sleep(0.05)
  raise AssertionError("the worker did not start")


def test_without_dask_one_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "dask", None)
  with pytest.raises(ConfigError, match=r"pip install '\.\[cluster\]'"):
    dict(run_jobs(_double, {"a": 1}, scheduler="tcp://nowhere:1"))


def test_workers_are_counted_where_no_system_says_whose_cores(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  monkeypatch.setattr("vf_jax.jobs.available_memory", lambda: 1 << 40)
  assert default_workers() == 2
