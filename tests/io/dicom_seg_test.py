# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""DICOM SEG, as highdicom itself reads it."""

from __future__ import annotations

import sys
import tracemalloc
import warnings

import dicom_slices
import highdicom
import numpy as np
import pydicom
import pytest

from vf_jax import scratch
from vf_jax.errors import InputError
from vf_jax.infer.cases import predict_file
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.result import CaseResult, Vertebra
from vf_jax.io import dicom
from vf_jax.io.dicom_seg import read_source, write_dicom_seg
from vf_jax.labels import BY_NAME

LEVELS = {"C1": (0, 1), "T12": (2, 5), "T13": (5, 7), "L6": (7, 12)}
WHOLE = {
  "StudyInstanceUID": "1.2.3.4",
  "FrameOfReferenceUID": "1.2.3.5",
  "StudyDate": "20260101",
}


def draw(shape=(dicom_slices.COLUMNS, dicom_slices.ROWS, dicom_slices.SLICES)):
  """A mask of four levels, unlike in every direction."""
  mask = np.zeros(shape, np.uint8, order="F")
  for number, (level, (low, high)) in enumerate(LEVELS.items()):
    mask[number : number + 2, number:, low:high] = BY_NAME[level].code
  return mask


def read_back(path, images):
  """VerSe codes of a SEG by the images it refers to, (x, y, z)."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    seg = highdicom.seg.segread(path)
    if len(images) > 1:
      pixels = seg.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
      )
    else:
      pixels = seg.get_pixels_by_source_frame(
        images[0].SOPInstanceUID,
        range(1, images[0].NumberOfFrames + 1),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
      )
  table = np.zeros(256, np.uint8)
  for number in seg.segment_numbers:
    label = seg.get_segment_description(number).segment_label
    table[number] = BY_NAME[label].code
  return seg, table[pixels].transpose(2, 1, 0)


def coded(segment):
  kind = segment.segmented_property_type
  return kind.value, kind.scheme_designator, kind.meaning


def test_highdicom_reads_back_what_was_written(tmp_path):
  ct = dicom_slices.place(
    tmp_path / "ct",
    SpecificCharacterSet=["", "ISO 2022 IR 87"],
    PatientName="Yamada^Tarou=山田^太郎",
    **WHOLE,
  )
  mask = draw()
  source = read_source(ct)
  assert source.notes == ()
  write_dicom_seg(tmp_path / "x_seg.dcm", mask, source, "ab" * 32)
  seg, found = read_back(tmp_path / "x_seg.dcm", source.images)
  np.testing.assert_array_equal(found, mask)
  assert str(seg.PatientName) == "Yamada^Tarou=山田^太郎"
  assert seg.PatientID == "4711"
  assert seg.StudyInstanceUID == "1.2.3.4"
  assert seg.FrameOfReferenceUID == "1.2.3.5"
  assert seg.SeriesInstanceUID != dicom_slices.SERIES
  one, two, three, four = map(seg.get_segment_description, seg.segment_numbers)
  assert coded(one) == ("14806007", "SCT", "C1 vertebra")
  assert coded(two) == ("23215003", "SCT", "T12 vertebra")
  assert (three.segment_label, four.segment_label) == ("L6", "T13")
  assert coded(four) == ("51282000", "SCT", "Vertebra")
  (algorithm,) = seg.SegmentSequence[
    0
  ].SegmentationAlgorithmIdentificationSequence
  assert algorithm.AlgorithmName == "vf_jax VertebraFormer"
  assert "ab" * 32 in algorithm.AlgorithmParameters
  assert sorted(p.name for p in tmp_path.iterdir()) == ["ct", "x_seg.dcm"]


class Drawer(Predictor):
  """Draws its mask without a network."""

  def __init__(self, abstained):
    self.abstained = abstained

  def __call__(self, volume, case, facts=None):
    found = Vertebra("C1", 1, (0.0, 0.0, 0.0), 0.5, False, 1.0, 100.0)
    run = {"checkpoint_sha256": "ab" * 32, "seconds": {}}
    return CaseResult(
      *(case, volume.grid, draw(), (found,), (), (), run),
      abstained=self.abstained,
    )


@pytest.mark.parametrize("abstained", [False, True])
def test_a_scan_that_abstains_says_so(tmp_path, abstained):
  ct = dicom_slices.place(tmp_path / "ct", **WHOLE)
  options = {"case": "p", "request": {}, "dicom_seg": True}

  def write_page(path, volume, result):
    path.write_text("page")

  predict_file(Drawer(abstained), ct, tmp_path, write_page, **options)
  seg = pydicom.dcmread(tmp_path / "p" / "p_seg.dcm")
  texts = [seg.ContentDescription]
  texts += [part.get("SegmentDescription", "") for part in seg.SegmentSequence]
  assert len(texts) == 1 + len(LEVELS)
  assert ["level unsure" in t.lower() for t in texts] == [abstained] * 5
  # PS3.5: LO and ST.
  assert len(texts[0]) <= 64
  assert max(map(len, texts[1:])) <= 1024


def test_slices_that_come_feet_first_and_tilted(tmp_path):
  ct = dicom_slices.place(tmp_path / "ct", step=(0, 0.8, -2.5), **WHOLE)
  mask = draw()
  source = read_source(ct)
  write_dicom_seg(tmp_path / "x.dcm", mask, source, "ab")
  _, found = read_back(tmp_path / "x.dcm", source.images)
  np.testing.assert_array_equal(found, mask)
  # By position, without our order: the frame of every slice is at its place.
  volume = dicom.read(ct)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    seg = highdicom.seg.segread(tmp_path / "x.dcm")
  for group in seg.PerFrameFunctionalGroupsSequence:
    place = group.PlanePositionSequence[0].ImagePositionPatient
    x, y, z = (float(value) for value in place)
    voxel = volume.grid.to_voxel(np.array([[-x, -y, z]]))[0]
    np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-4)


def test_identifiers_that_an_anonymizer_emptied_are_made_up_and_told(tmp_path):
  empty = dict.fromkeys(
    ("StudyInstanceUID", "SOPClassUID", "PatientName", "PatientID"), ""
  )
  ct = dicom_slices.place(tmp_path / "ct", FrameOfReferenceUID="1.2.3.5")
  for path in ct.iterdir():
    image = pydicom.dcmread(path)
    for key, value in empty.items():
      setattr(image, key, value)
    image.SOPInstanceUID = ""
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      image.save_as(path)
  source = read_source(ct)
  (note,) = source.notes
  assert "lacks StudyInstanceUID;" in note
  write_dicom_seg(tmp_path / "x.dcm", draw(), source, "ab")
  seg, found = read_back(tmp_path / "x.dcm", source.images)
  np.testing.assert_array_equal(found, draw())
  again = read_source(ct)
  assert again.images[0].StudyInstanceUID == seg.StudyInstanceUID
  meta = {
    pydicom.dcmread(p).file_meta.MediaStorageSOPInstanceUID
    for p in ct.iterdir()
  }
  assert {image.SOPInstanceUID for image in source.images} == meta


def test_a_multi_frame_ct(tmp_path):
  depths = [-300.0 - 2.5 * n for n in range(dicom_slices.SLICES)]
  image = dicom_slices.enhanced(dicom_slices.stored(), depths)
  for key, value in WHOLE.items():
    setattr(image, key, value)
  for group in image.PerFrameFunctionalGroupsSequence:
    group.FrameContentSequence = dicom_slices.items(FrameAcquisitionNumber=1)
  dicom_slices.save(image, tmp_path / "ct.dcm")
  source = read_source(tmp_path / "ct.dcm")
  assert source.order == tuple(reversed(range(dicom_slices.SLICES)))
  mask = draw()
  write_dicom_seg(tmp_path / "x.dcm", mask, source, "ab")
  _, found = read_back(tmp_path / "x.dcm", source.images)
  np.testing.assert_array_equal(found[:, :, list(source.order)], mask)


def test_memory_holds_neither_the_mask_nor_all_headers(tmp_path, monkeypatch):
  """A copy of the mask is on the disk, and one header is whole."""
  slices = 24
  wide = np.zeros((slices, 512, 512), np.uint16)
  ct = dicom_slices.place(
    tmp_path / "ct", slices, pixels=wide, ImageComments="c" * 9000, **WHOLE
  )
  source = read_source(ct)
  assert [len(s.get("ImageComments", "")) for s in source.images[:3]] == [
    9000, 0, 0
  ]  # fmt: skip
  mask = np.zeros(wide.T.shape, np.uint8, order="F")
  mask[100:120, 90:100, 3:] = BY_NAME["L1"].code
  # What highdicom keeps for good is loaded by the first.
  write_dicom_seg(tmp_path / "x.dcm", mask, source, "ab")
  monkeypatch.setattr(scratch, "ON_DISK", mask.nbytes)
  tracemalloc.start()
  write_dicom_seg(tmp_path / "y.dcm", mask, source, "ab")
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  _, found = read_back(tmp_path / "y.dcm", source.images)
  np.testing.assert_array_equal(found, mask)
  assert peak < mask.nbytes


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
  ct = dicom_slices.place(tmp_path / "ct", **WHOLE)
  source = read_source(ct)
  mask = draw()
  with pytest.raises(InputError, match="cannot be empty"):
    write_dicom_seg(tmp_path / "x.dcm", mask * np.uint8(0), source, "ab")
  with pytest.raises(InputError, match="has 12 slices, the mask 11"):
    write_dicom_seg(tmp_path / "x.dcm", mask[:, :, 1:], source, "ab")
  monkeypatch.setitem(sys.modules, "highdicom", None)
  with pytest.raises(InputError, match=r"pip install '\.\[dicom\]'"):
    read_source(ct)
  assert not (tmp_path / "x.dcm").exists()
