# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From files to Hounsfield units: values, codecs, archives, damage."""

from __future__ import annotations

import importlib
import os
import shutil
import tracemalloc

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_slices import (
  COLUMNS,
  GAP,
  ROWS,
  SLICES,
  enhanced,
  hounsfield,
  image,
  place,
  save,
  stored,
)
from pydicom.uid import (
  ExplicitVRBigEndian,
  ImplicitVRLittleEndian,
  JPEG2000Lossless,
  RLELossless,
)

from vf_jax.errors import InputError, InputWarning
from vf_jax.io import dicom

AFFINE = np.array(
  [
    [-0.5, 0.0, 0.0, 10.0],
    [0.0, -0.75, 0.0, 20.0],
    [0.0, 0.0, GAP, -300.0],
    [0.0, 0.0, 0.0, 1.0],
  ]
)


def check(volume, slices=SLICES):
  np.testing.assert_array_equal(volume.voxels, hounsfield(slices))
  np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
  assert volume.voxels.dtype == np.int16
  assert volume.voxels.shape == (COLUMNS, ROWS, slices)


def test_series_in_a_folder(tmp_path):
  (tmp_path / "notes.txt").write_text("no slice")
  volume = dicom.read(place(tmp_path))
  check(volume)
  assert not volume.warnings
  assert volume.axis_codes == ("L", "P", "S")
  source = volume.source
  assert (source.format, source.form, source.dtype) == (
    *("dicom", "dicom", "uint16"),
  )
  assert (source.slope, source.intercept, source.intact) == (1, -1024, True)


def test_agrees_with_simpleitk(tmp_path):
  turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
  turn[:, 2] = np.cross(turn[:, 0], turn[:, 1])
  place(
    tmp_path,
    step=tuple(turn[:, 2] * GAP),
    ImageOrientationPatient=turn[:, :2].T.ravel().round(12).tolist(),
  )
  volume = dicom.read(tmp_path)
  reader = sitk.ImageSeriesReader()
  reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
  seen = reader.Execute()
  affine = np.eye(4)
  affine[:3, :3] = np.array(seen.GetDirection()).reshape(3, 3)
  affine[:3, :3] *= seen.GetSpacing()
  affine[:3, 3] = seen.GetOrigin()
  # The positions of the files are rounded to 1e-6 mm.
  np.testing.assert_allclose(
    volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-5
  )
  np.testing.assert_array_equal(sitk.GetArrayFromImage(seen).T, volume.voxels)


