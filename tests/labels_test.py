# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The table of levels, and translations checked against written-out numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from vf_jax import labels
from vf_jax.errors import InputError

# VerSe code -> code there, written out by hand from the projects' own tables.
TOTALSEGMENTATOR = dict(zip(range(1, 25), range(50, 26, -1), strict=True))
TOTALSEGMENTATOR |= {26: 25}
TOTALSPINESEG = (
  dict(zip(range(1, 8), range(11, 18), strict=True))
  | dict(zip(range(8, 20), range(21, 33), strict=True))
  | dict(zip(range(20, 25), range(41, 46), strict=True))
  | {26: 50}
)
EXPECTED = {
  "verse": {code: code for code in [*range(1, 27), 28]},
  "tptbox": {code: code for code in [*range(1, 27), 28]},
  "ctspine1k": {code: code for code in range(1, 26)},
  "totalsegmentator": TOTALSEGMENTATOR,
  "totalsegmentator_v3": TOTALSEGMENTATOR | {25: 26},
  "totalspineseg": TOTALSPINESEG,
}


def test_table_is_the_spine_from_head_to_foot():
  names = [v.name for v in labels.LEVELS]
  assert (
    names
    == (
      "C1 C2 C3 C4 C5 C6 C7 T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 T13 "
      "L1 L2 L3 L4 L5 L6 sacrum"
    ).split()
  )
  assert [v.order for v in labels.LEVELS] == list(range(27))
  codes = [v.code for v in labels.LEVELS]
  assert codes == [*range(1, 20), 28, *range(20, 27)]
  regions = [v.region for v in labels.LEVELS]
  assert [regions.count(r) for r in dict.fromkeys(regions)] == [7, 13, 6, 1]


@pytest.mark.parametrize("key", ["T13", "t13", " T13 ", 28, np.uint8(28)])
def test_level_is_found_by_name_and_code(key):
  assert labels.level(key) is labels.BY_NAME["T13"]


@pytest.mark.parametrize("key", ["T14", "S1", "", 0, 27, 29, -1])
def test_unknown_level_is_refused(key):
  with pytest.raises(InputError, match="no vertebra level"):
    labels.level(key)


@pytest.mark.parametrize("scheme", EXPECTED)
def test_schemes_have_the_published_numbers(scheme):
  expected = EXPECTED[scheme]
  found = labels.SCHEMES[scheme]
  assert {v.code: code for v, code in found.writes.items()} == expected
  verse = np.array([0, *expected], np.int16)
  theirs = np.array([0, *expected.values()], np.uint8)
  np.testing.assert_array_equal(labels.to_verse(theirs, scheme), verse)
  np.testing.assert_array_equal(labels.from_verse(verse, scheme), theirs)


def test_all_schemes_are_tested():
  assert set(EXPECTED) == set(labels.SCHEMES)


@pytest.mark.parametrize(
  ("scheme", "codes", "level"),
  [
    ("totalsegmentator", [26], "sacrum"),
    ("tptbox", [29, 30, 31, 32, 33], "sacrum"),
  ],
)
def test_parts_share_a_level(scheme, codes, level):
  mask = np.array(codes, np.uint8)
  code = labels.BY_NAME[level].code
  assert (labels.to_verse(mask, scheme) == code).all()


@pytest.mark.parametrize(
  ("scheme", "names"),
  [
    ("verse", {27: "coccyx"}),
    (
      "totalsegmentator",
      {
        1: "spleen",
        5: "liver",
        24: "kidney_cyst_right",
        51: "heart",
        79: "spinal_cord",
        91: "skull",
        92: "rib_left_1",
        103: "rib_left_12",
        104: "rib_right_1",
        117: "costal_cartilages",
      },
    ),
    ("tptbox", {27: "coccyx", 119: "disc_T12", 228: "endplate_T13"}),
    (
      "totalspineseg",
      {
        1: "spinal_cord",
        63: "disc_C2_C3",
        71: "disc_C7_T1",
        72: "disc_T1_T2",
        82: "disc_T11_T12",
        91: "disc_T12_L1",
        95: "disc_L4_L5",
        100: "disc_L5_S",
      },
    ),
  ],
)
def test_other_structures_become_background(scheme, names):
  others = labels.SCHEMES[scheme].others
  assert {code: others[code] for code in names} == names
  mask = np.array(list(others), np.uint16)
  assert not labels.to_verse(mask, scheme).any()


def test_total_has_117_classes():
  for name in ("totalsegmentator", "totalsegmentator_v3"):
    scheme = labels.SCHEMES[name]
    codes = sorted([*scheme.levels, *scheme.others])
    assert codes == list(range(1, 118))


