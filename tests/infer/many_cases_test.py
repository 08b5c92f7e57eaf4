# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Many cases in one run: rerun, share, refuse, be killed, fill the disk."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import weakref

import nibabel
import numpy as np
import pytest
from quick_predictor import Quick, no_report

from vf_jax.errors import InputError
from vf_jax.infer import cases as one_case
from vf_jax.infer import cohort
from vf_jax.infer.cohort import CohortOptions, predict_cohort
from vf_jax.infer.inputs import find_cases, take_shard
from vf_jax.infer.progress import Progress
from vf_jax.infer.summary import write_summary
from vf_jax.io import nifti
from vf_jax.io.ct import InputOptions

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def quick(test_config):
  return Quick(config=test_config, params={}, digest="2" * 64)


@pytest.fixture
def scans(tmp_path):
  """Four small CTs."""
  hu = np.random.default_rng(0).normal(0, 50, (6, 6, 8)).astype(np.int16)
  folder = tmp_path / "scans"
  folder.mkdir()
  for name in "abcd":
    image = nibabel.Nifti1Image(hu, np.diag([3.0, 3, 3, 1]))
    nibabel.save(image, folder / f"{name}_ct.nii.gz")
  return folder


def run(predictor, scans, out, options=CohortOptions(), shard=(1, 1)):  # noqa: B008
  cases = take_shard(find_cases([scans]), shard)
  progress = Progress(len(cases), io.StringIO(), io.StringIO())
  return predict_cohort(predictor, cases, out, no_report, options, progress)


def table(out):
  with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
    return {row["case"]: row for row in csv.DictReader(file)}


def state_of(out):
  return {
    path.relative_to(out): path.stat().st_mtime_ns
    for path in out.rglob("*")
    if path.is_file() and path.name != "summary.csv"
  }


def test_a_second_run_does_nothing_twice(quick, scans, tmp_path):
  out = tmp_path / "out"
  assert run(quick, scans, out).done == ("a", "b", "c", "d")
  before = state_of(out)
  again = run(quick, scans, out)
  assert (again.done, again.skipped) == ((), ("a", "b", "c", "d"))
  assert state_of(out) == before
  more = run(quick, scans, out, CohortOptions(overwrite=True))
  assert more.done == ("a", "b", "c", "d")


def test_what_changed_is_done_again(quick, scans, tmp_path):
  out = tmp_path / "out"
  run(quick, scans, out)
  os.utime(scans / "b_ct.nii.gz", ns=(1, 1))
  (out / "c" / "run.json").write_text("{")
  (out / "d" / "d_seg-vert_msk.nii.gz").unlink()
  assert run(quick, scans, out).done == ("b", "c", "d")
  offset = CohortOptions(InputOptions(hu_offset=1))
  assert run(quick, scans, out, offset).done == ("a", "b", "c", "d")
  other = dataclasses.replace(quick, digest="3" * 64)
  assert run(other, scans, out, offset).done == ("a", "b", "c", "d")
  predict = dataclasses.replace(quick.config.predict, threshold=0.4)
  config = dataclasses.replace(quick.config, predict=predict)
  other = dataclasses.replace(other, config=config)
  assert run(other, scans, out, offset).done == ("a", "b", "c", "d")
  assert run(other, scans, out, offset).done == ()


def test_a_bad_file_is_told_kept_and_tried_again(quick, scans, tmp_path):
  out = tmp_path / "out"
  whole = (scans / "b_ct.nii.gz").read_bytes()
  (scans / "b_ct.nii.gz").write_bytes(whole[:300])
  result = run(quick, scans, out)
  assert result.done == ("a", "c", "d")
  assert "b_ct.nii.gz" in result.refused["b"]
  rows = table(out)
  assert list(rows) == ["a", "b", "c", "d"]
  assert rows["b"]["state"] == "refused"
  assert "gzip" in rows["b"]["fault"]
  assert rows["a"]["levels"] == "L3"
  assert rows["a"]["least_confidence"] == "0.75"
  assert rows["a"]["abstained"] == "no"
  (scans / "b_ct.nii.gz").write_bytes(whole)
  result = run(quick, scans, out)
  assert (result.done, result.skipped) == (("b",), ("a", "c", "d"))
  assert {row["state"] for row in table(out).values()} == {"done"}
  assert os.listdir(out / ".failures") == []