@pytest.mark.parametrize(
  "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_other_byte_orders(tmp_path, syntax):
  check(dicom.read(place(tmp_path, syntax=syntax)))


def test_a_file_without_preamble_is_read(tmp_path):
  place(tmp_path, syntax=ImplicitVRLittleEndian)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    del dataset.file_meta
    dataset.preamble = None
    dataset.save_as(
      path,
      implicit_vr=True,
      little_endian=True,
      enforce_file_format=False,
      overwrite=True,
    )
    assert path.read_bytes()[128:132] != b"DICM"
  check(dicom.read(tmp_path))


def test_signed_values_and_unused_bits(tmp_path):
  values = stored().astype(np.int16) - 1900  # fits 12 signed bits
  # Twelve bits, the sign not extended, an overlay in the topmost.
  bits = (values & 0xFFF) | np.int16(-0x8000)
  volume = dicom.read(
    place(
      tmp_path,
      pixels=bits,
      BitsStored=12,
      HighBit=11,
      PixelRepresentation=1,
      RescaleIntercept="0",
    )
  )
  expected = ((values + 2048) % 4096 - 2048).T
  np.testing.assert_array_equal(volume.voxels, expected)


def test_each_slice_has_its_own_rescale(tmp_path):
  slopes = ["1", "2"] * (SLICES // 2)
  with pytest.warns(InputWarning, match="2 rescales"):
    volume = dicom.read(place(tmp_path, RescaleSlope_each=slopes))
  expected = hounsfield()
  expected[:, :, 1::2] += stored().T[:, :, 1::2].astype(np.int16)
  np.testing.assert_array_equal(volume.voxels, expected)


@pytest.mark.parametrize(
  ("slope", "dtype"), [("20", np.int32), ("0.5", np.float32)]
)
def test_values_beyond_int16(tmp_path, slope, dtype):
  volume = dicom.read(place(tmp_path, RescaleSlope=slope))
  assert volume.voxels.dtype == dtype
  expected = stored().T * float(slope) - 1024
  np.testing.assert_array_equal(volume.voxels, expected)
  assert volume.voxels.flags.f_contiguous


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_is_air(tmp_path, padding):
  pixels = stored().astype(np.int16)
  pixels[:, 0, 0] = -2000
  pixels[0, 1, 1] = -2001
  kind = "SS" if padding < 0 else "US"
  place(tmp_path, pixels=pixels)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", kind, padding)
    save(dataset, path)
  volume = dicom.read(tmp_path)
  expected = pixels.T - 1024
  expected[0, 0] = -1024
  np.testing.assert_array_equal(volume.voxels, expected)
  assert volume.voxels[1, 1, 0] == -3025


def test_padding_may_fill_bits_that_are_not_used(tmp_path):
  pixels = stored()
  pixels[:, 0, 0] = 63536  # -2000; its lower 12 bits alone are 2096
  pixels[:, 1, 1] = 2096
  place(tmp_path, pixels=pixels, BitsStored=12, HighBit=11)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    save(dataset, path)
  expected = pixels.T.astype(np.int32) - 1024
  expected[0, 0] = -1024
  np.testing.assert_array_equal(dicom.read(tmp_path).voxels, expected)


def test_padding_is_found_under_an_overlay(tmp_path):
  values = stored().astype(np.int16) % 2900 - 900
  values[:, 0, 0] = -2000
  # Twelve bits, the sign not extended, an overlay in the topmost.
  bits = (values & 0xFFF) | np.int16(-0x8000)
  place(
    tmp_path,
    pixels=bits,
    BitsStored=12,
    HighBit=11,
    PixelPaddingValue=-2000,
    RescaleIntercept="0",
  )
  expected = values.T.copy()
  expected[0, 0] = -1024
  np.testing.assert_array_equal(dicom.read(tmp_path).voxels, expected)


def test_padding_may_be_a_range(tmp_path):
  pixels = stored().astype(np.int16)
  pixels[:, 0, :3] = -2000, -1900, -1800
  volume = dicom.read(
    place(
      tmp_path,
      pixels=pixels,
      PixelPaddingValue=-1800,
      PixelPaddingRangeLimit=-2000,
    )
  )
  assert (volume.voxels[:3, 0] == -1024).all()


def test_padding_that_may_be_tissue_is_kept_and_told(tmp_path):
  with pytest.warns(InputWarning, match="may be tissue"):
    check(dicom.read(place(tmp_path, PixelPaddingValue=1074)))


def test_no_rescale_is_told(tmp_path):
  with pytest.warns(InputWarning, match="values as stored"):
    volume = dicom.read(
      place(tmp_path, RescaleSlope=None, RescaleIntercept=None)
    )
  np.testing.assert_array_equal(volume.voxels, stored().T)
  assert not volume.source.intact


@pytest.mark.parametrize("key", ["RescaleSlope", "RescaleIntercept"])
def test_a_slice_without_rescale_among_others_is_refused(tmp_path, key):
  place(tmp_path)
  path = tmp_path / "IM003"
  dataset = pydicom.dcmread(path)
  del dataset[key]
  save(dataset, path)
  said = "1 of 12 slices have no rescale .* Fix: export"
  with pytest.raises(InputError, match=said):
    dicom.read(tmp_path)


def test_loss_is_told(tmp_path):
  with pytest.warns(InputWarning, match="with loss"):
    dicom.read(place(tmp_path, LossyImageCompression="01"))


def test_run_length_encoding(tmp_path):
  place(tmp_path)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    save(dataset, path)
  check(dicom.read(tmp_path))
  # Cut in the last fragment, and at its end, where decoders would not notice.
  last = max(tmp_path.iterdir())
  for cut in (8, 20):
    os.truncate(last, last.stat().st_size - cut)
    with pytest.raises(InputError, match=f"{last.name}: ends inside"):
      dicom.read(tmp_path)


def test_jpeg_2000(tmp_path):
  pixels = np.random.default_rng(2).integers(0, 4000, (12, 64, 64))
  pixels = pixels.astype(np.uint16)
  place(tmp_path, pixels=pixels)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    save(dataset, path)
  np.testing.assert_array_equal(
    dicom.read(tmp_path).voxels, pixels.T.astype(np.int16) - 1024
  )


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
  place(tmp_path)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51"])
    dataset["PixelData"].VR = "OB"
    save(dataset, path)
  decoder = pydicom.pixels.get_decoder(JPEG2000Lossless)
  monkeypatch.setattr(decoder, "_available", {})
  with pytest.raises(InputError, match=r"pip install .*pylibjpeg-openjpeg"):
    dicom.read(tmp_path)


def test_an_unknown_syntax_is_named(tmp_path):
  place(tmp_path, slices=2)
  for path in tmp_path.iterdir():
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.PixelData = pydicom.encaps.encapsulate([b"mpeg"])
    dataset["PixelData"].VR = "OB"
    save(dataset, path)
  with pytest.raises(InputError, match=r"4\.100, which none can read"):
    dicom.read(tmp_path)


def test_pydicom_may_be_missing(tmp_path, monkeypatch):
  def fail(name):
    raise ImportError(name)

  place(tmp_path)
  monkeypatch.setattr(importlib, "import_module", fail)
  with pytest.raises(InputError, match=r"pip install '\.\[dicom\]'"):
    dicom.read(tmp_path)


def test_enhanced_multi_frame(tmp_path):
  depths = [-300.0 + GAP * n for n in (2, 0, 3, 1)]
  path = tmp_path / "multi.dcm"
  save(enhanced(stored(4), depths), path)
  with pytest.warns(InputWarning, match="4 rescales"):
    volume = dicom.read(path)
  order = [1, 3, 0, 2]
  expected = hounsfield(4)[:, :, order] + np.array(order, np.int16)
  np.testing.assert_array_equal(volume.voxels, expected)
  np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
  facts = dicom.read_facts(path)
  assert facts["kernel"] == "B30f"
  assert facts["slice_thickness_mm"] == "3"
  os.truncate(path, path.stat().st_size - ROWS * COLUMNS)
  with pytest.raises(InputError, match="ends inside its pixels"):
    dicom.read(path)


def test_frames_without_description_are_refused(tmp_path):
  dataset = enhanced(stored(4), [0.0, 1.0, 2.0, 3.0])
  dataset.NumberOfFrames = 5
  save(dataset, tmp_path / "a.dcm")
  with pytest.raises(InputError, match="4 of its 5 frames"):
    dicom.read(tmp_path / "a.dcm")
  dataset = enhanced(stored(4), [0.0, 1.0, 2.0, 3.0])
  del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
  save(dataset, tmp_path / "a.dcm")
  with pytest.raises(InputError, match="frame 3 has no position"):
    dicom.read(tmp_path / "a.dcm")
  plain = image(stored(4), NumberOfFrames=4)
  save(plain, tmp_path / "a.dcm")
  with pytest.raises(InputError, match="multi-frame images without positions"):
    dicom.read(tmp_path / "a.dcm")


def test_facts_name_no_patient(tmp_path):
  facts = dicom.read_facts(place(tmp_path, PatientPosition="FFS"))
  assert facts == {
    "manufacturer": "Maker",
    "model": "Model 1",
    "kernel": "B30f/2",
    "kvp": "120",
    "slice_thickness_mm": "3",
    "patient_position": "FFS",
  }
  source = dicom.read(tmp_path).source
  assert "Secret" not in repr(source) + str(source.header)


@pytest.mark.parametrize("keep", [0, 100, 300, 700, -1, -30])
def test_a_cut_file_is_never_passed_over(tmp_path, keep):
  place(tmp_path)
  last = max(
    tmp_path.iterdir(),
    key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2],
  )
  size = last.stat().st_size
  os.truncate(last, keep if keep >= 0 else size + keep)
  with pytest.raises(InputError, match=last.name):
    dicom.read(tmp_path)


@pytest.mark.filterwarnings("ignore::vf_jax.errors.InputWarning")
def test_damaged_headers_never_crash(tmp_path):
  rng = np.random.default_rng(4)
  path = place(tmp_path, slices=3) / "IM001"
  sound = path.read_bytes()
  refused = 0
  for _ in range(80):
    data = bytearray(sound)
    for at in rng.integers(132, len(data), 3):
      data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
      dicom.read(tmp_path)
    except InputError:
      refused += 1
  assert refused > 20


@pytest.mark.parametrize("packed", [False, True])
def test_empty_marks_are_passed_over_and_told(tmp_path, packed):
  folder = place(tmp_path / "a")
  for name in ("DONE", "_SUCCESS", "case_001.done"):
    (folder / name).touch()
  path = shutil.make_archive(folder, "zip", folder) if packed else folder
  with pytest.warns(InputWarning, match="3 empty files"):
    volume = dicom.read(path)
  assert volume.warnings == ("3 empty files were passed over.",)
  np.testing.assert_array_equal(volume.voxels, hounsfield())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["x.dcm", "LAST.IMA", "IM013", "1.2.840.13"])
