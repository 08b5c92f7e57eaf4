# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The content of a CT decides how it is read."""

from __future__ import annotations

import zipfile

import dicom_slices
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from vf_jax.errors import InputError, InputWarning
from vf_jax.io.ct import InputOptions, kind_of, read_ct


@pytest.fixture
def files(tmp_path):
  """The same numbers in every format, under names that say something else."""
  series = dicom_slices.place(tmp_path / "series.nii.gz")
  archive = tmp_path / "archive.nii"
  with zipfile.ZipFile(archive, "w") as packed:
    for path in series.iterdir():
      packed.write(path, path.name)
  hu = dicom_slices.hounsfield()
  image = nibabel.Nifti1Image(hu, np.diag([2.0, 2, 2, 1]))
  nibabel.save(image, tmp_path / "x.nii")
  (tmp_path / "x.nii").rename(tmp_path / "nifti.dcm")
  sitk.WriteImage(sitk.GetImageFromArray(hu.T), tmp_path / "meta.mha")
  (tmp_path / "meta.mha").rename(tmp_path / "meta.nii")
  return {
    "dicom": [series, archive],
    "nifti": [tmp_path / "nifti.dcm"],
    "metaimage": [tmp_path / "meta.nii"],
  }


def test_names_do_not_matter(files):
  for kind, paths in files.items():
    for path in paths:
      assert kind_of(path) == kind
      volume = read_ct(path)
      np.testing.assert_array_equal(volume.voxels, dicom_slices.hounsfield())


def test_options_reach_the_reader(files, tmp_path):
  (series, _), (plain,) = files["dicom"], files["nifti"]
  with pytest.raises(InputError, match=r"no series '9\.9'"):
    read_ct(series, InputOptions(series="9.9"))
  uid = InputOptions(series=dicom_slices.SERIES[-5:])
  assert read_ct(series, uid).voxels.shape == dicom_slices.hounsfield().shape
  with pytest.warns(InputWarning, match="--series was not used"):
    volume = read_ct(plain, uid)
  assert volume.source.format == "nifti1"
  assert volume.warnings == ("is not DICOM: --series was not used.",)
  lps = InputOptions(assume_orientation="LPS")
  for paths in files.values():
    with pytest.warns(InputWarning, match="names its orientation"):
      volume = read_ct(paths[0], lps)
    assert "was not used" in volume.warnings[-1]
    stored = read_ct(paths[0])
    np.testing.assert_array_equal(volume.affine, stored.affine)
  raised = read_ct(series, InputOptions(hu_offset=24)).voxels
  np.testing.assert_array_equal(raised, dicom_slices.hounsfield() + 24)
  unnamed = nibabel.Nifti1Image(dicom_slices.hounsfield(), None)
  unnamed.header["pixdim"][1:4] = 2
  nibabel.save(unnamed, tmp_path / "unnamed.nii")
  with pytest.raises(InputError, match="orientation"):
    read_ct(tmp_path / "unnamed.nii")
  with pytest.warns(InputWarning, match="LPS assumed"):
    volume = read_ct(
      tmp_path / "unnamed.nii", InputOptions(assume_orientation="LPS")
    )
  assert volume.axis_codes == ("L", "P", "S")


def meta(path, voxels, **lines):
  """An .mha that names no orientation unless `lines` do."""
  rank = voxels.ndim
  lines = {
    "ObjectType": "Image",
    "NDims": rank,
    "ElementSpacing": " ".join(["2"] * rank),
    "DimSize": " ".join(map(str, voxels.shape)),
    "ElementType": "MET_SHORT",
    **lines,
    "ElementDataFile": "LOCAL",
  }
  head = "".join(f"{key} = {value}\n" for key, value in lines.items())
  path.write_bytes(head.encode() + voxels.astype("<i2").tobytes(order="F"))
  return path


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
@pytest.mark.parametrize("lines", [{}, {"AnatomicalOrientation": "LPI"}])
def test_the_assumed_orientation_reaches_metaimage(tmp_path, codes, lines):
  path = meta(tmp_path / "x.mha", dicom_slices.hounsfield(), **lines)
  with pytest.warns(InputWarning, match=f"{codes} assumed"):
    volume = read_ct(path, InputOptions(assume_orientation=codes))
  assert volume.axis_codes == tuple(codes)
  if lines:
    with pytest.raises(InputError, match="read it with --assume-orientation"):
      read_ct(path)


def test_the_index_reaches_metaimage(tmp_path):
  hu = dicom_slices.hounsfield()
  both = np.stack([hu, hu + 1], axis=-1)
  turn = " ".join(str(v) for v in np.eye(4, dtype=int).ravel())
  path = meta(tmp_path / "x.mha", both, TransformMatrix=turn)
  with pytest.raises(InputError, match=r"its own, or, .* --index 0 to 1"):
    read_ct(path)
  for index in (0, 1):
    volume = read_ct(path, InputOptions(index=index))
    np.testing.assert_array_equal(volume.voxels, both[..., index])


def test_an_index_is_refused_for_dicom(files):
  for path in files["dicom"]:
    with pytest.raises(InputError, match=r"no volumes .*--series"):
      read_ct(path, InputOptions(index=0))


@pytest.mark.parametrize(
  ("dtype", "values", "shifted"),
  [
    # Warnings are errors, and NumPy warns of what 16 bits of float cannot hold.
    (np.uint8, [0, 7, 255], [-1024, -1017, -769]),
    (np.int8, [-128, 0, 127], [-1152, -1024, -897]),
    (np.int32, [-(10**9), 5, 10**9], [-32768, -1019, 32767]),
    (np.float32, [-40000.0, 0.6, 40000.0], [-32768, -1023, 32767]),
  ],
)
def test_an_offset_is_exact_in_every_type(tmp_path, dtype, values, shifted):
  voxels = np.tile(np.array(values, dtype), (3, 3, 1))
  nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "x.nii")
  moved = read_ct(tmp_path / "x.nii", InputOptions(hu_offset=-1024)).voxels
  assert moved.dtype == np.int16
  assert moved[0, 0].tolist() == shifted


def test_links_to_nothing_and_to_themselves(tmp_path):
  (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
  (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
  for name in ("loop.nii", "gone.nii", "missing.nii"):
    with pytest.raises(InputError, match=name):
      read_ct(tmp_path / name)
