# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Files of every format become one kind of case."""

from __future__ import annotations

from typing import get_args

import dicom_slices
import nibabel as nib
import numpy as np
import pydicom
import pytest

from vf_jax.errors import InputError
from vf_jax.io import lml
from vf_jax.io.centroids import Centroids
from vf_jax.labels import BY_NAME
from vf_jax.multispine.case import (
  Case,
  CentroidFile,
  CentroidFormat,
  LesionFile,
  MaskFile,
  MaskFiles,
)
from vf_jax.multispine.checks.check import check
from vf_jax.multispine.load import file_digests, load
from vf_jax.volume import Volume, reorient

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path, voxels):
  path.parent.mkdir(exist_ok=True)
  image = nib.Nifti1Image(voxels, AFFINE)
  image.header.set_xyzt_units("mm")
  nib.save(image, path)
  return path


def case_of(**fields):
  return Case(
    name="a", source="cohort", domain="d", subject="a", series="",
    licence="none", **fields,
  )  # fmt: skip


@pytest.fixture
def parts(tmp_path):
  upper, lower = np.zeros((2, 9, 8, 7), np.uint8)
  upper[2:5, 2:5, 4:6], lower[2:5, 2:5, 1:4] = 1, 1
  empty = np.zeros((9, 8, 7), np.uint8)
  return {
    "L1": save(tmp_path / "seg" / "L1.nii.gz", upper),
    "L2": save(tmp_path / "seg" / "L2.nii.gz", lower),
    "C3": save(tmp_path / "seg" / "C3.nii.gz", empty),
  }


def test_one_file_a_vertebra_becomes_one_mask(parts):
  labels = load(case_of(mask=MaskFiles(parts))).labels
  assert np.unique(labels.voxels).tolist() == [0, 20, 21]
  assert (labels.voxels == 20).sum() == 18
  assert labels.voxels[3, 3, 2] == 21


def test_masks_that_overlap_or_hold_more_than_one_value_are_refused(parts):
  both = np.zeros((9, 8, 7), np.uint8)
  both[2:5, 2:5, 3:6] = 1
  save(parts["L1"], both)
  with pytest.raises(InputError, match=r"L2\.nii\.gz: 9 of its 27 voxels"):
    load(case_of(mask=MaskFiles(parts)))
  save(parts["L1"], 2 * both)
  with pytest.raises(InputError, match="no binary mask"):
    load(case_of(mask=MaskFiles(parts)))


def test_masks_on_different_grids_are_refused(parts):
  save(parts["L1"], np.zeros((9, 8, 6), np.uint8))
  with pytest.raises(InputError, match="another grid"):
    load(case_of(mask=MaskFiles(parts)))


def test_what_readers_mend_is_kept_in_words(tmp_path):
  path = tmp_path / "ct.nii"
  image = nib.Nifti1Image(
    np.random.default_rng(0).normal(0, 99, (9, 8, 7)).astype(np.float32), AFFINE
  )
  image.get_fdata()
  image.header.set_xyzt_units("mm")
  image.set_qform(np.diag([1.0, 1.0, 3.0, 1.0]), 1)
  image.set_sform(AFFINE, 1)
  nib.save(image, path)
  loaded = load(case_of(image=path))
  assert len(loaded.warnings) == len(set(loaded.warnings)) >= 1
  assert loaded.labels is None
  assert loaded.centre_kind == "none"


def test_digests_name_every_file_and_follow_its_bytes(parts, tmp_path):
  case = case_of(mask=MaskFiles(parts))
  before = file_digests(case)
  assert set(before) == {"L1.nii.gz", "L2.nii.gz", "C3.nii.gz"}
  parts["L1"].write_bytes(parts["L1"].read_bytes() + b"x")
  after = file_digests(case)
  assert {n for n in before if before[n] != after[n]} == {"L1.nii.gz"}
  with pytest.raises(InputError, match=r"gone\.nii cannot|gone\.nii: cannot"):
    file_digests(case_of(mask=MaskFile(tmp_path / "gone.nii")))


def test_files_of_one_name_are_told_apart(tmp_path):
  voxels = np.zeros((9, 8, 7), np.int16)
  image = save(tmp_path / "images" / "a.nii.gz", voxels)
  mask = save(tmp_path / "labels" / "a.nii.gz", voxels.astype(np.uint8))
  digests = file_digests(case_of(image=image, mask=MaskFile(mask)))
  assert set(digests) == {"images/a.nii.gz", "labels/a.nii.gz"}


