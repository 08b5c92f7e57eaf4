# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The head, as far as scans of the neck show it: skull base, jaw, brain."""

from __future__ import annotations

import numpy as np

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import FAR_MM, Canvas, smooth_noise
from vf_jax.multispine.phantom.cervical import DENS_TIP_MM, LATERAL_MASS_MM
from vf_jax.multispine.phantom.spine import Spine

_BRAIN_HU, _FLUID_HU = 35.0, 10.0
# In the skull's own frame, mm of a patient of usual size.
_BASION = np.array([0.0, -6.0, 9.5])
_HOLE_MM = 17.5  # half the length of the foramen magnum
_HOLE_Y = _BASION[1] - _HOLE_MM
_JOINT_MM = 1.5  # between condyle and C1


def head(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
  """Draws what is above C1 and in front of C2.

  The basion hangs over the tip of the dens, the condyles stand on C1, and the
  canal goes on through the foramen magnum.

  Args:
    canvas: gets bone and soft tissue.
    spine: the skull sits on its first vertebra.
    rng: for size and for the height above the dens.
  """
  atlas, axis = spine.vertebrae[0], spine.vertebrae[1]
  if canvas.z[-1] < axis.centre[2] - 40:
    return
  size = spine.size * rng.uniform(0.95, 1.05)
  frame = atlas.frame
  tip = axis.to_world(DENS_TIP_MM)
  basion = tip + frame[:, 2] * rng.uniform(5.5, 8.0)
  basion -= frame[:, 0] * (frame[:, 0] @ (basion - atlas.centre))

  def at(x, y, z):
    return basion + frame @ ((np.array([x, y, z], float) - _BASION) * size)

  _skull(canvas, at, size, frame, rng)
  for side in (-1.0, 1.0):
    _condyle(canvas, atlas, basion, side, size)
    canvas.bone_ellipsoid(at(side * 45, 2, 26), np.array([24, 11, 12]) * size)
    mastoid = at(side * 54, -4, 10)
    canvas.bone_ellipsoid(mastoid, np.array([12, 14, 15]) * size)
    for _ in range(8):
      cell = mastoid + rng.uniform(-9, 9, 3)
      canvas.ellipsoid(cell, (3, 3, 3), tissues.GAS, -800.0)
      cut = canvas.box(cell - 3, cell + 3)
      if cut is not None:
        canvas.bone[cut] = -2.0
  _face(canvas, at, size)


def _skull(canvas, at, size, frame, rng) -> None:
  """Scalp, vault, base and brain; the foramen magnum is open."""
  centre = at(0, -2, 80)
  radii = np.array([72, 88, 80]) * size
  box = canvas.box(centre - radii.max() - 14, centre + radii.max() + 14)
  if box is None:
    return
  x, y, z = canvas.local(box, at(0, 0, 0))
  u, v, w = (
    (row[0] * x + row[1] * y + row[2] * z) / np.float32(size)
    for row in frame.T.astype(np.float32)
  )
  a, b, c = (np.float32(r) for r in radii / size)
  vault = 1 - np.sqrt((u / a) ** 2 + ((v + 2) / b) ** 2 + ((w - 80) / c) ** 2)
  vault *= np.float32(radii[2])
  new = (vault > -7) & (canvas.tissue[box] == tissues.OUTSIDE.code)
  canvas.tissue[box][new] = tissues.FAT.code
  canvas.hu[box][new] = -60.0
  above = (w - _underside(u, v)) * np.float32(size)
  depth = np.minimum(vault, above)
  across = np.hypot(u * np.float32(1.1), v - np.float32(_HOLE_Y))
  hole = (across - np.float32(_HOLE_MM)) * np.float32(size)
  fluid = (hole < 0) & (above > -3) & (above < 12)
  canvas.paint(box, depth > 5, tissues.ORGAN, _BRAIN_HU)
  canvas.paint(box, fluid, tissues.UNKNOWN, _FLUID_HU)
  wall = 3.2 - np.abs(depth - 3.2)
  # The base is thicker than the vault.
  rough = np.float32(0.6) * smooth_noise(u.shape, 5, rng)
  base = np.minimum(4.5 - np.abs(above - 4.5) + rough, vault)
  base = np.minimum(base, 62 - np.hypot(u, (v + 5) * np.float32(0.8)))
  bone = np.maximum(wall, base)
  # The bore ends inside the skull; the vault over it is whole.
  bone = np.where(above < 25, np.minimum(bone, hole), bone)
  canvas.add_bone(box, np.maximum(bone, -FAR_MM).astype(np.float32))


def _underside(u, v):
  """Height of the skull's lower face: flat around the hole, a clivus ahead."""
  clivus = 0.9 * np.clip(v - _BASION[1], 0, 36) * np.exp(-((u / 30) ** 2))
  front = 0.5 * np.clip(v - 25, 0, 50)
  behind = 0.0035 * np.minimum(v - _HOLE_Y, 0) ** 2
  return (_BASION[2] + 0.0042 * u**2 + clivus + front + behind).astype(
    np.float32
  )


def _condyle(canvas, atlas, basion, side, size) -> None:
  """Fills what is between the base and a lateral mass, but for the joint."""
  foot = atlas.to_world(LATERAL_MASS_MM * (side, 1, 1))
  up = atlas.frame[:, 2]
  rise = float(up @ (basion - foot)) + 3.0
  radii = np.array([7 * size, 11 * size, rise / 2 + 1.5])
  centre = foot + up * (rise / 2)
  box = canvas.box(centre - radii.max() - 3, centre + radii.max() + 3)
  if box is None:
    return
  x, y, z = canvas.local(box, centre)
  turn = (atlas.frame / radii).T.astype(np.float32)
  square = sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in turn)
  depth = (1 - np.sqrt(square)) * np.float32(radii.min())
  below = atlas.depth(canvas.x[box[0]], canvas.y[box[1]], canvas.z[box[2]])
  canvas.add_bone(box, np.minimum(depth, -below - np.float32(_JOINT_MM)))


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
  half = [(50, 22, 14), (49, 26, -20), (46, 38, -38), (32, 72, -42)]
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