def test_an_empty_folder_among_the_inputs_is_refused_alone(
  quick, scans, tmp_path
):
  (tmp_path / "p2").mkdir()
  cases = find_cases([tmp_path / "p2", scans])
  out = tmp_path / "out"
  result = predict_cohort(quick, cases, out, no_report)
  assert result.done == ("a", "b", "c", "d")
  assert "holds no CT" in result.refused["p2"]
  row = table(out)["p2"]
  assert (row["state"], row["fault"][:11]) == ("refused", "holds no CT")


@pytest.mark.parametrize("letters", [236, 248, 300])
def test_a_name_that_is_too_long_is_refused_and_the_others_go_on(
  quick, scans, tmp_path, letters, monkeypatch
):
  scan = scans / "b_ct.nii.gz"
  if letters < 249:
    long = "b" * letters
    scan.rename(scans / f"{long}.nii.gz")
  else:  # two files of one name, so that the folders are part of theirs
    long = "b" * 149 + "_" + "y" * 150
    for folder in (scans / long[:149] / long[150:], scans / "q"):
      folder.mkdir(parents=True)
      (folder / "ct.nii.gz").write_bytes(scan.read_bytes())
    scan.unlink()
  call, asked = Quick.__call__, []

  def watched(self, volume, case, facts=None):
    asked.append(case)
    return call(self, volume, case, facts)

  monkeypatch.setattr(Quick, "__call__", watched)
  out = tmp_path / "out"
  for _ in range(2):
    result = run(quick, scans, out)
    assert long not in asked
    assert {"a", "c", "d"} <= {*result.done, *result.skipped}
    assert not result.stopped
    assert not result.broken
    assert f"too long: {letters} bytes" in result.refused[long]
    assert "there is room for 235. Fix: rename" in result.refused[long]
    row = table(out)[long]
    assert row["state"] == "refused"
    assert "too long" in row["fault"]
    assert len(os.listdir(out / ".failures")) == 1
  assert result.done == ()


def test_a_name_of_235_bytes_is_predicted(quick, scans, tmp_path):
  name = "ä" * 117 + "a"
  (scans / "b_ct.nii.gz").rename(scans / f"{name}.nii.gz")
  assert name in run(quick, scans, tmp_path / "out").done
  assert (tmp_path / "out" / name / f"{name}_seg-vert_msk.nii.gz").is_file()


def test_an_error_of_ours_does_not_stop_the_others(
  quick, scans, tmp_path, monkeypatch
):
  call = Quick.__call__

  def fail(self, volume, case, facts=None):
    if case == "b":
      raise ZeroDivisionError("oh")
    return call(self, volume, case, facts)

  monkeypatch.setattr(Quick, "__call__", fail)
  result = run(quick, scans, tmp_path / "out")
  assert result.done == ("a", "c", "d")
  assert result.broken == {"b": "ZeroDivisionError: oh"}
  assert table(tmp_path / "out")["b"]["state"] == "failed"
  record = (tmp_path / "out" / ".failures" / "b.json").read_text("utf-8")
  assert "in fail" in json.loads(record)["traceback"]


def test_only_the_next_case_is_read_ahead(quick, scans, tmp_path, monkeypatch):
  read, open_cases, meanwhile = [], [], []
  real, call = cohort.read_ct, Quick.__call__

  def watched(path, options):
    assert threading.current_thread() is not threading.main_thread()
    read.append(path.name[0])
    return real(path, options)

  def predict(self, volume, case, facts=None):
    deadline = time.monotonic() + 10
    wanted = min(4, "abcd".index(case) + 2)
    while len(read) < wanted and time.monotonic() < deadline:
      time.sleep(0.005)
    time.sleep(0.05)
    open_cases.append(case)
    meanwhile.append("".join(read))
    return call(self, volume, case, facts)

  monkeypatch.setattr(cohort, "read_ct", watched)
  monkeypatch.setattr(Quick, "__call__", predict)
  run(quick, scans, tmp_path / "out")
  assert open_cases == list("abcd")
  assert meanwhile == ["ab", "abc", "abcd", "abcd"]


