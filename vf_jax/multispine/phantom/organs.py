# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Organs of the abdomen, and the great vessels from the neck to the groin."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas, smooth_noise
from vf_jax.multispine.phantom.spine import Spine
from vf_jax.multispine.phantom.torso import Body, anchor

_OVER = (tissues.FAT, tissues.MUSCLE)
_FILL = (tissues.FAT,)


def abdomen(
  canvas: Canvas,
  spine: Spine,
  body: Body,
  above: Float32[np.ndarray, "x y z"],
  rng: np.random.Generator,
) -> None:
  """Paints liver, spleen, stomach, kidneys and bowel.

  Args:
    canvas: is painted; lungs and heart must be there already.
    spine: the spine.
    body: the outline.
    above: height above the diaphragm, mm.
    rng: for sizes, contents and gas.
  """
  size = spine.size
  # Nothing of this lies outside the muscle wall.
  canvas.within = body.cavity > -2
  _solid_organs(canvas, spine, body, above, rng)
  for side in (-1.0, 1.0):
    kidney = (
      anchor(spine, 20.6 + 0.2 * side)
      + np.array([side * rng.uniform(56, 66), -12.0, 0.0]) * size
    )
    radii = np.array([27, 27, 52]) * size * rng.uniform(0.9, 1.1)
    canvas.ellipsoid(
      kidney, radii + 8, tissues.FAT, -100.0, (*_OVER, tissues.ORGAN)
    )
    canvas.ellipsoid(kidney, radii, tissues.ORGAN, 35.0, _FILL)
    hilum = kidney + np.array([-side * 12, 8, 0]) * size
    canvas.ellipsoid(hilum, radii * 0.42, tissues.FAT, -90.0, (tissues.ORGAN,))
  _bowel(canvas, spine, rng)
  canvas.within = None


def _solid_organs(canvas, spine, body, above, rng) -> None:
  top, foot = anchor(spine, 14)[2], anchor(spine, 22.8)[2]
  box = canvas.box((-1e4, -1e4, foot), (1e4, 1e4, top))
  if box is None:
    return
  size = spine.size
  under = (above[box] < -4) & (body.cavity[box] > 0)
  under &= canvas.tissue[box] == tissues.FAT.code
  # Behind them is room for kidneys and fat.
  course = body.course
  off = np.abs(canvas.x[:, None, None] - course.centre[box[2], 0])
  rise = canvas.y[None, :, None] - course.centre[box[2], 1]
  under &= rise > 6 - 0.5 * np.maximum(off - 75 * size, 0)
  # In front of the spine are crura and great vessels.
  wide, deep = (course.half[box[2], i] for i in range(2))
  under &= np.hypot(off / (wide + 16), rise / (deep + 14)) > 1
  liver, spleen = rng.uniform(40, 65), rng.uniform(40, 55)
  for level, offset, radii, hu in (
    (18.4, (74, 52, 0), (80, 80, 80), liver),
    (17.4, (10, 84, 0), (72, 40, 40), liver),  # its left lobe
    (18.4, (-98, -8, 0), (34, 52, 52), spleen),
  ):
    centre = anchor(spine, level) + np.array(offset) * size
    x, y, z = canvas.local(box, centre)
    a, b, c = (np.float32(r * size) for r in radii)
    square = np.abs(x / a) ** 2.4 + np.abs(y / b) ** 2.4 + np.abs(z / c) ** 2.4
    canvas.paint(box, under & (square < 1), tissues.ORGAN, hu)
  stomach = anchor(spine, 18.6) + np.array([-58, 62, 0]) * size
  full = rng.uniform(0.7, 1.2) * size
  radii = np.array([42, 40, 50]) * full
  canvas.ellipsoid(stomach, radii, tissues.ORGAN, rng.uniform(20, 60), _FILL)
  bubble = stomach + np.array([0, 0.45, 0.1]) * radii
  canvas.ellipsoid(
    bubble, radii * (0.7, 0.42, 0.6), tissues.GAS, -990.0, (tissues.ORGAN,)
  )
  way = np.array([[48, 42, -8], [10, 52, 0], [-40, 40, 12], [-80, 15, 20]])
  pancreas = anchor(spine, 20.3) + way * size
  canvas.tube(pancreas, [15, 10, 11, 9], tissues.ORGAN, 35.0, _FILL)


