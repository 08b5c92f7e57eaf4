# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""SpineWeb landmark files, as three users of them document the format."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.io import lml
from vf_jax.io.centroids import Centroids
from vf_jax.labels import BY_NAME
from vf_jax.volume import Grid

# Array axes to left, back and head; 0.5 x 0.5 x 2.5 mm, as in the data set.
GRID = Grid(
  (200, 240, 60),
  np.array(
    [
      [-0.5, 0.0, 0.0, 51.0],
      [0.0, -0.5, 0.0, 77.0],
      [0.0, 0.0, 2.5, -400.0],
      [0.0, 0.0, 0.0, 1.0],
    ]
  ),
)
ROWS = (
  "190\tT12_center\t50.0\t60.5\t110.0",
  "200\tL1_center\t51.0\t62.0\t80.0",
  "210\tL2_center\t52.0\t63.0\t50.0",
)


def place(folder, rows=ROWS, head="header of any kind"):
  path = folder / "case.lml"
  path.write_text("\n".join([head, *rows]) + "\n")
  return path


def test_points_are_millimetres_along_the_array_axes(tmp_path):
  found = lml.read_lml(place(tmp_path), GRID)
  assert [key.name for key in found.levels] == ["T12", "L1", "L2"]
  assert found.kind == "body"
  assert not found.warnings
  # By hand: T12 is voxel (100, 121, 44).
  np.testing.assert_allclose(found.points_mm[0], (1.0, 16.5, -290.0))
  np.testing.assert_allclose(GRID.to_voxel(found.points_mm)[0], (100, 121, 44))


def test_frames_of_the_world(tmp_path):
  image = lml.read_lml(place(tmp_path), GRID)
  x, y, z = image.points_mm.T
  for frame, signs in (("ras", (1, 1)), ("lps", (-1, -1))):
    rows = [
      f"{10 * key.code}\t{key.name}_center\t{signs[0] * a}\t{signs[1] * b}\t{c}"
      for key, a, b, c in zip(image.levels, x, y, z, strict=True)
    ]
    path = place(tmp_path, rows)
    found = lml.read_lml(path, GRID, frame=frame)
    np.testing.assert_allclose(found.points_mm, image.points_mm)
    with pytest.raises(InputError, match=f"centroid_format: lml-{frame}`"):
      lml.read_lml(path, GRID)


@pytest.mark.parametrize("frame", ["image", "lps", "ras"])
def test_there_and_back(tmp_path, frame):
  turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
  affine = np.eye(4)
  affine[:3, :3] = turn * (0.7, 0.8, 2.0)
  affine[:3, 3] = -turn @ (70, 80, 100)
  grid = Grid((200, 200, 100), affine)
  names = ("C7", "T1", "T13", "L5", "L6")
  heights = (60, 45, 5, -30, -60)
  points = {
    BY_NAME[name]: (1.5, -2.25, float(z))
    for name, z in zip(names, heights, strict=True)
  }
  path = tmp_path / "x.lml"
  lml.write_lml(path, Centroids(points), grid, frame=frame)
  back = lml.read_lml(path, grid, frame=frame)
  assert back.levels == Centroids(points).levels
  np.testing.assert_allclose(
    back.points_mm, Centroids(points).points_mm, atol=2e-5
  )
  assert "70\tC7_center" in path.read_text()


def test_what_is_no_vertebra_is_left_out_and_told(tmp_path):
  rows = [*ROWS, "250\tS1_center\t52\t63\t30", "220\tL3_center\tnan\t63\t40"]
  with pytest.warns(InputWarning, match="sacrum|NaN"):
    found = lml.read_lml(place(tmp_path, rows), GRID)
  assert [key.name for key in found.levels] == ["T12", "L1", "L2"]
  assert len(found.warnings) == 2


def test_a_file_without_header_loses_no_vertebra(tmp_path):
  found = lml.read_lml(place(tmp_path, ROWS[1:], head=ROWS[0]), GRID)
  assert len(found.levels) == 3


def test_a_point_a_little_outside_is_kept_and_told(tmp_path):
  rows = [*ROWS[:2], "210\tL2_center\t52.0\t63.0\t-3.0"]
  with pytest.warns(InputWarning, match="1.8 mm outside"):
    found = lml.read_lml(place(tmp_path, rows), GRID)
  assert len(found.levels) == 3


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    ([], "no vertebra"),
    ([*ROWS, ROWS[0]], "second point of T12"),
    (["10\tC9_center\t1\t2\t3"], "C9_center"),
    (["10\tsacrum\t1\t2\t3"], "sacrum"),
    (["10\tC1_center\t1\t2"], "line 2"),
    (["10\tC1_center\t1,5\t2\t3"], "line 2"),
    (["x\tC1_center\t1\t2\t3"], "line 2"),
    ((*ROWS[:2], "210\tL2_center\t52\t63\t700"), "outside the image"),
    # Voxels taken for millimetres; feet above head.
    (("1\tC1\t9\t9\t44", "2\tC2\t9\t9\t40", "3\tC3\t9\t9\t36"), "4.0 mm apart"),
    (("1\tL1\t9\t9\t30", "2\tL2\t9\t9\t60"), "L1 lies below L2"),
  ],
)
def test_refused(tmp_path, rows, said):
  with pytest.raises(InputError, match=said):
    lml.read_lml(place(tmp_path, rows), GRID)


def test_only_body_centres_of_vertebrae_are_written(tmp_path):
  for points in (
    Centroids({BY_NAME["L1"]: (0.0, 0.0, 0.0)}, kind="mask"),
    Centroids({BY_NAME["sacrum"]: (0.0, 0.0, 0.0)}),
  ):
    with pytest.raises(InputError, match="body centres of vertebrae"):
      lml.write_lml(tmp_path / "x.lml", points, GRID)
  assert not (tmp_path / "x.lml").exists()
