# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which files are a case: names of our own and of VerSe, patients."""

from __future__ import annotations

import json

import pytest

from vf_jax.errors import ConfigError, InputError
from vf_jax.evaluate.cases import (
  find_files,
  match_cases,
  patient_name,
  point_frame,
)


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")


def names(files):
  return [
    None if path is None else path.name
    for path in (files.mask, files.points, files.lesions)
  ]


@pytest.mark.parametrize(
  ("mask", "points", "case"),
  [
    ("a_seg-vert_msk.nii.gz", "a_seg-vb_ctd.json", "a"),
    (
      "derivatives/sub-verse500/sub-verse500_dir-ax_seg-vert_msk.nii.gz",
      "derivatives/sub-verse500/sub-verse500_dir-ax_seg-subreg_ctd.json",
      "sub-verse500_dir-ax",
    ),
    ("verse004_seg.nii.gz", "verse004_ctd.json", "verse004"),
    (
      "verse512_CT-iso_seg.nii.gz",
      "verse512_CT-iso_iso-ctd.json",
      "verse512_CT-iso",
    ),
    ("x_msk.nii", "x_ctd.json", "x"),
  ],
)
def test_layouts(tmp_path, mask, points, case):
  touch(tmp_path, mask, points, f"{case}_lesions.json", f"{case}_ct.nii.gz")
  found = find_files(tmp_path)
  assert list(found) == [case]
  assert names(found[case]) == [
    mask.split("/")[-1],
    points.split("/")[-1],
    f"{case}_lesions.json",
  ]


def test_other_files_are_no_masks(tmp_path):
  touch(
    tmp_path, "a_seg-subreg_msk.nii.gz", "a_ct.nii.gz", "b_ctd.json", "c.json"
  )
  assert find_files(tmp_path) == {}


def test_bodies_are_preferred_to_other_points(tmp_path):
  touch(
    tmp_path,
    "a_seg-vert_msk.nii.gz", "a_ctd.json", "a_iso-ctd.json",
    "a_seg-subreg_ctd.json",
  )  # fmt: skip
  assert find_files(tmp_path)["a"].points.name == "a_seg-subreg_ctd.json"


def test_two_masks_of_a_name_are_refused(tmp_path):
  touch(tmp_path, "19/a_seg.nii.gz", "20/a_seg.nii.gz")
  with pytest.raises(InputError, match="second file of the case 'a'"):
    find_files(tmp_path)


@pytest.mark.parametrize(
  ("name", "content", "frame"),
  [
    ("a_seg-vb_ctd.json", [{"direction": ["P", "I", "R"]}], "voxel"),
    ("verse004_ctd.json", [{"direction": ["P", "I", "R"]}], "voxel"),
    ("verse004_ctd.json", [{"label": 1, "X": 1, "Y": 1, "Z": 1}], "iso19"),
    ("v_iso-ctd.json", [{"label": 1, "X": 1, "Y": 1, "Z": 1}], "iso"),
    ("sub-a_ctd.json", [{"label": 1, "X": 1, "Y": 1, "Z": 1}], "voxel"),
  ],
)
def test_frames(tmp_path, name, content, frame):
  path = tmp_path / name
  path.write_text(json.dumps(content))
  assert point_frame(path) == frame


@pytest.mark.parametrize(
  ("case", "patient"),
  [
    ("sub-verse401_split-verse201", "sub-verse401"),
    ("verse201", "sub-verse401"),
    ("verse004", "sub-verse004"),
    ("sub-12_ses-2", "sub-12"),
    ("site3_sub-7a_ct1", "sub-7a"),
    ("example", "example"),
  ],
)
def test_patients_by_name(case, patient):
  assert patient_name(case) == patient


def folders(tmp_path):
  touch(tmp_path / "pred", "a_seg.nii.gz", "b_seg.nii.gz")
  touch(tmp_path / "ref", "b_seg.nii.gz", "c_seg.nii.gz")
  return tmp_path / "pred", tmp_path / "ref"


def test_unmatched_cases_are_listed_and_references_kept(tmp_path):
  found = match_cases(*folders(tmp_path))
  assert [pair.reference.name for pair in found.pairs] == ["b", "c"]
  assert found.pairs[1].prediction is None
  assert found.without_prediction == ("c",)
  assert found.without_reference == ("a",)


def test_no_common_name_is_a_mistake_of_usage(tmp_path):
  prediction, _ = folders(tmp_path)
  touch(tmp_path / "other", "z_seg.nii.gz")
  with pytest.raises(ConfigError, match=r"a, b.*z.*Fix"):
    match_cases(prediction, tmp_path / "other")


def test_patients_by_table(tmp_path):
  table = tmp_path / "patients.csv"
  table.write_text("patient,case,age\np1,b,70\np1,c,71\n")
  found = match_cases(*folders(tmp_path), table)
  assert {pair.patient for pair in found.pairs} == {"p1"}


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("case,patient\nb,p1\n", "lacks c"),
    ("name,patient\nb,p1\n", "no columns"),
    ("case,patient\nb,p1\nc,\n", "line 3"),
    ("case,patient\nb,p1\nb,p2\n", "to p1 and to p2"),
    ('case,patient\nb,p1\nc,"p1\n', "after line 2: .*Fix: mend the quoting"),
    ('case,"patient\n', "after line 0: .*Fix: mend the quoting"),
    (f"case,patient\nb,{'p' * 200_000}\n", "field larger"),
    ("", "no columns"),
  ],
)
def test_tables_of_patients_that_are_refused(tmp_path, text, words):
  table = tmp_path / "patients.csv"
  table.write_text(text)
  with pytest.raises(InputError, match=words):
    match_cases(*folders(tmp_path), table)
