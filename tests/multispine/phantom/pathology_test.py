"""Fractures take the height they say; draws keep their rates."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.phantom.bone import draw_density
from vf_jax.multispine.phantom.pathology import (
  FRACTURED_PATIENTS,
  GRADES,
  Fracture,
  draw_fractures,
  draw_lesions,
)

_HALF = (20.0, 15.0, 13.0)
_NAMES = (*(f"T{n}" for n in range(4, 13)), "L1", "L2", "L3", "L4", "L5")


def _height(fracture, x, y):
  """Height of the fractured body at a place of its section, mm."""
  z = np.arange(-20, 20, 0.01, dtype=np.float32)
  points = np.stack([np.full_like(z, x), np.full_like(z, y), z])
  fracture.unfold(points, _HALF)
  return float((np.abs(points[2]) < _HALF[2]).sum() * 0.01)


def test_a_wedge_is_lower_in_front():
  fracture = Fracture("wedge", 2, 0.3)
  assert _height(fracture, 0, 15) == pytest.approx(26 * 0.7, abs=0.1)
  assert _height(fracture, 0, 0) == pytest.approx(26 * 0.85, abs=0.1)
  assert _height(fracture, 0, -15) > 25.7


def test_a_biconcave_body_is_lowest_in_the_middle():
  fracture = Fracture("biconcave", 2, 0.3)
  assert _height(fracture, 0, 0) == pytest.approx(26 * 0.7, abs=0.1)
  assert _height(fracture, 0, 15) > 24.5
  assert _height(fracture, 19, 0) > 24


def test_a_crushed_body_is_low_all_over_and_its_arch_stands():
  fracture = Fracture("crush", 3, 0.5)
  for y in (15, 0, -13):
    assert _height(fracture, 0, y) == pytest.approx(13, abs=0.1)
  assert _height(fracture, 0, -25) == pytest.approx(26, abs=0.05)


@pytest.mark.parametrize("kind", ["wedge", "biconcave", "crush"])
def test_unfolding_never_folds(kind):
  z = np.linspace(-40, 40, 2000, dtype=np.float32)
  points = np.stack([np.full_like(z, 5), np.full_like(z, 8), z])
  Fracture(kind, 3, 0.6).unfold(points, _HALF)
  assert (np.diff(points[2]) > 0).all()
  assert points[2][0] < -39


def test_fractures_keep_their_grades_and_depend_on_density():
  rng = np.random.default_rng(0)
  found = {
    density: [draw_fractures(rng, _NAMES, density) for _ in range(1500)]
    for density in (60.0, 150.0, 250.0)
  }
  shares = {d: np.mean([bool(f) for f in fs]) for d, fs in found.items()}
  assert shares[60.0] > 1.5 * shares[150.0] > 2.0 * shares[250.0] > 0
  for drawn in found.values():
    for fracture in (f for fs in drawn for f in fs.values()):
      low, high = GRADES[fracture.grade][1:]
      assert low <= fracture.loss <= high
  assert draw_fractures(rng, ("C3", "C4"), 60.0, 9.0) == {}


def test_as_many_patients_are_fractured_as_stated():
  rng = np.random.default_rng(1)
  drawn = [
    draw_fractures(rng, _NAMES, draw_density(rng).trabecular_hu)
    for _ in range(6000)
  ]
  share = np.mean([bool(found) for found in drawn])
  assert share == pytest.approx(FRACTURED_PATIENTS, abs=0.02)


def test_lesions_have_both_kinds_and_may_be_absent():
  rng = np.random.default_rng(0)
  drawn = [draw_lesions(rng, _NAMES, 150.0) for _ in range(1500)]
  assert np.mean([bool(d) for d in drawn]) == pytest.approx(0.3, abs=0.04)
  kinds = [lesion.kind for several in drawn for lesion in several]
  assert 0.4 < kinds.count("lytic") / len(kinds) < 0.6
  assert set(kinds) == {"lytic", "sclerotic"}
  assert draw_lesions(rng, (), 150.0, 1.0) == ()
  assert all(len(draw_lesions(rng, _NAMES, 150.0, 1.0)) >= 1 for _ in range(20))


@pytest.mark.parametrize("density", [40.0, 90.0, 150.0, 280.0])
def test_lesions_are_drawn_apart_from_the_bone_of_their_patient(density):
  rng = np.random.default_rng(1)
  drawn = [draw_lesions(rng, _NAMES, density, 1.0) for _ in range(200)]
  for lesion in (lesion for several in drawn for lesion in several):
    if lesion.kind == "lytic":
      assert -30 <= lesion.hu <= min(70, density - 60)
    else:
      assert max(450, density + 150) <= lesion.hu <= 950
