# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from vf_jax.multispine.identity import CaseLike, group_cases, voxel_digest
from vf_jax.volume import Volume, reorient


@dataclasses.dataclass(frozen=True)
class Row:
  case: str
  source: str = "verse"
  domain: str = "verse"
  subject: str = ""
  series: str = ""
  split: str | None = None
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  centres: Mapping = dataclasses.field(default_factory=lambda: {20: (0, 0, 0)})
  mask_kind: str = "expert"
  origin: str = "drawn"
  voxels: str = ""


def row(case, **more):
  return Row(case, **({"subject": case} | more))


@pytest.fixture
def image():
  rng = np.random.default_rng(3)
  hu = rng.normal(0, 400, (40, 30, 20)).clip(-1024, 3071).astype(np.int16)
  return Volume(hu, np.diag([1.0, 1.0, 2.0, 1.0]))


def test_rows_and_records_are_case_like(make_case):
  assert isinstance(row("a"), CaseLike)
  assert isinstance(make_case().record, CaseLike)


def test_digest_knows_an_image_however_it_is_stored(image):
  digest = voxel_digest(image)
  assert len(digest) == 64
  for axes in ("PIR", "LPS", "SRA"):
    turned = reorient(image, axes)
    assert voxel_digest(turned) == digest
    stored = Volume(np.ascontiguousarray(turned.voxels), np.eye(4))
    assert voxel_digest(stored) == digest
  rough = Volume(image.voxels.astype(np.float32) + np.float32(0.2), np.eye(4))
  assert voxel_digest(rough) == digest
  assert voxel_digest(Volume(image.voxels.astype(">i4"), np.eye(4))) == digest


def test_digest_ignores_padding_below_air(image):
  padded = image.voxels.copy()
  padded[:3] = -1024
  other = padded.copy()
  other[:3] = -2000
  assert voxel_digest(Volume(padded, np.eye(4))) == voxel_digest(
    Volume(other, np.eye(4))
  )


def test_digest_tells_images_apart(image):
  digest = voxel_digest(image)
  changed = image.voxels.copy()
  changed[5, 5, 5] += 1
  shuffled = np.random.default_rng(0).permuted(image.voxels, axis=0)
  for voxels in (changed, shuffled, image.voxels[:-1]):
    assert voxel_digest(Volume(voxels, image.affine)) != digest


def test_a_constant_image_identifies_nobody():
  flat = np.full((5, 5, 5), 7, np.int16)
  assert voxel_digest(Volume(flat, np.eye(4))) == ""
  assert len(group_cases([row("a"), row("b")])) == 2


@pytest.mark.parametrize(
  ("one", "two", "reason"),
  [
    ({"subject": "p"}, {"subject": "p"}, "subject"),
    ({"subject": "p"}, {"subject": "p", "mask_kind": "synthetic"}, "subject"),
    ({"voxels": "f" * 64}, {"voxels": "f" * 64}, "same voxels"),
    ({"files": {"x.nii.gz": "e"}}, {"files": {"y.nii.gz": "e"}}, "same file"),
    ({"files": {"a/x.raw": "e"}}, {"files": {"x.RAW": "e"}}, "same file"),
    (
      {"case": "verse201", "domain": "verse19"},
      {"case": "sub-verse401_split-verse201"},
      "VerSe scan verse201",
    ),
    ({"case": "GL124_CT_ax"}, {"case": "sub-gl124"}, "VerSe scan gl124"),
    (
      {"case": "liver_12", "source": "ctspine1k"},
      {"case": "lits", "source": "cohort", "files": {"volume-12.nii": "1"}},
      "LiTS volume 12",
    ),
    (
      {"case": "volume-covid19-A-0003_ct", "source": "ctspine1k"},
      {"case": "volume-covid19-A-0003_0_ct", "source": "nnunet"},
      "COVID-19-A patient 3",
    ),
    (
      {"case": "1.3.6.1.4.1.9328.50.4.0001", "source": "ctspine1k"},
      {"case": "DS-1.3.6.1.4.1.9328.50.4.0001", "source": "nnunet"},
      "COLONOG scan 1",
    ),
  ],
)  # fmt: skip
def test_one_patient_under_two_names(one, two, reason):
  first = row(one.pop("case", "a"), **one)
  second = row(two.pop("case", "b"), **two)
  (group,) = group_cases([first, second])
  assert group.cases == tuple(sorted((first.case, second.case)))
  assert any(text.startswith(reason) for text in group.reasons)


