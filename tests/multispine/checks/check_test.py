# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from drawn_spine import case, make_loaded, relabel, run

from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import BY_NAME, to_verse
from vf_jax.multispine.case import MaskFile
from vf_jax.multispine.checks.check import check
from vf_jax.volume import Volume, reorient

_CODES = run("T9", "L5")


def _code(name):
  return BY_NAME[name].code


@pytest.fixture(scope="module")
def sound():
  return make_loaded(_CODES)


def _kinds(loaded):
  return {(f.severity, f.code) for f in check(loaded)}


@pytest.mark.parametrize("axes", ["RAS", "PIR", "LPS"])
def test_a_sound_case_has_no_finding(axes):
  assert check(make_loaded(_CODES, axes)) == ()
  assert check(make_loaded(_CODES, axes, image=False)) == ()


def test_points_without_a_mask_are_checked(sound):
  alone = dataclasses.replace(sound, labels=None)
  assert check(alone) == ()
  points = {c: p for c, p in sound.centres.items() if c != _code("T12")}
  del points[_code("L1")]
  assert ("error", "gap") in _kinds(dataclasses.replace(alone, centres=points))


def test_a_fault_that_mask_and_points_share_is_told_once(sound):
  swap = {_code("T11"): _code("T12"), _code("T12"): _code("T11")}
  both = relabel(sound, swap)
  points = {swap.get(c, c): p for c, p in sound.centres.items()}
  found = check(dataclasses.replace(both, centres=points))
  assert [f.code for f in found if f.code == "order"] == ["order"]
  mask_only = {f.code for f in check(both)}
  assert {"order", "point_in_other"} <= mask_only


def test_errors_come_first_and_known_faults_and_readers_speak(sound):
  loaded = dataclasses.replace(
    sound,
    case=case(notes=("labels 14 and 15 are swapped.",), mask_kind="network"),
    warnings=("has no unit; mm assumed.",),
    image=Volume(sound.image.voxels + np.int16(1024), sound.image.affine),
  )
  found = [(f.severity, f.code) for f in check(loaded)]
  assert found == [
    ("error", "hounsfield"),
    ("warning", "known"),
    ("note", "reader"),
    ("note", "network_mask"),
  ]


def test_cut_vertebrae_are_listed_and_not_judged():
  loaded = make_loaded(_CODES, above_mm=0, below_mm=4)
  found = check(loaded)
  assert {f.severity for f in found} == {"note"}
  cut = next(f for f in found if f.code == "cut")
  assert cut.levels == ("T9", "L5")


def test_an_end_with_room_for_a_whole_vertebra():
  found = check(make_loaded(_CODES, above_mm=80))
  assert [(f.severity, f.code) for f in found] == [("warning", "open_end")]
  assert found[0].levels == ("T9",)


def test_a_wrong_header_hides_what_follows_from_it(sound):
  turned = reorient(sound.labels, "SPL")
  wrong = Volume(np.ascontiguousarray(turned.voxels), sound.image.affine)
  found = check(dataclasses.replace(sound, labels=wrong))
  assert [f.code for f in found] == ["mask_header"]


def test_an_empty_mask(sound):
  empty = relabel(sound, dict.fromkeys(_CODES, 0))
  empty = dataclasses.replace(empty, centres={}, centre_kind="none")
  assert _kinds(empty) == {("warning", "empty")}
  unknown = relabel(empty, {0: 255})
  assert _kinds(unknown) == {("note", "empty")}


@pytest.mark.parametrize(
  ("codes", "scheme", "fits"),
  [
    ((17, 18, 19, 20, 26), "totalsegmentator", "verse"),
    ((1, 2), "totalspineseg", "verse"),
    ((27,), "verse", "totalsegmentator"),
    ((25, 75, 77), "totalsegmentator", None),  # sacrum, femur, hip
    ((25,), "totalsegmentator", None),
  ],
)
def test_a_mask_read_in_the_wrong_scheme_is_an_error(
  sound, codes, scheme, fits
):
  stored = relabel(sound, dict.fromkeys(_CODES, 0)).labels
  for place, code in enumerate(codes):
    stored.voxels[20:30, 20:30, 3 * place : 3 * place + 2] = code
  voxels = to_verse(stored.voxels, scheme)
  mask = MaskFile(pathlib.Path("mask.nii.gz"), scheme)
  loaded = dataclasses.replace(
    sound,
    case=case(mask=mask),
    image=None,
    labels=dataclasses.replace(stored, voxels=voxels),
    stored_mask=stored,
    centres={},
    centre_kind="none",
  )
  (found,) = [f for f in check(loaded) if f.code == "empty"]
  assert found.severity == ("error" if fits else "warning")
  if fits:
    assert f"in the scheme '{scheme}'" in found.message
    assert f"Fix: scheme: {fits}." in found.message
    unknown = dataclasses.replace(loaded.case, annotates=frozenset())
    assert _kinds(dataclasses.replace(loaded, case=unknown)) >= {
      ("note", "empty")
    }


def test_lesions_outside_the_scan(sound):
  inside = sound.centres[_code("T12")]
  far = (inside[0], inside[1] + 300.0, inside[2])
  edge = (inside[0] + 45.0, inside[1], inside[2])
  boxes = [
    AnnotatedLesion(p, (30.0, 10.0, 10.0), "osteoma") for p in (inside, far)
  ]
  boxes.append(AnnotatedLesion(edge, (40.0, 10.0, 10.0), "osteoma"))
  found = check(dataclasses.replace(sound, boxes=tuple(boxes)))
  assert [f.severity for f in found] == ["error", "warning"]
  assert "lesion 2 (osteoma)" in found[0].message
  assert "lesion 3 (osteoma)" in found[1].message


def test_a_sheared_grid_is_a_note(sound):
  affine = sound.image.affine.copy()
  affine[1, 2] = np.tan(np.deg2rad(5)) * 2.0
  tilted = dataclasses.replace(
    sound,
    image=Volume(sound.image.voxels, affine),
    labels=Volume(sound.labels.voxels, affine),
    centres={},
    centre_kind="none",
  )
  notes = [f for f in check(tilted) if f.code == "shear"]
  assert [f.severity for f in notes] == ["note"]
  assert "5.0 degrees" in notes[0].message


def test_a_mirrored_patient_with_organs(sound):
  organs = np.zeros(sound.labels.voxels.shape, np.uint8)
  organs[30:45, 40:60, 20:40], organs[5:15, 20:30, 20:40] = 5, 1
  stored = Volume(organs, sound.labels.affine)
  case_ = case(tissues="totalsegmentator")
  right = dataclasses.replace(sound, stored_mask=stored, case=case_)
  assert check(right) == ()
  mirrored = Volume(np.ascontiguousarray(organs[::-1]), stored.affine)
  wrong = dataclasses.replace(right, stored_mask=mirrored)
  assert _kinds(wrong) == {("warning", "mirrored")}
