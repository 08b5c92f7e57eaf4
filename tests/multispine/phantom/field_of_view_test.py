"""Fields of view lie in the patient and hold the spine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.labels import BY_NAME
from vf_jax.multispine.phantom.anatomy import make_anatomy
from vf_jax.multispine.phantom.domains import draw_protocol
from vf_jax.multispine.phantom.field_of_view import extent, is_inside, place
from vf_jax.volume import Grid, resample


@pytest.fixture(scope="module")
def patient(stub_anatomy):
  return stub_anatomy("T8", "L5", 4.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("domain", ["verse", "spineweb2", "cohort", "colonog"])
def test_a_scan_holds_its_levels_and_nothing_beyond_the_patient(
  domain, seed, patient
):
  rng = np.random.default_rng(seed)
  protocol = dataclasses.replace(draw_protocol(domain, rng), span=("T11", "L3"))
  grid = place(patient, protocol, rng)
  inner = ["T12", "L1", "L2"]
  points = [patient.centres[BY_NAME[name].code] for name in inner]
  assert all(is_inside(grid, point) for point in points)
  # Along the middle line of the array, the patient goes on past both ends.
  line = np.array([[(n - 1) / 2 for n in grid.shape]] * 2)
  line[:, 2] = (0, grid.shape[2] - 1)
  heights = grid.to_world(line)[:, 2]
  bottom = patient.grid.affine[2, 3]
  top = bottom + 4.0 * (patient.grid.shape[2] - 1)
  assert heights.min() >= bottom - 4.0
  assert heights.max() <= top + 4.0


def test_scans_of_all_spans_cut_vertebrae_now_and_then(patient):
  ends = []
  for seed in range(30):
    rng = np.random.default_rng(seed)
    protocol = dataclasses.replace(
      draw_protocol("colonog", rng), span=("T11", "L3")
    )
    grid = place(patient, protocol, rng)
    top = grid.to_world(np.array([[0, 0, grid.shape[2] - 1]]))[0, 2]
    ends.append(top - patient.centres[BY_NAME["T11"].code][2])
  inside_a_body = np.mean([-12 < end < 12 or end > 18 for end in ends])
  assert 0.3 < inside_a_body < 1.0
  assert np.ptp(ends) > 20


def test_a_scan_of_the_sacrum_goes_on_below_the_last_vertebra(patient):
  code = BY_NAME["L4"].code  # the stub ends 75 mm below its centre
  rows = []
  for last in ("L4", "sacrum"):
    protocol = draw_protocol("colonog", np.random.default_rng(0))
    protocol = dataclasses.replace(protocol, span=("T11", last))
    trimmed = {c: p for c, p in patient.centres.items() if c <= code}
    short = dataclasses.replace(patient, centres=trimmed)
    grid = place(short, protocol, np.random.default_rng(0))
    rows.append(grid.to_world(np.zeros((1, 3)))[0, 2])
  assert 20 < rows[0] - rows[1] < 80


@pytest.mark.parametrize(
  ("variant", "span", "there"),
  [
    ("absent T12", ("T12", "T12"), ("T11", "T11")),
    ("absent T12", ("T12", "T13"), ("T11", "L1")),
    ("usual", ("T13", "T13"), ("T12", "T12")),
    ("usual", ("L6", "L6"), ("L5", "L5")),
  ],
)
def test_neighbours_stand_for_levels_that_a_patient_lacks(
  variant, span, there, stub_anatomy
):
  gone = ("T13", "L6", "T12") if variant == "absent T12" else ("T13", "L6")
  patient = stub_anatomy("T8", "sacrum", 4.0, skipped=gone)
  patient = dataclasses.replace(patient, variant=variant)
  protocol = draw_protocol("colonog", np.random.default_rng(0))
  grid, other = (
    place(
      patient,
      dataclasses.replace(protocol, span=levels),
      np.random.default_rng(1),
    )
    for levels in (span, there)
  )
  assert grid.shape == other.shape
  np.testing.assert_array_equal(grid.affine, other.affine)


def test_a_patient_without_the_levels_is_refused(patient):
  protocol = draw_protocol("hnscc", np.random.default_rng(0))
  with pytest.raises(InputError, match="none of the levels C"):
    place(patient, protocol, np.random.default_rng(0))


def test_extent_of_the_body(patient):
  (left, right), (back, front) = extent(patient)
  # The stub's ellipse has half axes of 145 and 100 mm.
  assert left == pytest.approx(-145, abs=9)
  assert right == pytest.approx(145, abs=9)
  assert back == pytest.approx(-100, abs=9)
  assert front == pytest.approx(100, abs=9)


def test_is_inside_counts_half_a_voxel():
  grid = Grid((4, 4, 4), np.eye(4))
  assert is_inside(grid, (3.4, -0.4, 0.0))
  assert not is_inside(grid, (3.6, 0.0, 0.0))


def _sides(patient, grid):
  """Vertebrae that the sides of a grid cut."""
  labels = resample(patient.labels, patient.grid, grid, order=0, fill=0)
  faces = [labels.take([0, -1], axis) for axis in (0, 1)]
  return set(np.unique(np.concatenate([f.ravel() for f in faces]))) - {0}


@pytest.fixture(scope="module")
def modelled():
  """The stub has no transverse processes."""
  return make_anatomy(
    np.random.default_rng(0), levels=("T10", "L4"), spacing_mm=3.0
  )


@pytest.mark.parametrize("domain", ["verse", "cohort", "nnunet", "msd-liver"])
def test_narrow_fields_cut_vertebrae_at_their_sides_but_show_bodies(
  domain, modelled
):
  rng = np.random.default_rng(1)
  cut, usual = [], []
  while len(cut) < 30:
    protocol = draw_protocol(domain, rng)
    protocol = dataclasses.replace(protocol, span=("T11", "L3"), matrix=64)
    if not protocol.narrow and len(usual) > 30:
      continue
    grid = place(modelled, protocol, rng)
    (cut if protocol.narrow else usual).append(bool(_sides(modelled, grid)))
    if not protocol.narrow:
      continue
    for name in ("T12", "L1", "L2"):
      x, y, z = modelled.centres[BY_NAME[name].code]
      for dx, dy in ((-8, 0), (8, 0), (0, -8), (0, 8)):
        assert is_inside(grid, (x + dx, y + dy, z))
  assert 0.25 < np.mean(cut) < 0.9
  assert np.mean(usual) < 0.1
