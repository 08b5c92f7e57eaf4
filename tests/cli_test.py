# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The commands as people start them: fresh processes, exit codes, words."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import nibabel
import numpy as np
import pytest

from vf_jax import cli

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--config", "configs/tiny.py", "--workdir", "w")
COMMANDS = (
  "predict", "demo", "evaluate", "phantom", "prepare", "split", "train",
  "export",
)  # fmt: skip


def start(*arguments, cwd=ROOT, python=(), **settings):
  """Runs `vf-jax ...` in a process of its own."""
  return subprocess.run(
    [sys.executable, *python, "-m", "vf_jax", *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=300,
    cwd=cwd,
    check=False,
    env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
  )


def imported(stderr):
  """Modules that a run with -X importtime loaded."""
  return {line.split("|")[-1].strip() for line in stderr.splitlines()}


def test_help_answers_at_once():
  seconds = []
  for _ in range(3):
    began = time.monotonic()
    done = start("--help")
    seconds.append(time.monotonic() - began)
    assert done.returncode == 0
  assert min(seconds) < 0.5
  for command in COMMANDS:
    assert command in done.stdout


def test_help_and_mistakes_load_neither_jax_nor_numpy():
  for arguments in (["--help"], ["predict", "--help"], ["predict"]):
    modules = imported(start(*arguments, python=["-X", "importtime"]).stderr)
    assert "vf_jax.cli" in modules
    assert not modules & {"jax", "numpy", "nibabel", "scipy", "flax"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("closed", ["out", "err", "none"])
def test_a_full_disk_behind_the_output_leaves_the_exit_code(closed):
  """Of help, of a mistake, and of a command that prints nothing there."""
  with open("/dev/full", "w") as full:
    done = subprocess.run(
      [sys.executable, "-m", "vf_jax", *(["--help"] * (closed != "err"))],
      stdout=full if closed != "err" else None,
      stderr=full if closed != "out" else subprocess.PIPE,
      cwd=ROOT,
      check=False,
    )
  assert done.returncode == (2 if closed == "err" else 0)
  if closed == "out":
    assert b"not all lines were shown: No space left" in done.stderr
    assert b"Exception" not in done.stderr


def test_a_reader_that_goes_away_ends_no_work(monkeypatch, tmp_path):
  """A line that nobody reads in the middle of a command is no fault of it."""

  class Gone(io.StringIO):
    def write(self, text):
      raise BrokenPipeError

  done = []

  def work(*arguments, report, **options):
    found = types.SimpleNamespace(case="a", status="checked", record=None)
    report(found)
    done.append(True)
    return []

  monkeypatch.setattr("vf_jax.multispine.prepare.prepare", work)
  monkeypatch.setattr(
    "vf_jax.multispine.prepare.describe_findings", lambda found: ""
  )
  stream = Gone()
  monkeypatch.setattr(sys, "stdout", stream)
  program = ["vf-jax", "prepare", "m.json", "--check-only"]
  monkeypatch.setattr(sys, "argv", program)
  assert cli.main() == 0
  assert done == [True]
  assert sys.stdout is stream


def test_who_calls_from_python_keeps_the_streams(monkeypatch):
  stream, seen = io.StringIO(), []

  def work(*arguments, **options):
    seen.append(sys.stdout)
    return []

  monkeypatch.setattr("vf_jax.multispine.prepare.prepare", work)
  monkeypatch.setattr(sys, "stdout", stream)
  assert cli.main(["prepare", "m.json", "--check-only"]) == 0
  assert seen == [stream]


def test_the_script_of_the_package_is_the_same_command():
  script = pathlib.Path(sys.executable).parent / "vf-jax"
  done = subprocess.run(
    [script, "--version"], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == "vf-jax 0.1.0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main([command, "--help"])
  assert caught.value.code == 0
  assert f"usage: vf-jax {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "required: COMMAND"),
    (["predit"], "invalid choice: 'predit'"),
    (["predict", "x.nii"], "--out"),
    (["predict", "--out", "o"], "CT"),
    (["predict", "x.nii", "--out", "o", "--fast"], "--fast"),
    (
      ["predict", "x.nii", "--out", "o", "--distributed", "--shard", "1/2"],
      "not allowed with",
    ),
    (["predict", "x.nii", "--out", "o", "--index", "one"], "invalid int"),
    (["predict", "x.nii", "--out", "o", "--hu-offset", "a"], "--hu-offset"),
    (["predict", "x.nii", "--out", "o", "--hu-offset", "9999999"], "65536"),
    (
      ["predict", "x.nii", "--out", "o", "--assume-orientation", "XYZ"],
      "three different directions",
    ),
    (["prepare", "--out"], "--out"),
    (["prepare", "x", "--out", "o", "--workers", "-1"], "no whole number"),
    (["phantom", "--out", "o", "--workers", "-1"], "no whole number"),
    (["phantom", "--out", "o", "--seed", "1.5"], "no whole number"),
    (["split", "s"], "--out"),
    (["split", "s", "--out", "f", "--fractions", "1,2"], "three numbers"),
    (["split", "s", "--out", "f", "--fold", "0/3"], "not I/N"),
    (
      ["split", "s", "--out", "f", "--fold", "1/3", "--leave-out", "d"],
      "not allowed with",
    ),
    (["export", "w"], "--out"),
  ],
)
def test_mistakes_of_usage_are_two(arguments, words, capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main(arguments)
  assert caught.value.code == cli.USAGE == 2
  said = capsys.readouterr()
  assert words in said.err
  assert said.out == ""


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "--config FILE.py is required"),
    (["--config", "configs/tiny.py"], "--workdir DIR is required"),
    (["--config", "missing.py", "--workdir", "w"], "missing.py"),
    (["--config", "configs/tiny.py:huge", "--workdir", "w"], "huge"),
    (["--config", "setup.cfg", "--workdir", "w"], "setup.cfg"),
    ([*TINY, "--fast"], "fast"),
    ([*TINY, "more"], "more"),
    ([*TINY, "--config.train.stepz=2"], "stepz"),
    ([*TINY, "--config.train.steps=two"], "two"),
  ],
)
def test_mistakes_of_train_are_two_and_one_sentence(arguments, words):
  done = start("train", *arguments)
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  assert words in done.stderr.splitlines()[-1]
  assert not (ROOT / "w").exists()


