# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Archives become a store: the same one however often a run was stopped."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from drawn_scan import CENTRES, write_scan

from vf_jax import cli
from vf_jax.errors import ConfigError, InputError, InputWarning
from vf_jax.multispine import convert
from vf_jax.multispine.prepare import find_all, prepare
from vf_jax.multispine.store import Store

SUBJECTS = ("sub-verse900", "sub-verse901", "sub-verse902", "sub-verse903")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
  """A VerSe subject tree of four scans in four orientations."""
  root = tmp_path_factory.mktemp("archive") / "dataset-verse20training"
  for subject, codes in zip(SUBJECTS, ("PIR", "LPS", "RAS", "PSR")):
    scan = tmp_path_factory.mktemp(subject)
    write_scan(scan, codes)
    raw, derived = root / "rawdata" / subject, root / "derivatives" / subject
    raw.mkdir(parents=True)
    derived.mkdir(parents=True)
    shutil.copy(scan / "ct.nii.gz", raw / f"{subject}_ct.nii.gz")
    shutil.copy(
      scan / "mask.nii.gz", derived / f"{subject}_seg-vert_msk.nii.gz"
    )
    shutil.copy(scan / "ctd.json", derived / f"{subject}_seg-subreg_ctd.json")
  return root


@pytest.fixture(scope="module")
def prepared(archive, tmp_path_factory):
  """What an undisturbed run makes of the archive."""
  store = tmp_path_factory.mktemp("prepared") / "store"
  outcomes = prepare([f"verse={archive}"], store, 4.0, workers=0)
  assert [o.status for o in outcomes] == ["written"] * 4
  return store


def content(store):
  """All bytes of a store but the facts of the run."""
  return {
    path.relative_to(store).as_posix(): path.read_bytes()
    for path in sorted(pathlib.Path(store).rglob("*"))
    if path.is_file() and path.name not in ("run.json", ".lock")
  }


def test_a_tree_becomes_a_store(prepared):
  store = Store(prepared)
  assert store.names == SUBJECTS
  assert store.spacing_mm == 4.0
  for record in store.records:
    assert record.source == "verse"
    assert record.split == "train"
    assert record.centre_kind == "body"
    assert sorted(record.centres) == [20, 21]
    assert len(record.voxels) == 64
  case = store.case(0)
  labels = case.read("labels", (0, 0, 0), case.shape, 0)
  # VerSe leaves cut vertebrae out: what lies above L1 and below L2 is unknown.
  assert set(np.unique(labels)) == {0, 20, 21, 255}
  assert (prepared / "run.json").exists()


def test_the_same_scan_is_the_same_whatever_its_axes(prepared):
  for record in Store(prepared).records:
    affine = np.array(record.affine)
    for code, point in record.centres.items():
      world = nib.affines.apply_affine(affine, point[::-1])
      np.testing.assert_allclose(world, CENTRES[code], atol=1e-3)


def test_workers_and_repetition_change_no_byte(archive, prepared, tmp_path):
  again = prepare([str(archive)], tmp_path / "s", 4.0, workers=2)
  assert [o.status for o in again] == ["written"] * 4
  assert content(tmp_path / "s") == content(prepared)
  before = (tmp_path / "s/cases/sub-verse900/case.json").stat().st_mtime_ns
  kept = prepare([f"verse={archive}"], tmp_path / "s", 4.0, workers=0)
  assert [o.status for o in kept] == ["kept"] * 4
  after = (tmp_path / "s/cases/sub-verse900/case.json").stat().st_mtime_ns
  assert after == before
  assert content(tmp_path / "s") == content(prepared)


def test_damaged_and_changed_cases_are_made_again(archive, prepared, tmp_path):
  store = tmp_path / "s"
  shutil.copytree(prepared, store)
  shard = store / "cases/sub-verse901/image/c/0/0/0"
  shard.write_bytes(shard.read_bytes()[:100])
  outcomes = prepare([f"verse={archive}"], store, 4.0, workers=0)
  assert [o.status for o in outcomes] == ["kept", "written", "kept", "kept"]
  assert content(store) == content(prepared)
  finer = prepare([f"verse={archive}"], store, 5.0, workers=0)
  assert [o.status for o in finer] == ["written"] * 4
  assert Store(store).spacing_mm == 5.0


