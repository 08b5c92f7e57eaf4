# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A real DICOM series with a mask drawn on it (tests/data/dicom/README.md).

The numbers were taken with SimpleITK 2.5 (its own GDCM reader and order of
slices) from the unpacked files.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import pathlib
import warnings
import zipfile

import highdicom
import nibabel
import numpy as np
import pydicom
from quick_predictor import Quick, no_report

from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.cohort import CohortOptions, predict_cohort
from vf_jax.infer.inputs import find_cases
from vf_jax.io import dicom
from vf_jax.io.dicom_seg import read_source

ROOT = pathlib.Path(__file__).parents[2]
SERIES = ROOT / "tests" / "data" / "dicom" / "dcmqi_ct3slice.zip"
SLICE_MEANS = (-524.76778793, -529.18479919, -534.17847824)  # padding as air
SPINE_MEANS = (312.26529625, 325.45285714, 345.06603314)


def unpack(name):
  with zipfile.ZipFile(SERIES) as archive:
    return archive.read(name)


def drawn_spine():
  """The mask of the vertebra; its header has the grid of the series."""
  _, _, packed = unpack("spine_seg.nrrd").partition(b"\n\n")
  voxels = np.frombuffer(gzip.decompress(packed), "<i2")
  return voxels.reshape(512, 512, 3, order="F") > 0


class Known(Quick):
  """Finds what was drawn."""

  def _predict(self, volume, case, facts):
    mask = np.asfortranarray(drawn_spine().astype(np.uint8) * 22)
    return dataclasses.replace(super()._predict(volume, case, facts), mask=mask)


def test_geometry_and_hounsfield_units_are_those_of_simpleitk():
  volume = dicom.read(SERIES)
  assert volume.warnings == ()
  lps = np.diag([-1, -1, 1, 1]) @ volume.affine
  expected = np.diag([0.810547, 0.810547, 1, 1])
  expected[:3, 3] = -235.199997, -226.800003, -128.690002
  np.testing.assert_allclose(lps, expected, atol=1e-6)
  assert volume.voxels.dtype == np.int16
  hu = volume.voxels
  np.testing.assert_allclose(hu.mean(axis=(0, 1)), SLICE_MEANS, rtol=1e-9)
  assert (hu.max(), hu[256, 300].tolist()) == (1381, [-106, -80, -73])
  spine = drawn_spine()
  means = [hu[..., z][spine[..., z]].mean() for z in range(3)]
  np.testing.assert_allclose(means, SPINE_MEANS, rtol=1e-9)


def test_every_voxel_is_that_of_pydicom():
  volume = dicom.read(SERIES)
  for number in (1, 2, 3):
    image = pydicom.dcmread(io.BytesIO(unpack(f"0{number}.dcm")))
    hu = image.pixel_array.astype(np.int16) - 1024
    hu[image.pixel_array == -2000] = AIR_HU
    # The files are numbered from the head down.
    np.testing.assert_array_equal(volume.voxels[..., 3 - number].T, hu)


def test_what_was_drawn_comes_back_from_mask_and_seg(test_config, tmp_path):
  known = Known(config=test_config, params={}, digest="3" * 64)
  cases = find_cases([SERIES])
  options = CohortOptions(dicom_seg=True)
  result = predict_cohort(known, cases, tmp_path, no_report, options)
  assert result.done == ("dcmqi_ct3slice",)
  stem = tmp_path / "dcmqi_ct3slice" / "dcmqi_ct3slice"
  mask = nibabel.load(f"{stem}_seg-vert_msk.nii.gz")
  np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, drawn_spine())
  images = read_source(SERIES).images
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    seg = highdicom.seg.segread(f"{stem}_seg.dcm")
  pixels = seg.get_pixels_by_source_instance(
    [image.SOPInstanceUID for image in images]
  )
  np.testing.assert_array_equal(pixels[..., 0].T > 0, drawn_spine())
  assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
