# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Lesion tables: BLDS boxes to RAS+, our own file both ways, and refusals."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.io import lesions
from vf_jax.io.lesions import AnnotatedLesion, LesionRecord

HEADER = "image_path,class,x,y,z,width,height,depth\n"
ROW = "1.nii.gz,osteoma,24.5,169.25,-547.5,14.5,12.25,11.0\n"


def save(folder, content, name="boxes.csv"):
  path = folder / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def test_blds_boxes_turn_to_ras(tmp_path):
  text = "\ufeff" + HEADER + ROW + "\n7.nii.gz,lytic,-1,2,3,4,5,6\r\n"
  assert lesions.read_blds(save(tmp_path, text)) == {
    "1.nii.gz": (
      AnnotatedLesion((-24.5, -169.25, -547.5), (14.5, 12.25, 11.0), "osteoma"),
    ),
    "7.nii.gz": (AnnotatedLesion((1.0, -2.0, 3.0), (4.0, 5.0, 6.0), "lytic"),),
  }


def test_blds_boxes_of_one_image_stay_together(tmp_path):
  other = ROW.replace("24.5", "30")
  boxes = lesions.read_blds(save(tmp_path, HEADER + ROW + other))
  assert [box.centre_mm[0] for box in boxes["1.nii.gz"]] == [-24.5, -30.0]


def test_blds_repeated_box_is_dropped_with_a_warning(tmp_path):
  path = save(tmp_path, HEADER + ROW + ROW)
  with pytest.warns(InputWarning, match="line 3 repeats"):
    boxes = lesions.read_blds(path)
  assert len(boxes["1.nii.gz"]) == 1


def test_blds_header_alone_is_valid(tmp_path):
  assert lesions.read_blds(save(tmp_path, HEADER)) == {}


def test_blds_columns_may_be_in_another_order(tmp_path):
  text = "depth,height,width, z,y,x,class,image_path,note\n"
  text += "6,5,4,3,2,-1,lytic,a/7.nii.gz,hello\n"
  boxes = lesions.read_blds(save(tmp_path, text))
  assert boxes["a/7.nii.gz"][0].size_mm == (4.0, 5.0, 6.0)


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ("", "lacks the columns image_path"),
    ("a,b\n1,2\n", "lacks the columns"),
    (HEADER.replace("depth", "depth,x") + ROW, "names a column twice"),
    (HEADER + ROW + ROW.replace("-547.5", "north"), "line 3: z is 'north'"),
    (HEADER + ROW.replace("-547.5", "nan"), "line 2: z is 'nan'"),
    (HEADER + ROW.replace("-547.5", "1e999"), "line 2: z is '1e999'"),
    (HEADER + ROW.replace("-547.5", ""), "line 2: z is ''"),
    (HEADER + ROW.replace("12.25", "0"), "line 2: .* has no volume"),
    (HEADER + ROW.replace("12.25", "-3"), "line 2: .* has no volume"),
    (HEADER + "1.nii.gz,osteoma,1,2\n", "line 2 has more or fewer"),
    (HEADER + ROW.strip() + ",9\n", "line 2 has more or fewer"),
    (HEADER + ROW.replace("1.nii.gz", ""), "not inside the data's folder"),
    (HEADER + ROW.replace("1.nii.gz", "../1.nii"), "not inside"),
    (HEADER + ROW.replace("1.nii.gz", "/etc/passwd"), "not inside"),
    (HEADER + '1.nii.gz,"open', "after line 1: "),
    ('"open', "line 1: "),
    ((HEADER + ROW).encode("utf-16"), "not UTF-8"),
  ],
)
def test_blds_faults_are_refused(tmp_path, content, match):
  path = save(tmp_path, content)
  with pytest.raises(InputError, match=match) as caught:
    lesions.read_blds(path)
  assert caught.value.source == str(path)
  assert caught.value.fix


FOUND = (
  LesionRecord((1.25, -2.5, 300.125), (10.0, 11.0, 12.5), 0.875, "T13", 0.25),
  LesionRecord((0.0, 0.0, 0.0), (5.0, 5.0, 5.0), 0.0, None),
)


