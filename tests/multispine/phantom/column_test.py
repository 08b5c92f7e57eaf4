"""Lesions as they are drawn into a vertebra, beside its twin without any."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.phantom import column as column_module
from vf_jax.multispine.phantom.bone import Density, draw_density
from vf_jax.multispine.phantom.column import Column
from vf_jax.multispine.phantom.pathology import Lesion, draw_lesions
from vf_jax.multispine.phantom.spine import draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics

_EDGE = 2.0
_LEVEL = 20  # L2 of a usual spine


@pytest.fixture(scope="module")
def spine():
  rng = np.random.default_rng(0)
  return draw_spine(rng, load_statistics(), "usual", {})


def _draw(spine, density, lesions, seed):
  """One bone: its column, and what each lesion changed."""
  bone = spine.vertebrae[_LEVEL]
  axes = tuple(np.arange(a, b, _EDGE) for a, b in zip(*bone.box_mm))
  column = Column(spine, axes, _EDGE)
  found = column.add(bone, density, lesions, np.random.default_rng(seed))
  return column, found


def _trabecular(spine, column):
  """HU well inside the body, in front of the vein."""
  bone = spine.vertebrae[_LEVEL]
  x, y, z = np.meshgrid(*column.axes, indexing="ij")
  local = np.stack([x, y, z], -1) - bone.centre
  front = local @ bone.frame[:, 1] > 0
  return float(np.median(column.hu[(column.depth > 4) & front]))


def test_every_lesion_stands_out_from_the_bone_of_its_vertebra(spine):
  contrasts = {"lytic": [], "sclerotic": []}
  name = spine.vertebrae[_LEVEL].name
  for seed in range(200):
    rng = np.random.default_rng(seed)
    density = draw_density(rng)
    lesions = draw_lesions(rng, (name,), density.trabecular_hu, 1.0)
    well, _ = _draw(spine, density, (), seed)
    ill, found = _draw(spine, density, lesions, seed)
    inside = _trabecular(spine, well)
    for lesion, flat in found:
      box = ill.lesion_box(lesion, flat, spine.vertebrae[_LEVEL].code)
      if box is not None:
        hu = np.median(ill.hu.reshape(-1)[flat])
        contrasts[lesion.kind].append(hu - inside)
  assert min(map(len, contrasts.values())) > 100
  assert max(contrasts["lytic"]) < -50
  assert min(contrasts["sclerotic"]) > 50


def test_the_rim_of_a_lytic_lesion_is_denser_than_the_bone(spine, monkeypatch):
  monkeypatch.setattr(column_module, "_RIMMED", 1.0)
  density = Density(150.0, 700.0, 1.0, 20.0)
  name = spine.vertebrae[_LEVEL].name
  lesion = Lesion(name, "lytic", (0.0, 0.3, 0.0), (9.0, 9.0, 9.0), 40.0, 3)
  well, _ = _draw(spine, density, (), 0)
  ill, [(_, flat)] = _draw(spine, density, (lesion,), 0)
  hu = ill.hu.reshape(-1)[flat] - _trabecular(spine, well)
  # A thin shell around a dark core, and nothing in between.
  assert 0.1 < np.mean(hu > 60) < 0.45
  assert np.mean((hu > -60) & (hu < 60)) < 0.05


def test_a_lesion_keeps_what_a_later_one_leaves_of_it(spine):
  density = Density(150.0, 700.0, 1.0, 20.0)
  name = spine.vertebrae[_LEVEL].name
  place = (0.0, 0.3, 0.0)
  small = Lesion(name, "lytic", place, (4.0, 4.0, 4.0), 40.0, 3)
  large = Lesion(name, "sclerotic", place, (9.0, 9.0, 9.0), 700.0, 4)
  column, found = _draw(spine, density, (small, large), 0)
  boxes = [
    column.lesion_box(*one, spine.vertebrae[_LEVEL].code) for one in found
  ]
  assert boxes[0] is None, "the small one cannot be seen"
  assert boxes[1] is not None
