# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The head, as far as scans of the neck show it: skull base, jaw, brain."""

from __future__ import annotations

import numpy as np

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import FAR_MM, Canvas, smooth_noise
from vf_jax.multispine.phantom.spine import Spine

_BRAIN_HU = 35.0


def head(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
  """Draws what is above C1 and in front of C2.

  Args:
    canvas: gets bone and soft tissue.
    spine: the skull sits on its first vertebra.
    rng: for size and tilt.
  """
  atlas, axis = spine.vertebrae[0], spine.vertebrae[1]
  if canvas.z[-1] < axis.centre[2] - 40:
    return
  size = spine.size * rng.uniform(0.95, 1.05)
  frame = atlas.frame

  def at(x, y, z):
    return atlas.centre + frame @ (np.array([x, y, z], float) * size)

  centre = at(0, 8, 82)
  radii = np.array([72, 92, 76]) * size
  box = canvas.box(centre - radii - 14, centre + radii + 14)
  if box is not None:
    x, y, z = canvas.local(box, centre)
    a, b, c = (np.float32(r) for r in radii)
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    depth = (1 - radius) * c
    new = (depth > -7) & (canvas.tissue[box] == tissues.OUTSIDE.code)
    canvas.tissue[box][new] = tissues.FAT.code
    canvas.hu[box][new] = -60.0
    brain = depth > 5
    canvas.tissue[box][brain] = tissues.ORGAN.code
    canvas.hu[box][brain] = _BRAIN_HU
    wall = 3.2 - np.abs(depth - 3.2)
    canvas.add_bone(box, np.maximum(wall, -FAR_MM))
  _base(canvas, at, size, frame, rng)
  _face(canvas, at, size)


def _base(canvas, at, size, frame, rng) -> None:
  """Thick bone around the foramen magnum, with the petrous parts."""
  low, high = at(-75, -75, 4), at(75, 75, 60)
  box = canvas.box(np.minimum(low, high) - 20, np.maximum(low, high) + 20)
  if box is not None:
    x, y, z = canvas.local(box, at(0, 0, 0))
    parts = [
      frame[0, i] * x + frame[1, i] * y + frame[2, i] * z for i in range(3)
    ]
    u, v, w = (p / np.float32(size) for p in parts)
    rough = smooth_noise(u.shape, 5, rng)
    # A bowl that rises from the hole to the sides and to the front.
    bowl = 14 + 0.0042 * u**2 + 0.0035 * (v + 15) ** 2
    floor = 4.5 - np.abs(w - bowl) + 1.2 * rough
    hole = np.hypot(u / 0.9, v + 16) - 17
    extent = 62 - np.hypot(u, (v + 5) * 0.8)
    canvas.add_bone(
      box, np.minimum(np.minimum(floor, hole), extent).astype(np.float32)
    )
  for side in (-1.0, 1.0):
    canvas.bone_ellipsoid(at(side * 18, -4, 11), np.array([7, 10, 5]) * size)
    canvas.bone_ellipsoid(at(side * 45, 2, 26), np.array([24, 11, 12]) * size)
    mastoid = at(side * 54, -4, 10)
    canvas.bone_ellipsoid(mastoid, np.array([12, 14, 18]) * size)
    for _ in range(8):
      cell = mastoid + rng.uniform(-9, 9, 3)
      canvas.ellipsoid(cell, (3, 3, 3), tissues.GAS, -800.0)
      cut = canvas.box(cell - 3, cell + 3)
      if cut is not None:
        canvas.bone[cut] = -2.0


def _face(canvas, at, size) -> None:
  """Jaw, hard palate, mouth and the air behind the nose."""
  for spot, reach in (((0, 56, 0), (56, 56, 62)), ((0, 52, -24), (46, 50, 30))):
    place, radii = at(*spot), np.array(reach) * size
    box = canvas.box(place - radii, place + radii)
    if box is None:
      continue
    x, y, z = canvas.local(box, place)
    a, b, c = (np.float32(r) for r in radii)
    face = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
    new = face & np.isin(
      canvas.tissue[box],
      [tissues.OUTSIDE.code, tissues.FAT.code, tissues.MUSCLE.code],
    )
    canvas.tissue[box][new] = tissues.MUSCLE.code
    canvas.hu[box][new] = 50.0
  half = [(50, 22, 18), (49, 26, -20), (46, 38, -38), (32, 72, -42)]
  left = [at(-x, y, z) for x, y, z in half]
  right = [at(*spot) for spot in reversed(half)]
  jaw = np.array([*left, at(0, 90, -42), *right])
  canvas.bone_tube(jaw, np.array([5, 6, 7, 7, 7, 7, 7, 6, 5]) * size)
  teeth = [at(x, y, -30) for x, y in ((-30, 66), (-18, 82), (0, 87))]
  teeth += [at(x, y, -30) for x, y in ((18, 82), (30, 66))]
  canvas.bone_tube(np.array(teeth), np.full(5, 5.5))
  palate = [at(x, 62, 4) for x in (-24, 0, 24)]
  canvas.bone_tube(np.array(palate), np.full(3, 4.0))
  for y in (48, 62, 76):
    canvas.bone_tube(np.array([at(-22, y, 5), at(22, y, 5)]), [3.5, 3.5])
  canvas.tube(
    np.array([at(0, 24, -25), at(0, 26, 0), at(0, 36, 14), at(0, 70, 16)]),
    np.array([9, 10, 11, 8]) * size, tissues.GAS, -995.0,
  )  # fmt: skip
  for side in (-1.0, 1.0):
    canvas.ellipsoid(
      at(side * 28, 62, 20), np.array([13, 16, 15]) * size, tissues.GAS, -990.0
    )