def test_a_mask_a_vertebra_under_another_name_is_made_again(tmp_path):
  fields = write_scan(tmp_path)
  image = nib.load(fields["mask"].path)
  for name, code in (("L1", 20), ("L2", 21)):
    one = (np.asarray(image.dataobj) == code).astype(np.uint8)
    nib.save(
      nib.Nifti1Image(one, image.affine, image.header),
      tmp_path / f"{name}.nii.gz",
    )
  cohort = tmp_path / "cohort.yaml"

  def run(upper, lower):
    cohort.write_text(
      "cases: [{case: a, domain: d, image: ct.nii.gz, "
      f"mask: {{{upper}: L1.nii.gz, {lower}: L2.nii.gz}}}}]"
    )
    (outcome,) = prepare([str(cohort)], tmp_path / "s", 4.0, workers=0)
    (record,) = Store(tmp_path / "s").records
    return outcome.status, sorted(record.centres)

  assert run("T12", "L1") == ("written", [19, 20])
  assert run("T12", "L1") == ("kept", [19, 20])
  assert run("L1", "L2") == ("written", [20, 21])


def test_a_killed_run_goes_on_to_the_same_store(archive, prepared, tmp_path):
  store = tmp_path / "s"
  command = [
    sys.executable, "-m", "vf_jax", "prepare", f"verse={archive}",
    "--out", str(store), "--spacing", "4", "--workers", "1",
  ]  # fmt: skip
  run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
  # The first line of progress says that one case is there.
  assert "1/4" in run.stderr.readline()
  os.kill(run.pid, signal.SIGKILL)
  run.wait()
  run.stderr.close()
  done = [p for p in (store / "cases").iterdir() if not p.name.startswith(".")]
  assert 1 <= len(done) < 4
  with pytest.raises(InputError, match="not finished"):
    Store(store)
  _wait_for_the_lock(store)
  outcomes = prepare([f"verse={archive}"], store, 4.0, workers=0)
  assert sum(o.status == "kept" for o in outcomes) >= 1
  assert content(store) == content(prepared)


def _wait_for_the_lock(store):
  """A worker of the killed run may take a moment to notice."""
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    if not list((store / "cases").glob(".*.part")):
      return
    time.sleep(0.05)


def test_a_refused_case_stops_no_other(archive, prepared, tmp_path, capsys):
  tree = tmp_path / "dataset-verse20training"
  shutil.copytree(archive, tree)
  mask = tree / "derivatives/sub-verse902/sub-verse902_seg-vert_msk.nii.gz"
  image = nib.load(mask)
  moved = image.affine.copy()
  moved[:3, 3] += 30
  nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), mask)
  ct = tree / "rawdata/sub-verse903/sub-verse903_ct.nii.gz"
  ct.write_bytes(ct.read_bytes()[:2000])
  code = cli.main(
    ["prepare", f"verse={tree}", "--out", str(tmp_path / "s"), "--spacing",
     "4", "--workers", "0"]
  )  # fmt: skip
  assert code == cli.REFUSED
  said = capsys.readouterr()
  assert "sub-verse902" in said.err
  assert "sub-verse903_ct.nii.gz" in said.err
  assert "2 refused, 2 written" in said.out
  assert Store(tmp_path / "s").names == ("sub-verse900", "sub-verse901")
  kept = {k: v for k, v in content(prepared).items() if "verse900" in k}
  assert kept.items() <= content(tmp_path / "s").items()


def test_cases_with_warnings_are_named(tmp_path, capsys):
  write_scan(tmp_path)
  cohort = tmp_path / "cohort.yaml"
  files = "domain: d, image: ct.nii.gz, mask: mask.nii.gz"
  command = ["prepare", str(cohort), "--out", str(tmp_path / "s"), "--spacing",
             "4", "--workers", "0"]  # fmt: skip
  for notes, said in (
    (("", ""), None),
    (("metal", ""), "1 case with warnings: a (see --check-only or --report)"),
    (("metal", "x"), "2 cases with warnings: a, b (see"),
    (("metal", "x"), "2 cases with warnings: a, b (see"),  # kept ones, too
  ):
    cohort.write_text(
      f"defaults: {{{files}}}\ncases:\n"
      f"- {{case: a, notes: [{notes[0]}]}}\n- {{case: b, notes: [{notes[1]}]}}"
    )
    assert cli.main(command) == cli.DONE
    err = capsys.readouterr().err
    assert said in err if said else "warning" not in err


