# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.io.centroids import read_centroids
from vf_jax.multispine.sources import find_cases, recognise
from vf_jax.volume import Grid

POINTS = [{"direction": ["P", "I", "R"]}, {"label": 20, "X": 1, "Y": 2, "Z": 3}]
TRAIN = "dataset-verse19training"


def subject_tree(scan, root=TRAIN, subject=None):
  subject = subject or scan.split("_")[0]
  raw, made = f"{root}/rawdata/{subject}", f"{root}/derivatives/{subject}"
  return [f"{raw}/{scan}_ct.nii.gz", f"{made}/{scan}_seg-vert_msk.nii.gz"], {
    f"{made}/{scan}_seg-subreg_ctd.json": POINTS
  }


def test_a_subject_tree(make_tree, by_name):
  files, tables = subject_tree("sub-verse004")
  more, points = subject_tree("sub-verse401_split-verse201")
  facts = {
    f"{TRAIN}/rawdata/sub-verse004/sub-verse004_ct.json": {
      "dataset": "VERSE  - DOI 10.17605/OSF.IO/NQJYW",
      "KVP": "120",
      "Manufacturer": "Philips",
    }
  }
  root = make_tree(*files, *more, tables=tables | points | facts)
  assert recognise(root) == "verse"
  cases = by_name(find_cases("verse", root))
  assert list(cases) == ["sub-verse004", "sub-verse401_split-verse201"]
  case = cases["sub-verse004"]
  assert case.image == root / files[0]
  assert case.mask.path == root / files[1]
  assert case.mask.scheme == "verse"
  assert (case.centroids.format, case.centroids.kind) == ("voxel", None)
  assert case.annotates == {"masks", "levels"}, "cut vertebrae are not drawn"
  assert (case.split, case.mask_kind, case.seed) == ("train", "expert", 4)
  assert case.scanner == {"kvp": "120", "manufacturer": "Philips"}
  assert "NQJYW" in case.origin
  assert "CC BY-SA" in case.licence
  split = cases["sub-verse401_split-verse201"]
  assert (split.subject, split.series) == ("sub-verse401", "split-verse201")


@pytest.mark.parametrize(
  "below",
  [
    "",
    TRAIN,
    f"{TRAIN}/rawdata",
    f"{TRAIN}/derivatives",
    f"{TRAIN}/rawdata/sub-verse004",
    f"{TRAIN}/derivatives/sub-verse004",
  ],
)
def test_any_part_of_the_tree_may_be_named(make_tree, below):
  files, tables = subject_tree("sub-verse004")
  root = make_tree(*files, tables=tables)
  assert recognise(root / below) == "verse"
  (case,) = find_cases("verse", root / below)
  assert case.image == root / files[0]
  assert case.centroids is not None
  assert case.split == "train"


def test_one_subject_named_is_one_case(make_tree):
  files, tables = subject_tree("sub-verse004")
  more, points = subject_tree("sub-verse005")
  root = make_tree(*files, *more, tables=tables | points)
  (case,) = find_cases("verse", root / f"{TRAIN}/rawdata/sub-verse005")
  assert case.name == "sub-verse005"


@pytest.mark.parametrize(
  "folders",
  [
    (
      "rawdata/01_training/sub-verse500",
      "derivatives/01_training/sub-verse500",
    ),
    ("ct/01_training", "masks/01_training"),
    ("images", "labels"),
    ("", ""),
    ("wrap/wrap/sub-verse500", "wrap/wrap/sub-verse500"),
  ],
)
def test_sides_lie_wherever_they_like(make_tree, folders):
  raw, made = folders
  name = "sub-verse500_dir-ax"
  root = make_tree(
    f"{raw}/{name}_ct.nii.gz".lstrip("/"),
    f"{made}/{name}_seg-vert_msk.nii.gz".lstrip("/"),
    tables={f"{made}/{name}_seg-vb_ctd.json".lstrip("/"): POINTS},
  )
  (case,) = find_cases("verse", root)
  assert case.name == name
  assert case.image is not None
  assert case.mask is not None
  assert case.centroids is not None
  assert case.split == ("train" if "01_training" in raw else None)


