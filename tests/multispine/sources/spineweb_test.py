# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.multispine.sources import find_cases, recognise

XVERTSEG = [
  f"Data1/{folder}/{stem}001{end}"
  for folder, stem in (("images", "image"), ("masks", "mask"))
  for end in (".mhd", ".raw")
]


def test_xvertseg(make_tree):
  root = make_tree(*XVERTSEG, "Data2/images/image016.mhd")
  assert recognise(root) == "spineweb"
  with pytest.warns(InputWarning, match="image016"):
    (case,) = find_cases("spineweb", root)
  assert case.name == "spineweb13-image001"
  assert case.image == root / "Data1/images/image001.mhd"
  assert case.mask.path == root / "Data1/masks/mask001.mhd"
  levels = {old: new for old, new in case.mask.recode.items() if new < 29}
  assert levels == {200: 20, 210: 21, 220: 22, 230: 23, 240: 24}
  assert case.mask.recode[20] == 254, "no VerSe code may pass by chance"
  assert (case.split, case.domain) == ("train", "spineweb13")
  assert case.annotates == {"masks", "levels"}


@pytest.mark.parametrize("end", [".nii.gz", ".nii", ".mhd"])
def test_points_of_data_set_3(make_tree, end):
  names = [
    f"spine-1/{p}/{scan}/{scan}{kind}"
    for p, scan in (("patient0001", "28"), ("patient0001", "29"))
    for kind in (end, ".lml")
  ]
  root = make_tree(*names)
  assert recognise(root) == "spineweb"
  first, second = find_cases("spineweb", root)
  assert (first.name, second.name) == ("spineweb3-28", "spineweb3-29")
  assert first.subject == second.subject == "spineweb3-patient0001"
  assert first.centroids.format == "lml"
  assert first.annotates == {"levels"}
  assert first.mask_kind == "none"


def test_codes_that_nobody_documents_must_be_given(make_tree):
  files = ["Dataset 2/case1.mhd", "Dataset 2/case1_label.mhd"]
  with pytest.raises(InputError, match=r"documented nowhere.*levels\.csv"):
    find_cases("spineweb", make_tree(*files))
  table = {"Dataset 2/levels.csv": "code,level\n1,L5\n 2 , l4\n"}
  (case,) = find_cases("spineweb", make_tree(tables=table))
  assert case.name == "spineweb2-case1"
  assert (case.mask.recode[1], case.mask.recode[2]) == (24, 23)
  assert case.mask.recode[3] == 254


@pytest.mark.parametrize(
  ("text", "fault"),
  [("1,L5\n1,L4\n", "code 1 again"), ("a,L5\n", "line 1"), ("1,X9\n", "X9")],
)
def test_a_broken_table_of_levels_is_refused(make_tree, text, fault):
  root = make_tree("case1.mhd", "case1_label.mhd", tables={"levels.csv": text})
  with pytest.raises(InputError, match=fault):
    find_cases("spineweb", root)


def test_two_masks_are_refused(make_tree):
  root = make_tree("case1.mhd", "case1_label.mhd", "case1_mask.mhd")
  with pytest.raises(InputError, match="of the same scan"):
    find_cases("spineweb", root)


def test_nothing_here_was_verified_and_says_so(make_tree):
  (case,) = find_cases("spineweb", make_tree(*XVERTSEG))
  assert any("look at the levels" in note for note in case.notes)
