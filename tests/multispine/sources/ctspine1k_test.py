# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.multispine.sources import find_cases, recognise
from vf_jax.multispine.sources.ctspine1k import patient_of

UID = "1.3.6.1.4.1.9328.50.4."
SPLIT = f"""trainset:
{UID}0001.nii.gz
liver_0.nii.gz

test_public:
CTC-1018399231.nii.gz

test_private:
HN_P029.nii.gz
volume-covid19-A-0202_0_ct.nii.gzvolume-covid19-A-0202_0_ct.nii.gz
"""
STEMS = {
  f"{UID}0001": ("colonog", f"{UID}0001", "train"),
  "CTC-1018399231": ("colonog", "CTC-1018399231", "test_public"),
  "HN_P029": ("hnscc", "HN_P029", "test_private"),
  "liver_0": ("msd-liver", "liver_0", "train"),
  "volume-covid19-A-0202_0_ct": ("covid19", "covid19-A-0202", "test_private"),
}


def flat(stem):
  return f"{stem}.nii.gz", f"{stem}_seg.nii.gz"


def in_folders(stem):
  return f"volumes/X/{stem}.nii.gz", f"labels/X/{stem}_seg.nii.gz"


def same_name(stem):
  return f"images/{stem}.nii.gz", f"masks/{stem}.nii.gz"


@pytest.mark.parametrize("layout", [flat, in_folders, same_name])
def test_layouts(make_tree, by_name, layout):
  files = [name for stem in STEMS for name in layout(stem)]
  root = make_tree(*files, tables={"metadata/data_split.txt": SPLIT})
  assert recognise(root) == "ctspine1k"
  cases = by_name(find_cases("ctspine1k", root))
  assert len(cases) == len(STEMS)
  for stem, (domain, subject, split) in STEMS.items():
    case = cases[f"ctspine1k-{stem}"]
    image, mask = layout(stem)
    assert case.image == root / image
    assert case.mask.path == root / mask
    assert case.mask.scheme == "ctspine1k"
    assert (case.domain, case.subject, case.split) == (domain, subject, split)
    assert case.annotates == {"masks", "levels", "cut_vertebrae"}
    assert "NC-SA" in case.licence
  assert cases["ctspine1k-volume-covid19-A-0202_0_ct"].series == "0"
  assert any("Liver Tumor" in note for note in cases["ctspine1k-liver_0"].notes)


def test_one_side_may_be_named(make_tree):
  root = make_tree(*in_folders("liver_0"), tables={"data_split.txt": SPLIT})
  (case,) = find_cases("ctspine1k", root / "volumes")
  assert case.split == "train"


def test_the_split_may_lie_above(make_tree):
  names = [f"raw/{name}" for name in flat("liver_0")]
  root = make_tree(*names, tables={"metadata/data_split.txt": SPLIT})
  (case,) = find_cases("ctspine1k", root / "raw")
  assert case.split == "train"


def test_the_series_taken_is_named(make_tree):
  study = "01-01-2000-1-Abdomen1 ACRIN PRONE COLONOGRAPHY-12337"
  row = f"{UID}0001/{study}/4.000000-SUPINE 2MM AXIALS-12365"
  tables = {"Path.csv": row, "data_split.txt": SPLIT}
  root = make_tree(*flat(f"{UID}0001"), tables=tables)
  (case,) = find_cases("ctspine1k", root)
  assert case.series == "supine", "the study's name says prone"
  assert case.scanner == {"position": "supine"}


def test_prone_and_supine_of_a_patient_stay_together(make_tree):
  files = [n for end in ("prone", "supine") for n in flat(f"{UID}0001_{end}")]
  root = make_tree(*files, tables={"data_split.txt": SPLIT})
  cases = find_cases("ctspine1k", root)
  assert {case.subject for case in cases} == {f"{UID}0001"}
  assert {case.series for case in cases} == {"prone", "supine"}


def test_without_a_split_that_is_said(make_tree):
  with pytest.warns(InputWarning, match=r"data_split\.txt"):
    (case,) = find_cases("ctspine1k", make_tree(*flat("liver_0")))
  assert case.split is None


def test_what_the_split_does_not_name_is_noted(make_tree):
  root = make_tree(*flat("liver_7"), tables={"data_split.txt": SPLIT})
  (case,) = find_cases("ctspine1k", root)
  assert case.split is None
  assert any("does not name" in note for note in case.notes)


def test_known_errors_are_noted(make_tree):
  root = make_tree(*flat(f"{UID}0291"), tables={"data_split.txt": SPLIT})
  (case,) = find_cases("ctspine1k", root)
  assert any("CTSpine1K#13" in note for note in case.notes)


def test_masks_of_covid_without_ct_in_their_name(make_tree):
  root = make_tree(
    "volume-covid19-A-0003_ct.nii.gz",
    "volume-covid19-A-0003_seg.nii.gz",
    tables={"data_split.txt": SPLIT},
  )
  (case,) = find_cases("ctspine1k", root)
  assert case.image is not None
  assert case.mask is not None


def test_images_without_masks_are_left_out(make_tree):
  root = make_tree(
    *flat("liver_0"), "liver_1.nii.gz", tables={"data_split.txt": SPLIT}
  )
  with pytest.warns(InputWarning, match=r"1 left out: no mask \(liver_1"):
    assert len(find_cases("ctspine1k", root)) == 1


def test_a_mask_alone_is_a_case(make_tree):
  root = make_tree(flat("liver_0")[1], tables={"data_split.txt": SPLIT})
  (case,) = find_cases("ctspine1k", root)
  assert case.image is None
  assert case.name == "ctspine1k-liver_0"


@pytest.mark.parametrize(
  ("text", "fault"),
  [
    ("liver_0.nii.gz\n", "before the first section"),
    (
      "trainset:\nliver_0.nii.gz\ntest_public:\nliver_0.nii.gz\n",
      "two sections",
    ),
    ("hidden:\n", "no section"),
  ],
)
def test_a_broken_split_is_refused(make_tree, text, fault):
  root = make_tree(*flat("liver_0"), tables={"data_split.txt": text})
  with pytest.raises(InputError, match=fault):
    find_cases("ctspine1k", root)


def test_a_scan_in_two_folders_is_refused(make_tree):
  root = make_tree(
    "a/liver_0.nii.gz", "b/liver_0.nii.gz", "liver_0_seg.nii.gz",
    tables={"data_split.txt": SPLIT},
  )  # fmt: skip
  with pytest.raises(InputError, match="not the only file of its name"):
    find_cases("ctspine1k", root)


def test_patients_in_other_layouts():
  assert patient_of("liver_12") == "liver_12"
  assert patient_of("case_12") is None
