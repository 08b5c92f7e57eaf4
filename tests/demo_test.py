# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The main job once, with the shipped weights, on the CT that comes along.

VF_JAX_DEMO_CHECKPOINT names other weights, to try them before they ship.
"""

from __future__ import annotations

import dataclasses
import json
import os

import nibabel
import numpy as np
import pytest

from vf_jax import demo
from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.labels import BY_NAME

# Label of the reference -> level that the shipped weights must give.
EXPECTED_LEVELS = {"L1": "L1", "L2": "L2", "L3": "L3", "L4": "L4", "L5": "L5"}
EXPECTED_DICE = 0.70
EXPECTED_FOUND = 4

# mm RAS+. Centres of mass of the vertebral bodies in TotalSegmentator's test
# reference tests/reference_files/spine_report/totalseg_vertebrae_pp_refined
# .nii.gz (labels 20-24, same CT, same grid). A network's output, no expert's.
BODY_CENTRES = {
  "L1": (-5.8, 121.9, 386.2),
  "L2": (-5.4, 134.3, 351.9),
  "L3": (-4.7, 142.7, 315.5),
  "L4": (-3.9, 144.3, 278.0),
  "L5": (-1.0, 135.5, 243.1),
}


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the demo: what it returned, wrote and printed."""

  result: object
  out: object
  printed: str


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The demo, run once."""
  out = tmp_path_factory.mktemp("demo")
  with pytest.MonkeyPatch.context() as patch:
    lines = []
    patch.setattr(demo, "print", lambda text: lines.append(text), raising=False)
    result = demo.run_demo(out, os.environ.get("VF_JAX_DEMO_CHECKPOINT"))
  return Run(result, out, "\n".join(lines))


@pytest.fixture(scope="module")
def found(run):
  """Label of the reference -> the one predicted vertebra that covers it."""
  reference = demo.reference_mask()
  matches = {}
  for name, centre in BODY_CENTRES.items():
    inside = run.result.mask[reference == BY_NAME[name].code]
    counts = np.bincount(inside, minlength=256)
    counts[0] = 0
    for vertebra in run.result.vertebrae:
      covers = counts[vertebra.code] >= 0.6 * len(inside)
      away = np.linalg.norm(np.subtract(vertebra.centre_mm, centre))
      if covers and away <= 10:
        matches[name] = vertebra
  return matches


def test_the_reference_has_the_vertebrae_that_the_table_names():
  """Guards the table above: the point of each body lies in its own label."""
  reference = demo.reference_mask()
  image = nibabel.load(demo.DEMO_MASK)
  for name, centre in BODY_CENTRES.items():
    place = nibabel.affines.apply_affine(np.linalg.inv(image.affine), centre)
    code = reference[tuple(np.round(place).astype(int))]
    assert code == BY_NAME[name].code


def test_bone_of_vertebrae_is_found(run):
  assert demo.demo_agreement(run.result) >= EXPECTED_DICE


def test_lumbar_vertebrae_are_single_instances_in_the_right_place(found):
  assert len(found) >= EXPECTED_FOUND, f"only {sorted(found)}"
  assert len({v.code for v in found.values()}) == len(found)


def test_lumbar_vertebrae_have_the_right_level(found):
  assert found
  levels = {name: vertebra.level for name, vertebra in found.items()}
  assert levels == {name: EXPECTED_LEVELS[name] for name in found}


def test_what_the_scan_cuts_has_its_own_level(run):
  """The top of T12 is missing, and of T11 all but its lower edge."""
  reference = demo.reference_mask()
  for level, least in (("T12", 0.85), ("T11", 0.6)):
    code = BY_NAME[level].code
    assert dice(run.result.mask == code, reference == code) >= least


def test_the_demo_writes_its_files_on_the_grid_of_the_ct(run):
  folder = run.out / "example"
  mask = nibabel.load(folder / "example_seg-vert_msk.nii.gz")
  image = nibabel.load(demo.DEMO_CT)
  assert mask.shape == image.shape
  assert mask.affine.tobytes() == image.affine.tobytes()
  np.testing.assert_array_equal(np.asarray(mask.dataobj), run.result.mask)
  assert json.loads((folder / "run.json").read_text())["state"] == "done"
  assert (folder / "example_report.html").stat().st_size > 10_000


def test_the_demo_prints_a_table_and_where_the_report_is(run):
  for vertebra in run.result.vertebrae:
    assert f"\n{vertebra.level} " in run.printed
  share = demo.demo_agreement(run.result)
  assert f"{share:.3f}" in run.printed
  assert str(run.out / "example" / "example_report.html") in run.printed