def test_the_mask_of_a_case_is_gone_when_the_next_begins(
  quick, scans, tmp_path, monkeypatch
):
  call, masks = Quick.__call__, []

  def watched(self, volume, case, facts=None):
    assert [mask() for mask in masks] == [None] * len(masks)
    result = call(self, volume, case, facts)
    masks.append(weakref.ref(result.mask))
    return result

  monkeypatch.setattr(Quick, "__call__", watched)
  assert len(run(quick, scans, tmp_path / "out").done) == len(masks) == 4


def test_shards_share_a_folder_and_its_summary(quick, scans, tmp_path):
  out = tmp_path / "out"
  assert run(quick, scans, out, shard=(2, 3)).done == ("b",)
  assert run(quick, scans, out, shard=(3, 3)).done == ("c",)
  assert run(quick, scans, out, shard=(1, 3)).done == ("a", "d")
  assert list(table(out)) == ["a", "b", "c", "d"]


def test_a_summary_sees_what_ends_while_it_is_written(
  quick, scans, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  run(quick, scans, out, shard=(1, 2))
  from vf_jax.infer import summary

  write, calls = summary.write_text, []

  def slow(path, data):
    write(path, data)
    if not calls:
      calls.append(1)
      monkeypatch.setattr(cohort, "_summarise", lambda folder: "")
      run(quick, scans, out, shard=(2, 2))

  monkeypatch.setattr(summary, "write_text", slow)
  write_summary(out)
  assert list(table(out)) == ["a", "b", "c", "d"]


def test_two_runs_of_one_folder_leave_whole_cases(quick, scans, tmp_path):
  out = tmp_path / "out"
  again = CohortOptions(overwrite=True)
  errors = []

  def work():
    try:
      for _ in range(4):
        found = run(quick, scans, out, again)
        assert not found.broken, found.broken
        assert not found.refused, found.refused
        assert not found.stopped, found.stopped
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=work) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert errors == []
  assert sorted(os.listdir(out)) == ["a", "b", "c", "d", "summary.csv"]
  for case in "abcd":
    nifti.read_labels(out / case / f"{case}_seg-vert_msk.nii.gz")
    json.loads((out / case / "run.json").read_text())


def test_old_leftovers_of_killed_runs_are_removed(quick, scans, tmp_path):
  out = tmp_path / "out"
  for name in (".a.01234567.part", ".a.89abcdef.old", ".b.01234567.part"):
    (out / name).mkdir(parents=True)
    (out / name / f"{name[1]}_lesions.json").write_text("x")
  for name in (".a.01234567.part", ".a.89abcdef.old"):
    os.utime(out / name, (1, 1))
  run(quick, scans, out)
  assert sorted(os.listdir(out)) == [
    ".b.01234567.part", "a", "b", "c", "d", "summary.csv"
  ]  # fmt: skip


KILLED = """
import pickle, sys
from quick_predictor import Quick, no_report
from vf_jax.infer.cohort import CohortOptions, predict_cohort
from vf_jax.infer.inputs import find_cases
with open(sys.argv[1], "rb") as file:
  predictor = Quick(pickle.load(file), {}, "2" * 64)
cases = find_cases([sys.argv[2]])
print("ready", flush=True)
while True:
  options = CohortOptions(overwrite=True)
  predict_cohort(predictor, cases, sys.argv[3], no_report, options)
"""


