# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One case at a time: what is right, missed, superfluous and excused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from boxed_spine import AFFINE, CODES, GRID, SHAPE, middles, spine

from vf_jax.errors import InputError
from vf_jax.evaluate.cases import match_cases
from vf_jax.evaluate.measure import (
  MEASURE_DEFAULTS,
  MeasureOptions,
  measure_case,
)
from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.vertebrae import VertebraRow, write_vertebrae_csv
from vf_jax.labels import BY_NAME
from vf_jax.volume import Grid, Volume, reorient


@pytest.fixture
def measure(predictions, references):
  """Writes one case, measures it."""

  def run(prediction, reference, options=MEASURE_DEFAULTS, **more):
    here = {k[5:]: v for k, v in more.items() if k.startswith("pred_")}
    there = {k[4:]: v for k, v in more.items() if k.startswith("ref_")}
    predictions.add("sub-1", prediction, **here)
    references.add("sub-1", reference, **there)
    matching = match_cases(predictions.root, references.root)
    return measure_case((matching.pairs[0], options))

  return run


def by_level(found):
  return {v.level: v for v in found.vertebrae}


def test_the_same_is_right(measure):
  found = measure(spine(), spine())
  assert [v.level for v in found.vertebrae] == ["L1", "L2", "L3", "L4", "L5"]
  for v in found.vertebrae:
    assert (v.state, v.dice, v.nsd, v.hd_mm) == ("found", 1, (1, 1), 0)
    assert v.true_ml == pytest.approx(6 * 6 * 4 * 16 / 1000)
    assert v.hit
    assert v.strict_hit
  assert found.all_right
  assert found.spine_dice == 1
  assert found.patient == "sub-1"


def test_a_shift_by_one_level(measure):
  mask = spine()
  found = measure(np.where(mask, mask - 1, 0).astype(np.uint8), mask)
  rows = by_level(found)
  assert rows["T12"].state == "extra"
  assert rows["L5"].state == "missed"
  assert all(v.dice == 0 for v in found.true_vertebrae)
  assert all(v.matched_dice == 1 for v in found.true_vertebrae)
  assert not any(v.matched_code == v.code for v in found.true_vertebrae)
  # L5 is missing, so that VerSe's rule forgives L4 its 20 mm.
  assert found.identification.hits == (23,)
  assert found.identification.strict_hits == ()
  assert found.extra == (19,)
  assert found.spine_dice == 1
  assert not found.all_right


def test_metrics_of_a_vertebra_are_those_of_its_masks(measure):
  prediction, truth = spine(side=1), spine()
  found = by_level(measure(prediction, truth))["L3"]
  assert found.dice == pytest.approx(dice(prediction == 22, truth == 22))
  assert found.hd_mm == pytest.approx(2.0)
  assert 0 < found.assd_mm < 2
  assert found.nsd[0] < found.nsd[1] == 1
  assert found.distance_mm == pytest.approx(2.0, abs=1e-3)


def test_a_missed_vertebra_is_zero_and_infinite(measure):
  prediction = spine()
  prediction[prediction == 22] = 0
  found = measure(prediction, spine())
  missed = by_level(found)["L3"]
  assert missed.state == "missed"
  assert (missed.dice, missed.nsd) == (0, (0, 0))
  assert missed.hd_mm == missed.hd95_mm == missed.assd_mm == math.inf
  assert math.isnan(missed.distance_mm)
  assert not missed.hit
  assert found.identification.missing == (22,)
  assert found.identification.rate == 0.8


def test_no_prediction_is_all_missed(predictions, references):
  references.add("a", spine(), lesions=[((0.0, 20.0, 80.0), 1.0)])
  references.add("b", spine())
  predictions.add("b", spine())
  pair = match_cases(predictions.root, references.root).pairs[0]
  found = measure_case((pair, MEASURE_DEFAULTS))
  assert found.state == "missing"
  assert {v.state for v in found.vertebrae} == {"missed"}
  assert found.spine_dice == 0
  assert found.identification.rate == 0
  assert found.lesions.lesions == 1
  assert len(found.lesions.scores) == 0


def test_lesions_alone_are_no_prediction_of_a_mask(measure):
  lesion = ((0.0, 20.0, 80.0), 1.0)
  found = measure(None, spine(), pred_lesions=[lesion], ref_lesions=[lesion])
  assert found.state == "missing"
  assert {v.state for v in found.vertebrae} == {"missed"}
  assert found.lesions.right_iou.tolist() == [True]


def test_a_reference_of_lesions_alone_is_scored(measure):
  lesion = ((0.0, 20.0, 80.0), 1.0)
  found = measure(None, None, pred_lesions=[lesion], ref_lesions=[lesion])
  assert found.state == "scored"
  found = measure(spine(), None, ref_lesions=[lesion])
  assert found.state == "scored"


