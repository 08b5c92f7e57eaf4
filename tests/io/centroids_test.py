# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Centroid files: the three frames, the way back, and what is refused."""

from __future__ import annotations

import itertools
import json
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vf_jax.errors import InputError, InputWarning
from vf_jax.io.centroids import Centroids, read_centroids, write_centroids
from vf_jax.labels import BY_CODE, BY_NAME
from vf_jax.volume import Grid

SPACING = (0.5, 2.0, 1.25)
POINTS = [
  {"label": 19, "X": 10.5, "Y": 3.25, "Z": 20.0},
  {"label": 28, "X": 12.0, "Y": 12.5, "Z": 21.0},
  {"label": 20, "X": 14.0, "Y": 24.0, "Z": 22.5},
]


def oblique(codes="PIR", shape=(40, 30, 50), spacing=SPACING, turn_deg=9.0):
  """A grid with the given axis codes, turned about an odd axis."""
  start = nib.orientations.axcodes2ornt(codes)
  matrix = np.zeros((3, 3))
  for axis, (world, sign) in enumerate(start):
    matrix[int(world), axis] = sign * spacing[axis]
  turn = Rotation.from_rotvec(np.deg2rad(turn_deg) * np.array([0.6, 0.5, 0.62]))
  affine = np.eye(4)
  affine[:3, :3] = turn.as_matrix() @ matrix
  affine[:3, 3] = (-70.0, 210.5, -808.25)
  return Grid(shape, affine)


def save(folder, items):
  path = folder / "case_ctd.json"
  if not isinstance(items, str | bytes):
    items = json.dumps(items)
  path.write_bytes(items.encode() if isinstance(items, str) else items)
  return path


def with_direction(codes, points=POINTS):
  return [{"direction": list(codes)}, *points]


def columns(points):
  return np.array([[p["X"], p["Y"], p["Z"]] for p in points], np.float64)


@pytest.mark.parametrize("codes", ["PIR", "PSR", "RAS", "LIP"])
def test_voxel_frame_goes_through_the_affine(tmp_path, codes):
  grid = oblique(codes)
  path = save(tmp_path, with_direction(codes, POINTS[1:2]))
  result = read_centroids(path, grid)
  expected = grid.affine @ [12.0, 12.5, 21.0, 1.0]
  np.testing.assert_allclose(result.positions[BY_NAME["T13"]], expected[:3])
  assert (result.kind, result.warnings) == ("body", ())


def phantom(grid):
  """A label mask of a ball about each of the points."""
  where = np.stack(np.indices(grid.shape), axis=-1) * grid.spacing
  mask = np.zeros(grid.shape, np.uint8)
  centres = columns(POINTS)
  for point, centre in zip(POINTS, centres, strict=True):
    far = np.linalg.norm(where - centre * grid.spacing, axis=-1)
    mask[far < 4.5] = point["label"]
  return mask


@pytest.mark.parametrize("codes", ["PIR", "RSA", "LSP"])
def test_points_fall_in_their_own_label(tmp_path, codes):
  grid = oblique("PIR")
  mask = phantom(grid)
  # The same scan, stored with other axes: the points must follow by world.
  image = nib.Nifti1Image(mask, grid.affine)
  ornt = nib.orientations.ornt_transform(
    nib.orientations.io_orientation(grid.affine),
    nib.orientations.axcodes2ornt(codes),
  )
  turned = image.as_reoriented(ornt)
  path = save(tmp_path, with_direction("PIR"))
  stored = Grid(turned.shape, turned.affine)
  if codes == "PIR":
    result = read_centroids(path, stored)
  else:
    with pytest.warns(InputWarning, match="direction PIR is unlike"):
      result = read_centroids(path, stored)
    assert "turned" in result.warnings[0]
  voxels = np.rint(stored.to_voxel(result.points_mm)).astype(int)
  labels = np.asarray(turned.dataobj)[tuple(voxels.T)]
  assert labels.tolist() == [v.code for v in result.levels]
  first = read_centroids(path, grid)
  np.testing.assert_allclose(result.points_mm, first.points_mm, atol=1e-9)


