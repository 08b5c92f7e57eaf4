# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The store gives back what was put in, and refuses what is broken."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.multispine import store_writer
from vf_jax.multispine.record import ARRAYS, index_levels
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import (
  finish,
  write_case,
  writing,
  written_cases,
  written_fingerprint,
)


@pytest.fixture
def filled(tmp_path, make_case):
  """A store of the cases b (without tissue) and a."""
  cases = [
    make_case("b", seed=1, domain="other", tissue=None, depth=None),
    make_case("a"),
  ]
  for case in cases:
    write_case(tmp_path / "store", case, fingerprint=f"of {case.record.case}")
  finish(tmp_path / "store", ["b", "a"], 2.0)
  return tmp_path / "store"


def _bytes(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in sorted(pathlib.Path(folder).rglob("*"))
    if p.is_file() and p.name != ".lock"
  }


def test_round_trip(filled, make_case):
  store = Store(filled)
  assert store.names == ("a", "b")
  assert store.domains == ("other", "verse")
  assert store.spacing_mm == 2.0
  want = make_case("a")
  got = store.case(0)
  assert got.record == want.record
  assert got.arrays == set(ARRAYS)
  for name, (dtype, fill) in ARRAYS.items():
    array = got.read(name, (0, 0, 0), got.shape, fill)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, getattr(want, name))
  assert store.case(1).arrays == {"image", "labels"}
  with pytest.raises(InputError, match="no array 'tissue'"):
    store.case(1).read("tissue", (0, 0, 0), (2, 2, 2), 0)


@pytest.mark.parametrize(
  "start",
  [(0, 0, 0), (31, 7, 9), (-5, -6, -7), (66, 40, 30), (-90, 0, 0), (99, 0, 0)],
)
def test_windows_are_padded_copies_of_the_array(filled, make_case, start):
  size = (40, 33, 12)
  window = Store(filled).case(0).read("image", start, size, AIR_HU)
  whole = np.pad(make_case("a").image, 100, constant_values=AIR_HU)
  want = whole[tuple(slice(100 + a, 100 + a + n) for a, n in zip(start, size))]
  np.testing.assert_array_equal(window, want)


def test_same_input_same_bytes(filled, make_case, tmp_path):
  for name, seed in (("a", 0), ("b", 1)):
    case = make_case(name, seed=seed, domain="other" if seed else "verse")
    if seed:
      case = make_case(name, seed=1, domain="other", tissue=None, depth=None)
    write_case(tmp_path / "again", case, fingerprint=f"of {name}")
  finish(tmp_path / "again", ["a", "b"], 2.0)
  assert _bytes(filled) == _bytes(tmp_path / "again")


def test_a_case_is_visible_only_when_it_is_whole(
  tmp_path, make_case, monkeypatch
):
  seen = []
  real = store_writer.replace_folder

  def fail(part, final):
    seen.append((part.name.startswith("."), (part / "case.json").is_file()))
    raise OSError("disk full")

  monkeypatch.setattr(store_writer, "replace_folder", fail)
  with pytest.raises(InputError, match="disk full"):
    write_case(tmp_path, make_case("a"))
  assert seen == [(True, True)]
  assert list((tmp_path / "cases").iterdir()) == []
  monkeypatch.setattr(store_writer, "replace_folder", real)
  write_case(tmp_path, make_case("a"), "first")
  write_case(tmp_path, make_case("a", seed=3), "second")
  assert [p.name for p in (tmp_path / "cases").iterdir()] == ["a"]
  assert written_fingerprint(tmp_path, "a") == "second"


def test_fingerprint_is_that_of_an_undamaged_case(filled):
  assert written_fingerprint(filled, "a") == "of a"
  assert written_fingerprint(filled, "c") is None
  shard = filled / "cases/a/image/c/0/0/0"
  data = bytearray(shard.read_bytes())
  data[100] ^= 1
  shard.write_bytes(data)
  assert written_fingerprint(filled, "a") is None


@pytest.mark.parametrize(
  "spoil",
  [
    lambda shard: shard.unlink(),
    lambda shard: shard.write_bytes(shard.read_bytes()[:-500]),
    lambda shard: shard.write_bytes(
      shard.read_bytes()[:200] + b"\0\1" + shard.read_bytes()[202:]
    ),
    lambda shard: (shard.parents[3] / "zarr.json").unlink(),
    lambda shard: (shard.parents[3] / "zarr.json").write_text("{"),
  ],
  ids=["missing", "cut", "changed", "no metadata", "broken metadata"],
)
def test_damage_is_refused_never_read_as_air(filled, spoil):
  shard = filled / "cases/a/image/c/0/0/0"
  spoil(shard)
  case = Store(filled).case(0)
  with pytest.raises(InputError, match="damaged"):
    case.read("image", (0, 0, 0), case.shape, AIR_HU)
  assert Store(filled).verify()
  assert all(
    name.startswith("cases/a/image/") for name in Store(filled).verify()
  )


def test_an_undamaged_store_verifies(filled):
  assert Store(filled).verify() == ()
  (filled / "cases/b/stray").write_text("x")
  assert Store(filled).verify() == ("cases/b/stray",)