def test_another_grid_is_refused_and_counts_as_missed(measure):
  affine = AFFINE.copy()
  affine[2, 3] += 4
  found = measure(spine(), spine(), pred_grid=Grid(SHAPE, affine))
  assert found.state == "refused"
  note = found.notes[0]
  for words in ("sub-1_seg-vert_msk.nii.gz", "another grid", "Fix: predict on"):
    assert words in note
  assert "corners up to 4 mm apart" in note
  assert {v.state for v in found.vertebrae} == {"missed"}


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_a_rounded_header_is_no_other_grid(measure, codes):
  affine = AFFINE.copy()
  affine[:3, :3] *= 1 + 1e-3
  moved = Grid(SHAPE, affine)
  assert 0.1 < moved.apart_mm(GRID) < 0.2
  stored = reorient(Volume(spine(), moved.affine), codes)
  found = measure(
    np.ascontiguousarray(stored.voxels), spine(),
    pred_grid=stored.grid, pred_points=middles(spine()),
  )  # fmt: skip
  assert found.state == "scored"
  assert found.all_right
  assert found.true_vertebrae[0].dice == 1
  note = "off the reference's, less than a tenth of a voxel"
  assert any(note in one for one in found.notes)


def test_other_axes_on_the_same_grid_are_turned(measure):
  turned = reorient(Volume(spine(), AFFINE), "PIR")
  found = measure(
    np.ascontiguousarray(turned.voxels), spine(),
    pred_grid=turned.grid, pred_points=middles(spine()),
  )  # fmt: skip
  assert found.state == "scored"
  assert found.all_right
  assert found.true_vertebrae[0].dice == 1
  assert "turned" in found.notes[0]


def test_a_reference_that_cannot_be_read_is_an_error(measure):
  with pytest.raises(InputError, match="codes unknown"):
    measure(spine(), np.full(SHAPE, 77, np.uint8), ref_points=None)


def test_sacrum_and_coccyx_are_not_judged(measure):
  more = spine((26, *CODES))
  found = measure(more, spine(first=7), pred_points=middles(spine(first=7)))
  assert found.all_right
  assert found.extra == ()
  assert found.spine_dice == 1


def test_unknown_voxels_are_not_judged(measure):
  truth = spine((255, *CODES[:4]))
  prediction = spine((25, *CODES[:4]))
  found = measure(prediction, truth)
  assert by_level(found)["L6"].state == "excused"
  assert found.extra == ()
  assert found.spine_dice == 1
  assert found.all_right
  # Outside of the unknown a level that is not there is superfluous again.
  prediction = spine((0, *CODES[:4], 25))
  found = measure(prediction, truth)
  assert found.extra == (25,)


def test_a_prediction_may_not_be_unknown(measure):
  found = measure(spine((255, *CODES[:4])), spine())
  assert found.state == "refused"
  assert "unknown" in found.notes[0]


def test_a_cut_vertebra_beyond_the_reference_is_excused(measure):
  truth = spine(CODES[:4], first=8)
  prediction = spine((25, *CODES[:4]), first=-2)
  prediction[:, :, 3:] = truth[:, :, 3:]
  found = measure(prediction, truth)
  assert by_level(found)["L6"].state == "excused"
  assert by_level(found)["L6"].cut
  assert found.all_right
  assert found.identification.precision == 1
  assert found.spine_dice == 1
  counted = measure(prediction, truth, MeasureOptions(count_cut=True))
  assert counted.extra == (25,)
  assert counted.spine_dice < 1
  assert not counted.all_right


@pytest.fixture
def say_cut(predictions):
  """Writes a table that calls levels cut, and columns of theirs partial."""

  def write(*levels, partial=("volume_ml", "core_ml")):
    folder = predictions.root / "sub-1"
    folder.mkdir(parents=True, exist_ok=True)
    nothing = [math.nan] * 11
    write_vertebrae_csv(
      folder / "sub-1_vertebrae.csv",
      [
        VertebraRow(
          name, BY_NAME[name].code, (0.0, 0.0, 0.0), 1.0, False,
          dict.fromkeys(partial, ""), *nothing,
        )
        for name in levels
      ],
    )  # fmt: skip

  return write


def test_a_level_that_padding_cuts_is_excused(measure, say_cut):
  prediction, truth = spine((21, 20, 19)), spine((21, 20))
  assert measure(prediction, truth).extra == (19,)
  say_cut("T12")
  found = measure(prediction, truth)
  assert by_level(found)["T12"].state == "excused"
  assert by_level(found)["T12"].cut
  assert found.all_right
  assert found.spine_dice == 1
  counted = measure(prediction, truth, MeasureOptions(count_cut=True))
  assert counted.extra == (19,)


@pytest.mark.parametrize(
  ("codes", "levels", "partial", "extra"),
  [
    # Processes alone are cut, or nothing is said of this level.
    ((19,), ["T12"], ["volume_ml"], (19,)),
    ((19,), ["T11", "L1"], ["core_ml"], (19,)),
    # Another one lies beyond it.
    ((19, 18), ["T12", "T11"], ["core_ml"], (19,)),
    # Not the next one: levels are left out.
    ((17,), ["T10"], ["core_ml"], (17,)),
    # By its level it lies elsewhere.
    ((22,), ["L3"], ["core_ml"], (22,)),
  ],
)
def test_a_table_excuses_nothing_but_the_last_level(
  measure, say_cut, codes, levels, partial, extra
):
  say_cut(*levels, partial=partial)
  prediction, truth = spine((21, 20, *codes)), spine((21, 20))
  assert measure(prediction, truth).extra == extra


