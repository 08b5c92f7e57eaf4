"""Trunk, lungs, organs and pelvis lie where anatomy has them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.organs import abdomen, vessels
from vf_jax.multispine.phantom.pelvis import pelvis
from vf_jax.multispine.phantom.spine import Spine, draw_spine
from vf_jax.multispine.phantom.statistics import load_statistics
from vf_jax.multispine.phantom.thorax import Cage, diaphragm, lungs
from vf_jax.multispine.phantom.torso import (
  Body,
  Course,
  anchor,
  draw_habitus,
  fill,
  outline,
)

_EDGE = 4.0
_SEEDS = range(3)


@dataclasses.dataclass(frozen=True)
class _Trunk:
  spine: Spine
  body: Body
  canvas: Canvas
  lung_hu: np.ndarray

  def inside(self, bone):
    """Voxels within a bone of the spine."""
    axes = self.canvas.x, self.canvas.y, self.canvas.z
    return bone.depth(*axes) > 0

  def right(self):
    """How far to the right of the spine each voxel lies, mm."""
    middle = self.body.course.centre[:, 0]
    away = self.canvas.x[:, None, None] - middle
    return np.broadcast_to(away, self.canvas.shape)


@functools.cache
def _trunk(seed):
  rng = np.random.default_rng(seed)
  spine = draw_spine(rng, load_statistics(), "usual", {})
  habitus = draw_habitus(rng)
  foot, top = spine.sacrum.centre[2] - 160, anchor(spine, 7)[2]
  course = Course.of(spine, np.arange(foot, top, 4.0))
  wide, back, front = outline(course, spine, habitus)
  middle = course.smooth[:, 0]
  low = np.array([(middle - wide).min(), back.min(), foot]) - 10
  high = np.array([(middle + wide).max() + 10, front.max() + 10, top])
  shape = tuple(int(n) for n in (high - low) / _EDGE)
  canvas = Canvas(low, shape, _EDGE)
  body = fill(canvas, spine, habitus, rng)
  cage = Cage.of(spine, canvas.z, habitus.girth)
  above = diaphragm(canvas, spine, cage, rng)
  lungs(canvas, spine, cage, body, above, rng)
  lung_hu = canvas.hu[canvas.tissue == tissues.LUNG.code]
  abdomen(canvas, spine, body, above, rng)
  vessels(canvas, spine, rng)
  canvas.within = body.depth > 8
  pelvis(canvas, spine, habitus, rng)
  canvas.within = None
  return _Trunk(spine, body, canvas, lung_hu)


def _share(mask, right):
  return (mask & (right > 0)).sum() / mask.sum()


@pytest.mark.parametrize("seed", _SEEDS)
def test_skin_covers_the_spine(seed):
  trunk = _trunk(seed)
  for bone in (*trunk.spine.vertebrae[8:], trunk.spine.sacrum):
    inside = trunk.inside(bone)
    if inside.any():
      assert trunk.body.depth[inside].min() > 4, bone.name
  # The outline is alike on both sides.
  body = trunk.canvas.tissue != tissues.OUTSIDE.code
  assert 0.45 < _share(body, trunk.right()) < 0.55


@pytest.mark.parametrize("seed", _SEEDS)
def test_lungs_hold_air_and_keep_out_of_bone(seed):
  trunk = _trunk(seed)
  lung = trunk.canvas.tissue == tissues.LUNG.code
  assert 1500 < lung.sum() * _EDGE**3 / 1000 < 7000  # ml
  assert -900 < np.median(trunk.lung_hu) < -700
  assert 0.42 < _share(lung, trunk.right()) < 0.66  # the heart is left
  for bone in trunk.spine.vertebrae[8:]:
    inside = lung & trunk.inside(bone)
    assert inside.sum() * _EDGE**3 < 300, bone.name  # 5 voxels
  assert trunk.body.depth[lung].min() > 10
  # None below L1.
  at = trunk.canvas.z < anchor(trunk.spine, 21)[2]
  assert not lung[:, :, at].any()


@pytest.mark.parametrize("seed", _SEEDS)
def test_aorta_is_left_and_cava_right_of_the_lumbar_spine(seed):
  trunk = _trunk(seed)
  blood = trunk.canvas.tissue == tissues.VESSEL.code
  for level in (19, 20, 21, 22):
    place = anchor(trunk.spine, level)
    k = int(np.argmin(np.abs(trunk.canvas.z - place[2])))
    x = trunk.canvas.x[np.nonzero(blood[:, :, k])[0]] - place[0]
    y = trunk.canvas.y[np.nonzero(blood[:, :, k])[1]] - place[1]
    assert (x < 5).any()
    assert (x > 5).any()
    assert y.min() > 0  # both run in front
  for bone in trunk.spine.vertebrae[17:]:
    # A wide vessel dents no bone: that is drawn over it.
    assert (blood & trunk.inside(bone)).sum() * _EDGE**3 < 2000, bone.name


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_liver_is_right_and_kidneys_are_on_both_sides(seed):
  trunk = _trunk(seed)
  organ = trunk.canvas.tissue == tissues.ORGAN.code
  right = trunk.right()
  z = trunk.canvas.z
  top, foot = (anchor(trunk.spine, lv)[2] for lv in (17, 19))
  upper = organ & ((z > foot) & (z < top))
  assert _share(upper, right) > 0.55
  y = trunk.canvas.y[None, :, None] - trunk.body.course.centre[:, 1]
  kidney = organ & (np.abs(y + 12) < 14) & (np.abs(right) > 45)
  kidney &= np.abs(right) < 85
  k = np.abs(z - anchor(trunk.spine, 20.6)[2]) < 20
  for side in (-1, 1):
    volume = (kidney & (side * right > 0))[:, :, k].sum() * _EDGE**3 / 1000
    assert volume > 25, side  # ml
  for bone in trunk.spine.vertebrae[17:]:
    inside = organ & trunk.inside(bone)
    assert inside.sum() * _EDGE**3 < 300, bone.name


@pytest.mark.parametrize("seed", _SEEDS)
def test_hips_lie_on_both_sides_of_the_sacrum(seed):
  trunk = _trunk(seed)
  sacrum, canvas = trunk.spine.sacrum, trunk.canvas
  grid = np.stack(np.meshgrid(canvas.x, canvas.y, canvas.z, indexing="ij"), -1)
  places = (grid - sacrum.centre) @ sacrum.frame / sacrum.scale
  x, y, z = np.moveaxis(places, -1, 0)
  hip = canvas.bone > 0
  assert hip.sum() * _EDGE**3 / 1000 > 400  # ml
  both = [(hip & (side * x > 0)).sum() for side in (-1, 1)]
  assert both[0] / both[1] == pytest.approx(1, abs=0.06)
  inside = trunk.inside(sacrum)
  assert (hip & inside).sum() < 0.02 * inside.sum()
  # They lie beside the sacrum and touch it in the joints.
  beside = hip & (z > -80) & (y < 0)
  assert np.abs(x[beside]).min() > 20
  for side in (-1, 1):
    gap = sacrum.depth(canvas.x, canvas.y, canvas.z)[hip & (side * x > 0)]
    assert gap.max() > -5
  for bone in trunk.spine.vertebrae[17:]:
    assert not (hip & trunk.inside(bone)).any(), bone.name
