"""The skull stands on C1, keeps away from the dens, and lets the cord in."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from scipy import ndimage

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom import anatomy as anatomy_module
from vf_jax.multispine.phantom.anatomy import Rates, make_anatomy
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.head import head
from vf_jax.multispine.phantom.spine import Spine, draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics

_EDGE = 1.0
_SEEDS = range(5)


@dataclasses.dataclass(frozen=True)
class _Neck:
  """A skull on a spine: voxels of 1 mm around C1, their places in its frame.

  Attributes:
    spine: the spine.
    canvas: with the head alone.
    skull: its bone.
    places: of the voxels, from the centre of C1, (x, y, z, right-front-up), mm.
  """

  spine: Spine
  canvas: Canvas
  skull: np.ndarray
  places: np.ndarray

  def bone(self, number):
    """Depth below the surface of a vertebra, mm."""
    axes = self.canvas.x, self.canvas.y, self.canvas.z
    return self.spine.vertebrae[number].depth(*axes)


@functools.cache
def _neck(seed):
  rng = np.random.default_rng(seed)
  spine = draw_spine(rng, load_statistics(), "usual", {})
  atlas = spine.vertebrae[0]
  low = atlas.centre - np.array([55.0, 75.0, 35.0])
  canvas = Canvas(low, (110, 115, 95), _EDGE)
  canvas.tissue[:] = tissues.MUSCLE.code
  head(canvas, spine, rng)
  grid = np.stack(np.meshgrid(canvas.x, canvas.y, canvas.z, indexing="ij"), -1)
  return _Neck(
    spine, canvas, canvas.bone > 0, (grid - atlas.centre) @ atlas.frame
  )


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_dens_keeps_free_of_the_skull(seed):
  neck = _neck(seed)
  axis = neck.spine.vertebrae[1]
  dens = neck.bone(1) > 0
  height = neck.places @ (neck.spine.vertebrae[0].frame.T @ axis.frame[:, 2])
  dens &= height > -10  # of the dens, not the body
  away = ndimage.distance_transform_edt(~dens, sampling=_EDGE)
  assert away[neck.skull].min() > 4
  middle = neck.skull & (np.abs(neck.places[..., 0]) < 3)
  assert 5 <= away[middle].min() <= 10  # to the basion


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_canal_opens_into_the_skull(seed):
  neck = _neck(seed)
  atlas = neck.spine.vertebrae[0]
  x, y, z = np.moveaxis(neck.places, -1, 0)
  across = np.hypot(x, y - atlas.scale[1] * atlas.template.canal_mm)
  bore = (across < 12 * neck.spine.size) & (z > 0)
  assert z[bore].max() > 50  # well into the brain
  assert not neck.skull[bore].any()
  # A ring of bone around it, brain above, fluid within.
  ring = neck.skull & (across > 13) & (across < 30)
  x, y = x[ring], y[ring] - atlas.scale[1] * atlas.template.canal_mm
  turns = np.histogram(np.arctan2(y, x), 12, (-np.pi, np.pi))[0]
  assert (turns > 20).all()
  kinds = neck.canvas.tissue
  assert (kinds[bore & (z > 45)] == tissues.ORGAN.code).all()
  assert (kinds[bore] == tissues.UNKNOWN.code).mean() > 0.1


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_condyles_stand_on_the_lateral_masses(seed):
  neck = _neck(seed)
  atlas = neck.bone(0)
  assert not (neck.skull & (atlas > 0)).any()
  assert not (neck.skull & (neck.bone(1) > 0)).any()
  x, y, z = np.moveaxis(neck.places, -1, 0)
  away = ndimage.distance_transform_edt(~neck.skull, sampling=_EDGE)
  for side in (-1, 1):
    mass = (atlas > 0) & (np.abs(side * x - 17) < 6) & (np.abs(y + 13) < 6)
    assert 1 <= away[mass].min() <= 3  # voxel to voxel: a thin joint
    # The skull goes on from there without a gap.
    spot = np.argmin(np.where(mass, away, 99))
    start = ndimage.distance_transform_edt(
      ~neck.skull, return_distances=False, return_indices=True
    ).reshape(3, -1)[:, spot]
    parts = ndimage.label(neck.skull)[0]
    part = parts[tuple(start)]
    assert z[parts == part].max() > 50


def test_the_skull_changes_no_label(monkeypatch):
  def make():
    return make_anatomy(
      np.random.default_rng(2), levels=("C1", "C2"), spacing_mm=3.0,
      rates=Rates({"L6": 0.0}, 0.0, 0.0),
    )  # fmt: skip

  whole = make()
  monkeypatch.setattr(anatomy_module, "head", lambda *_: None)
  headless = make()
  assert (whole.hu != headless.hu).any()
  np.testing.assert_array_equal(whole.labels, headless.labels)
