# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which slices make a volume, in which order, and where it lies."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from dicom_slices import (
  GAP,
  SERIES,
  SLICES,
  hounsfield,
  image,
  place,
  save,
  stored,
)

from vf_jax.errors import InputError, InputWarning
from vf_jax.io import dicom

TILT = np.deg2rad(20)


def world_of(volume, number):
  """Where the first pixel of a slice is, RAS+."""
  return volume.grid.to_world(np.array([[0.0, 0.0, float(number)]]))[0]


def test_feet_first_and_descending_positions(tmp_path):
  # The first file of the series is the topmost slice.
  volume = dicom.read(place(tmp_path, step=(0, 0, -GAP), PatientPosition="FFS"))
  np.testing.assert_array_equal(volume.voxels, hounsfield()[:, :, ::-1])
  assert volume.axis_codes == ("L", "P", "S")
  np.testing.assert_allclose(
    world_of(volume, 0), (10, 20, -300 - GAP * (SLICES - 1))
  )


@pytest.mark.parametrize(
  ("orientation", "step", "codes"),
  [
    ([-1, 0, 0, 0, 1, 0], (0, 0, GAP), "RPI"),
    ([1, 0, 0, 0, -1, 0], (0, 0, GAP), "LAI"),
    ([-1, 0, 0, 0, -1, 0], (0, 0, GAP), "RAS"),
    ([0, 1, 0, 0, 0, -1], (GAP, 0, 0), "PIR"),
    ([1, 0, 0, 0, 0, -1], (0, GAP, 0), "LIP"),
  ],
)
def test_negative_cosines_and_other_planes(tmp_path, orientation, step, codes):
  place(tmp_path, step=step, ImageOrientationPatient=orientation)
  volume = dicom.read(tmp_path)
  assert "".join(volume.axis_codes) == codes
  rising = np.cross(orientation[:3], orientation[3:]) @ step > 0
  expected = hounsfield() if rising else hounsfield()[:, :, ::-1]
  np.testing.assert_array_equal(volume.voxels, expected)
  # Slice 3 of the file system is where its header says.
  place_of_3 = np.array([-10, -20, -300]) + 3 * np.array(step)
  number = 3 if rising else SLICES - 1 - 3
  np.testing.assert_allclose(
    world_of(volume, number), place_of_3 * (-1, -1, 1), atol=1e-9
  )
  assert np.linalg.det(volume.affine[:3, :3]) > 0


def test_tilted_gantry_gives_a_sheared_affine(tmp_path):
  tilted = [1, 0, 0, 0, round(np.cos(TILT), 9), round(-np.sin(TILT), 9)]
  place(tmp_path, ImageOrientationPatient=tilted, GantryDetectorTilt="20")
  volume = dicom.read(tmp_path)
  for number in (0, 5, SLICES - 1):
    np.testing.assert_allclose(
      world_of(volume, number), (10, 20, -300 + GAP * number), atol=1e-7
    )
  steps = volume.affine[:3, :3]
  # The table moved along the body, not along the normal of the slices.
  np.testing.assert_allclose(steps[:, 2], (0, 0, GAP), atol=1e-9)
  down = 0.75 * np.array([0, -np.cos(TILT), -np.sin(TILT)])
  np.testing.assert_allclose(steps[:, 1], down, atol=1e-8)
  assert not volume.warnings


def test_a_tilt_that_positions_do_not_show_is_told(tmp_path):
  with pytest.warns(InputWarning, match="tilt of 12 degrees"):
    dicom.read(place(tmp_path, GantryDetectorTilt="-12"))


def test_rounded_positions_are_even_enough(tmp_path):
  gap = 1.25
  positions = [[-10, -20, round(-300.02 + n * gap, 1)] for n in range(SLICES)]
  volume = dicom.read(place(tmp_path, ImagePositionPatient_each=positions))
  assert volume.spacing[2] == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("skip", [(4,), (4, 5), (2, 8)])
def test_missing_slices_are_counted(tmp_path, skip):
  with pytest.raises(InputError, match=f"{len(skip)} slices are missing"):
    dicom.read(place(tmp_path, skip=skip))


def test_copies_are_used_once(tmp_path):
  place(tmp_path)
  first = min(tmp_path.iterdir())
  shutil.copy(first, tmp_path / "copy")
  with pytest.warns(InputWarning, match="1 slices are there twice"):
    volume = dicom.read(tmp_path)
  np.testing.assert_array_equal(volume.voxels, hounsfield())


@pytest.mark.parametrize("last", [5, SLICES - 1])
def test_one_uid_at_two_places_is_no_copy(tmp_path, last):
  uids = [f"{SERIES}.{n}" for n in range(SLICES)]
  uids[last] = uids[last - 1]
  volume = dicom.read(place(tmp_path, SOPInstanceUID_each=uids))
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  assert not volume.warnings


