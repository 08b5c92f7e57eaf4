# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.labels import IGNORE, to_verse
from vf_jax.multispine.sources import find_cases, recognise

SET = "Dataset101_Spine"


def describe(labels, **more):
  return {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0} | labels,
    "file_ending": ".nii.gz",
  } | more


def files(name, channels=1, end="Tr", folder=SET):
  images = [
    f"{folder}/images{end}/{name}_{c:04d}.nii.gz" for c in range(channels)
  ]
  return [*images, f"{folder}/labels{end}/{name}.nii.gz"]


def find(make_tree, labels, *names, **more):
  tables = {f"{SET}/dataset.json": describe(labels, **more)}
  return find_cases("nnunet", make_tree(*files("a"), *names, tables=tables))


def codes(case, values):
  """What the case's loader makes of codes in the file."""
  recode = case.mask.recode
  stored = np.array([recode.get(v, v) for v in values], np.int16)
  known = np.where(stored == IGNORE, 0, stored)
  result = to_verse(known, case.mask.scheme)
  result[stored == IGNORE] = IGNORE
  return result.tolist()


def test_consecutive_codes_come_out_as_levels(make_tree):
  labels = {"T12": 1, "T13": 2, "L1": 3, "vertebrae_L6": 4, "sacrum": 5}
  labels |= {"spinal_canal": 6, "intervertebral_disc": 7, "ignore": 8}
  (case,) = find(make_tree, labels)
  assert codes(case, range(9)) == [0, 19, 28, 20, 25, 26, 0, 0, IGNORE]
  assert any("spinal_canal" in note for note in case.notes)
  with pytest.raises(InputError, match="254"):
    codes(case, [9])  # VerSe's T2, which this data set does not have


@pytest.mark.parametrize(
  ("name", "code"),
  [("Th12", 19), ("L 1", 20), ("lumbar_1", 20), ("thoracic-03", 10),
   ("vert_c2", 2), ("S1", 26), ("T13", 28)],
)  # fmt: skip
def test_levels_go_by_many_names(make_tree, name, code):
  (case,) = find(make_tree, {name: 1})
  assert codes(case, [1]) == [code]


@pytest.mark.parametrize(
  ("labels", "fault"),
  [
    ({"liver": 1}, "no vertebra level"),
    ({"vertebra": 1}, "'vertebra' looks like a vertebra"),
    ({"L1": 1, "L7": 2}, "'L7' looks like a vertebra"),
    ({"L1": 1, "vertebrae_L1": 2}, "twice"),
    ({"L1": 1, "L2": 1}, "share a code"),
    ({"L1": [1, 2]}, "no single code"),
    ({"L1": 300}, "code 300"),
  ],
)
def test_labels_that_cannot_be_translated(make_tree, labels, fault):
  with pytest.raises(InputError, match=fault):
    find(make_tree, labels)


def test_labels_as_the_decathlon_writes_them(make_tree):
  tables = {
    f"{SET}/dataset.json": {
      "modality": {"0": "CT"},
      "labels": {"0": "background", "1": "L1", "2": "L2"},
    }
  }
  names = [f"{SET}/imagesTr/liver_0.nii.gz", f"{SET}/labelsTr/liver_0.nii.gz"]
  root = make_tree(*names, tables=tables)
  assert recognise(root) == "nnunet"
  (case,) = find_cases("nnunet", root)
  assert codes(case, [1, 2]) == [20, 21]
  assert case.image.name == "liver_0.nii.gz"
  assert case.subject == "liver_0", "the patient of CTSpine1K"


def test_the_first_channel_that_is_a_ct(make_tree):
  tables = {
    f"{SET}/dataset.json": describe(
      {"L1": 1}, channel_names={"0": "prior", "1": "CT"}
    )
  }
  root = make_tree(*files("a", channels=2), tables=tables)
  (case,) = find_cases("nnunet", root)
  assert case.image.name == "a_0001.nii.gz"


@pytest.mark.parametrize("names", [{"0": "T1", "1": "T2"}, {"0": "MRI"}])
def test_without_a_ct_it_is_refused(make_tree, names):
  with pytest.raises(InputError, match="no channel is a CT"):
    find(make_tree, {"L1": 1}, channel_names=names)


def test_splits_tests_and_what_is_left_out(make_tree, by_name):
  tables = {
    f"{SET}/dataset.json": describe({"L1": 1}, licence="CC0", reference="here"),
    f"{SET}/splits_final.json": [{"train": ["a"], "val": ["b"]}, {}],
  }
  root = make_tree(
    *files("a"), *files("b"), *files("c"), *files("d", end="Ts"),
    f"{SET}/imagesTs/e_0000.nii.gz", tables=tables,
  )  # fmt: skip
  with pytest.warns(InputWarning, match=r"1 left out: no label file \(e_0000"):
    cases = by_name(find_cases("nnunet", root))
  splits = {name[-1]: case.split for name, case in cases.items()}
  assert splits == {"a": "train", "b": "validation", "c": None, "d": "test"}
  case = cases[f"{SET}-a"]
  assert (case.licence, case.origin) == ("CC0", "here")
  assert case.domain == SET


def test_splits_of_the_preprocessed_folder(make_tree):
  labels = {f"nnUNet_raw/{SET}/dataset.json": describe({"L1": 1})}
  splits = {
    f"nnUNet_preprocessed/{SET}/splits_final.json": [
      {"train": [], "val": ["a"]}
    ]
  }
  names = files("a", folder=f"nnUNet_raw/{SET}")
  root = make_tree(*names, tables=labels | splits)
  for below in ("", "nnUNet_raw", f"nnUNet_raw/{SET}/imagesTr"):
    (case,) = find_cases("nnunet", root / below)
    assert case.split == "validation"


def test_patients_of_verse_stay_together(make_tree):
  names = files("sub-verse401_split-verse201") + files("verse253")
  tables = {f"{SET}/dataset.json": describe({"L1": 1})}
  root = make_tree(*names, tables=tables)
  assert recognise(root) == "nnunet"
  assert {c.subject for c in find_cases("nnunet", root)} == {"sub-verse401"}


def test_of_several_data_sets_the_others_are_left_out(make_tree):
  tables = {
    f"{SET}/dataset.json": describe({"L1": 1}),
    "Dataset003_Liver/dataset.json": describe({"liver": 1}),
  }
  root = make_tree(
    *files("a"), *files("b", folder="Dataset003_Liver"), tables=tables
  )
  with pytest.warns(InputWarning, match="no vertebra level"):
    (case,) = find_cases("nnunet", root)
  assert case.name == f"{SET}-a"


def test_endings_that_cannot_be_read(make_tree):
  with pytest.raises(InputError, match=r"\.png"):
    find(make_tree, {"L1": 1}, file_ending=".png")


def test_a_label_without_its_image_is_a_case(make_tree):
  tables = {f"{SET}/dataset.json": describe({"L1": 1})}
  root = make_tree(files("a")[-1], tables=tables)
  (case,) = find_cases("nnunet", root)
  assert case.image is None