def test_a_changed_record_is_refused(filled):
  path = filled / "cases/a/case.json"
  path.write_text(path.read_text().replace('"p1"', '"p2"'))
  with pytest.raises(InputError, match="checksum"):
    Store(filled)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda s: (s / "store.json").unlink(), "not finished"),
    (lambda s: shutil.rmtree(s), "is no store"),
    (lambda s: shutil.rmtree(s / "cases/a"), "damaged"),
    (lambda s: (s / "store.json").write_text("[]"), "damaged"),
    (
      lambda s: (s / "store.json").write_text(
        (s / "store.json").read_text().replace('"schema": 2', '"schema": 9')
      ),
      "schema 9",
    ),
  ],
)
def test_what_is_no_finished_store_is_refused(filled, change, match):
  change(filled)
  with pytest.raises(InputError, match=match):
    Store(filled)


def test_finish_removes_cases_that_are_not_listed(filled):
  finish(filled, ["b"], 2.0)
  assert Store(filled).names == ("b",)
  assert [p.name for p in (filled / "cases").iterdir()] == ["b"]


def test_finish_leaves_alone_what_is_no_case(filled, tmp_path):
  cases = filled / "cases"
  (cases / ".DS_Store").write_bytes(b"x")
  (cases / "notes.txt").write_text("x")
  (cases / ".cache").mkdir()
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "mine.txt").write_text("x")
  (cases / "linked").symlink_to(tmp_path / "elsewhere")
  assert written_cases(filled) == ("a", "b", "linked")
  finish(filled, ["b"], 2.0)
  assert Store(filled).names == ("b",)
  left = sorted(p.name for p in cases.iterdir())
  assert left == [".DS_Store", ".cache", "b", "notes.txt"]
  assert (tmp_path / "elsewhere" / "mine.txt").exists()


def test_a_case_that_cannot_be_replaced_stays(tmp_path, make_case, monkeypatch):
  write_case(tmp_path, make_case("a"), "first")
  places = {name: getattr(os, name) for name in ("replace", "rename")}
  for name, real in places.items():

    def move(source, target, real=real):
      # The old case can be put aside and back, the new one not put in place.
      if str(source).endswith(".part") and str(target).endswith("a"):
        busy = (tmp_path / "cases" / "a").exists()
        raise OSError(errno.ENOTEMPTY if busy else errno.EIO, "no")
      return real(source, target)

    monkeypatch.setattr(os, name, move)
  with pytest.raises(InputError, match="cannot be written"):
    write_case(tmp_path, make_case("a", seed=3), "second")
  assert [p.name for p in (tmp_path / "cases").iterdir()] == ["a"]
  assert written_fingerprint(tmp_path, "a") == "first"


@pytest.mark.parametrize("name", [".x.00.part", ".x.00.old"])
def test_one_run_writes_at_a_time_and_clears_what_others_left(tmp_path, name):
  left = tmp_path / "s" / "cases" / name
  left.mkdir(parents=True)
  with writing(tmp_path / "s"):
    assert not left.exists()
    with (
      pytest.raises(InputError, match="another run"),
      writing(tmp_path / "s"),
    ):
      pass


def test_a_folder_of_something_else_is_not_taken_for_a_store(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(InputError, match="something else"), writing(tmp_path):
    pass
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_index_samples_every_level(make_case):
  labels = np.zeros((40, 40, 40), np.uint8)
  labels[:20, :20, :20], labels[30, 30, 30:33] = 8, 24
  labels[35:], labels[0, 39] = 255, 26
  index = index_levels(labels)
  codes, counts = np.unique(index.codes, return_counts=True)
  assert codes.tolist() == [8, 24]
  assert counts.tolist() == [512, 3]
  assert (labels[tuple(index.voxels.T)] == index.codes).all()
  # Uniform over the cube: each octant holds about an eighth.
  octant = (index.voxels[:512] < 10).all(axis=1).sum()
  assert 35 < octant < 95
  again = index_levels(labels)
  np.testing.assert_array_equal(index.voxels, again.voxels)


def test_index_of_a_case_without_vertebrae_is_empty(tmp_path, make_case):
  labels = np.full((70, 50, 40), 255, np.uint8)
  write_case(tmp_path, make_case("a", labels=labels))
  finish(tmp_path, ["a"], 2.0)
  assert Store(tmp_path).case(0).index.voxels.shape == (0, 3)


def test_cases_travel_to_workers(filled):
  case = Store(filled).case(0)
  before = case.read("labels", (0, 0, 0), (8, 8, 8), 0)
  after = pickle.loads(pickle.dumps(case)).read(
    "labels", (0, 0, 0), (8, 8, 8), 0
  )
  np.testing.assert_array_equal(before, after)


def test_other_readers_of_zarr_find_standard_metadata(filled):
  meta = json.loads((filled / "cases/a/image/zarr.json").read_text())
  assert meta["zarr_format"] == 3
  assert meta["codecs"][0]["name"] == "sharding_indexed"
  assert meta["dimension_names"] == ["depth", "height", "width"]