@pytest.mark.parametrize("stored", ["PIR", "RAS", "LPS"])
@pytest.mark.parametrize(("frame", "axes"), [("iso", "PIR"), ("iso19", "IPL")])
def test_challenge_frames(tmp_path, stored, frame, axes):
  """Against nibabel: turned to the frame's axes, centre of mass times zooms."""
  grid = oblique("PIR")
  image = nib.Nifti1Image(phantom(grid), grid.affine)

  def turn(codes):
    return image.as_reoriented(
      nib.orientations.ornt_transform(
        nib.orientations.io_orientation(grid.affine),
        nib.orientations.axcodes2ornt(codes),
      )
    )

  framed = turn(axes)
  zooms = nib.affines.voxel_sizes(framed.affine)
  data = np.asarray(framed.dataobj)
  items, world = [], []
  for label in (19, 28, 20):
    centre = np.array(ndimage.center_of_mass(data == label))
    x, y, z = (centre * zooms).tolist()
    items.append({"label": label, "X": x, "Y": y, "Z": z})
    world.append(nib.affines.apply_affine(framed.affine, centre))
  image = turn(stored)
  result = read_centroids(
    save(tmp_path, items), Grid(image.shape, image.affine), frame=frame
  )
  np.testing.assert_allclose(result.points_mm, world, atol=1e-9)
  assert result.kind == {"iso": "mask", "iso19": "body"}[frame]


grids = st.builds(
  oblique,
  st.sampled_from(
    [
      "".join(codes)
      for axes in itertools.permutations(("RL", "AP", "SI"))
      for codes in itertools.product(*axes)
    ]
  ),
  st.tuples(*[st.integers(1, 700)] * 3),
  st.tuples(*[st.floats(0.2, 6.0)] * 3),
  st.floats(-44.0, 44.0),
)


@settings(max_examples=60, deadline=None, database=None)
@given(grids, st.data(), st.sampled_from(["body", "mask"]))
def test_round_trip_on_any_grid(tmp_path_factory, grid, data, kind):
  unit = st.floats(-0.5, 1.0)
  levels = data.draw(st.sets(st.sampled_from(list(BY_CODE.values()))))
  points = {}
  for level in levels:
    at = np.array([data.draw(unit) for _ in range(3)])
    voxel = np.clip(at * grid.shape, -0.5, np.array(grid.shape) - 0.5)
    points[level] = tuple(grid.to_world(voxel[None])[0].tolist())
  before = Centroids(points, kind)
  path = tmp_path_factory.mktemp("trip") / "a_ctd.json"
  write_centroids(path, before, grid)
  assert json.loads(path.read_text())[0]["direction"] == list(grid.axis_codes)
  with warnings.catch_warnings():  # points at random run head to foot or not
    warnings.simplefilter("ignore", InputWarning)
    after = read_centroids(path, grid)
  assert after.levels == before.levels
  assert after.kind == kind
  # Half of the fourth decimal of a voxel on each axis.
  bound = 0.5001e-4 * np.linalg.norm(grid.spacing) + 1e-9
  gaps = np.linalg.norm(after.points_mm - before.points_mm, axis=1)
  assert (gaps <= bound).all()


def test_written_file_is_verse(tmp_path):
  grid = oblique("PSR")
  path = tmp_path / "new_ctd.json"
  point = grid.to_world(np.array([[10.0, 20.0, 5.0]]))[0]
  write_centroids(path, Centroids({BY_NAME["T13"]: tuple(point)}), grid)
  assert json.loads(path.read_text()) == [
    {"direction": ["P", "S", "R"]},
    {"label": 28, "X": 10.0, "Y": 20.0, "Z": 5.0},
  ]
  assert [p.name for p in tmp_path.iterdir()] == ["new_ctd.json"]


def test_centroids_are_in_anatomical_order_and_finite():
  point = (1.0, 2.0, 3.0)
  made = Centroids({BY_NAME[n]: point for n in ("L1", "sacrum", "T13", "T12")})
  assert [v.name for v in made.levels] == ["T12", "T13", "L1", "sacrum"]
  assert made.points_mm.shape == (4, 3)
  assert Centroids({}).points_mm.shape == (0, 3)
  with pytest.raises(InputError, match="L1 is at"):
    Centroids({BY_NAME["L1"]: (1.0, float("nan"), 0.0)})


def test_only_a_direction_is_valid_and_empty(tmp_path):
  result = read_centroids(save(tmp_path, with_direction("PIR", [])), oblique())
  assert not result.positions


@pytest.mark.parametrize(
  "bad", ["NaN", "Infinity", "-Infinity", "1e999", "null", '"nan"']
)
def test_nan_entries_are_skipped_with_a_warning(tmp_path, bad):
  text = json.dumps(with_direction("PIR")).replace("12.0", bad)
  with pytest.warns(InputWarning, match="T13.* holds NaN or infinity"):
    result = read_centroids(save(tmp_path, text), oblique())
  assert [v.name for v in result.levels] == ["T12", "L1"]
  assert len(result.warnings) == 1


def test_coccyx_is_skipped_with_a_warning(tmp_path):
  points = [*POINTS, {"label": 27, "X": 1, "Y": 1, "Z": 1}]
  with pytest.warns(InputWarning, match="item 4 is coccyx, no vertebra"):
    result = read_centroids(
      save(tmp_path, with_direction("PIR", points)), oblique()
    )
  assert len(result.levels) == 3


