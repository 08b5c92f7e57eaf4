# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The ways to start a run on many devices, as far as one machine can tell."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import signal
import subprocess
import time

import pytest
import yaml

from vf_jax.config import from_config_dict

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"


def run(script, *arguments, **variables):
  return subprocess.run(
    [str(LAUNCH / script), *arguments],
    env={**os.environ, **variables},
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


@pytest.fixture
def commands(tmp_path):
  """Puts programs of our own before those of the machine."""

  def make(**bodies):
    for name, body in bodies.items():
      path = tmp_path / name
      path.write_text(f"#!/usr/bin/env bash\n{body}\n", "utf-8")
      path.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

  return make


@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.glob("*.sh")))
def test_every_script_can_be_started_and_says_how(script):
  assert os.access(LAUNCH / script, os.X_OK)
  subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)
  if script != "slurm.sh":
    done = run(script)
    assert done.returncode == 1
    assert f"usage: launch/{script}" in done.stderr


def test_processes_of_one_machine_find_each_other():
  said = (
    "echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"
  )
  done = run("local.sh", "3", "sh", "-c", said)
  assert done.returncode == 0
  lines = sorted(done.stdout.splitlines())
  assert [line[:6] for line in lines] == ["0 of 3", "1 of 3", "2 of 3"]
  assert len({line.split(" at ")[1] for line in lines}) == 1


def test_the_fault_of_one_process_is_that_of_all():
  assert (
    run("local.sh", "2", "sh", "-c", "exit $JAX_PROCESS_ID").returncode == 1
  )


def test_a_signal_reaches_all_and_they_may_save(tmp_path):
  saves = (
    "trap 'sleep 0.3; touch saved$JAX_PROCESS_ID; exit 130' TERM; "
    "touch began$JAX_PROCESS_ID; while :; do sleep 0.05; done"
  )
  with subprocess.Popen(
    [str(LAUNCH / "local.sh"), "2", "bash", "-c", saves], cwd=tmp_path
  ) as process:
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("began*"))) < 2:
      assert time.monotonic() < deadline
      time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
  assert {p.name for p in tmp_path.glob("saved*")} == {"saved0", "saved1"}


@pytest.mark.parametrize("code", [0, 3, 130])
def test_a_slurm_job_that_saved_is_queued_again(code, commands):
  path = commands(srun=f'echo "$@"; exit {code}', scontrol='echo "scontrol $@"')
  done = run("slurm.sh", "--workdir", "my run", SLURM_JOB_ID="77", **path)
  assert done.returncode == code
  first, *rest = done.stdout.splitlines()
  assert first.endswith("vf-jax train --distributed --workdir my run")
  assert rest == (["scontrol requeue 77"] if code == 130 else [])


def test_options_reach_the_hosts_of_a_slice_as_they_are(commands):
  path = commands(
    gcloud='last=${@: -1}; bash -c "${last#--command=}"',
    **{"vf-jax": 'printf "<%s>" "$@"'},
  )
  done = run("tpu_vm.sh", "slice", "zone", "--workdir", "my run", **path)
  assert done.stdout == "<train><--distributed><--workdir><my run>"


def test_the_job_set_has_a_pod_for_every_host():
  job = yaml.safe_load((LAUNCH / "gke.yaml").read_text("utf-8"))
  assert (job["apiVersion"], job["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = spec["template"]["spec"]
  (train,) = pod["containers"]
  x, y = map(
    int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
  )
  chips = train["resources"]["limits"]["google.com/tpu"]
  assert spec["parallelism"] == spec["completions"] == x * y // chips
  assert spec["backoffLimit"] == 0
  assert train["command"] == ["vf-jax", "train", "--distributed"]


@pytest.mark.parametrize(
  ("file", "devices"),
  [("local.sh", 8), ("slurm.sh", 16), ("tpu_vm.sh", 16), ("gke.yaml", 16)],
)
def test_the_batch_of_each_example_divides_among_its_devices(file, devices):
  text = (LAUNCH / file).read_text("utf-8")
  (path, variant), *_ = re.findall(r"--config[ =](\S+\.py):(\w+)", text)
  config = runpy.run_path(str(LAUNCH.parent / path))["get_config"](variant)
  for group, name, value in re.findall(r"--config\.(\w+)\.(\w+)=(\S+)", text):
    config[group][name] = type(config[group][name])(value)
  config = from_config_dict(config)
  mesh = config.mesh
  assert mesh.data == 0  # all that are left
  config.check_batch(devices // (mesh.fsdp * mesh.tensor * mesh.context))