def test_cases_of_other_archives_are_removed_only_when_asked(
  archive, prepared, tmp_path, capsys
):
  store, part = tmp_path / "s", tmp_path / "dataset-verse20training"
  shutil.copytree(prepared, store)
  shutil.copytree(archive, part)
  for subject in SUBJECTS[:2]:
    shutil.rmtree(part / "rawdata" / subject)
    shutil.rmtree(part / "derivatives" / subject)
  before = content(store)
  command = ["prepare", f"verse={part}", "--out", str(store), "--spacing", "4",
             "--workers", "0"]  # fmt: skip
  assert cli.main(command) == cli.REFUSED
  said = capsys.readouterr()
  assert "holds 2 cases that the archives given do not have" in said.err
  assert "'sub-verse900'" in said.err
  assert "--prune" in said.err
  assert content(store) == before
  assert cli.main([*command, "--prune"]) == cli.DONE
  assert Store(store).names == SUBJECTS[2:]
  assert len(list((store / "cases").iterdir())) == 2


def test_a_case_out_of_reach_is_unlisted_but_stays(archive, prepared, tmp_path):
  store, tree = tmp_path / "s", tmp_path / "dataset-verse20training"
  shutil.copytree(prepared, store)
  shutil.copytree(archive, tree)
  ct = tree / "rawdata/sub-verse902/sub-verse902_ct.nii.gz"
  whole = ct.read_bytes()
  ct.write_bytes(b"")
  for prune in (False, True):
    prepare([f"verse={tree}"], store, 4.0, workers=0, prune=prune)
    assert Store(store).names == (*SUBJECTS[:2], SUBJECTS[3])
  ct.write_bytes(whole)
  outcomes = prepare([f"verse={tree}"], store, 4.0, workers=0)
  assert [o.status for o in outcomes] == ["kept"] * 4
  assert content(store) == content(prepared)


def test_if_all_are_refused_there_is_no_store(archive, tmp_path):
  tree = tmp_path / "dataset-verse20training"
  shutil.copytree(archive, tree)
  for ct in tree.glob("rawdata/*/*.nii.gz"):
    ct.write_bytes(b"")
  with pytest.raises(InputError, match="all were refused"):
    prepare([f"verse={tree}"], tmp_path / "s", 4.0, workers=0)
  assert not (tmp_path / "s" / "store.json").exists()


def test_a_case_on_which_vf_jax_fails_stops_no_other(
  archive, prepared, tmp_path, capsys, monkeypatch
):
  real = convert.convert

  def fail(loaded, *rest):
    if loaded.case.name in bad:
      raise ZeroDivisionError("thirteen")
    return real(loaded, *rest)

  bad = {"sub-verse901"}
  monkeypatch.setattr("vf_jax.multispine.prepare.convert", fail)
  store = tmp_path / "s"
  command = ["prepare", f"verse={archive}", "--out", str(store), "--spacing",
             "4", "--workers", "0"]  # fmt: skip
  assert cli.main(command) == 1
  said = capsys.readouterr()
  words = "sub-verse901: vf_jax failed: ZeroDivisionError: thirteen (prepare.py"
  assert words in said.err
  assert "1 failed, 3 written" in said.out
  assert Store(store).names == (SUBJECTS[0], *SUBJECTS[2:])
  bad = set(SUBJECTS)
  shutil.rmtree(store)
  assert cli.main(command) == 1
  assert "4 cases: 4 failed\n" in capsys.readouterr().out
  assert not (store / "store.json").exists()


def test_what_an_engine_says_of_a_case_is_an_outcome(
  archive, tmp_path, monkeypatch
):
  def run(work, jobs, **options):
    for name, job in jobs.items():
      broken = name == "sub-verse900"
      yield name, OSError("no pickle") if broken else work(job)

  monkeypatch.setattr("vf_jax.multispine.prepare.run_jobs", run)
  outcomes = prepare([f"verse={archive}"], None, 4.0, workers=0)
  assert [o.status for o in outcomes] == ["failed", *["checked"] * 3]
  assert outcomes[0].message == (
    "sub-verse900: vf_jax failed: OSError: no pickle"
  )