def test_a_change_of_any_file_of_a_deep_folder_is_seen(tmp_path):
  series = tmp_path / "patient"
  for name in ("ser1/DICOM/IM1", "ser2/DICOM/IM1", "ser2/DICOM/IM2", "IM2"):
    path = series / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
  case = case_of(image=series)
  before = file_digests(case)
  assert sorted(before) == [
    "DICOM/IM2", "patient/IM2", "ser1/DICOM/IM1", "ser2/DICOM/IM1",
  ]  # fmt: skip
  for name in ("ser1/DICOM/IM1", "ser2/DICOM/IM1"):
    whole = (series / name).read_text()
    (series / name).write_text("x")
    after = file_digests(case)
    assert {n for n in before if before[n] != after[n]} == {name}
    (series / name).write_text(whole)


def test_without_points_the_bodies_of_a_subregion_mask_give_centres(tmp_path):
  codes, parts = np.zeros((2, 9, 8, 7), np.uint8)
  codes[2:5, 2:7, 4:6], codes[2:5, 2:7, 1:4] = 20, 21
  parts[2:5, 2:4, 1:6], parts[2:5, 4:7, 1:6] = 41, 50
  case = case_of(
    mask=MaskFile(save(tmp_path / "vert.nii.gz", codes)),
    subregions=save(tmp_path / "parts.nii.gz", parts),
  )
  loaded = load(case)
  assert loaded.centre_kind == "subregions"
  assert loaded.centres == {20: (3.0, 5.0, 9.0), 21: (3.0, 5.0, 4.0)}
  for axes in ("PIR", "LPS"):  # whatever axes they are stored with
    turned = reorient(Volume(parts, AFFINE), axes)
    other = nib.Nifti1Image(np.ascontiguousarray(turned.voxels), turned.affine)
    other.header.set_xyzt_units("mm")
    nib.save(other, tmp_path / "parts.nii.gz")
    assert load(case).centres == loaded.centres
  save(tmp_path / "parts.nii.gz", parts[1:])
  with pytest.raises(InputError, match="another grid"):
    load(case)


def test_a_mask_stored_with_other_axes_is_turned_onto_its_image(tmp_path):
  codes = np.zeros((9, 8, 7), np.uint8)
  codes[2:5, 2:7, 4:6] = 20
  mask = Volume(codes, AFFINE)
  turned = reorient(mask, "PIR")
  other = nib.Nifti1Image(np.ascontiguousarray(turned.voxels), turned.affine)
  other.header.set_xyzt_units("mm")
  nib.save(other, tmp_path / "mask.nii.gz")
  image = save(tmp_path / "ct.nii.gz", np.full((9, 8, 7), 40, np.int16))
  loaded = load(case_of(image=image, mask=MaskFile(tmp_path / "mask.nii.gz")))
  np.testing.assert_array_equal(loaded.labels.voxels, codes)
  assert loaded.labels.grid.same_as(loaded.image.grid)
  assert loaded.stored_mask.grid.same_as(loaded.image.grid)
  assert any("turned to lie on it" in note for note in loaded.warnings)


@pytest.mark.parametrize(("off_mm", "turns"), [(0.05, True), (0.2, False)])
def test_a_turned_mask_may_have_a_rounded_header(tmp_path, off_mm, turns):
  codes = np.zeros((9, 8, 7), np.uint8)
  codes[2:5, 2:7, 4:6] = 20
  turned = reorient(Volume(codes, AFFINE), "PIR")
  affine = turned.affine.copy()
  affine[0, 3] += off_mm
  other = nib.Nifti1Image(np.ascontiguousarray(turned.voxels), affine)
  other.header.set_xyzt_units("mm")
  nib.save(other, tmp_path / "mask.nii.gz")
  image = save(tmp_path / "ct.nii.gz", np.full((9, 8, 7), 40, np.int16))
  loaded = load(case_of(image=image, mask=MaskFile(tmp_path / "mask.nii.gz")))
  assert (loaded.labels.voxels.shape == codes.shape) == turns
  if turns:
    np.testing.assert_array_equal(loaded.labels.voxels, codes)
    np.testing.assert_array_equal(loaded.stored_mask.voxels, codes)


def test_a_dicom_series_tells_its_scanner_but_no_name(tmp_path):
  folder = tmp_path / "series"
  for name, pixels in enumerate(np.zeros((12, 6, 5), np.uint16)):
    slice_ = pydicom.dataset.Dataset()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for key, value in {
      "SOPClassUID": pydicom.uid.CTImageStorage,
      "SOPInstanceUID": f"1.2.3.{name}",
      "SeriesInstanceUID": "1.2.3",
      "Modality": "CT",
      "PatientName": "Secret^Name",
      "Manufacturer": "Maker",
      "KVP": "120",
      "Rows": 6,
      "Columns": 5,
      "PixelSpacing": [1, 1],
      "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
      "ImagePositionPatient": [0, 0, 2 * name],
      "SamplesPerPixel": 1,
      "PhotometricInterpretation": "MONOCHROME2",
      "BitsAllocated": 16,
      "BitsStored": 16,
      "HighBit": 15,
      "PixelRepresentation": 0,
      "RescaleSlope": "1",
      "RescaleIntercept": "-1024",
      "PixelData": pixels.tobytes(),
    }.items():
      setattr(slice_, key, value)
    folder.mkdir(exist_ok=True)
    slice_.save_as(folder / f"{name}.dcm", enforce_file_format=True)
  case = load(case_of(image=folder, scanner={"kvp": "100"})).case
  assert case.scanner["manufacturer"] == "Maker"
  assert case.scanner["kvp"] == "100"  # what the cohort says counts
  assert not any("Secret" in value for value in case.scanner.values())


