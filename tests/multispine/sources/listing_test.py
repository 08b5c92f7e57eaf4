# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import os

import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.multispine.sources.listing import (
  folder_split,
  list_tree,
  read_json,
  split_suffix,
  warn_left_out,
)


def test_junk_and_hidden_files_are_not_listed(make_tree):
  root = make_tree(
    "a/x.nii.gz", "a/.DS_Store", "a/._x.nii.gz", "__MACOSX/a/x.nii.gz",
    ".git/x.nii.gz", "Thumbs.db",
  )  # fmt: skip
  assert list_tree(root).files == (root / "a/x.nii.gz",)


def test_links_are_followed_once_and_loops_end(make_tree):
  root = make_tree("data/x.nii.gz")
  (root / "loop").symlink_to(root)
  (root / "zz_again").symlink_to(root / "data")
  (root / "lost.nii.gz").symlink_to(root / "nowhere")
  elsewhere = root.parent / "elsewhere"
  elsewhere.mkdir()
  (elsewhere / "y.nii.gz").touch()
  (root / "link").symlink_to(elsewhere)
  names = [path.name for path in list_tree(root).files]
  assert names == ["x.nii.gz", "y.nii.gz", "lost.nii.gz"]


def test_a_scan_unpacked_beside_itself_counts_once(make_tree):
  root = make_tree("x.nii", "x.nii.gz", "y.NII", "y.mhd", "z.MHA", "t.json")
  names = [path.name for path in list_tree(root).volumes]
  assert names == ["x.nii.gz", "y.NII", "z.MHA"]


def test_a_missing_folder_is_refused(tmp_path):
  with pytest.raises(InputError, match="does not exist"):
    list_tree(tmp_path / "nothing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_refused(make_tree):
  root = make_tree("a/x.nii.gz")
  (root / "a").chmod(0)
  try:
    with pytest.raises(InputError, match="cannot be read"):
      list_tree(root)
  finally:
    (root / "a").chmod(0o755)


@pytest.mark.parametrize(
  ("name", "parts"),
  [
    ("a.b.NII.GZ", ("a.b", ".nii.gz")),
    ("a.nii", ("a", ".nii")),
    (".nii.gz", (".nii.gz", "")),
    ("a.png", ("a.png", "")),
  ],
)
def test_endings_are_cut_off_whatever_their_case(name, parts):
  assert split_suffix(name) == parts


@pytest.mark.parametrize(
  ("folders", "split"),
  [
    (["01_training"], "train"),
    (["dataset-01training"], "train"),
    (["02_validation (public testset)"], "validation"),
    (["dataset-verse20test", "rawdata"], "test"),
    (["dataset-verse19validation"], "validation"),
    (["VerSe2020", "03_test"], "test"),
    (["train", "val"], "validation"),
    (["rawdata", "sub-verse004"], None),
    (["testis"], None),
    (["contest"], None),
  ],
)
def test_the_split_is_read_from_folders(folders, split):
  assert folder_split(folders) == split


def test_a_user_may_call_the_folder_test():
  assert folder_split([], "test_of_today") is None
  assert folder_split([], "training") is None
  assert folder_split([], "dataset-verse19test") == "test"
  assert folder_split(["01_training"], "03_test") == "train"


def test_json_says_what_is_wrong(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("{")
  with pytest.raises(InputError, match=r"a\.json: is no JSON"):
    read_json(path, "thing")


def test_what_is_left_out_is_said_once(tmp_path):
  warn_left_out(tmp_path, [], "no mask")
  names = [f"s{i}" for i in range(7)]
  with pytest.warns(InputWarning, match=r"7 left out: no mask \(s0, .*2 more"):
    warn_left_out(tmp_path, names, "no mask")
