"""A patient of cylinders, quick to draw; what a scanner does shows on it."""

from __future__ import annotations

import numpy as np

from vf_jax.grid import Grid
from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.labels import BY_NAME, LEVELS
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.anatomy import Anatomy

STEP_MM = 30.0


def stub_anatomy(
  first: str = "T12",
  last: str = "L4",
  spacing_mm: float = 2.0,
  *,
  skipped: tuple[str, ...] = ("T13", "L6"),
  lesion: bool = True,
) -> Anatomy:
  """Vertebrae from `first` to `last`, every 30 mm, in an elliptic body."""
  chosen = [
    level
    for level in LEVELS
    if BY_NAME[first].order <= level.order <= BY_NAME[last].order
    and level.name not in skipped
  ]
  size_mm = np.array([320.0, 230.0, STEP_MM * len(chosen)])
  shape = tuple(int(n) for n in size_mm / spacing_mm)
  affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
  affine[:3, 3] = (-155.0, -120.0, 700.0)
  grid = Grid(shape, affine)
  x, y, z = (
    np.arange(n).reshape([-1 if i == j else 1 for j in range(3)]) * spacing_mm
    + affine[i, 3]
    for i, n in enumerate(shape)
  )
  hu = np.full(shape, -1000, np.int16)
  tissue = np.full(shape, tissues.OUTSIDE.code, np.uint8)
  labels = np.zeros(shape, np.uint8)

  def fill(where, value, kind):
    where = np.broadcast_to(where, shape)
    hu[where], tissue[where] = value, kind.code

  fill((x / 145) ** 2 + (y / 100) ** 2 < 1, -100, tissues.FAT)
  fill((x / 125) ** 2 + (y / 80) ** 2 < 1, 50, tissues.MUSCLE)
  fill(((x - 70) / 30) ** 2 + ((y - 30) / 25) ** 2 < 1, 60, tissues.ORGAN)
  fill((x + 12) ** 2 + (y - 10) ** 2 < 11**2, 45, tissues.VESSEL)
  centres, pedicles = {}, {}
  top = affine[2, 3] + (shape[2] - 1) * spacing_mm
  for number, level in enumerate(chosen):
    middle = np.array([0.0, -25.0, top - STEP_MM * (number + 0.5)])
    across, along = np.abs(x), y - middle[1]
    up = np.abs(z - middle[2])
    body = ((across / 21) ** 2 + (along / 16) ** 2 < 1) & (up < 12)
    arch = (across < 18) & (along < -13) & (along > -34) & (up < 8)
    canal = (x / 11) ** 2 + ((along + 23) / 7) ** 2 < 1
    spine = (across < 3) & (along < -30) & (along > -55) & (up < 6)
    bone = np.broadcast_to(body | (arch & ~canal) | spine, shape)
    hu[bone], tissue[bone] = 420, tissues.BONE.code
    inner = ((across / 18) ** 2 + (along / 13) ** 2 < 1) & (up < 9)
    hu[np.broadcast_to(inner, shape)] = 160
    labels[bone] = level.code
    centres[level.code] = tuple(float(v) for v in middle)
    pedicles[level.code] = tuple(
      tuple(float(v) for v in np.add(middle, (side * 14.0, -20.0, 2.0)))
      for side in (-1, 1)
    )
  lesions = ()
  if lesion:
    code = chosen[len(chosen) // 2].code
    spot = np.add(centres[code], (5.0, 3.0, 0.0))
    near = (
      sum((axis - value) ** 2 for axis, value in zip((x, y, z), spot)) < 6**2
    )
    hu[near & (labels == code)] = 30
    lesions = (
      AnnotatedLesion(tuple(map(float, spot)), (12.0, 12.0, 12.0), "lytic"),
    )
  return Anatomy(
    grid=grid,
    hu=hu,
    labels=labels,
    tissue=tissue,
    centres=centres,
    pedicles=pedicles,
    lesions=lesions,
    fractures={chosen[-1].code: ("wedge", 2)},
    variant="usual",
  )