def test_two_slices_in_one_place_are_refused(tmp_path):
  place(tmp_path)
  save(image(stored()[0]), tmp_path / "again")
  with pytest.raises(InputError, match="1 of 13 slices lie where another"):
    dicom.read(tmp_path)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda z: z + 0.7 * (z > -280), "off an even row.*2.500 to 3.200"),
    (lambda z: -300 + (z + 300) ** 1.1, "off an even row"),
  ],
)
def test_uneven_gaps_are_refused_with_numbers(tmp_path, change, said):
  depths = [-300 + GAP * n for n in range(SLICES)]
  positions = [[-10, -20, round(change(z), 6)] for z in depths]
  with pytest.raises(InputError, match=said):
    dicom.read(place(tmp_path, ImagePositionPatient_each=positions))


def test_slices_shifted_sideways_are_refused(tmp_path):
  positions = [[-10 + 3 * (n > 6), -20, -300 + GAP * n] for n in range(SLICES)]
  with pytest.raises(InputError, match="off an even row"):
    dicom.read(place(tmp_path, ImagePositionPatient_each=positions))


@pytest.mark.parametrize(
  ("orientation", "said"),
  [
    ([1, 0, 0, 0.5, 0.5, 0], "unit vectors"),
    ([1, 0, 0, 0.6, 0.8, 0], "right angles"),
  ],
)
def test_planes_that_are_none(tmp_path, orientation, said):
  with pytest.raises(InputError, match=said):
    dicom.read(place(tmp_path, ImageOrientationPatient=orientation))


def test_cosines_of_few_digits_are_mended(tmp_path):
  place(tmp_path, ImageOrientationPatient=[0.999, 0, 0, 0, 1.001, 0])
  assert dicom.read(tmp_path).spacing == pytest.approx((0.5, 0.75, GAP))


def test_a_choice_of_series_is_listed_and_taken(tmp_path):
  place(tmp_path / "a")
  place(
    tmp_path / "b",
    slices=15,
    step=(0, 0, 5.0),
    SeriesInstanceUID=SERIES + ".77",
    SeriesDescription="BONE 5.0",
  )
  with pytest.raises(InputError) as caught:
    dicom.read(tmp_path)
  text = str(caught.value)
  assert "2 CT series" in text
  assert "'BONE 5.0', 15 slices of 0.5 x 0.75 x 5 mm" in text
  assert f"{SERIES}:" in text
  assert "Secret" not in text
  volume = dicom.read(tmp_path, series=SERIES)
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  assert dicom.read(tmp_path, series=".77").voxels.shape[2] == 15
  assert dicom.read_facts(tmp_path, ".77")["model"] == "Model 1"
  with pytest.raises(InputError, match="no series 'x'"):
    dicom.read(tmp_path, series="x")
  infos = dicom.list_series(tmp_path)
  assert [info.uid for info in infos] == [SERIES + ".77", SERIES]
  assert infos[0].shape == (5, 6, 15)
  assert not any(info.fault for info in infos)


def test_localizers_do_not_matter_and_short_series_are_told(tmp_path):
  place(tmp_path / "a")
  place(
    tmp_path / "scout",
    slices=2,
    SeriesInstanceUID=SERIES + ".1",
    ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
  )
  place(tmp_path / "short", slices=3, SeriesInstanceUID=SERIES + ".2")
  place(
    tmp_path / "mr", slices=11, SeriesInstanceUID=SERIES + ".3", Modality="MR"
  )
  # Many images at one place: a bolus is watched.
  place(
    tmp_path / "bolus",
    step=(0, 0, 0),
    SeriesInstanceUID=SERIES + ".4",
  )
  with pytest.warns(InputWarning, match="passed over"):
    volume = dicom.read(tmp_path)
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  assert volume.warnings == (
    "1 other series of fewer than 10 slices was passed over: "
    f"{SERIES}.2: 'SPINE 2.5', 3 slices of 0.5 x 0.75 x {GAP:g} mm.",
  )
  # Whoever names the series needs not be told.
  assert dicom.read(tmp_path, series=SERIES).warnings == ()
  faults = {info.uid: info.fault for info in dicom.list_series(tmp_path)}
  assert set(faults) == {SERIES, SERIES + ".2", SERIES + ".4"}
  assert "where another one is" in faults[SERIES + ".4"]


def test_another_plane_in_the_series_is_left_out_and_told(tmp_path):
  place(tmp_path / "a")
  save(
    image(stored()[0], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    tmp_path / "b",
  )
  with pytest.warns(InputWarning, match="1 images of the same series"):
    volume = dicom.read(tmp_path)
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  with pytest.raises(InputError, match="1 slice"):
    dicom.read(tmp_path, series=SERIES + "#2")


def test_what_of_the_series_is_no_slice_is_told(tmp_path):
  place(tmp_path / "a")
  save(image(stored()[0], ImagePositionPatient=None), tmp_path / "b")
  save(image(stored()[0], Modality="SR"), tmp_path / "c")
  with pytest.warns(InputWarning, match="left out"):
    warned = dicom.read(tmp_path).warnings
  assert [text[:9] for text in warned] == ["1 images ", "1 SR obje"]


def test_a_single_slice_is_no_volume(tmp_path):
  save(image(stored()[0]), tmp_path / "one.dcm")
  with pytest.raises(InputError, match="a single CT slice"):
    dicom.read(tmp_path / "one.dcm")