def test_killed_at_any_moment_no_half_case_has_a_name(quick, scans, tmp_path):
  """SIGKILL in the midst of writing the same folders again and again."""
  out = tmp_path / "out"
  (tmp_path / "config").write_bytes(pickle.dumps(quick.config))
  paths = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests/infer"), os.environ.get("PYTHONPATH", "")]
  )
  arguments = [str(tmp_path / "config"), str(scans), str(out)]
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED, *arguments],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": paths},
  )
  assert process.stdout.readline() == "ready\n"
  deadline = time.monotonic() + 20
  while not (out / "d").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(float(np.random.default_rng().uniform(0, 0.1)))
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  found = [name for name in os.listdir(out) if name in "abcd"]
  assert len(found) >= 3  # one may be on its way to be replaced
  for case in found:
    nifti.read_labels(out / case / f"{case}_seg-vert_msk.nii.gz")
    json.loads((out / case / "run.json").read_text())
  result = run(quick, scans, out)
  assert set(result.done) == set("abcd") - set(found)
  assert list(table(out)) == ["a", "b", "c", "d"]


def test_a_full_disk_ends_the_run_in_one_sentence(
  quick, scans, tmp_path, monkeypatch
):
  real = one_case.write_text

  def full(path, text):
    if path.parent.name.startswith(".b."):
      raise OSError(28, "No space left on device", os.fspath(path))
    real(path, text)

  monkeypatch.setattr(one_case, "write_text", full)
  out = tmp_path / "out"
  result = run(quick, scans, out)
  assert result.done == ("a",)
  assert result.stopped == (
    f"{out / 'b'}: cannot be written (No space left on device). Fix: check "
    "that the folder of --out is writable and the disk not full."
  )
  assert sorted(os.listdir(out)) == ["a", "summary.csv"]
  monkeypatch.setattr(one_case, "write_text", real)
  assert run(quick, scans, out).done == ("b", "c", "d")


def load_dicom_slices():
  place = ROOT / "tests" / "io" / "dicom_slices.py"
  spec = importlib.util.spec_from_file_location("dicom_slices", place)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_dicom_is_predicted_on_its_own_grid_with_a_seg(quick, tmp_path):
  dicom_slices = load_dicom_slices()
  whole = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
  pixels = np.full(dicom_slices.stored().shape, 1024, np.uint16)
  pixels += np.random.default_rng(0).integers(0, 80, pixels.shape, np.uint16)
  scans = tmp_path / "scans"
  tilted = dicom_slices.place(
    scans / "p1" / "S", step=(0, 0.6, -2.5), pixels=pixels, **whole
  )
  image = nibabel.Nifti1Image(pixels[0:6].astype(np.int16) - 1024, np.eye(4))
  nibabel.save(image, scans / "p2.nii")
  out = tmp_path / "out"
  assert run(quick, scans, out, CohortOptions(dicom_seg=True)).done == (
    "p1", "p2"
  )  # fmt: skip
  assert (out / "p1" / "p1_seg.dcm").exists()
  assert not (out / "p2" / "p2_seg.dcm").exists()
  assert "the CT is no DICOM" in table(out)["p2"]["warnings"]
  mask = nibabel.load(out / "p1" / "p1_seg-vert_msk.nii.gz")
  from vf_jax.io import dicom

  np.testing.assert_allclose(mask.affine, dicom.read(tilted).affine, atol=1e-4)
  assert mask.shape == (5, 6, 12)
  assert run(quick, scans, out, CohortOptions(dicom_seg=True)).done == ()


@pytest.mark.parametrize("below", ["out", "."])
def test_what_the_reader_ignores_makes_no_other_input(quick, tmp_path, below):
  """Results in the folder of the scan, and what a file manager leaves."""
  dicom_slices = load_dicom_slices()
  pixels = np.full(dicom_slices.stored().shape, 1024, np.uint16)
  pixels += np.random.default_rng(0).integers(0, 80, pixels.shape, np.uint16)
  scan = dicom_slices.place(tmp_path / "p1", pixels=pixels)
  one_slice, out = next(scan.iterdir()), scan / below
  assert run(quick, scan, out).done == ("p1",)
  assert run(quick, scan, out).skipped == ("p1",)
  for name in (".DS_Store", ".cache/x", "index.html", "vf_jax_index.html"):
    (scan / name).parent.mkdir(exist_ok=True)
    (scan / name).write_text("x")
  assert run(quick, scan, out).skipped == ("p1",)
  os.utime(one_slice, ns=(1, 1))
  assert run(quick, scan, out).done == ("p1",)


