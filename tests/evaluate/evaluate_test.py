# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A whole set: the command in a fresh process, its tables and its numbers."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from boxed_spine import CODES, GRID, SHAPE, spine

from vf_jax import cli
from vf_jax.errors import InputError
from vf_jax.evaluate import evaluate as evaluate_module
from vf_jax.evaluate.evaluate import FILES, evaluate
from vf_jax.evaluate.summary import SummaryOptions
from vf_jax.io import nifti
from vf_jax.io.lesions import LesionRecord, write_lesions
from vf_jax.volume import Grid

ROOT = pathlib.Path(__file__).parents[2]
QUICK = SummaryOptions(replicates=200)


def run(*arguments, python=(), stdout=subprocess.PIPE):
  return subprocess.run(
    [sys.executable, *python, "-m", "vf_jax", "evaluate", *map(str, arguments)],
    stdout=stdout,
    stderr=subprocess.PIPE,
    text=True,
    timeout=300,
    check=False,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )


def rows(path):
  with path.open(encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture
def a_set(predictions, references):
  """Six scans of five patients: right, off, missed in part, not predicted."""
  lesion = ((0.0, 20.0, 80.0), 1.0)
  for name in ("sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3", "sub-4"):
    references.add(name, spine(), lesions=[lesion])
  references.add("sub-5", spine(), lesions=[])
  predictions.add("sub-1_ses-1", spine(), lesions=[((1.0, 20.0, 80.0), 0.9)])
  predictions.add(
    "sub-1_ses-2", spine(side=1), lesions=[((0.0, 29.0, 80.0), 0.8)]
  )
  gone = spine()
  gone[gone == 22] = 0
  predictions.add("sub-2", gone, lesions=[])
  predictions.add("sub-3", spine(side=2))
  predictions.add("sub-5", spine(), lesions=[((0.0, 20.0, 80.0), 0.7)])
  predictions.add("sub-9", spine())
  return predictions, references


def measures(out):
  content = json.loads((out / "summary.json").read_text("utf-8"))
  return content, {row["name"]: row for row in content["measures"]}


def test_the_command_in_a_fresh_process(a_set, tmp_path):
  predictions, references = a_set
  out = tmp_path / "new" / "out"
  done = run(
    "--pred", predictions.root, "--ref", references.root, "--out", out,
    "--replicates", 300, "--workers", 0, "--missing-penalty-mm", 100,
    python=["-X", "importtime"],
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
  assert "vf_jax.evaluate.measure" in modules
  assert not modules & {"jax", "flax", "tensorstore", "orbax"}
  assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
  assert "1 without a prediction, counted as missed" in done.stdout
  assert "sub-9" in done.stdout
  assert "share of true points" in done.stdout

  content, found = measures(out)
  assert content["cases"] == 6
  assert content["patients"] == 5
  assert content["without_prediction"] == ["sub-4"]
  assert content["without_reference"] == ["sub-9"]
  assert content["refused_predictions"] == []
  # 30 vertebrae: five not predicted at all, one missed.
  assert found["missed"]["value"] == pytest.approx(6 / 30)
  assert found["id_rate_verse"]["value"] == pytest.approx(24 / 30)
  assert found["all_levels_right"]["value"] == pytest.approx(4 / 6)
  assert found["d_mean"]["value"] == pytest.approx(
    (5 * 2 + 5 * 4) / 24, abs=1e-3
  )
  assert found["d_mean_penalised"]["value"] == pytest.approx(
    (5 * 2 + 5 * 4 + 600) / 30, abs=1e-3
  )
  # Dice of boxes of six that lie 1 and 2 apart.
  scans = [1, 5 / 6, 0.8, 4 / 6, 0, 1]
  assert found["dice"]["value"] == pytest.approx(np.mean(scans))
  assert found["dice"]["low"] < found["dice"]["value"] < found["dice"]["high"]
  assert found["dice"]["method"] == "BCa"
  assert found["hd95_median"]["method"] == "percentile"
  # Five lesions; 0.9 is right, 0.8 is right by its centre, 0.7 is wrong.
  assert found["lesion_recall_iou"]["value"] == pytest.approx(1 / 5)
  assert found["lesion_recall_near"]["value"] == pytest.approx(2 / 5)
  assert found["lesion_precision_near"]["value"] == pytest.approx(2 / 3)
  assert found["lesion_ap_iou"]["value"] == pytest.approx(21 / 101)
  assert found["lesion_ap_near"]["value"] == pytest.approx(41 / 101)
  for row in content["measures"]:
    assert row["definition"]
    assert row["of"]

  text = (out / "summary.md").read_text("utf-8")
  for name, row in found.items():
    assert f"| {name} |" in text
    assert row["definition"] in text

  cases = {row["case"]: row for row in rows(out / "cases.csv")}
  assert len(cases) == 6
  assert cases["sub-4"]["prediction"] == "missing"
  assert cases["sub-4"]["dice"] == "0.0000"
  assert cases["sub-2"]["missed"] == "L3"
  assert cases["sub-3"]["lesions"] == "1"
  assert cases["sub-1_ses-2"]["patient"] == "sub-1"
  bones = rows(out / "vertebrae.csv")
  assert len(bones) == 30
  lost = [row for row in bones if row["state"] == "missed"]
  assert {row["hd95_mm"] for row in lost} == {"inf"}
  assert {row["dice"] for row in lost} == {"0.0000"}


def test_what_is_refused_is_named_and_counted(
  predictions, references, tmp_path, capsys
):
  for name in ("a", "b", "c"):
    references.add(name, spine())
    predictions.add(name, spine())
  predictions.add("a", spine(), grid=Grid(SHAPE, np.diag([2.0, 2, 2, 1])))
  (references.root / "b" / "b_seg-vert_msk.nii.gz").write_bytes(b"none")
  code = cli.main(
    [
      "evaluate", "--pred", str(predictions.root), "--ref",
      str(references.root), "--out", str(tmp_path / "o"), "--workers", "0",
      "--replicates", "50",
    ]
  )  # fmt: skip
  assert code == 3
  said = capsys.readouterr()
  assert "a_seg-vert_msk.nii.gz: lies on another grid" in said.err
  assert "b_seg-vert_msk.nii.gz" in said.err
  assert "1 with a refused prediction, counted as missed" in said.out
  assert "1 with a refused reference, in no number: b" in said.out
  content, found = measures(tmp_path / "o")
  assert list(content["refused_references"]) == ["b"]
  assert content["refused_predictions"] == ["a"]
  assert found["dice"]["value"] == 0.5


def test_why_no_reference_can_be_read_is_told(
  predictions, references, tmp_path
):
  for name in ("b", "a"):
    references.add(name, spine())
    predictions.add(name, spine())
    path = references.root / name / f"{name}_seg-vert_msk.nii.gz"
    path.write_bytes(b"none")
  with pytest.raises(InputError, match="no reference that can") as caught:
    evaluate(predictions.root, references.root, tmp_path / "o", workers=0)
  with pytest.raises(InputError) as reason:
    nifti.read_labels(references.root / "a" / "a_seg-vert_msk.nii.gz")
  assert str(caught.value).endswith(str(reason.value))
  assert caught.value.source == str(references.root)


def test_no_case_in_common_is_usage(predictions, references, tmp_path, capsys):
  predictions.add("a", spine())
  references.add("b", spine())
  code = cli.main(
    ["evaluate", "--pred", str(predictions.root), "--ref",
     str(references.root), "--out", str(tmp_path / "o")]
  )  # fmt: skip
  assert code == cli.USAGE
  assert "no case is in both" in capsys.readouterr().err
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "--pred"),
    (["--pred", "p", "--ref", "r"], "--out"),
    (["--tolerance-mm", "1,1"], "twice"),
    (["--tolerance-mm", "x"], "--tolerance-mm"),
    (["--lesion-score", "nan"], "no number"),
    (["--replicates", "0"], "less than 1"),
    (["--workers", "-1"], "less than 0"),
  ],
)
def test_mistakes_of_usage(arguments, words, capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main(["evaluate", *arguments])
  assert caught.value.code == cli.USAGE
  assert words in capsys.readouterr().err


def test_a_missing_folder_is_an_input_that_is_refused(tmp_path, capsys):
  arguments = [
    word
    for name in ("pred", "ref", "out")
    for word in (f"--{name}", str(tmp_path / name))
  ]
  assert cli.main(["evaluate", *arguments]) == 3
  assert "does not exist" in capsys.readouterr().err


def test_one_vertebra_less_improves_nothing(predictions, references, tmp_path):
  """Whatever is left out of a poor prediction, no mean gets better."""
  worse_if_smaller = (
    "dice", "dice_instance", "dice_spine", "dice_whole", "nsd_1mm", "nsd_2mm",
    "id_rate_verse", "id_rate_strict", "id_accuracy", "all_levels_right",
  )  # fmt: skip
  worse_if_larger = ("hd95_median", "hd_median", "assd_median", "missed")
  poor = spine(side=3)
  for name in ("a", "b"):
    references.add(name, spine())
    predictions.add(name, poor)

  def summary():
    found = evaluate(
      predictions.root, references.root, tmp_path / "o", summed=QUICK, workers=0
    )
    return {m.name: m.value for m in found.measures}

  before = summary()
  for code in CODES:
    fewer = poor.copy()
    fewer[fewer == code] = 0
    # The rest of the folder goes with it: no stale point stays.
    predictions.add("b", fewer)
    after = summary()
    assert all(after[name] <= before[name] for name in worse_if_smaller)
    assert all(after[name] >= before[name] for name in worse_if_larger)
    assert after["missed"] > before["missed"]
    assert after["d_median"] >= before["d_median"]


def test_processes_give_the_same_tables(a_set, tmp_path):
  predictions, references = a_set
  for workers, name in ((0, "here"), (2, "there")):
    evaluate(
      predictions.root, references.root, tmp_path / name,
      summed=QUICK, workers=workers,
    )  # fmt: skip
  for file in ("cases.csv", "vertebrae.csv", "summary.md"):
    here, there = (tmp_path / n / file for n in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_prediction_of_lesions_alone_is_listed_as_none(
  predictions, references, tmp_path
):
  lesions = [((0.0, 0.0, 0.0), 1.0)]
  references.add("a", spine(), lesions=lesions)
  predictions.add("a", lesions=lesions)
  references.add("b", lesions=lesions)
  predictions.add("b", lesions=lesions)
  out = tmp_path / "o"
  found = evaluate(
    predictions.root, references.root, out, summed=QUICK, workers=0
  )
  content, _ = measures(out)
  assert content["without_prediction"] == ["a"]
  assert any(
    line.startswith("1 without a prediction") and line.endswith(": a.")
    for line in found.lines
  )
  states = {row["case"]: row["prediction"] for row in rows(out / "cases.csv")}
  assert states == {"a": "missing", "b": "scored"}


@pytest.mark.skipif(
  sys.platform != "linux", reason="other systems have no such names"
)
def test_a_name_that_is_no_text_is_written(predictions, references, tmp_path):
  name = os.fsdecode(b"M\xfcller")
  references.add(name, spine())
  predictions.add(name, spine())
  out = tmp_path / "o"
  evaluate(predictions.root, references.root, out, summed=QUICK, workers=0)
  (row,) = rows(out / "cases.csv")
  assert row["case"] == r"M\udcfcller"
  assert json.loads((out / "summary.json").read_text("utf-8"))["cases"] == 1


def test_references_of_lesions_alone(predictions, references, tmp_path):
  for name in ("a", "b", "c"):
    references.add(name, lesions=[((0.0, 0.0, 0.0), 1.0)])
    predictions.add(name, lesions=[((0.0, 0.0, 0.0), 0.6)])
  found = evaluate(
    predictions.root, references.root, tmp_path / "o", summed=QUICK, workers=0
  )
  values = {m.name: m.value for m in found.measures}
  assert set(values) == {
    f"lesion_{name}_{rule}"
    for name in ("ap", "froc", "precision", "recall")
    for rule in ("iou", "near")
  }
  assert set(values.values()) == {1.0}
  notes = {m.interval.note for m in found.measures}
  assert notes == {"all replicates are equal"}


def test_columns_stand_under_their_headings_without_masks(
  predictions, references, tmp_path
):
  box = ((0.0, 20.0, 80.0), 0.9)
  references.add("sub-1", lesions=[box])
  predictions.add("sub-1", lesions=[box])
  evaluate(predictions.root, references.root, tmp_path, summed=QUICK, workers=0)
  (row,) = rows(tmp_path / "cases.csv")
  assert None not in row
  found = {k: row[k] for k in ("lesions", "detections", "lesions_found_near")}
  assert set(found.values()) == {"1"}
  assert (row["vertebrae"], row["reference_points"], row["notes"]) == ("",) * 3


def test_one_case_that_fails_does_not_cost_the_others(
  a_set, tmp_path, monkeypatch, capsys
):
  predictions, references = a_set
  measure_case = evaluate_module.measure_case

  def fail(job):
    if job[0].reference.name == "sub-2":
      raise MemoryError("whole body")
    return measure_case(job)

  monkeypatch.setattr(evaluate_module, "measure_case", fail)
  code = cli.main([
    "evaluate", "--pred", str(predictions.root), "--ref", str(references.root),
    "--out", str(tmp_path), "--replicates", "200", "--workers", "0",
  ])  # fmt: skip
  said = capsys.readouterr()
  assert code == 1, said.err
  assert "sub-2: vf_jax failed: MemoryError: whole body" in said.err
  assert "1 on which vf_jax failed, in no number: sub-2." in said.out
  content, _ = measures(tmp_path)
  assert content["cases"] == 5
  assert list(content["failed"]) == ["sub-2"]


def test_a_turned_mask_may_be_as_far_off_as_any_other(
  predictions, references, tmp_path
):
  mask = spine()
  turn = np.diag([-1.0, 1, 1, 1])
  turn[0, 3] = SHAPE[0] - 1
  for name, shift in (("sub-1", 0.15), ("sub-2", 0.25)):
    references.add(name, mask)
    affine = GRID.affine @ turn
    affine[0, 3] += shift
    predictions.add(name, mask[::-1].copy(), grid=Grid(SHAPE, affine))
  evaluate(predictions.root, references.root, tmp_path, summed=QUICK, workers=0)
  found = {row["case"]: row for row in rows(tmp_path / "cases.csv")}
  assert found["sub-1"]["prediction"] == "scored"
  assert found["sub-1"]["dice"] == "1.0000"
  assert found["sub-2"]["prediction"] == "refused"


def test_a_reference_without_points_leaves_the_question_of_levels_open(
  predictions, references, tmp_path
):
  """A vertebra that the border cuts has none."""
  references.add("a", spine((22,), first=-2), points=None)
  predictions.add("a", spine(()))
  evaluate(
    predictions.root, references.root, tmp_path / "o", summed=QUICK, workers=0
  )
  with (tmp_path / "o" / "cases.csv").open(newline="") as stream:
    (row,) = csv.DictReader(stream)
  assert row["missed"] == "L3"
  assert row["all_levels_right"] == ""


def test_boxes_below_the_threshold_count_for_curves_only(
  predictions, references, tmp_path
):
  true, score = (0.0, 20.0, 80.0), 0.3
  for name in ("sub-1", "sub-2"):
    references.add(name, spine(), lesions=[(true, 1.0)])
    predictions.add(name, spine(), lesions=[])
    box = LesionRecord(true, (8.0,) * 3, score, None)
    path = predictions.root / name / f"{name}_lesions.json"
    write_lesions(path, [], [box])
  evaluate(predictions.root, references.root, tmp_path, summed=QUICK, workers=0)
  _, found = measures(tmp_path)
  assert found["lesion_ap_iou"]["value"] == pytest.approx(1.0)
  assert found["lesion_recall_iou"]["value"] == 0.0
  counted = [row["detections"] for row in rows(tmp_path / "cases.csv")]
  assert counted == ["0", "0"]


@pytest.mark.parametrize("also_refused", [False, True])
def test_a_failure_on_every_case_is_ours_and_no_refusal(
  predictions, references, tmp_path, monkeypatch, capsys, also_refused
):
  for name in ("a", "b"):
    references.add(name, spine())
    predictions.add(name, spine())

  def fail(job):
    if also_refused and job[0].reference.name == "a":
      raise InputError("a_seg-vert_msk.nii.gz", "is no mask.")
    raise MemoryError("whole body")

  monkeypatch.setattr(evaluate_module, "measure_case", fail)
  out = tmp_path / "o"
  code = cli.main([
    "evaluate", "--pred", str(predictions.root), "--ref", str(references.root),
    "--out", str(out), "--workers", "0",
  ])  # fmt: skip
  said = capsys.readouterr()
  assert code == 1, said.err
  assert "b: vf_jax failed: MemoryError: whole body" in said.err
  assert ("is no mask" in said.err) == also_refused
  content, found = measures(out)
  assert (content["cases"], found) == (0, {})
  assert list(content["failed"]) == (["b"] if also_refused else ["a", "b"])
  assert rows(out / "cases.csv") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("end", ["pipe", "/dev/full"])
def test_what_cannot_be_shown_leaves_tables_and_exit_code(
  predictions, references, tmp_path, end
):
  """`vf-jax evaluate ... | true`, and `> /dev/full`."""
  references.add("a", spine())
  predictions.add("a", spine())
  if end == "pipe":
    reader, target = os.pipe()
    os.close(reader)
  else:
    target = os.open(end, os.O_WRONLY)
  out = tmp_path / "o"
  words = (
    "--pred", predictions.root, "--ref", references.root, "--out", out,
    "--replicates", 50, "--workers", 0,
  )  # fmt: skip
  done = run(*words, stdout=target)
  os.close(target)
  assert done.returncode == 0, done.stderr
  assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
  lost = "vf-jax: warning: not all lines were shown: No space left on device\n"
  assert done.stderr == ("" if end == "pipe" else lost)
