# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pytest

from vf_jax.multispine.sources.verse_names import parse_name, patient_of


@pytest.mark.parametrize(
  ("file", "role", "name", "subject", "series"),
  [
    # subject trees
    ("sub-verse004_ct.nii.gz", "image", "sub-verse004", "004", "ct"),
    ("sub-verse004_ct.json", "facts", "sub-verse004", "004", "ct"),
    ("sub-verse500_dir-ax_ct.nii.gz", "image", "sub-verse500_dir-ax", "500",
     "dir-ax"),
    ("sub-verse500_dir-ax_seg-vert_msk.NII.GZ", "mask", "sub-verse500_dir-ax",
     "500", "dir-ax"),
    ("sub-verse401_split-verse201_seg-subreg_ctd.json", "centroids",
     "sub-verse401_split-verse201", "401", "split-verse201"),
    ("sub-verse404_split-verse209_seg-vb_ctd.json", "centroids",
     "sub-verse404_split-verse209", "404", "split-verse209"),
    # without the prefix
    ("verse500_dir-ax_seg-vert_msk.nii.gz", "mask", "verse500_dir-ax", "500",
     "dir-ax"),
    # challenge trees
    ("verse004.nii.gz", "image", "verse004", "004", "ct"),
    ("verse004_seg.nii.gz", "mask", "verse004", "004", "ct"),
    ("verse004_ctd.json", "centroids", "verse004", "004", "ct"),
    ("verse201.nii.gz", "image", "verse201", "401", "split-verse201"),
    ("verse512_CT-iso.nii.gz", "image", "verse512_CT-iso", "512", "ct-iso"),
    ("verse512_CT-iso_iso-ctd.json", "centroids", "verse512_CT-iso", "512",
     "ct-iso"),
    ("verse401_verse201_CT-sag_seg.nii.gz", "mask", "verse401_verse201_CT-sag",
     "401", "verse201_ct-sag"),
  ],
)  # fmt: skip
def test_names_of_the_releases(file, role, name, subject, series):
  found = parse_name(file)
  assert (found.role, found.name) == (role, name)
  assert found.subject == f"sub-verse{subject}"
  assert found.series == series
  assert found.of_verse


@pytest.mark.parametrize(
  "file",
  ["GL124_CT_ax.nii.gz", "GL124_CT_ax_seg.nii.gz", "GL124_CT_ax-iso-ctd.json"],
)
def test_irregular_names_go_together(file):
  found = parse_name(file)
  assert (found.name, found.subject) == ("GL124_CT_ax", "sub-gl124")
  assert found.entities == ("ax",)
  assert found.challenge


def test_a_scan_named_behind_its_patient():
  found = parse_name("GL018-GL016_seg.nii.gz")
  assert (found.subject, found.series) == ("sub-gl018", "gl016")
  assert parse_name("GL018-GL017.nii.gz").series == "gl017"


@pytest.mark.parametrize(
  "file",
  [
    "sub-verse004_seg-vert_snp.png",
    "sub-verse004_seg-endplate_msk.nii.gz",
    "sub-verse004_T1w.nii.gz",
    "sub-verse004_pred.nii.gz",
    "sub-verse004_ct_0000.nii.gz",
    "sub-x_mod-T2w_seg-vert_msk.nii.gz",
    "sub-verse004.json",
    "verse004_snapshot.png",
    "verse512_CT-iso-w.png",
    "liver_0.nii.gz",
    "dataset_description.json",
    "participants.tsv",
  ],
)
def test_what_is_of_no_use_is_passed_over(file):
  assert parse_name(file) is None


def test_trees_made_like_verse_are_told_from_it():
  assert not parse_name("sub-sample001_seg-vert_msk.nii.gz").of_verse
  name = "sub-CTFU00065_ses-00000_sequ-2_mod-ct_seg-vert_msk.nii.gz"
  found = parse_name(name)
  assert found.role == "mask"
  assert found.entities == ("ses-00000", "sequ-2")


def test_the_patient_of_a_scan_in_another_layout():
  assert patient_of("sub-verse401_split-verse201") == "sub-verse401"
  assert patient_of("verse253") == "sub-verse401"
  assert patient_of("case_0001") is None
  assert patient_of("sub-clinic1") is None
