"""The statistics read real layouts, survive gaps and draw possible spines."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.multispine.phantom import statistics
from vf_jax.multispine.phantom.statistics import (
  PEDICLE,
  SLOTS,
  SpineStatistics,
  features,
  fit,
  fit_rows,
  level_frame,
  load_statistics,
)

_CUT = 3 * (len(SLOTS) - 1)


def _line(first, last, step):
  """Body centres that follow one another by `step`, mm RAS+."""
  names = SLOTS[SLOTS.index(first) : SLOTS.index(last) + 1]
  return {name: np.array(step) * i for i, name in enumerate(names)}


def test_features_of_a_leaning_line():
  bodies = _line("L1", "L3", (3.0, 4.0, -30.0))
  pedicles = {
    "L2": (
      bodies["L2"] + np.array([-15.0, -20.0, 5.0]),
      bodies["L2"] + np.array([15.0, -20.0, 5.0]),
    )
  }
  row = features(bodies, pedicles)
  intervals = row[:_CUT].reshape(-1, 3)
  i = SLOTS.index("L1")
  np.testing.assert_allclose(
    intervals[i],
    [np.log(np.sqrt(925)), np.arctan2(4, 30), np.arctan2(3, 30)],
    rtol=1e-12,
  )
  assert np.isnan(intervals[i - 1]).all()
  assert np.isfinite(intervals[i + 1]).all()
  found = row[_CUT:].reshape(-1, len(PEDICLE))[SLOTS.index("L2")]
  assert found[0] == pytest.approx(np.log(15.0), rel=1e-9)
  # Up leans back by 4 in 30: what lies 20 behind is lower by that in its frame.
  frame = level_frame(np.array([-3.0, -4.0, 30.0]))
  middle = np.array([0.0, -20.0, 5.0]) @ frame
  np.testing.assert_allclose(found[1:3], [-middle[1], middle[2]], rtol=1e-9)
  assert found[4] == pytest.approx(np.arctan2(frame[0, 2], frame[0, 0]))


def test_level_frame_is_a_right_handed_rotation():
  frame = level_frame(np.array([0.3, -0.4, 2.0]))
  np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
  assert np.linalg.det(frame) == pytest.approx(1.0)
  assert frame[1, 1] > 0.9
  assert frame[0, 0] > 0.9


def test_fit_finds_mean_spread_and_links_in_spite_of_gaps():
  rng = np.random.default_rng(0)
  size = rng.standard_normal((400, 1))
  rows = 3.0 + 0.1 * size + 0.02 * rng.standard_normal((400, _CUT + 125))
  rows[rng.random(rows.shape) < 0.5] = np.nan
  rows[5, 0] = 50.0  # a mistake in the annotation
  model = fit_rows(rows)
  np.testing.assert_allclose(model.mean, 3.0, atol=0.03)
  cover = model.loading @ model.loading.T
  spread = np.sqrt(np.diag(cover) + model.own**2)
  np.testing.assert_allclose(spread, np.hypot(0.1, 0.02), rtol=0.15)
  links = cover / np.outer(spread, spread)
  assert np.median(links) == pytest.approx(1 / 1.04, abs=0.05)


def _archive(path, scans):
  with tarfile.open(path, "w:xz") as archive:

    def put(name, text):
      member = tarfile.TarInfo(name)
      member.size = len(text)
      archive.addfile(member, io.BytesIO(text))

    lines = "\n".join(f"id{i}, {origin}" for i, (origin, _) in scans.items())
    put("mapping-export-Training.txt", lines.encode())
    for i, (_, points) in scans.items():
      put(
        f"KeypointGroundTruthNoSacrum/Training/id{i}.json",
        json.dumps(points).encode(),
      )


def _points(length, half):
  """VID's json of T12 to L5, in LPS."""
  points = []
  for i, name in enumerate(SLOTS[SLOTS.index("T12") : SLOTS.index("L5") + 1]):
    places = {"body": (0, 0), "left": (half, 20), "right": (-half, 20)}
    for kind, (x, y) in places.items():
      entry = {"keypoint_type": kind}
      if kind == "body":
        entry["spine_level"] = name
      place = {"world_space": [x, y, -length * i]}
      points.append({"coordinates": place, "type": entry})
  return points


