# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pytest

from vf_jax.errors import InputError
from vf_jax.multispine.sources import find_cases, recognise

CLASSES = ("vertebrae_L1", "vertebrae_T12", "vertebrae_S1", "sacrum", "liver")
META = (
  "\ufeffimage_id;age;institute;split;manufacturer;scanner_model;kvp\n"
  "s0001;60;A;val;SIEMENS;Force;120\ns0002;61;B;train;;;\n"
)


def subject(name, ct=True):
  masks = [f"{name}/segmentations/{c}.nii.gz" for c in CLASSES]
  return [*masks, *([f"{name}/ct.nii.gz"] if ct else [])]


def test_the_data_set(make_tree, by_name):
  root = make_tree(
    *subject("s0001"), *subject("s0002"), tables={"meta.csv": META}
  )
  assert recognise(root) == "totalsegmentator"
  cases = by_name(find_cases("totalsegmentator", root))
  assert list(cases) == ["totalsegmentator-s0001", "totalsegmentator-s0002"]
  case = cases["totalsegmentator-s0001"]
  assert case.image == root / "s0001/ct.nii.gz"
  assert list(case.mask.paths) == ["T12", "L1", "sacrum"]
  assert case.mask.paths["sacrum"].name == "sacrum.nii.gz"
  assert case.mask_kind == "network"
  assert case.split == "validation"
  assert case.scanner == {
    "institute": "A", "manufacturer": "SIEMENS", "model": "Force",
    "kvp": "120",
  }  # fmt: skip
  assert "cut_vertebrae" in case.annotates
  assert any("#394" in note for note in case.notes)
  assert cases["totalsegmentator-s0002"].scanner == {"institute": "B"}


@pytest.mark.parametrize("below", ["s0001", "s0001/segmentations"])
def test_one_subject_may_be_named(make_tree, below):
  root = make_tree(*subject("s0001"), tables={"meta.csv": META})
  (case,) = find_cases("totalsegmentator", root / below)
  assert case.name == "totalsegmentator-s0001"
  assert case.image is not None
  assert case.split == "validation"


def test_segmentations_without_a_ct(make_tree):
  (case,) = find_cases("totalsegmentator", make_tree(*subject("p", ct=False)))
  assert case.image is None
  assert case.licence == "unknown", "it is not the data set"


def test_classes_of_other_tasks_are_passed_over(make_tree):
  body = "s0001/segmentations/vertebrae_body.nii.gz"
  (case,) = find_cases("totalsegmentator", make_tree(*subject("s0001"), body))
  assert list(case.mask.paths) == ["T12", "L1", "sacrum"]


def test_an_unknown_vertebra_is_refused(make_tree):
  root = make_tree(
    *subject("s0001"), "s0001/segmentations/vertebrae_T13.nii.gz"
  )
  with pytest.raises(InputError, match="T13"):
    find_cases("totalsegmentator", root)


def test_a_foreign_meta_csv_is_refused(make_tree):
  root = make_tree(*subject("s0001"), tables={"meta.csv": "a,b\n1,2\n"})
  with pytest.raises(InputError, match="image_id"):
    find_cases("totalsegmentator", root)
