# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The door of the room: kinds, names and what is refused there."""

import pytest

from vf_jax.errors import ConfigError, InputError, InputWarning
from vf_jax.multispine.sources import KINDS, find_cases, recognise

VERSE = "sub-verse004_seg-vert_msk.nii.gz"


def test_the_kinds():
  assert KINDS == (
    "verse", "ctspine1k", "spineweb", "totalsegmentator", "nnunet", "cohort",
  )  # fmt: skip


def test_an_unknown_kind_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="did you mean 'verse'"):
    find_cases("Verse", tmp_path)


def test_two_layouts_in_one_folder_are_refused(make_tree):
  root = make_tree(VERSE, "s0001/segmentations/sacrum.nii.gz")
  with pytest.raises(InputError, match=r"verse=\S+ or totalsegmentator="):
    recognise(root)
  assert len(find_cases("verse", root)) == 1
  assert len(find_cases("totalsegmentator", root)) == 1


def test_no_layout_says_how_to_name_it(make_tree):
  with pytest.raises(InputError, match=r"KIND=.*cohort\.example\.yaml"):
    recognise(make_tree("scan.nii.gz"))


def test_empty_folders_are_refused(make_tree):
  root = make_tree()
  with pytest.raises(InputError, match="is empty"):
    recognise(root)
  for kind in KINDS:
    with pytest.raises(InputError):
      find_cases(kind, root)


def test_a_single_file_is_no_archive(make_tree):
  with pytest.raises(InputError, match="one file"):
    recognise(make_tree(VERSE) / VERSE)


def test_copies_get_the_name_of_their_folder(make_tree):
  root = make_tree(VERSE, f"00 copy/{VERSE}", f"01_training/{VERSE}")
  with pytest.warns(InputWarning, match="lies in another folder"):
    cases = find_cases("verse", root)
  assert {case.name: case.split for case in cases} == {
    "sub-verse004": "train",  # the official one keeps its name
    "sub-verse004_00-copy": None,
    "sub-verse004_2": None,
  }
  assert {case.subject for case in cases} == {"sub-verse004"}


def test_copies_are_told_apart_below_the_folder_above(make_tree):
  names = [f"01_training/derivatives/{p}{VERSE}" for p in ("", "old/")]
  root = make_tree(*names, "01_training/rawdata/readme.txt")
  with pytest.warns(InputWarning, match="lies in another folder"):
    cases = find_cases("verse", root / "01_training/rawdata")
  assert len({case.name for case in cases}) == 2


@pytest.mark.parametrize("junk", [".DS_Store", "__MACOSX/._x.nii.gz", "a.png"])
def test_stray_files_change_nothing(make_tree, junk):
  root = make_tree(VERSE)
  before = find_cases("verse", root)
  make_tree(junk)
  assert recognise(root) == "verse"
  assert find_cases("verse", root) == before
