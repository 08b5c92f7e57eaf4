# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The store gives back what was put in, and refuses what is broken."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.multispine import store as store_module
from vf_jax.multispine.store import (
  PreparedCase,
  Record,
  Store,
  read_case,
  write_case,
)

DATA = pathlib.Path(__file__).parent.parent / "data"
ARRAYS = ("image", "labels", "tissue", "depth")


def make_case(
  name: str = "a", domain: str = "verse", **changes
) -> PreparedCase:
  rng = np.random.default_rng(0)
  shape = (6, 5, 4)
  record = Record(
    case=name,
    domain=domain,
    subject="p1",
    spacing_mm=2.0,
    native_spacing_mm=(0.5, 0.5, 3.0),
    affine=tuple(tuple(float(v) for v in row) for row in np.eye(4)),
    centres={20: (1.5, 2.25, 3.0), 19: (4.0, 2.0, 3.0)},
    centre_kind="annotated",
    boxes=((1.0, 2.0, 3.0, 10.0, 11.0, 12.0),),
    annotates=("masks", "lesions"),
    mask_kind="expert",
    licence="none",
    source="drawn",
    files={"x.nii.gz": "00"},
  )
  case = PreparedCase(
    record=record,
    image=rng.integers(-1024, 3000, shape).astype(np.int16),
    labels=rng.integers(0, 26, shape).astype(np.uint8),
    tissue=rng.integers(0, 10, shape).astype(np.uint8),
    depth=rng.integers(0, 99, shape).astype(np.uint8),
  )
  return dataclasses.replace(case, **changes)


@pytest.mark.parametrize(
  "missing", [(), ("image",), ("tissue", "depth")], ids=str
)
def test_round_trip(tmp_path, missing):
  case = make_case(**dict.fromkeys(missing))
  write_case(tmp_path / "new" / "store", case)
  found = read_case(tmp_path / "new" / "store" / "a.npz")
  assert found.record == case.record
  for name in ARRAYS:
    ours, theirs = getattr(found, name), getattr(case, name)
    if name in missing:
      assert ours is None
    else:
      assert ours.dtype == theirs.dtype
      np.testing.assert_array_equal(ours, theirs)


def test_same_input_same_bytes_whatever_the_clock(tmp_path, monkeypatch):
  write_case(tmp_path / "one", make_case())
  monkeypatch.setattr("time.time", lambda: 2e9)
  monkeypatch.setattr(
    "time.localtime", lambda *_: (2031, 1, 1, 0, 0, 0, 0, 0, 0)
  )
  write_case(tmp_path / "two", make_case())
  first = (tmp_path / "one" / "a.npz").read_bytes()
  assert first == (tmp_path / "two" / "a.npz").read_bytes()
  other = make_case(image=make_case().image + np.int16(1))
  write_case(tmp_path / "two", other)  # replaces
  assert first != (tmp_path / "two" / "a.npz").read_bytes()


def test_a_failed_write_leaves_nothing_visible(tmp_path, monkeypatch):
  write_case(tmp_path, make_case())
  before = (tmp_path / "a.npz").read_bytes()

  def fail(*_):
    raise RuntimeError("killed")

  monkeypatch.setattr(store_module.np, "save", fail)
  for name in ("a", "b"):
    with pytest.raises(RuntimeError, match="killed"):
      write_case(tmp_path, make_case(name))
  assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
  assert (tmp_path / "a.npz").read_bytes() == before


def test_a_file_cut_short_or_changed_is_refused(tmp_path):
  write_case(tmp_path, make_case())
  path = tmp_path / "a.npz"
  whole = path.read_bytes()
  reference = read_case(path)
  for size in (0, 1, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match=r"a\.npz: not a prepared case"):
      read_case(path)
  refused = 0
  for place in range(0, len(whole), 7):
    path.write_bytes(
      whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
    )
    try:
      found = read_case(path)
    except InputError:
      refused += 1
    else:  # only fields of zip that mean nothing may change unseen
      assert found.record == reference.record
      for name in ARRAYS:
        np.testing.assert_array_equal(
          getattr(found, name), getattr(reference, name)
        )
  assert refused > 0.6 * len(whole) / 7