def test_values_that_do_not_fit_together_are_two(tmp_path):
  done = start(
    "train",
    "--config=configs/tiny.py:test",
    f"--workdir={tmp_path / 'w'}",
    "--config.model.dim=33",
  )
  assert done.returncode == 2
  assert done.stderr.startswith("vf-jax: model.dim=33 ")
  assert "Fix: " in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["prepare", "verse=x", "--spacing", "50"], "--spacing=50.0"),
    (["prepare", "foo=x"], "no kind of archive 'foo'"),
    (["phantom", "--sources", "foo"], "sources foo"),
    (["phantom", "--spans", "C1-Q9"], "span C1-Q9"),
    (["phantom", "--spans", "L6-sacrum"], "span L6-sacrum"),
    (["phantom", "--variants", "T13=nan"], "T13 nan"),
    (["phantom", "--variants", "T13=1"], "the codes of ctspine1k"),
    (["phantom", "--cases", "-1"], "-1 cases"),
  ],
)
def test_options_that_cannot_work_are_two(arguments, words, tmp_path, capsys):
  out = tmp_path / "out"
  assert cli.main([*arguments, "--out", str(out)]) == cli.USAGE
  assert words in capsys.readouterr().err
  assert not out.exists()


@pytest.mark.parametrize(
  ("text", "words"),
  [("def get_config(:\n", "bad.py"), ("unknown_name", "unknown_name")],
)
def test_a_config_with_an_error_in_it_is_told(text, words, tmp_path):
  (tmp_path / "bad.py").write_text(text)
  done = start("train", f"--config={tmp_path}/bad.py", "--workdir=w")
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  assert words in done.stderr


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_wrong_checkpoint_is_refused(command, tmp_path, capsys):
  arguments = {
    "predict": ["x.nii", "--out", "o", "--checkpoint", str(tmp_path)],
    "export": [str(tmp_path), "--out", str(tmp_path / "weights")],
  }[command]
  assert cli.main([command, *arguments]) == cli.REFUSED == 3
  said = capsys.readouterr().err
  assert said.startswith(f"vf-jax: {tmp_path}")
  assert "checkpoints/" in said
  assert "vf-jax train" in said
  assert list(tmp_path.iterdir()) == []


def test_an_empty_checkpoint_is_not_the_default_one(capsys):
  """`--checkpoint "$UNSET"` must not fall back in silence."""
  arguments = ["predict", "x.nii", "--out", "o", "--checkpoint", ""]
  assert cli.main(arguments) == 3
  assert "neither a run" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("given", "code", "words"),
  [
    (["empty"], 3, "holds no CT"),
    (["--list", "none.txt"], 3, "cannot be read"),
    (["--list", "list.txt"], 2, "lists nothing"),
    (["a/x.nii", "a/x.mha"], 2, "gives the case name 'x'"),
  ],
)
def test_an_input_is_refused_and_a_mistake_is_usage(
  given, code, words, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "list.txt").touch()
  assert cli.main(["predict", *given, "--out", "o"]) == code
  said = capsys.readouterr().err
  assert said.startswith("vf-jax: ")
  assert f"{words}" in said
  assert "Fix: " in said or given[-1] == "none.txt"
  assert not (tmp_path / "o").exists()