def test_an_empty_slice_is_refused(tmp_path, packed, name):
  folder = place(tmp_path / "a")
  (folder / name).touch()
  path = shutil.make_archive(folder, "zip", folder) if packed else folder
  with pytest.raises(InputError, match=name):
    dicom.read(path)


def test_other_content_under_a_slice_name_is_refused(tmp_path):
  place(tmp_path)
  (tmp_path / "x.dcm").write_text("<html>please log in</html>")
  with pytest.raises(InputError, match="an HTML page, not DICOM"):
    dicom.read(tmp_path)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (dict(Modality="MR"), "12 MR objects"),
    (dict(Modality=None), "without Modality"),
    (dict(SamplesPerPixel=3), "colour pictures"),
    (dict(ImagePositionPatient_each=[None] * SLICES), "without position"),
    (dict(PixelSpacing=None), "without position"),
    (dict(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "12 localizers"),
    (dict(RescaleSlope="0"), "rescale slope 0"),
    (dict(RescaleType="Z_EFF"), "Z_EFF, not HU"),
    (dict(HighBit=3), "high bit 3"),
    (dict(BitsStored=77), "77 bits"),
    (dict(PixelSpacing=[0.5, 0.5, 0.5]), "PixelSpacing"),
    (dict(PixelSpacing=[0.001, 0.001]), "plausible"),
    (dict(Rows=7), "cannot be decoded"),
    (dict(Rows=60000, Columns=60000), "the limit is .* slices of the spine"),
  ],
)
def test_refused(tmp_path, changes, said):
  with pytest.raises(InputError, match=said):
    dicom.read(place(tmp_path, **changes))


def test_nothing_to_read(tmp_path):
  with pytest.raises(InputError, match="no files"):
    dicom.read(tmp_path)
  with pytest.raises(InputError, match="does not exist"):
    dicom.read(tmp_path / "absent")
  (tmp_path / "a.txt").write_text("text")
  with pytest.raises(InputError, match="1 no DICOM"):
    dicom.read(tmp_path)


@pytest.mark.parametrize("kind", ["files", "frames"])
def test_memory_holds_the_volume_and_little_more(tmp_path, kind):
  pixels = np.zeros((40, 256, 256), np.uint16)
  if kind == "files":
    place(tmp_path, slices=40, pixels=pixels)
  else:
    dataset = enhanced(pixels, [float(n) for n in range(40)])
    for group in dataset.PerFrameFunctionalGroupsSequence:
      del group.PixelValueTransformationSequence
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    save(dataset, tmp_path / "multi")
  dicom.read(tmp_path)
  tracemalloc.start()
  volume = dicom.read(tmp_path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # A slice of 128 KiB is held as bytes, as stored values and as int64.
  assert peak < volume.voxels.nbytes + (2 << 20)
