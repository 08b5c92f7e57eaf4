# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The outline of the patient and what fills it: skin, fat, muscle, cavities.

Shapes are given by level of the spine, as smooth tables of millimetres for a
patient of usual size, and follow the drawn spine.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import ndimage

from vf_jax.labels import VERTEBRAE
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas, smooth_noise
from vf_jax.multispine.phantom.spine import Spine

# Level -> half width, body centre to back, body centre to front, mm.
_OUTLINE = (
  ("C1", 62, 72, 60), ("C4", 60, 66, 52), ("C6", 72, 70, 55),
  ("C7", 112, 76, 62), ("T1", 160, 80, 72), ("T3", 175, 70, 100),
  ("T6", 168, 62, 140), ("T9", 162, 62, 158), ("T12", 155, 66, 158),
  ("L3", 150, 80, 138), ("L5", 165, 85, 135), ("sacrum", 178, 88, 125),
)  # fmt: skip
_ORDER = {v.name: float(v.order) for v in VERTEBRAE} | {"sacrum": 28.0}
_FAT_HU, _MUSCLE_HU = -100.0, 55.0


@dataclasses.dataclass(frozen=True, eq=False)
class Habitus:
  """How the patient is built.

  Attributes:
    girth: of the soft tissue around the spine, 1 is usual.
    fat_mm: thickness of the fat under the skin of the belly.
    infiltration: 0..1, how much fat the muscles hold.
    muscle_hu: of the patient's muscle.
  """

  girth: float
  fat_mm: float
  infiltration: float
  muscle_hu: float


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
  """Places along the spine at any height.

  Attributes:
    z: heights, mm, one for each row below.
    centre: of the bodies, x and y, mm.
    smooth: the same, with bends of the spine ironed out.
    level: position along the levels, C1 is 0, the table's order.
    half: half width and half depth of the bodies.
  """

  z: Float32[np.ndarray, " z"]
  centre: Float32[np.ndarray, "z 2"]
  smooth: Float32[np.ndarray, "z 2"]
  level: Float32[np.ndarray, " z"]
  half: Float32[np.ndarray, "z 2"]

  @classmethod
  def of(cls, spine: Spine, z: Float[np.ndarray, " z"]) -> Course:
    """Follows a spine.

    Args:
      spine: the spine.
      z: ascending heights, mm.

    Returns:
      Its course at these heights.
    """
    bones = [*spine.vertebrae][::-1]
    tip = spine.sacrum.to_world(np.array([0.0, -45.0, -60.0]))
    tail = spine.sacrum.to_world(np.array([0.0, -70.0, -130.0]))
    places = np.array([tail, tip, *(v.centre for v in bones)])
    levels = [30.0, 28.0, *(_ORDER[v.name] for v in bones)]
    halves = np.array([v.half_mm[:2] for v in bones])
    halves = np.concatenate([halves[:1], halves[:1], halves])
    top = places[-1] + (0.0, 6.0, 90.0)
    places = np.concatenate([places, top[None]])
    levels.append(-4.0)
    halves = np.concatenate([halves, halves[-1:]])

    def along(values):
      return np.interp(z, places[:, 2], values).astype(np.float32)

    centre = np.stack([along(places[:, 0]), along(places[:, 1])], axis=1)
    wide = np.arange(places[0, 2] - 60, places[-1, 2] + 60, 4.0)
    ironed = [
      ndimage.gaussian_filter1d(
        np.interp(wide, places[:, 2], places[:, i]), 15.0, mode="nearest"
      )
      for i in range(2)
    ]
    smooth = np.stack([np.interp(z, wide, v) for v in ironed], axis=1)
    return cls(
      z.astype(np.float32), centre, smooth.astype(np.float32),
      along(np.array(levels)),
      np.stack([along(halves[:, 0]), along(halves[:, 1])], axis=1),
    )  # fmt: skip


