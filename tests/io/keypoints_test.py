# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Real files are read whole; whatever is none is refused in words."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.io.keypoints import (
  BODY,
  KINDS,
  parse_keypoints,
  patient_in_path,
  read_archive,
)
from vf_jax.labels import VERTEBRAE

SAMPLE = pathlib.Path(__file__).parents[1] / "data/keypoints/vid_sample.tar.xz"


def _point(place=(0.0, 0.0, 0.0), kind="body", **more):
  return {
    "coordinates": {"world_space": list(place)},
    "type": {"keypoint_type": kind, **more},
  }


def _archive(path, files):
  with tarfile.open(path, "w:xz") as out:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      out.addfile(info, io.BytesIO(data))
  return path


def test_sample_is_read():
  scans = read_archive(SAMPLE)
  assert len(scans) == 12
  assert len({scan.patient for scan in scans}) == 11
  assert [scan.name for scan in scans] == sorted(scan.name for scan in scans)
  counts = [(scan.detected.kinds == BODY).sum() for scan in scans]
  assert min(counts) == 0
  assert max(counts) == 24
  for scan in scans:
    assert (np.diff(scan.levels) > 0).all()
    # Levels ascend towards the feet, z towards the head.
    assert (np.diff(scan.bodies[:, 2]) < 0).all()
    own = scan.detected.scores[scan.detected.kinds == BODY]
    assert np.isfinite(own).all()


@pytest.mark.parametrize(
  ("origin", "patient"),
  [
    ("COLONOG/COLO1/1.3.6.1.4.1.9328.50.4.0001/01-01/3.0", "0001"),
    ("COLONOG/COLO4/CTC-8143433240/02-01-2006/4.0", "CTC-8143433240"),
    ("Pancreas-CT/data/PANCREAS_0001.nii.gz", "PANCREAS_0001"),
    ("verse20/03_test/rawdata/sub-verse813/sub-verse813_ct.mha", "verse813"),
    ("elsewhere/scan7.nii", "elsewhere/scan7.nii"),
  ],
)
def test_series_of_a_patient_share_a_name(origin, patient):
  assert patient_in_path(origin).endswith(patient)


def test_a_body_without_scores_is_kept():
  found = parse_keypoints(
    [
      _point(),
      _point(kind="left"),
      _point(spine_segment="L"),
      _point(spine_segment_probabilities=[0.1, 0.2, 0.9]),
    ]
  )
  assert [KINDS[k] for k in found.kinds] == ["body", "left", "body", "body"]
  assert np.isnan(found.scores[0]).all()
  assert found.scores[2].argmax() == found.scores[3].argmax() == 2


def test_unknown_kinds_are_left_out_and_said():
  with pytest.warns(InputWarning, match="2 of kind 'sacrum'"):
    found = parse_keypoints([_point(), *[_point(kind="sacrum")] * 2])
  assert len(found.points) == 1


@pytest.mark.parametrize(
  ("points", "words"),
  [
    ({"a": 1}, "not a list"),
    ("body", "not a list"),
    (None, "not a list"),
    ([1], "point 0 lacks"),
    ([{}], "point 0 lacks"),
    ([_point(), _point((1.0, 2.0))], "point 1 lacks"),
    ([_point((1.0, "2", 3.0))], "point 0 lacks"),
    ([_point((1.0, None, 3.0))], "point 0 lacks"),
    ([_point((1.0, float("nan"), 3.0))], "is at"),
    ([_point((1.0, float("inf"), 3.0))], "is at"),
    ([_point((1.0, 10**400, 3.0))], "point 0 lacks"),
    ([_point((1.0, 1e30, 3.0))], "is at"),
    ([_point(kind=None)], "no keypoint_type"),
    ([_point(kind=3)], "no keypoint_type"),
    ([{"coordinates": {"world_space": [1, 2, 3]}, "type": 5}], "lacks"),
    ([_point(spine_segment_probabilities=[0.1])], "segment scores"),
    ([_point(spine_segment_probabilities=[0, 1, 7.5])], "segment scores"),
    ([_point(spine_segment_probabilities=[0, 1, float("nan")])], "scores"),
    ([_point(spine_segment_probabilities="abc")], "segment scores"),
    ([_point(spine_segment_probabilities=3)], "segment scores"),
    ([_point()] * 1001, "more than 1000"),
  ],
)
def test_what_is_no_detection_is_refused(points, words):
  with pytest.raises(InputError, match=words):
    parse_keypoints(points, "scan.json")


def test_damaged_archives_are_refused(tmp_path):
  for data in (b"", b"no archive", SAMPLE.read_bytes()[:5000]):
    path = tmp_path / "bad.tar.xz"
    path.write_bytes(data)
    with pytest.raises(InputError, match="no tar archive"):
      read_archive(path)
  with pytest.raises(InputError, match="no tar archive"):
    read_archive(tmp_path / "missing.tar.xz")


def test_incomplete_archives_are_refused(tmp_path):
  seen = json.dumps([_point()]).encode()
  true = json.dumps([_point(spine_level="L1")]).encode()
  files = {
    "Predictions/Training/a.json": seen,
    "GroundTruth/Training/a.json": true,
    "mapping-export-Training.txt": b"a, x/PANCREAS_0001.nii.gz\n",
  }
  scan = read_archive(_archive(tmp_path / "a", files))[0]
  assert VERTEBRAE[scan.levels[0]].name == "L1"
  for leave, words in zip(files, ("has no detections", "no truth", "mapping")):
    part = {k: v for k, v in files.items() if k != leave}
    if leave.startswith("Predictions"):
      part["Predictions/Training/b.json"] = seen
      words = "has no"
    with pytest.raises(InputError, match=words):
      read_archive(_archive(tmp_path / "b", part))
  for bad, words in (
    (b"[", "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (json.dumps([_point(spine_level="S1")]).encode(), "level 'S1'"),
    (json.dumps([_point(spine_level="L1")] * 2).encode(), "twice"),
    (b" " * (2 << 20), "over 1 MiB"),
  ):
    part = {**files, "GroundTruth/Training/a.json": bad}
    with pytest.raises(InputError, match=words):
      read_archive(_archive(tmp_path / "c", part))