@pytest.mark.parametrize(
  ("one", "two"),
  [
    ({"case": "verse201"}, {"case": "verse202"}),
    ({"subject": "p", "source": "cohort"}, {"subject": "p"}),
    # A release's name is no scan's.
    (
      {"files": {"dataset-verse19training/a.json": "1"}},
      {"files": {"dataset-verse19training/b.json": "2"}},
    ),
    # MSD's test images are numbered apart from LiTS's.
    ({"case": "liver_150"}, {"case": "volume-150"}),
    ({"case": "volume-covid19-A-0012_ct"}, {"case": "volume-12"}),
    # One table for many cases, and masks of levels that are not there.
    ({"files": {"boxes.csv": "e"}}, {"files": {"boxes.csv": "e"}}),
    (
      {"files": {"vertebrae_C1.nii.gz": "e"}},
      {"files": {"s2/vertebrae_C1.nii.gz": "e"}},
    ),
    ({"files": {"seg/C3.nii.gz": "e"}}, {"files": {"C3.nii.gz": "e"}}),
    # What lies on every disc beside the slices.
    ({"files": {"ct/LICENSE": "e"}}, {"files": {"LICENSE": "e"}}),
    ({"files": {"AUTORUN.INF": "e"}}, {"files": {"AUTORUN.INF": "e"}}),
    ({"files": {"VIEWER.EXE": "e"}}, {"files": {"VIEWER.EXE": "e"}}),
    ({"files": {"DICOM/IM1": "e"}}, {"files": {"DICOM/IM1": "e"}}),
    # The header names neighbour and grid only.
    ({"files": {"mask.mhd": "e"}}, {"files": {"mask.mhd": "e"}}),
    # Empty masks.
    (
      {"files": {"m.nii.gz": "e"}, "centres": {}},
      {"files": {"m.nii.gz": "e"}, "centres": {}},
    ),
  ],
)
def test_two_patients_stay_two(one, two):
  records = [row(one.pop("case", "a"), **one), row(two.pop("case", "b"), **two)]
  assert [group.reasons for group in group_cases(records)] == [(), ()]


def test_a_phantom_is_none_of_the_patients_it_is_named_after():
  fields = {"origin": "vf_jax phantom, seed 3"}
  names = ("sub-verse501", "liver_2", "volume-covid19-A-0003_ct")
  for name in names:
    real = row(name, subject="p")
    phantom = row(f"{name}-2", subject="p", **fields)
    other = row("x", subject=name, files={f"{name}.nii.gz": "1"}, **fields)
    assert len(group_cases([real, phantom, other])) == 3
  # Among themselves phantoms have subjects, and copies are copies.
  twin = row("b", subject="p", **fields)
  copy = row("c", voxels="1" * 64, **fields)
  real = row("d", subject="p", voxels="1" * 64)
  groups = group_cases([row("a", subject="p", **fields), twin, copy, real])
  assert [group.cases for group in groups] == [("a", "b"), ("c", "d")]
  assert groups[0].reasons == ("phantom verse/p",)


def test_groups_join_by_way_of_others():
  records = [
    row("a", voxels="1" * 64),
    row("b", voxels="1" * 64, files={"b.nii": "f"}),
    row("c", files={"c.nii": "f"}),
    row("d"),
  ]
  groups = group_cases(reversed(records))
  assert [group.cases for group in groups] == [("a", "b", "c"), ("d",)]
  assert len(groups[0].reasons) == 2
