"""Every layout comes back from its own reader, and from other programs."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.multispine.load import load
from vf_jax.multispine.phantom.domains import draw_protocol
from vf_jax.multispine.phantom.plan import SOURCES
from vf_jax.multispine.phantom.scanner import Scan, cut_codes
from vf_jax.multispine.phantom.visibility import judge_lesions
from vf_jax.multispine.phantom.writers import (
  LAYOUTS,
  Series,
  annotated,
  points_of,
  row_of,
)
from vf_jax.multispine.sources import find_cases, recognise
from vf_jax.volume import Volume, reorient, resample

SPACING = (3.0, 2.5, 4.0)
GROUPS = {"ctspine1k": "MSD-T10", "spineweb": "dataset-2"}
NAMES = {
  "verse": "sub-verse501",
  "ctspine1k": "liver_7",
  "totalsegmentator": "s0007",
}


@pytest.fixture(scope="module")
def patient(stub_anatomy):
  return stub_anatomy("T12", "sacrum", 3.0)


def series_of(patient, source, codes="LPS", **changes):
  """A scan without noise; its top cuts T12, its bottom the sacrum."""
  grid = patient.grid
  scale = np.diag([*SPACING, 1.0])
  scale[:3, 3] = grid.affine[:3, 3] + (20, 20, 12)
  top = patient.centres[BY_NAME["T12"].code][2]
  shape = (90, 70, int((top - scale[2, 3]) / SPACING[2]))
  volume = Volume(np.zeros(shape, np.int16), scale)
  image = resample(patient.hu, grid, volume.grid, fill=-1000)
  labels = resample(patient.labels, grid, volume.grid, order=0)
  protocol = draw_protocol("verse", np.random.default_rng(0))
  scan = Scan(
    reorient(Volume(image, scale), codes),
    reorient(Volume(labels, scale), codes),
    dataclasses.replace(protocol, orientation=codes),
  )
  name = NAMES.get(source, "p007")
  return dataclasses.replace(
    Series(
      name=name,
      subject=name,
      group=GROUPS.get(source, ""),
      part="train",
      scan=scan,
      centres=patient.centres,
      lesions=patient.lesions,
    ),
    **changes,
  )


def written(tmp_path, series, source):
  root = tmp_path / source
  files = LAYOUTS[source].write(root, series)
  LAYOUTS[source].finish(root, [row_of(series)])
  assert all(path.is_file() for path in files)
  return root, files


def names_in(labels):
  return {BY_CODE[code].name for code in np.unique(labels).tolist() if code}


def test_the_scan_of_these_tests_cuts_both_ends(patient):
  series = series_of(patient, "verse", "PIR")
  cut = {BY_CODE[code].name for code in cut_codes(series.scan.labels)}
  assert cut == {"T12", "sacrum"}


WHOLE = {"L1", "L2", "L3", "L4", "L5"}
ANNOTATED = {
  "verse": WHOLE,
  "ctspine1k": WHOLE | {"T12"},
  "spineweb": WHOLE,
  "cohort": WHOLE | {"T12"},
  "totalsegmentator": WHOLE | {"T12", "sacrum"},
  "nnunet": WHOLE,
}


@pytest.mark.parametrize("codes", ["LPS", "PIR", "PSR"])
@pytest.mark.parametrize("source", SOURCES)
def test_readers_get_back_what_was_scanned(source, codes, patient, tmp_path):
  series = series_of(patient, source, codes)
  root, _ = written(tmp_path, series, source)
  assert recognise(root) == source
  (case,) = find_cases(source, root)
  loaded = load(case)
  scan = series.scan
  assert loaded.image.grid.same_as(scan.image.grid)
  np.testing.assert_array_equal(loaded.image.voxels, scan.image.voxels)
  assert loaded.labels.grid.same_as(scan.image.grid)
  assert names_in(loaded.labels.voxels) == ANNOTATED[source]
  kept = np.isin(
    scan.labels.voxels, [BY_NAME[n].code for n in ANNOTATED[source]]
  )
  np.testing.assert_array_equal(
    loaded.labels.voxels, np.where(kept, scan.labels.voxels, 0)
  )
  assert ("cut_vertebrae" in case.annotates) == ("T12" in ANNOTATED[source])
  assert not loaded.warnings


@pytest.mark.parametrize("source", ["verse", "cohort"])
def test_points_are_bodies_of_what_is_annotated(source, patient, tmp_path):
  series = series_of(patient, source, "PIR")
  root, _ = written(tmp_path, series, source)
  (case,) = find_cases(source, root)
  loaded = load(case)
  expected = {BY_NAME[name].code for name in WHOLE}
  assert set(loaded.centres) == expected
  assert loaded.centre_kind == "body"
  for code in expected:
    np.testing.assert_allclose(
      loaded.centres[code], patient.centres[code], atol=1e-3
    )


def test_spineweb_3_has_points_only(patient, tmp_path):
  series = series_of(
    patient, "spineweb", group="dataset-3", subject="patient0007"
  )
  root, files = written(tmp_path, series, "spineweb")
  assert {path.suffix for path in files} == {".mhd", ".raw", ".lml"}
  (case,) = find_cases("spineweb", root)
  assert case.domain == "spineweb3"
  assert case.subject.endswith("patient0007")
  loaded = load(case)
  assert loaded.labels is None
  for name in WHOLE:
    code = BY_NAME[name].code
    np.testing.assert_allclose(
      loaded.centres[code], patient.centres[code], atol=1e-3
    )


def test_cohort_has_lesions_and_says_synthetic(patient, tmp_path):
  root, _ = written(tmp_path, series_of(patient, "cohort"), "cohort")
  (case,) = find_cases("cohort", root)
  assert case.mask_kind == "synthetic"
  assert {"lesions", "cut_vertebrae"} <= case.annotates
  (box,) = load(case).boxes
  (truth,) = patient.lesions
  np.testing.assert_allclose(box.centre_mm, truth.centre_mm, atol=1e-3)
  np.testing.assert_allclose(box.size_mm, truth.size_mm, atol=1e-3)
  assert box.kind == truth.kind


def test_a_cohort_case_without_lesions_is_known_to_have_none(patient, tmp_path):
  series = dataclasses.replace(series_of(patient, "cohort"), lesions=())
  root, _ = written(tmp_path, series, "cohort")
  (case,) = find_cases("cohort", root)
  loaded = load(case)
  assert (loaded.boxes, loaded.unknown) == ((), ())
  assert "lesions" in loaded.case.annotates


def test_ctspine1k_split(patient, tmp_path):
  root = tmp_path / "ctspine1k"
  rows = []
  for number, part in enumerate(("train", "validation", "test")):
    series = series_of(patient, "ctspine1k", name=f"liver_{number}", part=part)
    LAYOUTS["ctspine1k"].write(root, series)
    rows.append(row_of(series))
  LAYOUTS["ctspine1k"].finish(root, rows)
  splits = [case.split for case in find_cases("ctspine1k", root)]
  assert splits == ["train", "test_public", "test_private"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("codes", ["LPS", "PSR"])
def test_other_programs_see_the_same_world(source, codes, patient, tmp_path):
  series = series_of(patient, source, codes)
  _, files = written(tmp_path, series, source)
  image = next(p for p in files if p.suffix in (".gz", ".mhd"))
  scan = series.scan.image
  seen = sitk.ReadImage(str(image))
  corner = tuple(n - 1 for n in scan.voxels.shape)
  assert seen.GetSize() == scan.voxels.shape
  for index in ((0, 0, 0), corner):
    world = np.array(seen.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
    expected = scan.grid.to_world(np.array([index]))[0]
    np.testing.assert_allclose(world, expected, atol=1e-3)
  array = sitk.GetArrayViewFromImage(seen).transpose(2, 1, 0)
  np.testing.assert_array_equal(array, scan.voxels)
  if image.suffix == ".gz":
    other = nibabel.load(image)
    np.testing.assert_allclose(other.affine, scan.affine, atol=1e-4)
    assert other.get_data_dtype() == np.int16


def test_sheared_slices_survive_nifti(patient, tmp_path):
  series = series_of(patient, "cohort", "RAS")
  affine = series.scan.image.affine.copy()
  affine[2, 1] = 0.6
  scan = dataclasses.replace(
    series.scan,
    image=Volume(series.scan.image.voxels, affine),
    labels=Volume(series.scan.labels.voxels, affine),
  )
  root, files = written(
    tmp_path, dataclasses.replace(series, scan=scan), "cohort"
  )
  (case,) = find_cases("cohort", root)
  assert load(case).image.grid.same_as(scan.image.grid)
  np.testing.assert_allclose(nibabel.load(files[0]).affine, affine, atol=1e-5)


def test_t13_keeps_its_name_in_nnunet(patient, tmp_path):
  series = series_of(patient, "nnunet")
  labels = series.scan.labels
  codes = np.where(labels.voxels == BY_NAME["L1"].code, 28, labels.voxels)
  scan = dataclasses.replace(
    series.scan, labels=Volume(codes.astype(np.uint8), labels.affine)
  )
  root, files = written(
    tmp_path, dataclasses.replace(series, scan=scan), "nnunet"
  )
  stored = np.unique(np.asarray(nibabel.load(files[1]).dataobj))
  assert 26 in stored
  assert stored.max() <= 26
  (case,) = find_cases("nnunet", root)
  assert names_in(load(case).labels.voxels) == WHOLE - {"L1"} | {"T13"}


def test_annotated_points_and_boxes_follow_the_view(patient):
  series = series_of(patient, "verse")
  whole = annotated(series.scan, cut=False)
  assert names_in(whole) == WHOLE
  with_sacrum = annotated(series.scan, cut=False, sacrum=True)
  assert "sacrum" in names_in(with_sacrum)
  # T12's centre lies at the very top of the scan, L5's body in it.
  assert set(points_of(whole, series)) == {BY_NAME[n].code for n in WHOLE}
  assert judge_lesions(patient.lesions, series.scan) == (patient.lesions, True)


def test_vertebrae_cut_at_the_sides_are_annotated(patient):
  """A mask without them would call half of a narrow scan's bone no bone."""
  scan = series_of(patient, "verse", "RAS").scan
  middle = int(scan.labels.grid.to_voxel(np.zeros((1, 3)))[0, 0])
  start = np.eye(4)
  start[0, 3] = middle
  image, labels = (
    Volume(v.voxels[middle:], v.affine @ start)
    for v in (scan.image, scan.labels)
  )
  half = dataclasses.replace(scan, image=image, labels=labels)
  assert set(WHOLE) <= names_in(labels.voxels[0])
  assert names_in(annotated(half, cut=False)) == WHOLE