def anchor(spine: Spine, level: int | float) -> Float64[np.ndarray, " 3"]:
  """A place along the line of body centres.

  Args:
    spine: the spine.
    level: 0 for C1, 7 for T1, 20 for L1 ..., with fractions.

  Returns:
    mm RAS+.
  """
  levels = [_ORDER[v.name] for v in spine.vertebrae]
  places = np.array([v.centre for v in spine.vertebrae])
  return np.array([np.interp(level, levels, row) for row in places.T])


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
  """The outline at every height of a canvas.

  Attributes:
    course: of the spine at these heights.
    back: y of the skin of the back, mm.
    front: y of the skin in front, mm.
    depth: distance below the skin over the whole canvas, mm.
    cavity: the same below the inside of the muscle wall.
  """

  course: Course
  back: Float32[np.ndarray, " z"]
  front: Float32[np.ndarray, " z"]
  depth: Float32[np.ndarray, "x y z"]
  cavity: Float32[np.ndarray, "x y z"]


def draw_habitus(rng: np.random.Generator) -> Habitus:
  """Draws a build.

  Args:
    rng: the draw.

  Returns:
    The habitus.
  """
  girth = float(np.exp(rng.normal(0, 0.10)))
  fat = float(np.clip(18 * girth**2 * np.exp(rng.normal(0, 0.35)), 6, 45))
  return Habitus(
    girth, fat, float(rng.uniform(0, 0.8)), float(rng.uniform(45, 65))
  )