def test_results_beside_the_scans_are_not_read_again(quick, scans):
  """Output equals input: nothing is overwritten, nothing becomes an input."""
  assert run(quick, scans, scans).done == ("a", "b", "c", "d")
  again = run(quick, scans, scans)
  assert again.skipped == ("a", "b", "c", "d")
  assert (scans / "a_ct.nii.gz").exists()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_on_a_terminal_a_bar_tells_the_time_left(quick, scans, tmp_path):
  out, err = io.StringIO(), Terminal()
  (scans / "c_ct.nii.gz").write_bytes(b"no")
  cases = find_cases([scans])
  progress = Progress(len(cases), out, err)
  predict_cohort(
    quick, cases, tmp_path / "out", no_report, CohortOptions(), progress
  )
  assert "[....................] 0/4 a" in err.getvalue()
  assert re.search(r"\[#{5}\.{15}\] 1/4, \d+ s left b", err.getvalue())
  assert err.getvalue().endswith("\r\x1b[K")
  lines = out.getvalue().splitlines()
  assert re.match(r"\[1/4, \d+ s left\] a: L3 \(0\.", lines[0])
  assert lines[-1].startswith("[4/4] d: L3 (0.")
  assert "\x1b" not in out.getvalue()


def test_without_a_terminal_there_are_plain_lines(quick, scans, tmp_path):
  out, err = io.StringIO(), io.StringIO()
  cases = find_cases([scans])
  predict_cohort(
    quick,
    cases,
    tmp_path / "out",
    no_report,
    CohortOptions(),
    Progress(len(cases), out, err),
  )
  assert err.getvalue() == ""
  assert len(out.getvalue().splitlines()) == 4


class Broken(io.StringIO):
  def __init__(self, error, terminal=False):
    super().__init__()
    self.error, self.terminal = error, terminal

  def isatty(self):
    return self.terminal

  def write(self, text):
    raise self.error


@pytest.mark.parametrize(
  "error",
  [
    BrokenPipeError(32, "Broken pipe"),
    OSError(28, "No space left on device"),
    ValueError("I/O operation on closed file."),
  ],
)
@pytest.mark.parametrize("which", ["out", "err", "none"])
def test_a_display_that_fails_decides_nothing(
  quick, scans, tmp_path, error, which, monkeypatch
):
  (scans / "c_ct.nii.gz").write_bytes(b"no")
  cases = find_cases([scans])
  streams = {"out": io.StringIO(), "err": io.StringIO()}
  if which == "none":
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    streams = {}
  else:
    streams[which] = Broken(error, terminal=which == "err")
  progress = Progress(len(cases), **streams)
  result = predict_cohort(
    quick, cases, tmp_path / "out", no_report, CohortOptions(), progress
  )
  assert result.done == ("a", "b", "d")
  assert list(result.refused) == ["c"]
  assert not result.broken
  assert not result.stopped
  if which == "out":
    missed = "not all lines were shown" in streams["err"].getvalue()
    assert missed is not isinstance(error, BrokenPipeError)


