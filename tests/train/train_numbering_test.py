# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Patients stay together, numbers mean what they say, the command trains."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from vf_jax.data.candidates import pad
from vf_jax.errors import ConfigError, InputError
from vf_jax.infer.number_keypoints import load_numberer
from vf_jax.io.keypoints import KINDS, read_archive
from vf_jax.models.decoders.keypoint_numbering import KeypointBatch
from vf_jax.train import numbering, numbering_config
from vf_jax.train.numbering_augment import NumberingAugment, augment
from vf_jax.train.numbering_run import train_numbering
from vf_jax.train.numbering_scores import (
  ScanScore,
  coverage_curve,
  identification_rate,
  interval,
  reliability,
  score_scan,
  summarise,
)

ROOT = pathlib.Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "keypoints" / "vid_sample.tar.xz"
CONFIG = ROOT / "configs" / "numbering.py"


@pytest.fixture(scope="module")
def prepared():
  return numbering.prepare(read_archive(SAMPLE))


def test_folds_share_no_patient(prepared):
  patients = [p.scan.patient for p in prepared]
  fold = numbering.patient_folds(patients, 5, seed=3)
  owner = {}
  for patient, part in zip(patients, fold):
    assert owner.setdefault(patient, part) == part
  assert set(fold.tolist()) == set(range(5))
  with pytest.raises(ConfigError, match="12 folds of 11 patients"):
    numbering.patient_folds(patients, 12, seed=3)


def test_the_truth_scores_full_marks(prepared):
  for p in prepared:
    sure = np.ones(len(p.scan.levels))
    score = score_scan(p.scan, p.scan.levels, p.scan.bodies, sure)
    assert score.all_right
    shifted = score_scan(p.scan, p.scan.levels + 3, p.scan.bodies, sure)
    assert shifted.hit == 0
    far = score_scan(p.scan, p.scan.levels, p.scan.bodies + 12.0, sure)
    assert far.hit == 0  # 12 mm along each axis are 20.8 mm
  variants = [
    score_scan(
      p.scan, p.scan.levels, p.scan.bodies, np.ones(len(p.scan.levels))
    )
    for p in prepared
  ]
  assert sum("L6" in s.variants for s in variants) == 1
  assert sum("absent T12" in s.variants for s in variants) == 1
  summary = summarise(variants)
  assert summary["identification_rate"] == summary["precision"] == 1.0
  assert summary["hard"]["scans"] >= 4
  assert summary["variants"]["L6"]["scans"] == 1


def test_calibration_error_of_known_cases():
  sure = np.array([0.95] * 100 + [0.55] * 100)
  right = np.array([True] * 95 + [False] * 5 + [True] * 55 + [False] * 45)
  error, rows = reliability(sure, right)
  assert error < 1e-9
  assert [row["bodies"] for row in rows] == [100, 100]
  wrong, _ = reliability(sure, ~right)
  np.testing.assert_allclose(wrong, (0.9 + 0.1) / 2)
  assert reliability(np.ones(4), np.ones(4, bool))[0] == 0


def _score(name, patient, hit, confidence, true=10):
  return ScanScore(
    scan=name,
    patient=patient,
    fold=0,
    true=true,
    hit=hit,
    confidence=confidence,
    kept=np.full(true, confidence),
    right=np.arange(true) < hit,
    variants=(),
    found=(),
    hard=False,
  )


def test_abstention_leaves_the_surest():
  scores = [_score(str(i), str(i), 10, 0.9 + i / 1000) for i in range(9)]
  scores.append(_score("x", "x", 0, 0.3))
  full, most = coverage_curve(scores, (1.0, 0.9))
  assert full["identification_rate"] == 0.9
  assert full["threshold"] == 0.3
  assert most["identification_rate"] == 1.0
  assert most["threshold"] == 0.9