def _lesion_above(patient, series, share_mm):
  """A lesion of 16 mm whose lower `share_mm` are below the scan's top."""
  grid = series.scan.image.grid
  corners = np.array([np.zeros(3), np.array(grid.shape) - 1])
  top = grid.to_world(corners)[:, 2].max() + SPACING[2] / 2
  x, y, _ = patient.centres[BY_NAME["L1"].code]
  place = (x, y, float(top + 8 - share_mm))
  return AnnotatedLesion(place, (16.0, 16.0, 16.0), "lytic"), top


@pytest.mark.parametrize("codes", ["LPS", "PIR"])
def test_a_lesion_cut_by_the_view_has_a_box_around_what_is_seen(patient, codes):
  series = series_of(patient, "cohort", codes)
  lesion, top = _lesion_above(patient, series, 7.0)
  (box,), complete = judge_lesions((lesion,), series.scan)
  assert complete
  low, high = (box.centre_mm[2] + side * box.size_mm[2] / 2 for side in (-1, 1))
  assert high == pytest.approx(top, abs=1.0)
  assert low == pytest.approx(top - 7.0, abs=0.5)
  assert box.kind == "lytic"


def test_a_sliver_of_a_lesion_leaves_the_lesions_of_a_case_unknown(
  patient, tmp_path
):
  series = series_of(patient, "cohort")
  sliver, _ = _lesion_above(patient, series, 3.0)
  gone, _ = _lesion_above(patient, series, -2.0)
  assert judge_lesions((gone,), series.scan) == ((), True)
  series = dataclasses.replace(series, lesions=(*series.lesions, sliver))
  root, _ = written(tmp_path, series, "cohort")
  (case,) = find_cases("cohort", root)
  loaded = load(case)
  assert "lesions" not in loaded.case.annotates
  assert {"masks", "cut_vertebrae"} <= loaded.case.annotates
  assert loaded.boxes == ()


def test_padding_shows_no_lesion(patient):
  series = series_of(patient, "cohort")
  (lesion,) = patient.lesions
  scan = series.scan
  image = Volume(np.full_like(scan.image.voxels, -1024), scan.image.affine)
  protocol = dataclasses.replace(scan.protocol, padding_hu=-1024)
  scan = dataclasses.replace(scan, image=image, protocol=protocol)
  assert judge_lesions((lesion,), scan) == ((), True)


def test_writing_twice_gives_the_same_bytes(patient, tmp_path):
  for source in SOURCES:
    series = series_of(patient, source)
    first, files = written(tmp_path / "one", series, source)
    second, _ = written(tmp_path / "two", series, source)
    for path in files:
      twin = second / path.relative_to(first)
      assert path.read_bytes() == twin.read_bytes(), path