@pytest.mark.parametrize(
  ("scheme", "dtype", "codes", "allowed"),
  [
    ("verse", np.uint8, [29, 255], "0-28"),
    ("verse", np.int16, [-1, 300], "0-28"),
    ("ctspine1k", np.uint8, [26, 28], "0-25"),
    ("totalsegmentator", np.int64, [118, 2**40], "0-117"),
    ("tptbox", np.uint16, [34, 41, 134], "0-33, 101-133, 201-233"),
    ("totalspineseg", np.int32, [10, 18, 20], "0-2, 11-17, 21-32"),
  ],
)
def test_unknown_codes_are_refused_by_number(scheme, dtype, codes, allowed):
  mask = np.array([0, 1, *codes], dtype)
  with pytest.raises(InputError) as caught:
    labels.to_verse(mask, scheme, source="case_seg.nii.gz")
  assert caught.value.source == "case_seg.nii.gz"
  assert scheme in caught.value.fault
  assert caught.value.fault.endswith(f": {', '.join(map(str, codes))}.")
  assert allowed in caught.value.fix


def test_many_unknown_codes_are_summed_up():
  with pytest.raises(InputError, match="and 188 more"):
    labels.to_verse(np.arange(100, 300), "verse")


@pytest.mark.parametrize(
  ("scheme", "missing"),
  [
    ("ctspine1k", "sacrum, T13"),
    ("totalsegmentator", "L6, T13"),
    ("totalsegmentator_v3", "T13"),
    ("totalspineseg", "L6, T13"),
  ],
)
def test_levels_without_a_code_are_refused_by_name(scheme, missing):
  mask = np.array([0, 1, 25, 26, 28], np.uint8)
  with pytest.raises(InputError, match=f": {missing}: no code in the scheme"):
    labels.from_verse(mask, scheme)


def test_from_verse_refuses_codes_that_are_not_verse():
  with pytest.raises(InputError, match="unknown to the scheme 'verse': 40"):
    labels.from_verse(np.array([28, 40], np.uint8), "totalsegmentator")


def test_unknown_scheme_is_refused():
  with pytest.raises(InputError, match="use one of verse, ctspine1k"):
    labels.to_verse(np.zeros(3, np.uint8), "totalsegmenter")


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.complex64])
def test_masks_of_other_kinds_are_refused(dtype):
  # Under the type checking of the test suite the annotation refuses first.
  with pytest.raises((InputError, TypeError)):
    labels.to_verse(np.zeros(3, dtype), "verse")


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u4", ">i8"])
def test_dtype_layout_and_input_are_respected(dtype):
  rng = np.random.default_rng(0)
  codes = np.array([0, 1, 19, 26, 27, 28])
  cube = np.asfortranarray(rng.choice(codes, (41, 43, 47)).astype(dtype))
  for mask in (cube, cube.T, cube[::-2, :, 1:], cube[:0], cube[0, 0, 0]):
    mask = np.asarray(mask)
    before = mask.copy()
    result = labels.to_verse(mask, "verse")
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(result, np.where(mask == 27, 0, mask))
    assert result.dtype == np.uint8
    assert not np.shares_memory(result, mask)
  assert labels.to_verse(cube, "verse").flags.f_contiguous


def test_read_only_masks_are_read():
  mask = np.full((3, 3), 5, np.uint8)
  mask.setflags(write=False)
  assert labels.to_verse(mask, "verse")[0, 0] == 5


def test_no_wide_copy_is_made():
  mask = np.full((128, 128, 128), 22, np.int16)
  tracemalloc.start()
  labels.to_verse(mask, "verse")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  # The result is one byte a voxel; the blocks take the rest.
  assert peak < 1.5 * mask.size


def test_totalsegmentator_class_names():
  for level in labels.LEVELS:
    if level.name == "T13":
      continue
    name = labels.totalsegmentator_class(level)
    assert labels.totalsegmentator_level(name) is level
  assert labels.totalsegmentator_class(labels.BY_NAME["C1"]) == "vertebrae_C1"
  assert labels.totalsegmentator_class(labels.SACRUM) == "sacrum"
  assert labels.totalsegmentator_level("vertebrae_S1") is labels.SACRUM
  assert labels.totalsegmentator_level("rib_right_12") is None
  with pytest.raises(InputError, match="no class for T13"):
    labels.totalsegmentator_class(labels.BY_NAME["T13"])


@pytest.mark.parametrize(
  "name", ["vertebrae_T13", "vertebrae_sacrum", "L1", "vertebrae_l1", "", "T13"]
)
def test_unknown_class_names_are_refused(name):
  with pytest.raises(InputError):
    labels.totalsegmentator_level(name)