def outline(
  course: Course, spine: Spine, habitus: Habitus
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Half width, back and front of the body at the heights of a course.

  Args:
    course: of the spine.
    spine: its sacrum and size.
    habitus: the build.

  Returns:
    Three arrays over z, mm.
  """
  size = spine.size
  knots = np.array([_ORDER[row[0]] for row in _OUTLINE])
  table = np.array([row[1:] for row in _OUTLINE], float)
  wide, back, front = (
    np.interp(course.level, knots, column) * size for column in table.T
  )
  extra = habitus.fat_mm - 18.0
  wide = wide * habitus.girth + 0.7 * extra
  front = front * habitus.girth + 0.8 * extra
  back = back + 0.35 * extra
  # Patients lie on their back: it flattens where the table holds it.
  flat = course.smooth[:, 1] - back
  trunk = course.level > 8
  if trunk.any():
    rest = np.quantile(flat[trunk], 0.1)
    flat = np.where(trunk, 0.45 * flat + 0.55 * rest, flat)
  ahead = course.smooth[:, 1] + front
  flat, ahead = _clear_pelvis(course, spine, habitus, flat, ahead)
  sigma = 14.0 / max(float(course.z[1] - course.z[0]), 1e-3)
  return (
    ndimage.gaussian_filter1d(wide, sigma, mode="nearest"),
    ndimage.gaussian_filter1d(flat, sigma, mode="nearest"),
    ndimage.gaussian_filter1d(ahead, sigma, mode="nearest"),
  )


def _clear_pelvis(course, spine, habitus, back, front):
  """Keeps crest of the sacrum and pubic bone under the skin."""
  cover = 18.0 + 0.5 * habitus.fat_mm
  crest = spine.sacrum.to_world(np.array([0.0, -76.0, -60.0]))
  pubis = spine.sacrum.to_world(np.array([0.0, 85.0, -122.0]))
  rise = np.abs(course.z - crest[2])
  back = np.minimum(back, crest[1] - cover + 0.4 * np.maximum(rise - 25, 0))
  rise = np.maximum(course.z - pubis[2] - 25, 0)
  return back, np.maximum(front, pubis[1] + cover - 0.6 * rise)


def fill(
  canvas: Canvas,
  spine: Spine,
  habitus: Habitus,
  rng: np.random.Generator,
) -> Body:
  """Paints skin, fat, muscle wall and a cavity full of fat.

  Args:
    canvas: is painted.
    spine: the spine.
    habitus: the build.
    rng: for bumps of the outline and the muscle's grain.

  Returns:
    The outline, for what goes inside.
  """
  course = Course.of(spine, canvas.z)
  wide, back, front = outline(course, spine, habitus)
  middle = (back + front) / 2
  x = np.abs(canvas.x[:, None] - course.smooth[None, :, 0]) / wide
  y = np.abs(canvas.y[:, None] - middle) / ((front - back) / 2)
  radius = (x[:, None, :] ** 2.5 + y[None, :, :] ** 2.5).astype(np.float32)
  radius **= np.float32(1 / 2.5)
  small = np.minimum(wide, (front - back) / 2).astype(np.float32)
  depth = (1 - radius) * small
  depth += np.float32(1.2) * smooth_noise(canvas.shape, 30, rng)
  cavity = _layers(canvas, course, depth, habitus, rng)
  to32 = np.float32
  return Body(course, back.astype(to32), front.astype(to32), depth, cavity)


def _layers(canvas, course, depth, habitus, rng):
  belly = np.interp(course.level, [0, 6, 10, 16, 20, 28], [5, 7, 9, 14, 20, 22])
  fat = (belly / 20 * habitus.fat_mm).astype(np.float32)
  wall = np.interp(
    course.level, [0, 5, 8, 19, 21, 28], [90, 90, 16, 12, 12, 26]
  )
  wall = wall.astype(np.float32)
  grain = smooth_noise(canvas.shape, 9, rng)
  grain += np.float32(0.5) * smooth_noise(canvas.shape, 4, rng)
  hu, tissue = canvas.hu, canvas.tissue
  inside = depth > 0
  tissue[inside] = tissues.FAT.code
  hu[inside] = _FAT_HU
  muscle = (depth > fat) & (depth < fat + wall)
  tissue[muscle] = tissues.MUSCLE.code
  # Planes of fat part the muscles.
  plane = np.exp(-((grain[muscle] / np.float32(0.22)) ** 2))
  sheet = (depth + 3 * grain)[muscle] % np.float32(13) - np.float32(6.5)
  np.maximum(plane, np.exp(-((sheet / np.float32(1.3)) ** 2)), out=plane)
  plane *= np.float32(0.15 + 0.6 * habitus.infiltration)
  hu[muscle] = habitus.muscle_hu - np.float32(130) * plane
  skin = inside & (depth < 2.0)
  tissue[skin] = tissues.MUSCLE.code
  hu[skin] = 10.0
  strands = inside & (tissue == tissues.FAT.code)
  hu[strands] += np.float32(12) * np.maximum(grain[strands], -1)
  return depth - fat - wall


def paraspinal_muscles(
  canvas: Canvas, body: Body, habitus: Habitus, size: float
) -> None:
  """Paints erector spinae, psoas and the muscles of the neck.

  Args:
    canvas: is painted.
    body: the outline.
    habitus: the build.
    size: of the patient.
  """
  course = body.course
  x, y = canvas.x[:, None], canvas.y[None, :]
  lean = habitus.infiltration
  for k, level in enumerate(course.level):
    cx, cy = course.centre[k]
    wide, deep = course.half[k]
    room = max(float(cy - deep - 24 - body.back[k]), 14.0)
    columns = []
    if level < 30:
      broad = np.interp(level, [0, 6, 10, 19, 25, 29], [24, 26, 20, 27, 31, 20])
      tall = min(np.interp(level, [0, 8, 19, 25], [22, 14, 19, 23]), room / 1.8)
      away = np.interp(level, [0, 8, 19, 25], [19, 22, 27, 30])
      columns.append((away, -deep - 30.0, broad, tall))
    if 19.3 < level < 28:
      swell = np.interp(level, [19.3, 22, 25, 28], [6, 15, 22, 24])
      ahead = np.interp(level, [19.3, 25, 28], [-10.0, -2.0, 26.0])
      apart = wide + swell * 0.85 + np.interp(level, [24, 28], [0, 14])
      columns.append((apart, ahead, swell, swell * 1.25))
    for apart, behind, broad, tall in columns:
      for side in (-1.0, 1.0):
        u = (x - cx - side * size * apart) / (size * broad)
        v = (y - cy - size * behind) / (size * tall)
        self_mask = u**2 + v**2 < 1
        cut = (slice(None), slice(None), slice(k, k + 1))
        canvas.paint(
          cut, self_mask[:, :, None], tissues.MUSCLE,
          habitus.muscle_hu - 25 * lean,
        )  # fmt: skip