def _rewrite(path, change):
  """Writes the archive again with other members."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  change(members)
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)


def _npy(array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def _record(members, **changes):
  values = json.loads(members["record.json"]) | changes
  members["record.json"] = json.dumps(
    {key: value for key, value in values.items() if value is not ...}
  ).encode()


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (
      lambda m: _record(m, schema=2),
      "has store schema 2, this version reads 1",
    ),
    (lambda m: _record(m, schema=...), "has store schema None"),
    (lambda m: _record(m, licence=...), "not a prepared case"),
    (lambda m: _record(m, extra=1), "not a prepared case"),
    (lambda m: m.update({"record.json": b"[]"}), "not a prepared case"),
    (lambda m: m.update({"record.json": b"{"}), "not a prepared case"),
    (lambda m: m.pop("record.json"), "not a prepared case"),
    (lambda m: m.pop("labels.npy"), "it has no labels"),
    (lambda m: m.pop("depth.npy"), "only one of tissue and depth"),
    (
      lambda m: [m.pop(f"{n}.npy") for n in ("image", "tissue", "depth")],
      "neither image nor tissue",
    ),
    (
      lambda m: m.update({"image.npy": _npy(np.zeros((6, 5, 3), np.int16))}),
      r"its image is int16 \(6, 5, 3\)",
    ),
    (
      lambda m: m.update({"image.npy": _npy(np.zeros((6, 5, 4)))}),
      "its image is float64",
    ),
    (
      lambda m: m.update({"image.npy": _npy(np.array([None]))}),
      "not a prepared case",  # a pickle is never opened
    ),
  ],
)
def test_wrong_contents_are_refused(tmp_path, change, match):
  write_case(tmp_path, make_case())
  path = tmp_path / "a.npz"
  _rewrite(path, lambda members: None)
  read_case(path)  # rewriting alone does no harm
  _rewrite(path, change)
  with pytest.raises(InputError, match=match) as caught:
    read_case(path)
  assert "vf-jax prepare" in caught.value.fix


def test_store_is_ordered_by_name(tmp_path):
  for name, domain in (("b", "verse"), ("a", "lidc"), ("c", "blds")):
    write_case(tmp_path, make_case(name, domain))
  store = Store(tmp_path)
  assert len(store) == 3
  assert store.names == ("a", "b", "c")
  assert [record.case for record in store.records] == ["a", "b", "c"]
  assert store.domains == ("blds", "lidc", "verse")
  assert store.case(1).record.domain == "verse"
  assert store.case(1) is store.case(1)  # read once


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_store_without_cases_is_refused(tmp_path, name):
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match=f"{name}: holds no prepared") as caught:
    Store(tmp_path / name)
  assert "vf-jax prepare MANIFEST" in caught.value.fix


def test_the_committed_store_is_what_its_manifest_says():
  store = Store(DATA / "store")
  entries = json.loads((DATA / "manifest.json").read_text("utf-8"))
  assert sorted(entry["case"] for entry in entries) == list(store.names)
  for entry in entries:
    case = store.case(store.names.index(entry["case"]))
    record = case.record
    assert record.spacing_mm == 2.0
    for key in ("domain", "licence", "source"):
      assert getattr(record, key) == entry[key]
    assert list(record.annotates) == entry["annotates"]
    assert record.mask_kind == entry.get("mask_kind", "none")
    assert (case.image is None) == ("ct" not in entry)
    read = {
      entry[k] for k in ("ct", "mask", "centroids", "lesions") if k in entry
    }
    assert set(record.files) == read
    assert all(len(digest) == 64 for digest in record.files.values())
    for code, centre in record.centres.items():
      place = tuple(np.rint(centre).astype(int))
      assert case.labels[place] == code
    for box in record.boxes:
      # Inside the volume, whose voxels reach half an edge beyond 0.
      assert (np.array(box[:3]) > -0.5).all()
      assert (np.array(box[:3]) < np.array(case.labels.shape) - 0.5).all()