def _bowel(canvas, spine, rng) -> None:
  """Coils of small bowel, and a colon with gas along the flanks."""
  size = spine.size
  for _ in range(int(rng.integers(35, 60))):
    level = rng.uniform(21.3, 27.5)
    place = (
      anchor(spine, level)
      + np.array(
        [rng.uniform(-85, 85), rng.uniform(38, 105), rng.uniform(-8, 8)]
      )
      * size
    )
    if level > 25:
      place[2] -= (level - 25) * 25
    radii = rng.uniform(11, 18) * rng.uniform(0.8, 1.5, 3)
    canvas.ellipsoid(place, radii, tissues.ORGAN, rng.uniform(10, 50), _FILL)
    if rng.random() < 0.35:
      canvas.ellipsoid(
        place + radii * np.array([0, 0.3, 0]), radii * 0.6, tissues.GAS, -970.0,
        (tissues.ORGAN,),
      )  # fmt: skip
  blown = rng.uniform(0.2, 1.0)  # insufflated colons are common in screening
  corners = (
    (25.5, (98, 30, -45)), (23.0, (105, 20, 0)), (21.0, (98, 25, 0)),
    (20.6, (60, 85, 0)), (21.4, (0, 102, 0)), (20.3, (-70, 80, 0)),
    (19.6, (-108, 10, 0)), (22.0, (-112, 0, 0)), (25.0, (-102, 15, 0)),
    (26.0, (-70, 30, -60)), (26.0, (-10, 10, -80)), (26.0, (0, -45, -95)),
  )  # fmt: skip
  knots = np.array(
    [anchor(spine, lv) + np.array(off) * size for lv, off in corners]
  )
  steps = np.linspace(0, len(knots) - 1, 120)
  path = np.stack(
    [np.interp(steps, range(len(knots)), row) for row in knots.T], axis=1
  )
  pouch = 1 + 0.18 * np.sin(np.arange(120) * 1.6)
  radius = (13 + 9 * blown) * pouch * size
  canvas.tube(path, radius, tissues.ORGAN, 35.0, (*_FILL, tissues.ORGAN))
  air = smooth_noise((120,), 9, rng) < (2.2 * blown - 1.0)
  inner = np.where(air, radius - 2.5, 0.1)
  over = (tissues.ORGAN,)
  canvas.tube(path + np.array([0, 1.5, 0]), inner, tissues.GAS, -990.0, over)


def vessels(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
  """Paints aorta, cavae, iliac and neck vessels; all VESSEL, unenhanced.

  Args:
    canvas: is painted.
    spine: the vessels follow it.
    rng: for their width and winding.
  """
  size, blood = spine.size, float(rng.uniform(35, 50))
  over = (*_OVER, tissues.LUNG, tissues.ORGAN)
  wide = size * rng.uniform(0.9, 1.35)  # old aortas are wide

  def run(levels, offset, radii, winding=3.0):
    steps = np.arange(levels[0], levels[1] + 0.01, 0.25)
    share = np.linspace(0, 1, len(steps))
    path = np.array([anchor(spine, level) for level in steps])
    low, high = (np.array(o, float) for o in offset)
    path += (low + share[:, None] * (high - low)) * size
    bend = smooth_noise((len(steps), 2), 6, rng) * winding
    path[:, :2] += bend
    radius = np.interp(share, [0, 1], radii) * wide
    canvas.tube(path, radius, tissues.VESSEL, blood, over)
    return path

  run((11.5, 17.0), ((-26, 14, 0), (-15, 24, 0)), (12.5, 11.5))
  aorta = run((17.0, 23.6), ((-15, 24, 0), (-7, 32, 0)), (11.0, 9.0))
  arch = (
    anchor(spine, 11.3)
    + np.array(
      [[-26, 14, 2], [-20, 30, 14], [-4, 50, 16], [10, 62, 4], [12, 62, -30]]
    )
    * size
  )
  canvas.tube(
    arch, np.array([12.5, 13, 13, 14, 15]) * wide, tissues.VESSEL, blood, over
  )
  cava = run((15.5, 24.0), ((20, 40, 0), (18, 28, 0)), (12.0, 10.5))
  run((9.0, 13.0), ((26, 52, 0), (26, 48, 0)), (8.5, 9.0))
  for start, radius in ((aorta[-1], 6.0), (cava[-1], 7.0)):
    for side in (-1.0, 1.0):
      way = np.array([[0, 0, 0], [22, 0, -28], [48, 4, -75], [62, 45, -125]])
      path = start + way * (side, 1, 1) * size
      canvas.tube(path, np.full(4, radius * wide), tissues.VESSEL, blood, over)
  for side in (-1.0, 1.0):
    run((0.5, 8.5), ((side * 27, 16, 0), (side * 16, 34, 0)), (3.3, 4.2), 1.0)
    run((0.5, 8.0), ((side * 34, 12, 0), (side * 30, 36, 0)), (5.0, 6.5), 1.5)