def test_lesions_round_trip(tmp_path):
  path = tmp_path / "case_lesions.json"
  lesions.write_lesions(path, iter(FOUND))
  assert lesions.read_lesions(path) == FOUND
  content = json.loads(path.read_text())
  assert (content["frame"], content["units"]) == ("world, RAS+", "mm")
  assert content["lesions"][0] == {
    "centre_mm": [1.25, -2.5, 300.125],
    "size_mm": [10.0, 11.0, 12.5],
    "score": 0.875,
    "level": "T13",
    "share_of_vertebra": 0.25,
  }
  assert [p.name for p in tmp_path.iterdir()] == ["case_lesions.json"]
  lesions.write_lesions(path, ())
  assert lesions.read_lesions(path) == ()


def test_any_record_with_the_fields_can_be_written(tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Other:
    centre_mm: tuple[float, float, float] = (1.0, 2.0, 3.0)
    size_mm: tuple[float, float, float] = (4.0, 5.0, 6.0)
    score: float = 1.0
    level: str | None = "l3"
    share: float | None = 0.5

  path = tmp_path / "x_lesions.json"
  lesions.write_lesions(path, [Other()])
  (found,) = lesions.read_lesions(path)
  assert dataclasses.astuple(found) == ((1, 2, 3), (4, 5, 6), 1.0, "L3", 0.5)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"centre_mm": (float("nan"), 0.0, 0.0)}, "lesion 1: centre_mm"),
    ({"size_mm": (1.0, float("inf"), 1.0)}, "lesion 1: size_mm"),
    ({"size_mm": (1.0, 0.0, 1.0)}, "lesion 1: .* no volume"),
    ({"score": 1.5}, "lesion 1: score 1.5"),
    ({"score": float("nan")}, "lesion 1: score nan"),
    ({"level": "T14"}, "no vertebra level 'T14'"),
  ],
)
def test_lesions_that_cannot_be_read_back_are_not_written(
  tmp_path, change, match
):
  path = tmp_path / "case_lesions.json"
  bad = dataclasses.replace(FOUND[0], **change)
  with pytest.raises(InputError, match=match):
    lesions.write_lesions(path, [FOUND[1], bad])
  assert list(tmp_path.iterdir()) == []


def content(**changes):
  lesion = {"centre_mm": [1, 2, 3], "size_mm": [1, 1, 1], "score": 1}
  lesion = lesion | {"level": None} | changes.pop("lesion", {})
  head = {"format": "vf_jax lesions", "version": 1, "frame": "world, RAS+"}
  return head | {"units": "mm", "lesions": [lesion]} | changes


@pytest.mark.parametrize(
  ("data", "match"),
  [
    ("", "not JSON"),
    ([], "no list of lesions"),
    (content(lesions=None), "no list of lesions"),
    (content(frame="LPS+"), "says frame 'LPS"),
    (content(units="cm"), "says units 'cm'"),
    (content(version=2), "says version 2"),
    (content(lesions=[3]), "lesion 0 lacks centre_mm"),
    (content(lesion={"score": "high"}), "score 'high'"),
    (content(lesion={"score": True}), "score True"),
    (content(lesion={"centre_mm": [1, 2]}), "centre_mm is .1, 2."),
    (content(lesion={"centre_mm": [1, 2, 10**400]}), "three finite"),
    (content(lesion={"size_mm": [1, 2, float("nan")]}), "three finite"),
    (content(lesion={"size_mm": [1, -2, 3]}), "no volume"),
    (content(lesion={"level": 22}), "neither a name nor null"),
    (content(lesion={"level": "Q1"}), "no vertebra level 'Q1'"),
  ],
)
def test_malformed_lesion_files_are_refused(tmp_path, data, match):
  text = data if isinstance(data, str) else json.dumps(data)
  path = save(tmp_path, text, "case_lesions.json")
  with pytest.raises(InputError, match=match) as caught:
    lesions.read_lesions(path)
  assert caught.value.source == str(path)
  assert caught.value.fix


@pytest.mark.parametrize("read", [lesions.read_blds, lesions.read_lesions])
def test_missing_files_are_refused(tmp_path, read):
  with pytest.raises(InputError, match="cannot be read"):
    read(tmp_path / "none")