def test_sides_with_the_same_scan_in_two_splits(make_tree):
  root = make_tree(
    *(
      f"{side}/{split}/sub-verse500_{end}.nii.gz"
      for split in ("train", "val")
      for side, end in (("ct", "ct"), ("seg", "seg-vert_msk"))
    )
  )
  with pytest.warns(InputWarning, match="lies in another folder too"):
    cases = find_cases("verse", root)
  assert {case.split for case in cases} == {"train", "validation"}
  for case in cases:
    assert case.image.parent.name == case.mask.path.parent.name
  assert len({case.name for case in cases}) == 2


def test_two_copies_of_two_sides(make_tree):
  root = make_tree(
    *(
      f"{copy}/{side}/sub-verse500_{end}.nii.gz"
      for copy in ("one", "two")
      for side, end in (("ct", "ct"), ("seg", "seg-vert_msk"))
    )
  )
  with pytest.warns(InputWarning, match="lies in another folder too"):
    cases = find_cases("verse", root)
  assert len(cases) == 2
  for case in cases:
    assert case.image.parent.parent == case.mask.path.parent.parent


def test_a_mask_without_its_image_is_a_case(make_tree):
  files, tables = subject_tree("sub-verse004")
  (case,) = find_cases("verse", make_tree(files[1], tables=tables))
  assert case.image is None
  assert case.annotates == {"masks", "levels"}


def test_an_image_with_points_teaches_levels(make_tree):
  files, tables = subject_tree("sub-verse004")
  (case,) = find_cases("verse", make_tree(files[0], tables=tables))
  assert case.annotates == {"levels"}
  assert case.mask_kind == "none"


def test_images_without_annotation_are_left_out(make_tree):
  files, _ = subject_tree("sub-verse004")
  more, _ = subject_tree("sub-verse005")
  root = make_tree(*files, more[0])
  with pytest.warns(InputWarning, match="1 left out.*sub-verse005_ct"):
    (case,) = find_cases("verse", root)
  assert case.centroids is None, "centres are derived from the mask"


def test_nothing_but_images_is_refused(make_tree):
  root = make_tree(subject_tree("sub-verse004")[0][0])
  assert recognise(root) == "verse"
  with (
    pytest.warns(InputWarning, match="left out"),
    pytest.raises(InputError, match="no annotated scan"),
  ):
    find_cases("verse", root)


def test_of_two_point_files_the_documented_one_is_taken(make_tree):
  files, tables = subject_tree("sub-verse004")
  other = files[1].replace("seg-vert_msk.nii.gz", "seg-vb_ctd.json")
  (case,) = find_cases("verse", make_tree(*files, tables=tables | {other: []}))
  assert case.centroids.path.name.endswith("seg-subreg_ctd.json")
  assert any("seg-vb_ctd.json" in note for note in case.notes)


def test_two_masks_of_one_scan_are_refused(make_tree):
  files, _ = subject_tree("sub-verse004")
  other = files[1].replace("derivatives", "derivatives-new")
  with pytest.raises(InputError, match="is not the only mask of its name"):
    find_cases("verse", make_tree(*files, other))


def test_names_that_differ_in_the_direction_only(make_tree):
  root = make_tree(
    "sub-verse505_ct.nii.gz", "sub-verse505_dir-ax_seg-vert_msk.nii.gz"
  )
  (case,) = find_cases("verse", root)
  assert case.image is not None
  assert case.mask is not None
  assert any("names differ" in note for note in case.notes)


def test_scans_of_one_patient_are_never_mixed(make_tree, by_name):
  root = make_tree(
    "sub-verse401_split-verse201_ct.nii.gz",
    "sub-verse401_split-verse253_seg-vert_msk.nii.gz",
  )
  with pytest.warns(InputWarning, match="split-verse201"):
    (case,) = find_cases("verse", root)
  assert case.image is None
  assert case.series == "split-verse253"


def test_gl_scans_say_what_is_doubtful(make_tree):
  files, tables = subject_tree("sub-gl003_dir-ax", "03_test")
  (case,) = find_cases("verse", make_tree(*files, tables=tables))
  assert "BY-NC-ND" in case.licence
  assert any("Glocker" in note for note in case.notes)
  assert case.split == "test"


def test_trees_in_the_format_do_not_borrow_the_licence(make_tree):
  files, tables = subject_tree("sub-sample001")
  (case,) = find_cases("verse", make_tree(*files, tables=tables))
  assert case.domain == "verse-format"
  assert case.licence == "unknown"