def test_check_only_writes_nothing(archive, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code = cli.main(["prepare", f"verse={archive}", "--check-only"])
  assert code == cli.DONE
  said = capsys.readouterr().out
  assert all(subject in said for subject in SUBJECTS)
  assert "4 checked" in said
  assert list(tmp_path.iterdir()) == []


def test_verify_names_what_is_damaged(prepared, tmp_path, capsys):
  store = tmp_path / "s"
  shutil.copytree(prepared, store)
  assert cli.main(["prepare", "--verify", "--out", str(store)]) == cli.DONE
  shard = store / "cases/sub-verse901/labels/c/0/0/0"
  shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
  assert cli.main(["prepare", "--verify", "--out", str(store)]) == cli.REFUSED
  assert "sub-verse901/labels/c/0/0/0: damaged" in capsys.readouterr().err


def test_cases_of_one_name_in_two_archives_are_told_apart(archive):
  said = (
    "has 4 names of archives before it: sub-verse900 is called sub-verse900-2"
  )
  with pytest.warns(InputWarning, match=said):
    cases = find_all([f"verse={archive}", f"verse={archive}"])
  assert [c.name for c in cases[:4]] == list(SUBJECTS)
  assert [c.name for c in cases[4:]] == [f"{s}-2" for s in SUBJECTS]
  assert {c.subject for c in cases[4:]} == {c.subject for c in cases[:4]}


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    (["--out", "s"], "no KIND=PATH"),
    (["verse=x"], "--out STORE is missing"),
    (["verse=x", "--check-only", "--out", "s"], "leave out --out"),
    (["verse=x", "--verify", "--out", "s"], "give no KIND=PATH"),
    (["--verify", "--check-only"], "leave out one of them"),
    (["--verify", "--check-only", "--out", "s"], "leave out one of them"),
    (["--verify", "--prune", "--out", "s"], "--prune removes"),
    (["verse=x", "--prune", "--check-only"], "--prune removes"),
  ],
)
def test_contradictory_options_are_refused(arguments, match, capsys):
  assert cli.main(["prepare", *arguments]) == cli.USAGE
  assert match in capsys.readouterr().err


def test_absurd_spacing_and_unknown_kinds_are_refused(archive, tmp_path):
  with pytest.raises(ConfigError, match="outside"):
    prepare([f"verse={archive}"], tmp_path / "s", 0.01)
  with pytest.raises(ConfigError, match="did you mean 'verse'"):
    prepare([f"verze={archive}"], tmp_path / "s", 2.0)
  assert not (tmp_path / "s").exists()


def test_a_cluster_makes_the_same_store_though_a_worker_dies(
  archive, prepared, tmp_path
):
  distributed = pytest.importorskip("distributed")
  scheduler = _start("scheduler", "--port", "0", "--no-dashboard")
  workers = []
  try:
    address = _address(scheduler)
    workers = [
      _start(
        "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
        "--local-directory", str(tmp_path),
      )
      for _ in range(2)
    ]  # fmt: skip
    with distributed.Client(address, set_as_default=False) as client:
      client.wait_for_workers(2, timeout=60)
    killed = []

    def kill_one(outcome):
      if not killed:
        workers[0].kill()
        killed.append(outcome.case)

    outcomes = prepare(
      [f"verse={archive}"], tmp_path / "s", 4.0, scheduler=address,
      report=kill_one,
    )  # fmt: skip
    assert killed
    # A case whose worker died between writing it and saying so is done again,
    # and then found to be there.
    assert {o.status for o in outcomes} <= {"written", "kept"}
    assert len(outcomes) == 4
  finally:
    for process in (*workers, scheduler):
      process.kill()
      process.communicate()
  assert content(tmp_path / "s") == content(prepared)


def _start(*arguments):
  return subprocess.Popen(
    [sys.executable, "-m", "distributed.cli.dask_" + arguments[0],
     *arguments[1:]],
    stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def _address(scheduler):
  for line in scheduler.stderr:
    if "Scheduler at:" in line:
      return line.split("Scheduler at:")[1].strip()
  raise AssertionError("the scheduler did not start")


def test_a_silent_scheduler_is_refused(archive, tmp_path, monkeypatch):
  monkeypatch.setattr("vf_jax.jobs.CONNECT_SECONDS", 1)
  with pytest.raises(ConfigError, match="no Dask scheduler"):
    prepare(
      [f"verse={archive}"], tmp_path / "s", 4.0,
      scheduler="tcp://127.0.0.1:9",
    )  # fmt: skip