CLOSED = """
import pickle, sys
from quick_predictor import Quick
import vf_jax.infer.predictor, vf_jax.report.index, vf_jax.report.page
from quick_predictor import no_report
from vf_jax import cli
with open(sys.argv[1], "rb") as file:
  predictor = Quick(pickle.load(file), {}, "2" * 64)
vf_jax.infer.predictor.load = lambda path: predictor
vf_jax.report.page.write_report = no_report
sys.argv = ["vf-jax", "predict", sys.argv[2], "--out", sys.argv[3]]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
  ("end", "unbuffered"), [("pipe", ""), ("/dev/full", ""), ("/dev/full", "1")]
)
def test_an_output_that_nobody_reads_leaves_the_exit_code(
  quick, scans, tmp_path, end, unbuffered
):
  """`vf-jax predict ... | head -1`, whose end Python meets once more."""
  if end == "pipe":
    reader, target = os.pipe()
    os.close(reader)
  else:
    target = os.open(end, os.O_WRONLY)
  (tmp_path / "config").write_bytes(pickle.dumps(quick.config))
  paths = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests/infer"), os.environ.get("PYTHONPATH", "")]
  )
  out = tmp_path / "out"
  arguments = [str(tmp_path / "config"), str(scans), str(out)]
  done = subprocess.run(
    [sys.executable, "-c", CLOSED, *arguments],
    stdout=target,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
    env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": unbuffered},
  )
  os.close(target)
  assert done.returncode == 0, done.stderr
  assert list(table(out)) == ["a", "b", "c", "d"]
  assert "Exception" not in done.stderr
  assert ("No space left" in done.stderr) == (end != "pipe")


def test_an_interruption_leaves_a_summary(quick, scans, tmp_path, monkeypatch):
  call = Quick.__call__

  def stop(self, volume, case, facts=None):
    if case == "c":
      raise KeyboardInterrupt
    return call(self, volume, case, facts)

  monkeypatch.setattr(Quick, "__call__", stop)
  with pytest.raises(KeyboardInterrupt):
    run(quick, scans, tmp_path / "out")
  assert list(table(tmp_path / "out")) == ["a", "b"]


def test_a_missing_input_is_no_mystery(quick, tmp_path):
  with pytest.raises(InputError, match="does not exist"):
    one_case.predict_file(quick, tmp_path / "x.nii", tmp_path, no_report)


def test_masks_made_by_hand_are_not_replaced(quick, scans, tmp_path):
  out = tmp_path / "derivatives"
  (out / "a").mkdir(parents=True)
  mine = out / "a" / "a_seg-vert_msk.nii.gz"
  mine.write_bytes(b"corrected by hand")
  result = run(quick, scans, out)
  assert result.done == ("b", "c", "d")
  assert "no run.json: vf-jax did not write it" in result.refused["a"]
  assert mine.read_bytes() == b"corrected by hand"


def test_a_finished_case_stays_finished_whatever_lies_beside_it(
  quick, scans, tmp_path
):
  out = tmp_path / "out"
  run(quick, scans, out)
  (out / "a" / "Thumbs.db").touch()
  again = run(quick, scans, out)
  assert again.skipped == ("a", "b", "c", "d")
  assert table(out)["a"]["state"] == "done"
  # To be predicted again it would have to be thrown away.
  more = run(quick, scans, out, CohortOptions(overwrite=True))
  assert list(more.refused) == ["a"]


def test_another_scan_of_the_same_name_size_and_time_is_no_rerun(
  quick, scans, tmp_path
):
  out, others = tmp_path / "out", tmp_path / "others"
  run(quick, scans, out)
  others.mkdir()
  for path in scans.iterdir():
    (others / path.name).write_bytes(path.read_bytes())
    time_ns = path.stat().st_mtime_ns
    os.utime(others / path.name, ns=(time_ns, time_ns))
  before = state_of(out)
  result = run(quick, others, out)
  assert list(result.refused) == ["a", "b", "c", "d"]
  assert f"as {scans / 'a_ct.nii.gz'}, whose result" in result.refused["a"]
  assert {k: before[k] for k in before} == {
    k: v for k, v in state_of(out).items() if k in before
  }
  more = run(quick, others, out, CohortOptions(overwrite=True))
  assert more.done == ("a", "b", "c", "d")
  # A scan that was moved is itself.
  others.rename(tmp_path / "moved")
  assert run(quick, tmp_path / "moved", out).done == ("a", "b", "c", "d")


@pytest.mark.parametrize("name", ["#12", "(1)", "abc"])
def test_the_newest_word_on_a_case_counts(quick, scans, tmp_path, name):
  out = tmp_path / "out"
  path = scans / f"{name}_ct.nii.gz"
  (scans / "a_ct.nii.gz").rename(path)
  run(quick, scans, out)
  path.write_bytes(path.read_bytes()[:300])
  before = table(out)[name]
  assert name in run(quick, scans, out).refused
  row = table(out)[name]
  assert (before["state"], before["fault"]) == ("done", "")
  assert row["state"] == "refused"
  assert "gzip" in row["fault"]
  # The folder still holds what these numbers say.
  assert row == before | {"state": row["state"], "fault": row["fault"]}
  assert row["levels"] == "L3"


def test_another_scan_of_the_name_leaves_the_row_of_the_first(
  quick, scans, tmp_path
):
  out, other = tmp_path / "out", tmp_path / "other"
  run(quick, scans, out)
  other.mkdir()
  scan = other / "a_ct.nii.gz"
  scan.write_bytes((scans / "a_ct.nii.gz").read_bytes())
  before = table(out)["a"]
  assert list(run(quick, other, out).refused) == ["a"]
  row = table(out)["a"]
  assert row["fault"].startswith(f"{scan}: has the case name 'a', as ")
  assert row == before | {"state": "refused", "fault": row["fault"]}
  assert row["input"] == str(scans / "a_ct.nii.gz")
  run(quick, scans, out)
  assert table(out)["a"] == before


def test_a_name_that_a_spreadsheet_would_run_is_text(quick, scans, tmp_path):
  out = tmp_path / "out"
  (scans / "a_ct.nii.gz").rename(scans / "=1+1.nii.gz")
  assert "=1+1" in run(quick, scans, out).done
  assert table(out)["'=1+1"]["state"] == "done"


def test_what_killed_runs_left_a_day_ago_is_swept(quick, scans, tmp_path):
  out = tmp_path / "out"
  run(quick, scans, out)
  left = [
    out / ".a.deadbeef.part" / "a_lesions.json",
    out / ".b.deadbeef.old" / "run.json",
    out / ".vf-0123456789abcdef.part",
    out / ".failures" / ".vf-0123456789abcdef.part",
  ]
  young = out / ".c.deadbeef.part" / "c_lesions.json"
  mine = out / ".backup.20260101.old" / "thesis.txt"
  for path in (*left, young, mine):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
  tops = [p if p.suffix == ".part" else p.parent for p in left]
  for top in (*tops, mine.parent):
    os.utime(top, (1e9, 1e9))
  assert run(quick, scans, out).skipped == ("a", "b", "c", "d")
  assert not any(top.exists() for top in tops)
  assert young.exists()
  assert mine.exists()


@pytest.mark.parametrize(
  ("file", "content", "listed"),
  [
    ("b/run.json", "[" * 9999, []),
    (".failures/b.json", "[" * 9999, ["b"]),
    (".failures/b.json", '{"case": {"b": 1}}', ["b"]),
    (
      ".failures/b.json",
      '{"case": ["x"], "input": 1, "fault": "f", "fix": "", "traceback": ""}',
      ["['x']", "b"],
    ),
  ],
  ids=("deep run", "deep failure", "half failure", "failure of a list"),
)
def test_a_damaged_record_does_not_stop_the_table(
  quick, scans, tmp_path, file, content, listed
):
  out = tmp_path / "out"
  run(quick, scans, out)
  (out / ".failures").mkdir(exist_ok=True)
  (out / file).write_text(content)
  write_summary(out)
  assert sorted(table(out)) == sorted(["a", "c", "d", *listed])


def test_another_scan_is_not_replaced_because_the_first_is_gone(
  quick, scans, tmp_path
):
  out, others = tmp_path / "out", tmp_path / "others"
  run(quick, scans, out)
  scans.rename(others)
  os.utime(others / "a_ct.nii.gz", ns=(1, 1))  # another one by its time
  result = run(quick, others, out)
  assert list(result.refused) == ["a"]
  assert "--overwrite" in result.refused["a"]
  assert result.done == ("b", "c", "d")
  more = run(quick, others, out, CohortOptions(overwrite=True))
  assert more.done == ("a", "b", "c", "d")