@pytest.mark.parametrize(
  ("key", "said"),
  [("4.nii.gz", "lesion_key: images/4.nii.gz?"), ("5.nii.gz", "no row of")],
)
def test_what_a_lesion_table_lacks_is_unknown(tmp_path, key, said):
  image = save(tmp_path / "4.nii.gz", np.full((9, 8, 7), 40, np.int16))
  table = tmp_path / "boxes.csv"
  table.write_text(
    "image_path,class,x,y,z,width,height,depth\n"
    "images/4.nii.gz,osteoma,-4,-4,6,2,2,2\n"
  )
  annotates = frozenset({"lesions"})
  case = case_of(
    image=image, lesions=LesionFile(table, key), annotates=annotates
  )
  loaded = load(case)
  assert (loaded.boxes, loaded.case.annotates) == ((), frozenset())
  (found,) = [f for f in check(loaded) if f.code == "unknown"]
  assert found.severity == "warning"
  assert said in found.message
  assert "images/4.nii.gz" not in found.message or key == "4.nii.gz"
  listed = load(
    case_of(
      image=image,
      lesions=LesionFile(table, "images/4.nii.gz"),
      annotates=annotates,
    )
  )
  assert len(listed.boxes) == 1
  # Without a table, that there is none is what the source says.
  none = load(case_of(image=image, annotates=annotates))
  for known in (listed, none):
    assert known.case.annotates == annotates
    assert known.unknown == ()


def test_warnings_name_files_but_no_folder(tmp_path):
  folder = tmp_path / "Mueller Eva"
  image = save(folder / "ct.nii.gz", np.full((9, 8, 7), 40, np.int16))
  codes = np.zeros((9, 8, 7), np.uint8)
  codes[2:5, 2:7, 4:6] = 20
  turned = reorient(Volume(codes, AFFINE), "PIR")
  other = nib.Nifti1Image(np.ascontiguousarray(turned.voxels), turned.affine)
  other.header.set_xyzt_units("mm")
  nib.save(other, folder / "mask.nii.gz")
  loaded = load(case_of(image=image, mask=MaskFile(folder / "mask.nii.gz")))
  (note,) = [n for n in loaded.warnings if "turned to lie on it" in n]
  assert note.startswith("mask.nii.gz: ")
  assert not any("Mueller" in note for note in loaded.warnings)


def test_warnings_do_not_name_the_folder_of_a_series(tmp_path):
  folder = dicom_slices.place(tmp_path / "Mueller_Eva")
  for path in folder.glob("IM*"):
    dataset = pydicom.dcmread(path)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.save_as(path)
  loaded = load(case_of(image=folder))
  (note,) = (n for n in loaded.warnings if "no rescale" in n)
  assert note.startswith("image: ")
  assert not any("Mueller" in note for note in loaded.warnings)


def test_lml_points_of_the_world_are_where_those_of_the_image_are(tmp_path):
  voxels = np.zeros((40, 40, 60), np.uint8)
  mask = MaskFile(save(tmp_path / "seg" / "mask.nii.gz", voxels))
  grid = load(case_of(mask=mask)).labels.grid
  points = Centroids(
    {BY_NAME["L1"]: (20.0, 15.0, 80.0), BY_NAME["L2"]: (20.0, 15.0, 40.0)}
  )
  found = {}
  for name, frame in lml.FORMATS.items():
    path = tmp_path / f"{name}.lml"
    lml.write_lml(path, points, grid, frame=frame)
    case = case_of(mask=mask, centroids=CentroidFile(path, name))
    found[name] = load(case).centres
    assert set(found[name]) == {20, 21}
  assert found["lml"] == found["lml-ras"]
  # The x and y of LPS are minus those of RAS: read as such they lie outside.
  wrong = CentroidFile(tmp_path / "lml-lps.lml", "lml-ras")
  with pytest.raises(InputError, match="centroid_format: lml-lps`"):
    load(case_of(mask=mask, centroids=wrong))


def test_every_lml_frame_is_a_centroid_format():
  assert set(lml.FORMATS) < set(get_args(CentroidFormat))
