# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The shipped numbering on real detections. It was trained on these scans:
what is tested here is that it works, not how well."""

from __future__ import annotations

import json
import pathlib
import shutil
import tarfile
import time

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.infer import number_keypoints as module
from vf_jax.infer.decode import number_keypoints
from vf_jax.infer.number_keypoints import load_numberer
from vf_jax.io.keypoints import read_archive
from vf_jax.labels import VERTEBRAE

SAMPLE = pathlib.Path(__file__).parents[1] / "data/keypoints/vid_sample.tar.xz"
NAMES = [level.name for level in VERTEBRAE]


@pytest.fixture(scope="module")
def lists():
  """Scan name -> the parsed JSON of its detections."""
  with tarfile.open(SAMPLE) as archive:
    return {
      pathlib.Path(m.name).stem: json.loads(archive.extractfile(m).read())
      for m in archive.getmembers()
      if "Predictions" in m.name
    }


@pytest.fixture(scope="module")
def numberer():
  return load_numberer()


def _body(z, **more):
  return {
    "coordinates": {"world_space": [0.0, 0.0, z]},
    "type": {"keypoint_type": "body", **more},
  }


def test_real_scans_are_numbered(lists):
  hit = true = 0
  for scan in read_archive(SAMPLE):
    found = number_keypoints(lists[scan.name])
    names = [name for name, _ in found]
    order = [NAMES.index(name) for name in names]
    assert order == sorted(set(order))
    place = dict(found)
    for level, body in zip(scan.levels, scan.bodies):
      true += 1
      guess = place.get(NAMES[level], (1e9, 0, 0))
      hit += np.linalg.norm(body - guess) <= 20
  assert hit / true > 0.85


def test_order_of_points_and_repetition_change_nothing(lists):
  rng = np.random.default_rng(0)
  for points in lists.values():
    once = number_keypoints(points)
    mixed = [points[i] for i in rng.permutation(len(points))]
    assert number_keypoints(mixed) == once
    assert number_keypoints(points) == once


def test_a_scan_is_told_whole(lists, numberer):
  scans = {name: numberer(points) for name, points in lists.items()}
  for name, scan in scans.items():
    kinds = [p["type"]["keypoint_type"] for p in lists[name]]
    detected = sum(body.detected for body in scan.bodies)
    # Two detections nearer than 3 mm count as one.
    assert detected + len(scan.rejected) <= kinds.count("body")
    assert all(0 <= body.confidence <= 1 for body in scan.bodies)
    assert scan.abstained == (scan.confidence < numberer.threshold)
  assert not all(scan.abstained for scan in scans.values())


def test_what_is_missing_does_no_harm(lists):
  name = max(lists, key=lambda n: len(lists[n]))
  bodies = [p for p in lists[name] if p["type"]["keypoint_type"] == "body"]
  assert len(number_keypoints(bodies)) > 12
  bare = [
    {"coordinates": p["coordinates"], "type": {"keypoint_type": "body"}}
    for p in bodies
  ]
  assert len(number_keypoints(bare)) > 6
  assert number_keypoints([]) == []
  assert len(number_keypoints([_body(0.0)])) <= 1
  assert len(number_keypoints([_body(float(z)) for z in range(900)])) <= 40
  with pytest.raises(InputError, match="not a list"):
    number_keypoints({"points": []})


def test_an_empty_scan_is_left_to_a_person(numberer):
  scan = numberer([])
  assert scan.abstained
  assert scan.bodies == scan.rejected == ()


def test_one_program_serves_every_scan(lists, numberer):
  program = module._program(numberer.model)
  numberer([_body(0.0)])
  before = program._cache_size()
  took = []
  for points in lists.values():
    began = time.process_time()
    numberer(points)
    took.append(time.process_time() - began)
  assert program._cache_size() == before == 1
  assert np.median(took) < 0.25  # 50 ms and room for a busy machine


def test_damaged_weights_are_refused(tmp_path):
  for name in ("weights.npz", "weights.json"):
    shutil.copy(module.WEIGHTS / name, tmp_path / name)
  load_numberer(tmp_path)
  data = bytearray((tmp_path / "weights.npz").read_bytes())
  data[len(data) // 2] ^= 1
  (tmp_path / "weights.npz").write_bytes(data)
  with pytest.raises(InputError, match="SHA-256"):
    load_numberer(tmp_path)
  (tmp_path / "weights.npz").unlink()
  with pytest.raises(InputError, match="cannot be read"):
    load_numberer(tmp_path)
  (tmp_path / "weights.json").write_text("{}")
  with pytest.raises(InputError, match="no description"):
    load_numberer(tmp_path)