def test_challenge_trees(make_tree, by_name):
  root = make_tree(
    "01_training/verse512/verse512_CT-iso.nii.gz",
    "01_training/verse512/verse512_CT-iso_seg.nii.gz",
    "02_validation/GL124/GL124_CT_ax.nii.gz",
    "02_validation/GL124/GL124_CT_ax_seg.nii.gz",
    "old/verse201.nii.gz",
    "old/verse201_seg.nii.gz",
    tables={
      "01_training/verse512/verse512_CT-iso_iso-ctd.json": POINTS[1:],
      "02_validation/GL124/GL124_CT_ax-iso-ctd.json": POINTS[1:],
      "old/verse201_ctd.json": POINTS[1:],
    },
  )
  assert recognise(root) == "verse"
  cases = by_name(find_cases("verse", root))
  new = cases["miccai20-verse512_CT-iso"]
  assert (new.centroids.format, new.centroids.kind) == ("iso", "mask")
  assert (new.split, new.subject) == ("train", "sub-verse512")
  irregular = cases["miccai20-GL124_CT_ax"]
  assert irregular.centroids.format == "iso"
  assert irregular.subject == "sub-gl124"
  old = cases["miccai19-verse201"]
  assert (old.centroids.format, old.centroids.kind) == ("iso19", "body")
  assert old.subject == "sub-verse401", "one patient in both trees"
  assert any("orientation" in note for note in old.notes)


def test_a_direction_says_the_frame_whatever_the_name(make_tree):
  root = make_tree("verse004_seg.nii.gz", tables={"verse004_ctd.json": POINTS})
  (case,) = find_cases("verse", root)
  assert case.centroids.format == "voxel"


def test_a_broken_point_file_is_left_to_its_reader(make_tree):
  files, _ = subject_tree("sub-verse004")
  broken = files[1].replace("seg-vert_msk.nii.gz", "seg-subreg_ctd.json")
  (case,) = find_cases("verse", make_tree(*files, tables={broken: "{"}))
  assert case.centroids.format == "voxel"


def test_a_broken_side_car_is_said_and_passed_over(make_tree):
  files, tables = subject_tree("sub-verse004")
  facts = {files[0].replace(".nii.gz", ".json"): "no json"}
  root = make_tree(*files, tables=tables | facts)
  with pytest.warns(InputWarning, match="No scanner facts"):
    (case,) = find_cases("verse", root)
  assert case.scanner == {}


def test_points_of_three_releases_meet_in_the_world(make_tree, by_name):
  """One vertebra, written down as each release does, read by what is found."""
  affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS, 1 mm
  affine[:3, 3] = (40.0, 30.0, -90.0)
  grid = Grid((50, 60, 70), affine)
  voxel = np.array([[21.0, 17.0, 44.0]])
  left, back, up = voxel[0]
  size = np.array(grid.shape) - 1
  frames = {
    "sub-verse001_seg-subreg_ctd.json": (left, back, up),
    # PIR: A->P, S->I, L->R; IPL: S->I, A->P, R->L.
    "verse002_iso-ctd.json": (back, size[2] - up, size[0] - left),
    "verse003_ctd.json": (size[2] - up, back, left),
  }
  tables = {}
  for name, values in frames.items():
    point = {"label": 28} | dict(zip("XYZ", map(float, values)))
    head = [{"direction": ["L", "P", "S"]}] if "subreg" in name else []
    tables[name] = [*head, point]
  root = make_tree(
    "sub-verse001_seg-vert_msk.nii.gz",
    "verse002_seg.nii.gz",
    "verse003_seg.nii.gz",
    tables=tables,
  )
  expected = grid.to_world(voxel)[0]
  found = find_cases("verse", root)
  assert len(found) == 3
  kinds = set()
  for case in found:
    read = read_centroids(
      case.centroids.path,
      grid,
      frame=case.centroids.format,
      kind=case.centroids.kind,
    )
    (level,) = read.levels
    assert level.name == "T13"
    np.testing.assert_allclose(read.points_mm[0], expected, atol=1e-9)
    kinds.add((case.centroids.format, read.kind))
  assert kinds == {("voxel", "body"), ("iso", "mask"), ("iso19", "body")}


def test_the_order_of_files_changes_nothing(make_tree):
  names = list(
    itertools.chain(*(subject_tree(f"sub-verse{i}")[0] for i in "789"))
  )
  root = make_tree(*names)
  first = find_cases("verse", root)
  for name in names:
    (root / name).unlink()
  make_tree(*reversed(names))
  assert find_cases("verse", root) == first
