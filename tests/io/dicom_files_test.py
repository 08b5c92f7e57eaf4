# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Archives: read in memory, refused where they are not to be trusted."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
from dicom_slices import (
  COLUMNS,
  GAP,
  ROWS,
  SLICES,
  enhanced,
  hounsfield,
  place,
  save,
  stored,
)

from vf_jax.errors import InputError, InputWarning
from vf_jax.io import dicom
from vf_jax.io.dicom_files import list_files, walk


def test_a_folder_without_hidden_files_and_results(tmp_path):
  folder = place(tmp_path / "a")
  before = list_files(str(folder))
  assert len(before) == SLICES
  for name in (".DS_Store", ".x/y", "out/p/run.json", "out/p/p_seg.dcm"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text('{"request": {}}')
  assert list_files(str(folder)) == before
  # Of the folder that was asked for, its own files are read all the same.
  (folder / "run.json").write_text("x")
  assert len(list_files(str(folder))) == SLICES + 1
  np.testing.assert_array_equal(dicom.read(folder).voxels, hounsfield())


def test_links_are_followed_but_not_in_circles_or_upwards(tmp_path):
  real = place(tmp_path / "archive" / "p1")
  (tmp_path / "in" / "p1").mkdir(parents=True)
  place(tmp_path / "in" / "p2", slices=2)
  linked = tmp_path / "in" / "p1" / "ct"
  linked.symlink_to(real)
  (real / "again").symlink_to(real)
  (tmp_path / "in" / "p1" / "loop").symlink_to(tmp_path / "in" / "p1")
  (tmp_path / "in" / "p1" / "up").symlink_to(tmp_path / "in")
  found = {
    os.path.join(root, name)
    for root, files in walk(tmp_path / "in" / "p1", pytest.fail, links=True)
    for name in files
  }
  assert found == {str(linked / path.name) for path in real.glob("IM*")}
  assert list_files(str(tmp_path / "in" / "p1")) == []
  volume = dicom.read(linked)
  np.testing.assert_array_equal(volume.voxels, hounsfield())


def pack(folder, path, rename=lambda name: f"sub/{name}"):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.mkdir("sub")
    for file in sorted(folder.iterdir()):
      archive.writestr(rename(file.name), file.read_bytes())
  return path


def test_zip(tmp_path):
  path = pack(place(tmp_path / "a"), tmp_path / "a.zip")
  volume = dicom.read(path)
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  (info,) = dicom.list_series(path)
  assert info.slices == SLICES
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.zip"]


@pytest.mark.parametrize(
  "added", ["__MACOSX/scan/._{}.dcm", "scan/._{}.dcm", ".Trashes/1/{}.dcm"]
)
def test_zip_of_the_macos_finder(tmp_path, added):
  path = pack(place(tmp_path / "a"), tmp_path / "a.zip", "./scan/{}.dcm".format)
  with zipfile.ZipFile(path, "a") as archive:
    for file in sorted((tmp_path / "a").iterdir()):
      archive.writestr(added.format(file.name), b"\x00\x05\x16\x07 fork")
  np.testing.assert_array_equal(dicom.read(path).voxels, hounsfield())


def test_zip_of_hidden_files_alone(tmp_path):
  path = pack(place(tmp_path / "a"), tmp_path / "a.zip", ".x/{}".format)
  with pytest.raises(InputError, match="no files"):
    dicom.read(path)


def test_zip_of_a_multi_frame_file(tmp_path):
  depths = [-300.0 + GAP * n for n in range(4)]
  save(enhanced(stored(4), depths), tmp_path / "a" / "multi")
  with pytest.warns(InputWarning, match="rescales"):
    volume = dicom.read(pack(tmp_path / "a", tmp_path / "a.zip"))
  assert volume.voxels.shape == (COLUMNS, ROWS, 4)


@pytest.mark.parametrize(
  "name", ["../{}", "a/../../{}", "/abs/{}", "..\\{}", "C:\\{}", ".x/../../{}"]
)
def test_zip_with_paths_that_lead_out(tmp_path, name):
  path = pack(place(tmp_path / "a"), tmp_path / "a.zip", name.format)
  with pytest.raises(InputError, match="out of the archive"):
    dicom.read(path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.zip"]


def test_zip_bombs(tmp_path):
  path = tmp_path / "bomb.zip"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a.dcm", bytes(5 << 20))
  with pytest.raises(InputError, match=r"is 1,048,576\..*its folder unpacked"):
    dicom.read(path, max_bytes=1 << 20)
  # The directory promises more than any stream of that length can give.
  data = bytearray(path.read_bytes())
  at = data.rindex(b"PK\x01\x02") + 24
  data[at : at + 4] = (2 << 30).to_bytes(4, "little")
  path.write_bytes(data)
  with pytest.raises(InputError, match="impossible"):
    dicom.read(path)


def test_damaged_zip(tmp_path):
  path = pack(place(tmp_path / "a"), tmp_path / "a.zip")
  whole = path.read_bytes()
  path.write_bytes(whole[:-30])
  with pytest.raises(InputError, match="damaged zip"):
    dicom.read(path)
  # One bit in the middle of the pixels of the first member.
  data = bytearray(whole)
  data[data.index(b"PK\x03\x04", 60) - 8] ^= 1
  path.write_bytes(data)
  with pytest.raises(InputError, match=r"damaged|decoded"):
    dicom.read(path)
  data = bytearray(whole)
  for start in (b"PK\x03\x04", b"PK\x01\x02"):
    at = -1
    while (at := data.find(start, at + 1)) >= 0:
      data[at + (6 if start.endswith(b"\x04") else 8)] |= 1
  path.write_bytes(data)
  with pytest.raises(InputError, match="encrypted"):
    dicom.read(path)
