# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""C1 to C6 as models: no open mask shows these vertebrae whole.

They are built from a few rounded solids with the proportions of anatomy
books: C1 a ring without a body, C2 with its dens, C3 to C6 with uncinate
ridges, slanted articular pillars, transverse foramina and forked spines. A
reader should see cervical vertebrae; nobody should measure them.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from jaxtyping import Float32

from vf_jax.multispine.phantom.templates import REACH_MM, Template

_SPACING_MM = 1.0
_HALF, _BACK, _FRONT, _DOWN, _UP = 44.0, 58.0, 18.0, 24.0, 32.0
_NECK_MM = {"C1": 19.0, "C2": 20.2, "C3": 19.0, "C4": 16.8, "C5": 16.4}
SOURCE = "model"
ATLAS_MM = np.array([0.0, 5.5, 17.5])
"""Centre of C1 in the frame of C2."""

DENS_TIP_MM = np.array([0.0, -1.5, 27.8])
"""Tip of the dens in the frame of C2."""

LATERAL_MASS_MM = np.array([17.0, -13.0, 6.5])
"""Top of the right lateral mass in the frame of C1."""

NAMES = ("C1", "C2", "C3", "C4", "C5", "C6")


class _Solid:
  """A union of rounded primitives on the right half of a box."""

  def __init__(self):
    self.x = np.arange(0, _HALF, _SPACING_MM, dtype=np.float32)[:, None, None]
    y = np.arange(-_BACK, _FRONT, _SPACING_MM, dtype=np.float32)
    z = np.arange(-_DOWN, _UP, _SPACING_MM, dtype=np.float32)
    self.y, self.z = y[None, :, None], z[None, None, :]
    shape = (self.x.size, self.y.size, self.z.size)
    self.depth = np.full(shape, -2 * REACH_MM, np.float32)

  def block(self, centre, half, power=4.0, slope=0.0) -> None:
    """A box with round edges; `slope` lowers it towards the front."""
    y = self.y - centre[1]
    terms = (
      np.abs((self.x - centre[0]) / half[0]) ** power,
      np.abs(y / half[1]) ** power,
      np.abs((self.z - centre[2] + slope * y) / half[2]) ** power,
    )
    radius = (terms[0] + terms[1] + terms[2]) ** (1 / power)
    self._join((1 - radius) * np.float32(min(half)))

  def bar(
    self, *joints: tuple[int | float, int | float, int | float, int | float]
  ) -> None:
    """Round bars from joint to joint, each (x, y, z, radius)."""
    for start, end in itertools.pairwise(joints):
      a, b = np.array(start, np.float32), np.array(end, np.float32)
      way = (b - a)[:3]
      parts = (self.x - a[0], self.y - a[1], self.z - a[2])
      along = sum(p * w for p, w in zip(parts, way)) / np.float32(way @ way)
      along = np.clip(along, 0, 1)
      square = sum((p - along * w) ** 2 for p, w in zip(parts, way))
      self._join(a[3] + along * (b[3] - a[3]) - np.sqrt(square))

  def hole(self, x, y, radius, low, high) -> None:
    """An upright bore."""
    bore = np.hypot(self.x - x, self.y - y) - np.float32(radius)
    bore = np.where((self.z > low) & (self.z < high), bore, REACH_MM)
    self.depth = np.minimum(self.depth, bore.astype(np.float32))

  def _join(self, depth) -> None:
    """Smooth union, so that parts grow out of each other."""
    blend = np.float32(1.5)
    share = np.clip(0.5 + (depth - self.depth) / (2 * blend), 0, 1)
    mixed = self.depth + share * (depth - self.depth)
    self.depth = (mixed + blend * share * (1 - share)).astype(np.float32)