def test_a_file_without_a_direction_is_told_what_to_set(tmp_path):
  with pytest.raises(InputError, match=r"centroid_format: iso.* cohort"):
    read_centroids(save(tmp_path, POINTS), oblique())


@pytest.mark.parametrize(
  "direction",
  [["P", "A", "R"], ["P", "I"], ["X", "I", "R"], "PIR", [1, 2, 3], [], {}],
)
def test_invalid_directions_are_refused(tmp_path, direction):
  path = save(tmp_path, [{"direction": direction}, *POINTS])
  with pytest.raises(InputError, match="three different axes"):
    read_centroids(path, oblique())


def point(**changes):
  return with_direction("PIR", [POINTS[0] | changes])


@pytest.mark.parametrize(
  ("items", "match"),
  [
    ([], "empty list"),
    ("", "not JSON"),
    ("[{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("3", "no JSON list"),
    ("null", "no JSON list"),
    (b"\xff\xfe[\x00]\x00", "not UTF-8"),
    ("version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    (" " * (1 << 20) + "[]", "over 1 MiB"),
    ([["P", "I", "R"]], "item 0 is .*, not an object"),
    ([*with_direction("PIR"), {"direction": ["P", "I", "R"]}], "after the"),
    (with_direction("PIR", [*POINTS, POINTS[0]]), "second point of T12"),
    (with_direction("PIR", [{"label": 19, "X": 1}]), "lacks Y, Z"),
    (point(X="10"), "X is '10', not a number"),
    (point(X=True), "X is True, not a number"),
    (point(Y=[1]), "Y is .1., not a number"),
    (point(label="T12"), "label is 'T12', not a number"),
    (point(label=29), "label 29, no VerSe level"),
    (point(label=0), "label 0, no VerSe level"),
    (point(label=19.5), "label 19.5, no VerSe level"),
    (point(label=-19), "label -19, no VerSe level"),
    (point(label=50 * 256 + 19), "TPTBox sub-region point"),
    ({"T12": {"50": [1, 2, 3]}}, "one JSON object"),
    (
      [{"direction": ["P", "I", "R"], "format": "POI"}, {"T12": {"50": [1]}}],
      "TPTBox point file",
    ),
    ([{"coordinate_system": "nib"}, {"19": {"50": [1]}}], "TPTBox point file"),
    (with_direction("PIR", [{"19": {"50": [1, 2, 3]}}]), "TPTBox point file"),
    ([{"vert_label": "8", "85": "(1, 2, 3)"}], "TPTBox point file"),
    (
      [{"direction": ["P", "I", "R"], "shape": [40, 30, 51]}, *POINTS],
      "image of shape",
    ),
  ],
)
def test_other_files_are_refused(tmp_path, items, match):
  path = save(tmp_path, items)
  with pytest.raises(InputError, match=match) as caught:
    read_centroids(path, oblique())
  assert caught.value.source == str(path)
  assert caught.value.fix


def test_missing_file_and_folder_are_refused(tmp_path):
  for path in (tmp_path / "none_ctd.json", tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
      read_centroids(path, oblique())


def test_byte_order_mark_is_read(tmp_path):
  path = save(tmp_path, b"\xef\xbb\xbf" + json.dumps(POINTS).encode())
  assert read_centroids(path, oblique(), frame="iso").positions


def test_a_point_slightly_outside_is_kept_with_a_warning(tmp_path):
  path = save(tmp_path, point(X=-3.0))
  with pytest.warns(InputWarning, match=r"T12 lies 1\.2 mm outside"):
    result = read_centroids(path, oblique())
  assert len(result.levels) == 1


@pytest.mark.parametrize(
  "points",
  [
    [p | {"Z": p["Z"] + 31} for p in POINTS],  # most of them a little
    [POINTS[0], POINTS[1], POINTS[2] | {"Y": 40.0}],  # one by far
  ],
)
def test_points_outside_mean_another_frame(tmp_path, points):
  path = save(tmp_path, with_direction("PIR", points))
  with pytest.raises(InputError, match=r"another frame.* iso or iso19 in a"):
    read_centroids(path, oblique())


def test_upside_down_spine_is_told(tmp_path):
  points = [p | {"Y": 29 - p["Y"]} for p in POINTS]
  path = save(tmp_path, with_direction("PIR", points))
  with pytest.warns(InputWarning, match="T12 lies below L1"):
    read_centroids(path, oblique())


def test_iso_frame_refuses_a_file_with_another_direction(tmp_path):
  path = save(tmp_path, with_direction("RAS"))
  with pytest.raises(InputError, match="centroid_format: voxel"):
    read_centroids(path, oblique(), frame="iso")


def test_kind_can_be_stated(tmp_path):
  path = save(tmp_path, with_direction("PIR"))
  assert read_centroids(path, oblique(), kind="mask").kind == "mask"
