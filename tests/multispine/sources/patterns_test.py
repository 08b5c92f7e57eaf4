# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pathlib

import pytest

from vf_jax.multispine.sources.patterns import fill, placeholders, search

ROOT = pathlib.Path("/r")


@pytest.mark.parametrize(
  ("template", "path", "values"),
  [
    ("ct/{case}.nii.gz", "ct/a.nii.gz", {"case": "a"}),
    ("ct/{case}.nii.gz", "ct/b/a.nii.gz", None),
    ("{case}/{case}_ct.nii", "a/a_ct.nii", {"case": "a"}),
    ("{case}/{case}_ct.nii", "a/b_ct.nii", None),
    ("{subject}_{series}.nii", "p_late_1.nii",
     {"subject": "p", "series": "late_1"}),
    ("**/{case}.nii", "x/y/a.nii", {"case": "a"}),
    ("**/{case}.nii", "a.nii", {"case": "a"}),
    ("{case}/*.nii", "a/anything.nii", {"case": "a"}),
    ("{case}/*.nii", "a/b/anything.nii", None),
    ("{case}.nii", "a+nii", None),
    ("dicom/{case}/", "dicom/a", {"case": "a"}),
  ],
)  # fmt: skip
def test_search(template, path, values):
  found = search(template, ROOT, [ROOT / path])
  assert found == ([] if values is None else [(ROOT / path, values)])


def test_fill_leaves_what_it_does_not_know():
  assert fill("{case}/{x}/{case}", {"case": "a"}) == "a/{x}/a"
  assert placeholders("{b}/{a}_{b}") == ("b", "a")