def test_interval_draws_patients_not_scans():
  alone = [_score(str(i), str(i), 10 * (i % 2), 0.5) for i in range(40)]
  twins = [dataclasses.replace(s, scan=s.scan + "b") for s in alone]
  low, high = interval(alone, identification_rate)
  assert interval(alone + twins, identification_rate) == (low, high)
  assert low < 0.5 < high


def test_augmented_scans_stay_scans(prepared):
  few = [p for p in prepared if 0 < len(p.candidates) <= 12]
  batch = KeypointBatch(
    **pad([p.candidates for p in few], 12, [p.targets for p in few])
  )
  strong = NumberingAugment(lost=0.3, troubled=1.0, crop=1.0, lost_body=0.5)
  out = augment(batch, jax.random.key(0), strong)
  mask = np.asarray(out.mask)
  count = mask.sum(axis=1)
  for row in range(len(few)):
    own = slice(0, count[row])
    assert mask[row, own].all()
    assert (np.diff(np.asarray(out.points)[row, own, 2]) <= 0).all()
    kept = np.asarray(out.targets)[row, own]
    assert set(kept.tolist()) <= {-1, *few[row].targets.tolist()}
    assert (np.asarray(out.targets)[row, count[row] :] == -1).all()
  assert (count < np.asarray(batch.mask).sum(axis=1)).any()
  still = augment(
    batch,
    jax.random.key(0),
    NumberingAugment(*[0.0] * 10),
  )
  np.testing.assert_array_equal(still.targets, batch.targets)
  np.testing.assert_allclose(
    np.abs(still.points), np.abs(batch.points), atol=1e-4
  )


def test_configuration_file_is_checked(tmp_path):
  assert (
    numbering_config.read_config(str(CONFIG))
    == numbering_config.NumberingConfig()
  )
  assert numbering_config.read_config(f"{CONFIG}:test").steps == 2
  for name in ("unknown_name", "import none_such", "get_config = None"):
    (tmp_path / f"{name}.py").write_text(name)
    with pytest.raises(ConfigError, match="--config"):
      numbering_config.read_config(str(tmp_path / f"{name}.py"))
  for name in (f"{CONFIG}:other", str(tmp_path / "none.py")):
    with pytest.raises(ConfigError, match="--config"):
      numbering_config.read_config(name)
  with pytest.raises(ConfigError, match="heads"):
    numbering_config.NumberingConfig(width=10, heads=4)


def test_command_trains_measures_and_its_weights_number(tmp_path):
  runs = []
  for folder in ("a", "b"):
    done = subprocess.run(
      [
        *(sys.executable, "-m", "vf_jax", "train-numbering"),
        *("--data", str(SAMPLE), "--out", str(tmp_path / folder)),
        *("--config", f"{CONFIG}:test", "--cross-validate", "2"),
      ],
      capture_output=True,
      text=True,
      timeout=300,
      cwd=tmp_path,
      check=False,
      env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "fold 2 of 2" in done.stdout
    metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
    assert metrics["held_back"]["scans"] == 12
    runs.append(metrics["weights_sha256"])
  assert runs[0] == runs[1]
  lines = (tmp_path / "a" / "scans.jsonl").read_text().splitlines()
  assert len(lines) == 12
  table = (tmp_path / "a" / "numbering.md").read_text()
  assert "identification rate" in table
  numberer = load_numberer(tmp_path / "a")
  scan = read_archive(SAMPLE)[0].detected
  points = [
    {
      "coordinates": {"world_space": place},
      "type": {"keypoint_type": KINDS[kind]},
    }
    for place, kind in zip(scan.points.tolist(), scan.kinds.tolist())
  ]
  assert isinstance(numberer(points).abstained, bool)


def test_an_out_that_is_a_file_is_refused_first(tmp_path):
  out = tmp_path / "taken"
  out.write_text("mine")
  with pytest.raises(InputError, match="cannot be made"):
    train_numbering(
      tmp_path / "no.tar.xz", out, numbering_config.NumberingConfig()
    )
  assert out.read_text() == "mine"
