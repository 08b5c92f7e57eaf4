# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Preparation: whatever way a scan lies in its file, all ends in its place.

A phantom is defined in world coordinates and drawn on grids of any
orientation; what `prepare` makes of the files is held against the definition.
"""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.multispine import tissues
from vf_jax.multispine.prepare import prepare, prepare_case
from vf_jax.multispine.store import DEPTH_STEP_MM, Store

SPACING = 2.0
MIDDLE = np.array([-31.0, 18.0, 402.0])  # of the scan, mm RAS+
# VerSe code -> body centre, mm RAS+. L2 lies lower and further to the right.
CENTRES = {
  20: np.add(MIDDLE, (-3.0, 8.0, 17.0)),
  21: np.add(MIDDLE, (4.0, 6.0, -17.0)),
}
LESION = np.add(MIDDLE, (14.0, -12.0, 5.0))
LESION_MM = (10.0, 14.0, 18.0)  # along R, A, S


def phantom(world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """HU and VerSe codes at points (..., 3) in mm RAS+."""
  hu = np.full(world.shape[:-1], -1000.0)
  hu[np.linalg.norm((world - MIDDLE) / (38, 34, 36), axis=-1) < 1] = 40.0
  codes = np.zeros(hu.shape, np.uint8)
  for code, centre in CENTRES.items():
    right, front, up = np.moveaxis(world - centre, -1, 0)
    body = (right / 15) ** 2 + (front / 11) ** 2 < 1
    body &= np.abs(up) < 10
    spine = (np.abs(right) < 4) & (front > -28) & (front < 0) & (np.abs(up) < 6)
    codes[body | spine] = code
  hu[codes > 0] = 300.0
  box = np.abs(world - LESION) < np.array(LESION_MM) / 2
  hu[box.all(axis=-1)] = 900.0
  return hu, codes


def affine_of(codes: str, shape, spacing) -> np.ndarray:
  """An affine of these axis codes whose middle voxel is at MIDDLE."""
  ornt = nib.orientations.axcodes2ornt(codes)
  affine = np.eye(4)
  affine[:3, :3] = 0
  for axis, (world, sign) in enumerate(ornt):
    affine[int(world), axis] = sign * spacing[axis]
  affine[:3, 3] = MIDDLE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
  return affine


def write_scan(folder, codes="PIR"):
  """Writes ct, mask, ctd.json and lesion table; returns a manifest entry."""
  spacing = (1.0, 1.5, 1.25)
  extent = {"R": 84, "L": 84, "A": 76, "P": 76, "S": 80, "I": 80}
  shape = [round(extent[c] / s) for c, s in zip(codes, spacing)]
  affine = affine_of(codes, shape, spacing)
  place = np.stack(np.indices(shape), axis=-1)
  hu, mask = phantom(nib.affines.apply_affine(affine, place))
  for name, array in (("ct", hu.astype(np.int16)), ("mask", mask)):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / f"{name}.nii.gz")
  points = [{"direction": list(codes)}]
  for code, centre in CENTRES.items():
    voxel = nib.affines.apply_affine(np.linalg.inv(affine), centre)
    points.append({"label": code, **dict(zip("XYZ", voxel.tolist()))})
  (folder / "ctd.json").write_text(json.dumps(points))
  x, y, z = LESION
  sizes = ",".join(str(v) for v in LESION_MM)
  (folder / "boxes.csv").write_text(
    "image_path,class,x,y,z,width,height,depth\n"
    f"ct.nii.gz,osteoma,{-x},{-y},{z},{sizes}\n"  # LPS+
    f"other.nii.gz,osteoma,1,2,3,{sizes}\n"
  )
  return {
    "case": "phantom",
    "domain": "drawn",
    "ct": "ct.nii.gz",
    "mask": "mask.nii.gz",
    "centroids": "ctd.json",
    "lesions": "boxes.csv",
    "annotates": ["masks", "levels", "lesions"],
  }


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
  entry = write_scan(folder, request.param)
  return prepare_case(entry, folder, SPACING)


def test_the_grid_is_upright_and_isotropic(case):
  assert case.record.spacing_mm == SPACING
  np.testing.assert_allclose(
    np.array(case.record.affine)[:3, :3], SPACING * np.eye(3)
  )
  assert case.record.native_spacing_mm == (1.0, 1.25, 1.5)
  for array in (case.image, case.tissue, case.depth):
    assert array.shape == case.labels.shape


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
  fine = (np.stack(np.indices((80, 100, 60)), axis=-1) - (40, 60, 30)) / 2
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
  assert case.record.centre_kind == "annotated"
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


def test_tissue_and_depth_follow_the_vertebrae(case):
  bone = tissues.BONE.code
  assert (case.tissue[case.labels > 0] == bone).all()
  assert (case.depth[case.labels > 0] > 0).all()
  assert (case.depth[case.tissue != bone] == 0).all()
  hu, _ = phantom(world_of(case))
  outside = case.tissue == tissues.OUTSIDE.code
  assert (outside == (hu < -500)).mean() > 0.97
  centre = tuple(np.rint(case.record.centres[20]).astype(int))
  # The body is 22 mm deep and 20 mm high: its middle lies about 10 mm in.
  assert case.depth[centre] * DEPTH_STEP_MM == pytest.approx(10, abs=2)


@pytest.fixture
def scan(tmp_path):
  return write_scan(tmp_path), tmp_path


@pytest.mark.parametrize(
  "annotates", [[], ["masks"], ["levels", "lesions"]], ids=str
)
def test_annotates_is_kept_as_it_is(scan, annotates):
  entry, folder = scan
  record = prepare_case(entry | {"annotates": annotates}, folder, 4.0).record
  assert record.annotates == tuple(annotates)


def test_without_centroids_the_centres_come_from_the_mask(scan):
  entry, folder = scan
  del entry["centroids"]
  case = prepare_case(entry, folder, SPACING)
  assert case.record.centre_kind == "derived"
  assert sorted(case.record.centres) == [20, 21]
  for code, point in case.record.centres.items():
    assert np.linalg.norm(to_world(case, point) - CENTRES[code]) < 2.5


def test_a_scan_without_mask_is_unknown_but_for_background_boxes(scan):
  entry, folder = scan
  for key in ("mask", "centroids"):
    del entry[key]
  low, high = np.add(MIDDLE, (-20, 0, -15)), np.add(MIDDLE, (10, 20, 25))
  entry["background_boxes"] = [[high.tolist(), low.tolist()]]
  case = prepare_case(entry, folder, SPACING)
  world = world_of(case)
  inside = ((world >= low) & (world <= high)).all(axis=-1)
  assert inside.sum() * 0.008 == pytest.approx(30 * 20 * 40 / 1000, rel=0.1)
  np.testing.assert_array_equal(case.labels, np.where(inside, 0, 255))
  assert case.tissue is None
  assert case.depth is None
  assert (case.record.centre_kind, case.record.mask_kind) == ("none", "none")
  assert len(case.record.boxes) == 1


def test_a_mask_without_its_scan_gets_room_for_modelled_bones(scan):
  entry, folder = scan
  del entry["ct"], entry["lesions"]
  case = prepare_case(entry, folder, SPACING)
  assert case.image is None
  _, expected = phantom(world_of(case))
  assert (case.labels == expected).mean() > 0.99
  assert set(np.unique(case.labels)) == {0, 20, 21}
  for code, point in case.record.centres.items():
    np.testing.assert_allclose(to_world(case, point), CENTRES[code], atol=1e-3)
  lowest = world_of(case)[0, 0, 0, 2]
  assert lowest < MIDDLE[2] - 40 - 100  # mm below the scan, for a pelvis


def test_margin_keeps_the_part_around_the_spine(scan):
  entry, folder = scan
  whole = prepare_case(entry, folder, SPACING)
  part = prepare_case(entry | {"margin_mm": 6}, folder, SPACING)
  assert part.labels.size < 0.6 * whole.labels.size
  assert (part.labels > 0).sum() == (whole.labels > 0).sum()
  where = np.argwhere(part.labels > 0)
  assert where.min() >= 2  # 6 mm less the rounding
  assert (where.max(axis=0) < np.array(part.labels.shape) - 2).all()
  for code, point in part.record.centres.items():
    np.testing.assert_allclose(to_world(part, point), CENTRES[code], atol=1e-3)
  box = part.record.boxes[0]
  np.testing.assert_allclose(to_world(part, box[:3]), LESION, atol=1e-3)


def test_schemes_and_recode_rename_labels(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj).copy()
  # TotalSegmentator: L1 is 31, L2 is 30; 118 is a code of our own.
  voxels[voxels == 20], voxels[voxels == 21] = 31, 118
  nib.save(nib.Nifti1Image(voxels, image.affine), folder / "total.nii.gz")
  entry |= {"mask": "total.nii.gz", "scheme": "totalsegmentator"}
  with pytest.raises(InputError, match="118"):
    prepare_case(entry, folder, SPACING)
  entry["recode"] = {"118": 30}
  case = prepare_case(entry, folder, SPACING)
  _, expected = phantom(world_of(case))
  assert (case.labels == expected).mean() > 0.99


def test_a_sacrum_in_the_mask_is_background(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj).copy()
  voxels[voxels == 21] = 26
  nib.save(nib.Nifti1Image(voxels, image.affine), folder / "mask.nii.gz")
  del entry["centroids"]
  case = prepare_case(entry, folder, SPACING)
  assert set(np.unique(case.labels)) == {0, 20}
  assert list(case.record.centres) == [20]


def test_a_mask_on_another_grid_is_refused(scan):
  entry, folder = scan
  image = nib.load(folder / "mask.nii.gz")
  voxels = np.asarray(image.dataobj)
  moved = image.affine.copy()
  moved[0, 3] += 1.0
  for other in (
    nib.Nifti1Image(voxels[:-1], image.affine),
    nib.Nifti1Image(voxels, moved),
    nib.Nifti1Image(voxels[::-1], image.affine @ np.diag([-1, 1, 1, 1])),
  ):
    nib.save(other, folder / "mask.nii.gz")
    with pytest.raises(
      InputError, match=r"phantom: mask grid.*differ"
    ) as error:
      prepare_case(entry, folder, SPACING)
    assert "resample" in error.value.fix


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"centroid": "ctd.json"}, r"unknown keys \['centroid'\]"),
    ({"case": None}, "lacks case or domain"),
    ({"domain": None}, "lacks case or domain"),
    ({"ct": None, "mask": None, "lesions": None}, "neither ct nor mask"),
    ({"ct": "gone.nii.gz"}, "gone.nii.gz: cannot be read"),
    ({"scheme": "mine"}, "mine"),
    ({"annotates": ["mask"]}, r"annotates \['mask'\], unknown here"),
    ({"case": "../phantom"}, "no name for a file"),
    ({"case": ".hidden"}, "no name for a file"),
    ({"ct": None}, "neither ct nor lesion_key"),
  ],
  ids=str,
)
def test_faulty_entries_are_refused(scan, change, match):
  entry, folder = scan
  entry = {k: v for k, v in (entry | change).items() if v is not None}
  with pytest.raises(InputError, match=match) as caught:
    prepare_case(entry, folder, SPACING)
  assert caught.value.fix


def test_centres_of_mass_are_not_taken_for_body_centres(scan):
  entry, folder = scan
  points = json.loads((folder / "ctd.json").read_text())
  points[0]["kind"] = "mask"
  (folder / "ctd.json").write_text(json.dumps(points))
  with pytest.raises(InputError, match=r"ctd\.json: holds centres of mass"):
    prepare_case(entry, folder, SPACING)


def test_a_manifest_becomes_a_store_with_the_same_bytes_again(scan):
  entry, folder = scan
  second = entry | {"case": "bare", "lesion_key": "other.nii.gz"}
  for key in ("ct", "mask"):  # other.nii.gz is not among the files
    assert second[key] == entry[key]
  manifest = folder / "manifest.json"
  manifest.write_text(json.dumps([entry, second]))
  names = prepare(manifest, folder / "one", 4.0)
  assert names == ["phantom", "bare"]
  moved = folder / "elsewhere.json"
  (folder / "deep").mkdir()
  moved = folder / "deep" / "manifest.json"
  moved.write_text(manifest.read_text())
  prepare(moved, folder / "two", 4.0, root=folder)
  for name in names:
    first = (folder / "one" / f"{name}.npz").read_bytes()
    assert first == (folder / "two" / f"{name}.npz").read_bytes()
  store = Store(folder / "one")
  assert store.names == ("bare", "phantom")
  other, own = store.records
  assert own.boxes != other.boxes  # each row found its own scan
  assert set(own.files) == {"ct.nii.gz", "mask.nii.gz", "ctd.json", "boxes.csv"}


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("[", "not a readable JSON manifest"),
    ('{"case": "a"}', "is not a list"),
    ('["a.nii.gz"]', "is not a list of cases"),
    (None, "not a readable JSON manifest"),
  ],
)
def test_a_broken_manifest_is_refused(tmp_path, text, match):
  path = tmp_path / "manifest.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(InputError, match=match) as caught:
    prepare(path, tmp_path / "store", SPACING)
  assert caught.value.fix
  assert not (tmp_path / "store").exists()


def test_a_ct_that_is_not_in_hounsfield_units_is_refused(scan):
  entry, folder = scan
  image = nib.load(folder / entry["ct"])
  lost = np.asarray(image.dataobj) + np.int16(1024)
  nib.save(nib.Nifti1Image(lost, image.affine), folder / entry["ct"])
  with pytest.raises(InputError, match="rescale intercept"):
    prepare_case(entry, folder, SPACING)