def test_damaged_weights_are_refused(tmp_path, capsys):
  (tmp_path / "config.json").write_text("{")
  arguments = ["predict", "x.nii", "--out", "o", "--checkpoint", str(tmp_path)]
  assert cli.main(arguments) == 3
  said = capsys.readouterr().err
  assert "damaged" in said
  assert "Traceback" not in said


@pytest.mark.parametrize(
  ("text", "words"),
  [(None, "No such file"), ("{", "YAML"), ("cases: []", "cases")],
)
def test_a_wrong_cohort_is_refused(text, words, tmp_path, capsys):
  cohort = tmp_path / "c.yaml"
  if text is not None:
    cohort.write_text(text)
  arguments = [f"cohort={cohort}", "--out", str(tmp_path / "s")]
  assert cli.main(["prepare", *arguments]) == 3
  said = capsys.readouterr().err
  assert said.startswith(f"vf-jax: {cohort}")
  assert words in said
  assert not (tmp_path / "s").exists()


def test_terminating_is_an_interruption(monkeypatch, tmp_path, capsys):
  """SIGTERM in the middle of the work: cleaned up, 130, and one sentence."""
  cleaned = []

  def work(*arguments, **options):
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(10)
    finally:
      cleaned.append(True)

  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr("vf_jax.multispine.prepare.prepare", work)
  assert cli.main(["prepare", "m.json", "--out", str(tmp_path)]) == 130
  assert cleaned == [True]
  assert capsys.readouterr().err == "vf-jax: interrupted\n"
  assert signal.getsignal(signal.SIGTERM) is before


def make_scan(folder):
  """A column of five boxes in soft tissue, and its mask in VerSe codes."""
  random = np.random.default_rng(0)
  hu = random.normal(40, 15, (32, 32, 48)).astype(np.int16)
  hu[:6] = hu[-6:] = random.normal(-950, 15, (6, 32, 48))
  mask = np.zeros(hu.shape, np.uint8)
  for i in range(5):
    mask[10:22, 12:22, 38 - 9 * i : 45 - 9 * i] = 20 + i
  hu[mask > 0] += 300
  affine = np.diag([-2.5, -2.5, 2.5, 1.0])
  affine[:3, 3] = (40, 30, -700)
  nibabel.save(nibabel.Nifti1Image(hu, affine), folder / "sä b_ct.nii.gz")
  nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "sä b_msk.nii.gz")
  (folder / "cohort.yaml").write_text(
    "cases:\n"
    "  - {case: a, domain: boxes, image: sä b_ct.nii.gz,\n"
    "     mask: sä b_msk.nii.gz, annotates: [masks, levels, cut_vertebrae]}\n",
    encoding="utf-8",
  )
  return affine


def test_from_files_to_a_report_through_every_command(tmp_path):
  affine = make_scan(tmp_path)

  done = start(
    "prepare", "cohort=cohort.yaml", "--out=store", "--spacing=2", cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == "1 cases: 1 written -> store\n"
  assert os.listdir(tmp_path / "store" / "cases") == ["a"]

  done = start(
    "train",
    "--config=configs/tiny.py:test",
    f"--workdir={tmp_path / 'run'}",
    f"--config.data.store={tmp_path / 'store'}",
    "--config.train.steps=3",
    "--config.train.log_every=1",
    "--config.model.depth=1",
    "--config.data.weights=(('boxes', 1.0),)",
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"finished at step 3: {tmp_path / 'run'}\n"
  steps = [
    json.loads(line)["step"]
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  ]
  assert steps == [1, 2, 3]

  done = start("export", "run", "--out", "weights", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  digest = (tmp_path / "weights" / "sha256").read_text().strip()
  assert done.stdout == f"weights {digest[:12]} -> weights\n"

  done = start(
    "predict",
    "sä b_ct.nii.gz",
    "missing.nii.gz",
    "--out=out",
    "--checkpoint=weights",
    cwd=tmp_path,
    PYTHONIOENCODING="ascii",  # a terminal that cannot show the name
  )
  assert done.returncode == 3, done.stderr
  assert r"s\xe4 b: " in done.stdout
  assert done.stderr.startswith("vf-jax: missing.nii.gz: ") or (
    "\nvf-jax: missing.nii.gz: " in done.stderr
  )
  assert "Traceback" not in done.stderr
  folder = tmp_path / "out" / "sä b"
  assert sorted(os.listdir(tmp_path / "out")) == [
    ".failures", "index.html", "summary.csv", "sä b"
  ]  # fmt: skip
  run = json.loads((folder / "run.json").read_text())
  assert run["checkpoint_sha256"] == digest
  assert run["state"] == "done"
  mask = nibabel.load(folder / "sä b_seg-vert_msk.nii.gz")
  assert mask.shape == (32, 32, 48)
  assert mask.get_data_dtype() == np.uint8
  np.testing.assert_array_equal(mask.affine, affine)
  assert (folder / "sä b_report.html").stat().st_size > 1000