def test_fit_reads_archives_and_leaves_test_sets_out(tmp_path):
  rng = np.random.default_rng(1)
  scans = {
    i: (f"COLONOG/{i}.mha", _points(rng.normal(30, 1), rng.normal(14, 1)))
    for i in range(60)
  }
  for i in range(60, 100):
    folder = "verse19/dataset-verse19test/rawdata"
    scans[i] = (f"{folder}/sub-verse{i}/sub-verse{i}_ct.mha", _points(60, 30))
  _archive(tmp_path / "vid.tar.xz", scans)
  table = np.full((25, 3), np.nan)
  table[20:23] = [[5, 6, 100], [5, 6, 70], [5, 6, 40]]
  line = ",".join(["verse900", *map(str, table.ravel())])
  (tmp_path / "landmarks.csv").write_text(line + "\n")
  model = fit([tmp_path / "landmarks.csv", tmp_path / "vid.tar.xz"])
  i = 3 * SLOTS.index("L2")
  assert np.exp(model.mean[i]) == pytest.approx(30, abs=0.5)
  half = _CUT + len(PEDICLE) * SLOTS.index("L2")
  assert np.exp(model.mean[half]) == pytest.approx(14, abs=0.5)
  assert model.counts[i] == 61
  assert model.counts[half] == 60


def test_fit_refuses_what_is_no_archive_and_too_few_scans(tmp_path):
  (tmp_path / "a.tar.xz").write_bytes(b"no archive")
  with pytest.raises(InputError, match="no VID archive"):
    fit([tmp_path / "a.tar.xz"])
  (tmp_path / "a.csv").write_text("verse1,1,2\n")
  with pytest.raises(InputError, match="line 1"):
    fit([tmp_path / "a.csv"])
  (tmp_path / "b.csv").write_text(",".join(["verse1", *["nan"] * 75]) + "\n")
  with pytest.raises(InputError, match="too few"):
    fit([tmp_path / "b.csv"])


def test_main_writes_what_load_statistics_reads(tmp_path, monkeypatch):
  shape = (_CUT + 125,)
  model = SpineStatistics(
    np.ones(shape), np.ones((*shape, 2)), np.ones(shape), np.ones(shape)
  )
  monkeypatch.setattr(statistics, "fit", lambda paths: model)
  statistics.main([str(tmp_path / "out.npz"), "x"])
  with np.load(tmp_path / "out.npz") as stored:
    assert set(stored.files) == {"mean", "loading", "own", "counts"}
    assert stored["loading"].shape == (*shape, 2)


def test_committed_statistics_draw_possible_spines():
  model = load_statistics()
  rng = np.random.default_rng(0)
  drawn = [model.sample(rng) for _ in range(200)]
  lengths = np.exp([d.intervals[:, 0] for d in drawn])
  assert lengths.min() > 9
  assert lengths.max() < 55
  # Lumbar spacing about twice that of the neck; kyphosis above lordosis.
  middle = np.median(lengths, axis=0)
  assert middle[SLOTS.index("L2")] > 1.8 * middle[SLOTS.index("C4")]
  sagittal = np.median([d.intervals[:, 1] for d in drawn], axis=0)
  assert sagittal[SLOTS.index("T2")] < -0.2
  assert sagittal[SLOTS.index("T12")] > 0.1
  assert sagittal[SLOTS.index("L4")] < 0
  # Neighbours bend together.
  bends = np.array([d.intervals[:, 1] for d in drawn])
  links = np.corrcoef(bends.T)
  assert np.diag(links, 1)[6:-1].min() > 0.5


def test_same_seed_same_spine():
  model = load_statistics()
  one, other = (model.sample(np.random.default_rng(3)) for _ in range(2))
  np.testing.assert_array_equal(one.intervals, other.intervals)
  np.testing.assert_array_equal(one.pedicles, other.pedicles)