@functools.cache
def cervical_model(name: str) -> Template:
  """Builds one of C1 to C6.

  Args:
    name: of the level.

  Returns:
    A template in nominal size.
  """
  solid = _Solid()
  if name == "C1":
    _atlas(solid)
    facts = (12.0, (12.0, 6.0), (18.0, -14.0, -3.0), -25.0)
  elif name == "C2":
    _axis(solid)
    facts = (18.0, (9.5, 8.0), (14.0, -11.0, -1.0), -17.0)
  else:
    _typical(solid, NAMES.index(name) - 2)
    facts = (12.5, (9.0, 7.5), (12.0, -9.5, 0.5), -16.0)
  height, half, pedicle, canal = facts
  return Template(
    _cut(solid.depth), (-_BACK, -_DOWN), _SPACING_MM, height, half, pedicle,
    canal, _NECK_MM.get(name, 17.0), SOURCE,
  )  # fmt: skip


def _cut(depth) -> Float32[np.ndarray, "x y z"]:
  return np.clip(depth, -REACH_MM, REACH_MM).astype(np.float32)


def _atlas(solid: _Solid) -> None:
  # Annotations put its centre into the arch in front of the dens.
  solid.bar((0, 2.5, 0, 4.0), (10, -1, 0, 3.5), (16, -8, -1, 4.0))
  solid.block((17, -13, -2), (6.5, 9.5, 8.5), power=3.0)
  solid.bar((18, -14, -2, 4.5), (30, -15, -2, 4.0), (37, -16, -3, 4.5))
  solid.bar(
    (19, -20, 0, 3.6), (17, -30, 0, 3.0), (9, -40, 0, 3.0), (0, -43, 0, 4.0)
  )
  solid.hole(26.5, -14.5, 3.2, -12, 10)


def _axis(solid: _Solid) -> None:
  solid.block((0, 0, 0), (9.5, 8.0, 10.0), slope=0.15)
  solid.bar((0, -2, 7, 6.0), (0, -2, 13, 4.4), (0, -1.5, 23, 4.8))
  solid.block((14, -6, 3.5), (8.5, 8.0, 5.5), power=3.0)
  solid.bar((13, -8, 1, 5.0), (17, -17, -7, 5.5))
  solid.bar((12, -9, -2, 3.0), (23, -9, -4, 3.5))
  for z in (-1.0, -6.0):
    solid.bar((16, -18, z, 3.5), (3, -30, z - 1, 3.8))
  solid.bar((0, -29, -3, 4.5), (0, -38, -7, 5.0), (6, -45, -10, 3.4))
  solid.hole(18.5, -7, 2.8, -12, 3)


def _typical(solid: _Solid, below_c3: int) -> None:
  wide = 1 + 0.05 * below_c3
  tip = (-41.0, -42.0, -45.0, -51.0)[below_c3]
  solid.block((0, 0, 0), (8.8 * wide, 7.6, 6.6), slope=0.18)
  solid.bar((9 * wide, -6, 5.0, 2.4), (9 * wide, 3, 4.0, 2.4))
  solid.bar((7, -6, 0.5, 3.2), (15, -12, 0.5, 3.4))
  _pillar(solid, 18.0 * wide)
  solid.bar((9, -1, -2, 2.2), (23 * wide, 0, -4, 2.6))
  solid.bar((17, -9, -2, 2.4), (25 * wide, -5, -4, 2.6), (23, 0, -4, 2.0))
  for z in (1.0, -4.0):
    solid.bar((17, -18, z, 2.6), (2.5, -29, z - 2, 2.8))
  fork = 4.5 if below_c3 < 3 else 1.5
  solid.bar((0, -28, -4, 3.4), (0, tip + 6, -8, 2.9), (fork, tip, -10, 2.4))
  solid.hole(14.5 * wide, -4.6, 2.8, -12, 3.5)


def _pillar(solid: _Solid, x: float) -> None:
  """Articular pillar: its top lies in front, under the upper neighbour."""
  solid.bar((x, -11.5, 6.5, 4.3), (x, -15, 0, 5.2), (x, -19.0, -7.0, 4.3))
