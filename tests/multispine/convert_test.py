# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Whatever way a scan lies in its file, all ends in its place.

A phantom is defined in world coordinates and drawn on grids of any
orientation; what is made of the files is held against the definition.
"""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from drawn_scan import (
  CENTRES,
  LESION,
  LESION_MM,
  MIDDLE,
  phantom,
  write_scan,
)

from vf_jax.errors import InputError
from vf_jax.multispine import tissues
from vf_jax.multispine.case import Case, CentroidFile, MaskFile
from vf_jax.multispine.checks.check import check
from vf_jax.multispine.convert import convert
from vf_jax.multispine.load import load
from vf_jax.multispine.record import DEPTH_STEP_MM

SPACING = 2.0


def prepare_case(fields, spacing_mm):
  return convert(load(Case(**fields)), spacing_mm)


def world_of(case) -> np.ndarray:
  """World position of every voxel of the prepared arrays, mm RAS+."""
  place = np.stack(np.indices(case.labels.shape), axis=-1)[..., ::-1]
  return nib.affines.apply_affine(np.array(case.record.affine), place)


def to_world(case, point) -> np.ndarray:
  affine = np.array(case.record.affine)
  return nib.affines.apply_affine(affine, np.array(point, float)[::-1])


# PSR, LAS and RAI are left-handed; RAS is the identity.
@pytest.fixture(scope="module", params=["PIR", "PSR", "LAS", "RAS", "RAI"])
def case(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  return prepare_case(write_scan(folder, request.param), SPACING)


def test_the_grid_is_upright_and_isotropic(case):
  assert case.record.spacing_mm == SPACING
  np.testing.assert_allclose(
    np.array(case.record.affine)[:3, :3], SPACING * np.eye(3)
  )
  assert case.record.native_spacing_mm == (1.0, 1.25, 1.5)
  assert case.image.shape == case.labels.shape


def test_labels_are_in_their_place(case):
  world = world_of(case)
  _, expected = phantom(world)
  # Nearest neighbour moves an edge by at most half a native voxel.
  near = [
    phantom(world + np.array(step))[1]
    for step in np.stack(np.meshgrid(*[(-0.8, 0.8)] * 3), -1).reshape(-1, 3)
  ]
  sure = np.all([codes == expected for codes in near], axis=0)
  assert sure.mean() > 0.9
  np.testing.assert_array_equal(case.labels[sure], expected[sure])
  fine = (np.stack(np.indices((80, 120, 60)), axis=-1) - (40, 80, 30)) / 2
  for code, centre in CENTRES.items():
    volume = (phantom(fine + centre)[1] == code).sum() / 8
    found = (case.labels == code).sum() * SPACING**3
    assert found == pytest.approx(volume, rel=0.06)


def test_hounsfield_units_are_in_their_place(case):
  hu, codes = phantom(world_of(case))
  lesion = hu == 900
  assert np.median(case.image[lesion]) > 850
  assert np.median(case.image[codes == 20]) == pytest.approx(300, abs=5)
  assert np.median(case.image[codes == 21]) == pytest.approx(300, abs=5)
  assert np.median(case.image[hu == 40]) == pytest.approx(40, abs=2)
  assert (case.image.min(), case.image.dtype) == (-1000, np.int16)


def test_centres_are_annotated_and_inside_their_own_label(case):
  assert case.record.centre_kind == "body"
  assert sorted(case.record.centres) == sorted(CENTRES)
  for code, point in case.record.centres.items():
    np.testing.assert_allclose(to_world(case, point), CENTRES[code], atol=1e-3)
    assert case.labels[tuple(np.rint(point).astype(int))] == code


def test_lesion_boxes_land_on_the_lesion(case):
  (box,) = case.record.boxes
  np.testing.assert_allclose(to_world(case, box[:3]), LESION, atol=1e-3)
  assert box[3:] == LESION_MM[::-1]  # along depth, height, width
  assert case.image[tuple(np.rint(box[:3]).astype(int))] > 850
  # A box around it is bright inside and dark one half edge further out.
  half = np.array(box[3:]) / SPACING / 2
  for axis in range(3):
    for side in (-1, 1):
      step = np.zeros(3)
      step[axis] = side * (half[axis] - 1.0)
      inner = np.rint(np.array(box[:3]) + step).astype(int)
      step[axis] = side * (half[axis] + 2.0)
      outer = np.rint(np.array(box[:3]) + step).astype(int)
      assert case.image[tuple(inner)] > 600
      assert case.image[tuple(outer)] < 400


@pytest.fixture
def scan(tmp_path):
  return write_scan(tmp_path), tmp_path


def test_without_centroids_the_centres_come_from_the_mask(scan):
  entry, _ = scan
  del entry["centroids"]
  case = prepare_case(entry, SPACING)
  assert case.record.centre_kind == "derived"
  assert sorted(case.record.centres) == [20, 21]
  for code, point in case.record.centres.items():
    assert np.linalg.norm(to_world(case, point) - CENTRES[code]) < 2.5


@pytest.mark.parametrize("given", [(), (20,)])
@pytest.mark.parametrize("others", ["absent", "NaN"])
def test_a_level_without_a_point_has_its_centre_from_the_mask(
  scan, given, others
):
  entry, folder = scan
  direction, *points = json.loads((folder / "ctd.json").read_text())
  kept = [point for point in points if point["label"] in given]
  if others == "NaN":
    lost = [point for point in points if point["label"] not in given]
    kept += [point | {"X": None} for point in lost]
  (folder / "ctd.json").write_text(json.dumps([direction, *kept]))
  loaded = load(Case(**entry))
  case = convert(loaded, SPACING)
  assert case.record.centre_kind == ("body" if given else "derived")
  assert sorted(case.record.centres) == [20, 21]
  for code, point in case.record.centres.items():
    off_mm = np.linalg.norm(to_world(case, point) - CENTRES[code])
    assert off_mm < (1e-3 if code in given else 2.5)
  said = [f.message for f in check(loaded) if f.code == "unknown"]
  assert said == ([] if given else ["ctd.json holds no point of a vertebra."])


def test_a_scan_without_mask_is_unknown_but_for_background_boxes(scan):
  entry, _ = scan
  for key in ("mask", "centroids"):
    del entry[key]
  low, high = np.add(MIDDLE, (-20, 0, -15)), np.add(MIDDLE, (10, 20, 25))
  entry["background_boxes"] = ((tuple(high.tolist()), tuple(low.tolist())),)
  case = prepare_case(entry, SPACING)
  world = world_of(case)
  inside = ((world >= low) & (world <= high)).all(axis=-1)
  assert inside.sum() * 0.008 == pytest.approx(30 * 20 * 40 / 1000, rel=0.1)
  np.testing.assert_array_equal(case.labels, np.where(inside, 0, 255))
  assert case.tissue is None
  assert case.depth is None
  assert (case.record.centre_kind, case.record.mask_kind) == ("none", "none")
  assert len(case.record.boxes) == 1


def test_background_boxes_change_only_what_a_mask_does_not_know(scan):
  entry, folder = scan
  entry["mask"] = MaskFile(folder / "mask.nii.gz", "verse", {21: 255})
  before = prepare_case(entry, SPACING).labels
  corners = [tuple(np.add(MIDDLE, side).tolist()) for side in (-60, 60)]
  entry["background_boxes"] = (tuple(corners),)
  after = prepare_case(entry, SPACING).labels
  assert (before == 20).any()
  np.testing.assert_array_equal(after, np.where(before == 255, 0, before))


def test_a_mask_without_its_scan_gets_room_for_modelled_bones(scan):
  entry, _ = scan
  del entry["image"], entry["lesions"]
  case = prepare_case(entry, SPACING)
  assert case.image is None
  _, expected = phantom(world_of(case))
  assert (case.labels == expected).mean() > 0.99
  assert set(np.unique(case.labels)) == {0, 20, 21}
  for code, point in case.record.centres.items():
    np.testing.assert_allclose(to_world(case, point), CENTRES[code], atol=1e-3)
  lowest = world_of(case)[0, 0, 0, 2]
  assert lowest < MIDDLE[2] - 40 - 100  # mm below the scan, for a pelvis
  bone = tissues.BONE.code
  assert (case.tissue[case.labels > 0] == bone).all()
  assert (case.depth[case.labels > 0] > 0).all()
  assert (case.depth[case.tissue != bone] == 0).all()
  centre = tuple(np.rint(case.record.centres[20]).astype(int))
  # The body is 22 mm deep and 20 mm high: its middle lies about 10 mm in.
  assert case.depth[centre] * DEPTH_STEP_MM == pytest.approx(10, abs=2)


def test_an_organ_mask_gives_the_tissues_of_its_scan(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj).copy()
  voxels[voxels == 20], voxels[voxels == 21] = 31, 30  # TotalSegmentator L1, L2
  nib.save(nib.Nifti1Image(voxels, image.affine), folder / "total.nii.gz")
  entry["mask"] = MaskFile(folder / "total.nii.gz", "totalsegmentator")
  assert prepare_case(entry, SPACING).tissue is None
  case = prepare_case(entry | {"tissues": "totalsegmentator"}, SPACING)
  hu, _ = phantom(world_of(case))
  outside = case.tissue == tissues.OUTSIDE.code
  assert (outside == (hu < -500)).mean() > 0.97
  assert (case.tissue[case.labels > 0] == tissues.BONE.code).all()


def test_margin_keeps_the_part_around_the_spine(scan):
  entry, _ = scan
  whole = prepare_case(entry, SPACING)
  part = prepare_case(entry | {"margin_mm": 6.0}, SPACING)
  assert part.labels.size < 0.6 * whole.labels.size
  assert (part.labels > 0).sum() == (whole.labels > 0).sum()
  where = np.argwhere(part.labels > 0)
  assert where.min() >= 2  # 6 mm less the rounding
  assert (where.max(axis=0) < np.array(part.labels.shape) - 2).all()
  for code, point in part.record.centres.items():
    np.testing.assert_allclose(to_world(part, point), CENTRES[code], atol=1e-3)
  box = part.record.boxes[0]
  np.testing.assert_allclose(to_world(part, box[:3]), LESION, atol=1e-3)


def test_a_margin_around_no_vertebra_keeps_the_whole_scan(scan):
  entry, folder = scan
  del entry["centroids"]
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj)
  for kept in (np.zeros_like(voxels), np.where(voxels == 20, 26, 0)):
    empty = nib.Nifti1Image(kept.astype(np.uint8), image.affine)
    nib.save(empty, folder / "mask.nii.gz")
    whole = prepare_case(entry, SPACING)
    part = prepare_case(entry | {"margin_mm": 6.0}, SPACING)
    assert part.record.affine == whole.record.affine
    assert part.labels.shape == whole.labels.shape


def test_schemes_and_recode_rename_labels(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj).copy()
  # TotalSegmentator: L1 is 31, L2 is 30; 118 is a code of our own.
  voxels[voxels == 20], voxels[voxels == 21] = 31, 118
  nib.save(nib.Nifti1Image(voxels, image.affine), folder / "total.nii.gz")
  total = folder / "total.nii.gz"
  entry["mask"] = MaskFile(total, "totalsegmentator")
  with pytest.raises(InputError, match="118"):
    prepare_case(entry, SPACING)
  entry["mask"] = MaskFile(total, "totalsegmentator", {118: 30})
  case = prepare_case(entry, SPACING)
  _, expected = phantom(world_of(case))
  assert (case.labels == expected).mean() > 0.99


def test_a_sacrum_in_the_mask_is_background(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj).copy()
  voxels[voxels == 21] = 26
  nib.save(nib.Nifti1Image(voxels, image.affine), folder / "mask.nii.gz")
  del entry["centroids"]
  case = prepare_case(entry, SPACING)
  assert set(np.unique(case.labels)) == {0, 20}
  assert list(case.record.centres) == [20]


def test_unknown_voxels_are_ignored_not_background(scan):
  entry, folder = scan
  entry["mask"] = MaskFile(folder / "mask.nii.gz", "verse", {21: 255})
  case = prepare_case(entry, SPACING)
  assert set(np.unique(case.labels)) == {0, 20, 255}


def test_centres_of_mass_are_not_taken_for_body_centres(scan):
  entry, folder = scan
  entry["centroids"] = CentroidFile(folder / "ctd.json", kind="mask")
  case = prepare_case(entry, SPACING)
  assert case.record.centre_kind == "derived"
  del entry["mask"]
  case = prepare_case(entry, SPACING)
  assert case.record.centres == {}
  assert "levels" not in case.record.annotates
  (found,) = [f for f in check(load(Case(**entry))) if f.code == "unknown"]
  assert found.severity == "warning"
  assert "no level is known" in found.message
  entry["centroids"] = CentroidFile(folder / "ctd.json")
  case = prepare_case(entry, SPACING)
  assert sorted(case.record.centres) == sorted(CENTRES)
  assert "levels" in case.record.annotates


def test_the_record_leads_back_to_the_native_grid(case):
  record = case.record
  assert np.prod(record.native_shape) > 0
  corner = np.array(record.native_affine) @ [0, 0, 0, 1]
  inside = np.linalg.inv(record.affine) @ corner
  assert (inside[:3] > -1).all()
  assert (inside[:3] < np.array(case.labels.shape[::-1])).all()
  assert set(record.files) == {
    "ct.nii.gz", "mask.nii.gz", "ctd.json", "boxes.csv",
  }  # fmt: skip
