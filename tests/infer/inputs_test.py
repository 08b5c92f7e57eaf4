# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which cases files, folders and lists mean."""

from __future__ import annotations

import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest

from vf_jax.errors import ConfigError, InputError
from vf_jax.infer.inputs import find_cases, read_list, take_shard
from vf_jax.io.dicom_files import list_files


def touch(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def dicom(path, study, kind=pydicom.uid.CTImageStorage):
  """A file that names an examination and nothing else."""
  path.parent.mkdir(parents=True, exist_ok=True)
  dataset = pydicom.Dataset()
  dataset.file_meta = pydicom.dataset.FileMetaDataset()
  dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  dataset.file_meta.MediaStorageSOPClassUID = kind
  dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
  dataset.StudyInstanceUID = study
  pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def names(*paths, **options):
  return {case.name: str(case.path) for case in find_cases(paths, **options)}


def test_files_are_cases_in_their_order_and_once(tmp_path):
  touch(tmp_path, "b_ct.nii.gz", "a.mha", "c.zip")
  paths = [tmp_path / name for name in ("b_ct.nii.gz", "a.mha", "c.zip")]
  again = f"{tmp_path}/./b_ct.nii.gz"
  assert [c.name for c in find_cases([*paths, again])] == ["b", "a", "c"]


def test_a_bids_tree_without_its_masks(tmp_path):
  touch(
    tmp_path,
    "rawdata/sub-2/sub-2_ct.nii.gz",
    "rawdata/sub-1/sub-1_ct.nii.gz",
    "derivatives/sub-1/sub-1_seg-vert_msk.nii.gz",
    "derivatives/sub-1/sub-1_seg-vb_ctd.json",
    "labelsTr/sub-1.nii.gz",
    "rawdata/sub-1/sub-1_label.nii",
    "rawdata/.hidden/x.nii",
    "README.md",
  )
  said = []
  found = names(tmp_path, say=said.append)
  assert list(found) == ["sub-1", "sub-2"]
  (line,) = said
  assert "3 files passed over as masks" in line


def test_a_folder_of_masks_is_one_with_all_below_it(tmp_path):
  touch(
    tmp_path,
    "rawdata/sub-1/sub-1_ct.nii.gz",
    "derivatives/atlas/sub-1/sub-1_desc-spine.nii.gz",
    "Masks/a/b.mha",
  )
  said = []
  assert list(names(tmp_path, say=said.append)) == ["sub-1"]
  assert "2 files passed over as masks" in said[0]
  # Whoever names such a folder means what is in it.
  below = names(tmp_path / "derivatives")
  assert list(below) == ["sub-1_desc-spine"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
  touch(tmp_path, "a.nii", "closed/b.nii", ".trash/c.nii", "lost+found/d")
  scandir = os.scandir

  def deny(path):
    # Whoever runs the tests as root may read anything.
    if os.path.basename(path) in ("closed", ".trash", "lost+found"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    if os.path.basename(path) == "gone":
      raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", deny)
  with pytest.raises(InputError, match="closed: cannot be read: permission"):
    find_cases([tmp_path])
  touch(tmp_path, ".other/c.nii")
  case, other = find_cases([tmp_path, tmp_path / ".other"])
  assert "closed: cannot be read: permission" in str(case.refusal)
  assert (other.name, other.refusal) == ("c", None)
  (tmp_path / "closed").rename(tmp_path / "gone")
  assert list(names(tmp_path)) == ["a"]


def test_equal_file_names_take_the_folders_name(tmp_path):
  touch(
    tmp_path, "s01/ct.nii.gz", "s02/ct.nii.gz", "s02/old/ct.nii.gz", "x.nii"
  )
  assert list(names(tmp_path)) == ["s01", "s02", "s02_old", "x"]


def test_equal_names_of_several_inputs_take_the_folders_name(
  tmp_path, monkeypatch
):
  touch(tmp_path, "s1/ct.nii.gz", "s2/ct.nii.gz", "x.nii", ".s3/CT.mha")
  monkeypatch.chdir(tmp_path)
  assert list(names("s1", "s2", "x.nii")) == ["s1", "s2", "x"]
  files = ("s1/ct.nii.gz", tmp_path / "s2/ct.nii.gz", ".s3/CT.mha")
  assert list(names(*files)) == ["s1", "s2", "s3_CT"]
  touch(tmp_path, "a/s1/ct.nii", "a/s2/ct.nii", "b/s1/ct.nii", "b/s3/ct.nii")
  assert list(names("a", "b")) == ["a_s1", "s2", "b_s1", "s3"]


def test_results_of_a_run_are_no_input(tmp_path):
  touch(tmp_path, "a.nii", "out/a/a.nii", "out/a/a_seg.dcm")
  (tmp_path / "out" / "a" / "run.json").write_text('{"request": {}}')
  assert list(names(tmp_path)) == ["a"]


@pytest.mark.parametrize("content", ["", "[1]", '{"epochs": 3}'])
def test_a_scan_beside_another_run_json_is_a_case(tmp_path, content):
  touch(tmp_path, "a.nii", "b/b.nii")
  for folder in (tmp_path, tmp_path / "b"):
    (folder / "run.json").write_text(content)
  assert list(names(tmp_path)) == ["a", "b"]


def test_a_dicom_examination_is_one_case_whatever_its_folders(tmp_path):
  for path in ("A/S1/1", "A/S1/2", "A/S2/1"):
    dicom(tmp_path / path, "1.1")
  assert names(tmp_path / "A") == {"A": str(tmp_path / "A")}


def test_a_folder_of_dicom_examinations(tmp_path):
  dicom(tmp_path / "p1/study/S1/1", "1.1")
  dicom(tmp_path / "p1/study/S2/1", "1.1")
  dicom(tmp_path / "p2/DICOM/1", "1.2")
  touch(tmp_path, "p2/DICOM/notes.txt", "p3.nii.gz")
  assert names(tmp_path) == {
    "p1": str(tmp_path / "p1"),
    "p2": str(tmp_path / "p2"),
    "p3": str(tmp_path / "p3.nii.gz"),
  }
  assert list(names(tmp_path, one_each=True)) == [tmp_path.name]


@pytest.mark.parametrize("beside", ["{:05d}.jpg", "{:05d}"])
def test_a_study_behind_many_previews_is_a_case(tmp_path, beside):
  for number in (1, 2):
    touch(tmp_path / f"p{number}", *(beside.format(n) for n in range(30)))
    dicom(tmp_path / f"p{number}" / "IM1", f"1.{number}")
  assert list(names(tmp_path)) == ["p1", "p2"]


@pytest.mark.parametrize("studies", [("1.1", "1.2"), ("1.1", "1.1")])
def test_the_contents_of_a_disc_are_no_study(tmp_path, studies):
  disc = tmp_path / "disc"
  dicom(disc / "DICOMDIR", "", pydicom.uid.MediaStorageDirectoryStorage)
  for number, study in enumerate(studies, 1):
    dicom(disc / f"DICOM/ST{number}/IM1", study)
  several = len(set(studies)) > 1
  assert list(names(disc)) == (["ST1", "ST2"] if several else ["disc"])


def test_pictures_and_texts_are_not_opened(tmp_path, monkeypatch):
  touch(tmp_path, "a.JPG", "b.txt")
  dicom(tmp_path / "IM1", "1.1")
  dicom(tmp_path / "IM2", "1.1")
  opened, plain = [], pathlib.Path.open

  def watched(self, *args, **options):
    opened.append(self.name)
    return plain(self, *args, **options)

  monkeypatch.setattr(pathlib.Path, "open", watched)
  assert list(names(tmp_path)) == [tmp_path.name]
  assert opened == ["IM1"]


def test_a_named_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "IM0")
  dicom(tmp_path / "IM1", "1.1")
  with ThreadPoolExecutor(1) as pool:
    search = pool.submit(names, tmp_path)
    try:
      assert list(search.result(timeout=20)) == [tmp_path.name]
    finally:  # lets go of whoever waits
      os.close(os.open(tmp_path / "IM0", os.O_RDWR | os.O_NONBLOCK))


def test_examinations_in_one_folder_are_told_apart_by_series(tmp_path):
  dicom(tmp_path / "top/1", "1.1")
  dicom(tmp_path / "top/below/1", "1.2")
  assert list(names(tmp_path / "top")) == ["top"]


def test_an_examination_inside_another_costs_no_one_else(tmp_path):
  for number in (1, 2, 3, 4):
    dicom(tmp_path / f"coh/p{number}/S/1", f"1.{number}")
  dicom(tmp_path / "coh/p3/1", "1.3")
  dicom(tmp_path / "coh/p3/prior/1", "1.9")
  dicom(tmp_path / "coh/p3/prior/older/1", "1.10")
  assert names(tmp_path / "coh") == {
    f"p{number}": str(tmp_path / f"coh/p{number}") for number in (1, 2, 3, 4)
  }


def test_examinations_without_uid_are_not_merged_over_folders(tmp_path):
  for path in ("p1/S1/1", "p2/S1/1", "p3/1"):
    dicom(tmp_path / path, "")
  (tmp_path / "p4").mkdir()
  (tmp_path / "p4" / "1").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
  assert list(names(tmp_path)) == ["p1", "p2", "p3", "p4"]


def test_links_are_followed_once(tmp_path):
  touch(tmp_path, "real/a.nii", "in/b.nii")
  (tmp_path / "in" / "linked").symlink_to(tmp_path / "real")
  (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
  (tmp_path / "real" / "up").symlink_to(tmp_path)
  assert list(names(tmp_path / "in")) == ["b", "a"]


def test_a_link_upwards_is_not_followed(tmp_path):
  touch(tmp_path, "in/a.nii", "in/.other/c.nii", "other/b.nii")
  (tmp_path / "in" / "up").symlink_to(tmp_path)
  assert list(names(tmp_path / "in")) == ["a"]


def test_a_linked_series_is_a_case_of_its_own(tmp_path):
  dicom(tmp_path / "archive/p1/1", "1.1")
  for path in ("archive/p2/1", "in/p2/S1/1"):
    dicom(tmp_path / path, "1.2")
  (tmp_path / "in" / "p1").mkdir()
  (tmp_path / "in" / "p1" / "ct").symlink_to(tmp_path / "archive" / "p1")
  (tmp_path / "in" / "p2" / "S2").symlink_to(tmp_path / "archive" / "p2")
  found = sorted(names(tmp_path / "in").values())
  assert [list_files(path) for path in found] == [
    [f"{tmp_path}/in/{path}/1"] for path in ("p1/ct", "p2/S1", "p2/S2")
  ]


def test_a_link_to_another_patient_changes_nothing(tmp_path):
  for number in (1, 2):
    dicom(tmp_path / f"p{number}/S1/1", f"1.{number}")
  (tmp_path / "p2" / "prior").symlink_to(tmp_path / "p1")
  found = names(tmp_path)
  assert list(found) == ["p1", "p2"]
  assert list_files(found["p2"]) == [f"{tmp_path}/p2/S1/1"]


def test_lists(tmp_path):
  touch(tmp_path, "scans/ä 1.nii", "-x.nii")
  text = "\ufeff# mine\n\nscans/ä 1.nii\r\n" + f"{tmp_path / '-x.nii'}\n"
  (tmp_path / "list.txt").write_text(text, "utf-8")
  found = read_list(tmp_path / "list.txt")
  assert list(names(*found)) == ["ä 1", "-x"]
  (tmp_path / "empty.txt").write_text("# nothing\n")
  with pytest.raises(ConfigError, match="lists nothing"):
    read_list(tmp_path / "empty.txt")


def test_what_holds_no_case_or_one_name_twice_is_refused(tmp_path):
  touch(tmp_path, "masks/a_seg.nii", "a/x_ct.nii.gz", "a/X.nii")
  with pytest.raises(InputError, match="holds no CT"):
    find_cases([tmp_path / "masks"])
  with pytest.raises(ConfigError, match=r"a/x_ct\.nii.*'x', as .*a/X\.nii"):
    find_cases([tmp_path / "a"])


def test_of_several_inputs_a_folder_without_a_ct_is_a_case(tmp_path):
  touch(tmp_path, "p1/a.nii", "p2/notes.nrrd", "p3/a_seg.nii", "p5/e.nii")
  (tmp_path / "p4").mkdir()
  cases = find_cases(sorted(tmp_path.iterdir()))
  assert [case.name for case in cases] == ["a", "p2", "p3", "p4", "e"]
  assert [case.refusal is None for case in cases] == [True, *[False] * 3, True]
  assert "p3: holds no CT" in str(cases[2].refusal)


def test_shards_take_every_case_once(tmp_path):
  touch(tmp_path, *(f"{n:02d}.nii" for n in range(11)))
  cases = find_cases([tmp_path])
  shares = [take_shard(cases, (number, 3)) for number in (1, 2, 3)]
  assert sorted(map(len, shares)) == [3, 4, 4]
  assert sorted(c.name for share in shares for c in share) == [
    case.name for case in cases
  ]
  assert take_shard(cases, (1, 1)) == cases
  assert take_shard(cases[:1], (2, 2)) == []


def test_names_that_are_no_text(tmp_path):
  path = os.path.join(os.fsencode(tmp_path), b"a\xff.nii")
  with open(path, "wb") as file:
    file.write(b"x")
  (case,) = find_cases([tmp_path])
  assert os.fsencode(case.path) == path


def test_a_name_that_no_disk_can_hold_is_left_to_the_run(tmp_path):
  assert list(names(tmp_path / ("a" * 300))) == ["a" * 300]
