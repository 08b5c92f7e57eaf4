# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Bones around mask-only vertebrae: a modelled sacrum, ilia and ribs.

Some subjects come as a vertebra mask without its CT. Synthetic intensities on
such a mask alone would teach that all bone is vertebra. What is drawn here is
a model, not anatomy of the subject: ellipsoids and tubes with random size,
placed by the body centres.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from vf_jax.labels import BY_NAME

_L4, _L5, _L6 = (BY_NAME[name].code for name in ("L4", "L5", "L6"))
_RIB_LENGTH_MM = {f"T{n}": 190.0 for n in range(1, 11)} | {
  "T11": 130.0, "T12": 80.0, "T13": 50.0,
}  # fmt: skip


def model_bones(
  labels: UInt8[np.ndarray, "depth height width"],
  centres: Mapping[int, tuple[float, float, float]],
  spacing_mm: float,
  rng: np.random.Generator,
) -> Bool[np.ndarray, "depth height width"]:
  """Draws sacrum and ilia below L5 (or L6) and ribs at thoracic levels.

  Args:
    labels: VerSe codes on a RAS+ grid.
    centres: body centres, VerSe code -> voxels (depth, height, width).
    spacing_mm: voxel edge, mm.
    rng: for sizes and angles.

  Returns:
    True where modelled bone lies; never inside a vertebra or within 2 mm.
  """
  bones = np.zeros(labels.shape, bool)
  last = _L6 if _L6 in centres else _L5
  if last in centres and _L4 in centres:
    _draw_pelvis(bones, centres, last, spacing_mm, rng)
  for name, length in _RIB_LENGTH_MM.items():
    code = BY_NAME[name].code
    if code in centres:
      for side in (-1.0, 1.0):
        _draw_rib(
          bones, np.array(centres[code]), side,
          length * rng.uniform(0.8, 1.1), spacing_mm, rng,
        )  # fmt: skip
  near = ndimage.binary_dilation(
    labels > 0, iterations=max(1, round(2 / spacing_mm))
  )
  return bones & ~near


def model_discs(
  shape: tuple[int, ...],
  centres: Mapping[int, tuple[float, float, float]],
  spacing_mm: float,
) -> Bool[np.ndarray, "depth height width"]:
  """Draws cylinders between neighbouring bodies, where the discs lie.

  Args:
    shape: of the result.
    centres: body centres, VerSe code -> voxels (depth, height, width).
    spacing_mm: voxel edge, mm.

  Returns:
    True inside the cylinders; they overlap the bodies.
  """
  discs = np.zeros(shape, bool)
  order = sorted(centres, key=lambda code: -centres[code][0])
  for upper, lower in itertools.pairwise(order):
    start, end = np.array(centres[upper]), np.array(centres[lower])
    if np.linalg.norm(end - start) * spacing_mm > 60:
      continue
    half = np.array([4.0, 16.0, 20.0])
    for t in np.linspace(0.25, 0.75, 12):
      place = (start + t * (end - start)) * spacing_mm
      _ellipsoid(discs, place, end - start, half, spacing_mm)
  return discs


def _draw_pelvis(bones, centres, last, spacing_mm, rng) -> None:
  below, above = np.array(centres[last]), np.array(centres[_L4])
  axis = (below - above) * spacing_mm
  if last == _L6:
    axis = axis / 2
  height = np.linalg.norm(axis)
  down = axis / height
  tilt = np.deg2rad(rng.uniform(15, 40))
  place = below * spacing_mm + down * height * rng.uniform(0.85, 1.0)
  size = rng.uniform(0.9, 1.1)
  for i in range(5):
    # Each sacral segment is smaller and turns further to the back.
    down = _towards_back(down, tilt if i == 0 else tilt / 8)
    scale = size * (1 - 0.14 * i)
    half = np.array([15.0, 18.0 - 2 * i, 25.0]) * scale
    _ellipsoid(bones, place, down, half, spacing_mm)
    if i < 3:  # alae
      for side in (-1.0, 1.0):
        wing = place + np.array([-3.0, -8.0, side * 32.0 * scale])
        _ellipsoid(
          bones, wing, down, np.array([15.0, 13.0, 20.0]) * scale, spacing_mm
        )
    crest = place + np.array([0.0, -24.0 * scale, 0.0])
    _ellipsoid(
      bones, crest, down, np.array([13.0, 6.0, 7.0]) * scale, spacing_mm
    )
    place = place + down * 25.0 * scale
  hip = below * spacing_mm
  for side in (-1.0, 1.0):
    turn = np.deg2rad(rng.uniform(30, 50))
    for t in np.linspace(0, 1, 12):
      # A curved plate from the sacroiliac joint to the front and outside.
      spot = hip + np.array(
        [
          -25.0 + 18.0 * t,
          -40.0 + 85.0 * t * np.cos(turn / 2),
          side * (52.0 * size + 60.0 * t * np.sin(turn)),
        ]
      )
      _ellipsoid(
        bones, spot, np.array([1.0, 0.0, 0.0]),
        np.array([38.0 + 20 * t, 8.0, 6.0]) * size, spacing_mm,
      )  # fmt: skip


def _towards_back(down, angle) -> Float[np.ndarray, " 3"]:
  """Turns a downward direction in the sagittal plane, at most to level."""
  slope = np.arctan2(-down[1], -down[0]) + angle
  slope = min(slope, np.deg2rad(65))
  return np.array([-np.cos(slope), -np.sin(slope), 0.0])


def _ellipsoid(bones, place_mm, axis, half_mm, spacing_mm) -> None:
  """Fills an ellipsoid; `axis` (in the sagittal plane) is its first axis."""
  reach = float(half_mm.max()) + spacing_mm
  low = np.maximum(np.floor((place_mm - reach) / spacing_mm), 0).astype(int)
  high = np.minimum(
    np.ceil((place_mm + reach) / spacing_mm) + 1, bones.shape
  ).astype(int)
  if (low >= high).any():
    return
  grids = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high))]
  depth, height, width = (g * spacing_mm - p for g, p in zip(grids, place_mm))
  unit = axis[:2] / max(np.linalg.norm(axis[:2]), 1e-6)
  along = depth * unit[0] + height * unit[1]
  across = -depth * unit[1] + height * unit[0]
  inside = (
    (along / half_mm[0]) ** 2
    + (across / half_mm[1]) ** 2
    + (width / half_mm[2]) ** 2
  ) <= 1
  bones[tuple(slice(a, b) for a, b in zip(low, high))] |= inside


def _draw_rib(bones, centre, side, length, spacing_mm, rng) -> None:
  wide, deep = rng.uniform(110, 140), rng.uniform(80, 100)
  start = centre * spacing_mm + np.array([2.0, -16.0, side * 20.0])
  angle = np.linspace(-0.55 * np.pi, 0.5 * np.pi, 100)
  curve = np.stack(
    [
      -30.0 * (angle - angle[0]) / np.pi,
      deep * np.sin(angle),
      side * wide * np.cos(angle),
    ],
    axis=1,
  )
  curve = curve - curve[0] + start
  steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
  radius = rng.uniform(3.5, 6.0)
  half = np.array([radius * 1.5, radius, radius])
  for spot in curve[: np.searchsorted(np.cumsum(steps), length)]:
    _ellipsoid(bones, spot, np.array([1.0, 0.0, 0.0]), half, spacing_mm)