def test_a_table_of_another_program_is_passed_over(measure, predictions):
  predictions.add("sub-1", spine())
  table = predictions.root / "sub-1" / "sub-1_vertebrae.csv"
  table.write_text("level,volume\nL1,3\n")
  found = measure(spine(), spine())
  assert found.state == "scored"
  assert found.all_right
  assert "its table was not used" in found.notes[0]
  assert "no column code" in found.notes[0]


def test_a_whole_vertebra_beyond_the_reference_is_superfluous(measure):
  found = measure(spine(), spine((0, *CODES[1:])))
  assert found.extra == (24,)
  assert not found.all_right


def test_a_point_that_the_file_leaves_out_is_derived(measure):
  """`vf-jax predict` writes none where the body lies outside the scan."""
  points = middles(spine())
  fewer = dict(list(points.items())[:-1])
  found = measure(spine(), spine(), pred_points=fewer, ref_points=points)
  assert found.point_kinds == ("body", "body")
  assert found.all_right
  assert by_level(found)["L5"].hit


def test_points_are_derived_where_no_file_has_them(measure):
  found = measure(spine(), spine(), pred_points=None, ref_points=None)
  assert found.point_kinds == ("derived", "derived")
  assert found.identification.rate == 1
  assert found.identification.mean_distance_mm == 0
  # Against a file: the rule knows the middle of a box to a few mm.
  found = measure(spine(), spine(), ref_points=middles(spine()))
  assert found.point_kinds == ("body", "body")


def test_a_cut_vertebra_without_point_is_no_part_of_the_rates(measure):
  truth = spine(first=-1)
  found = measure(truth, truth, pred_points=None, ref_points=None)
  assert len(found.true_vertebrae) == 5
  assert found.identification.truth == (20, 21, 22, 23)
  assert found.identification.predicted == (20, 21, 22, 23)
  assert found.all_right
  assert not by_level(found)["L5"].has_point


def test_centres_of_mass_are_compared_with_their_like(predictions, references):
  predictions.add(
    "a", spine(), points=dict.fromkeys(middles(spine()), (0.0,) * 3)
  )
  references.add("a", spine(), points=None)
  write_centroids(
    references.root / "a" / "a_seg-vert_ctd.json",
    Centroids(middles(spine()), kind="mask"),
    GRID,
  )
  pair = match_cases(predictions.root, references.root).pairs[0]
  found = measure_case((pair, MEASURE_DEFAULTS))
  assert found.point_kinds == ("mask", "mask")
  assert found.identification.mean_distance_mm == pytest.approx(0, abs=1e-3)


def test_points_alone_of_a_level_are_judged_as_points(measure):
  points = middles(spine())
  gone = spine()
  gone[gone == 22] = 0
  found = measure(gone, gone, pred_points=points, ref_points=points)
  assert by_level(found)["L3"].state == "found"
  assert len(found.true_vertebrae) == 4
  assert len(found.identification.hits) == 5
  extra = points | {BY_NAME["T12"]: (0.0, 20.0, 150.0)}
  found = measure(spine(), spine(), pred_points=extra)
  assert found.extra == (19,)


def test_lesions_are_matched_by_box_and_by_centre(measure):
  found = measure(
    None, None,
    pred_lesions=[
      ((0.0, 0.0, 0.0), 0.2), ((50.0, 0.0, 0.0), 0.9), ((0.0, 99.0, 0.0), 0.5),
    ],
    ref_lesions=[((1.0, 0.0, 0.0), 1.0), ((50.0, 7.9, 0.0), 1.0)],
  )  # fmt: skip
  assert found.identification is None
  assert found.vertebrae == ()
  lesions = found.lesions
  assert lesions.scores.tolist() == [0.9, 0.5, 0.2]
  assert lesions.right_iou.tolist() == [False, False, True]
  assert lesions.right_near.tolist() == [True, False, True]
  assert lesions.lesions == 2


def test_lesions_that_the_reference_does_not_name_are_not_judged(measure):
  found = measure(spine(), spine(), pred_lesions=[((0.0, 0.0, 0.0), 0.9)])
  assert found.lesions is None
  found = measure(
    spine(), spine(), pred_lesions=[((0.0, 0.0, 0.0), 0.9)], ref_lesions=[]
  )
  assert found.lesions.lesions == 0
  assert len(found.lesions.scores) == 1


def test_a_case_is_plain_data(measure):
  """It travels between processes."""
  import pickle

  found = measure(spine(), spine())
  again = pickle.loads(pickle.dumps(found))
  assert again.vertebrae == found.vertebrae
  assert dataclasses.asdict(again.vertebrae[0])["code"] == 20
