# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The chest: ribs from their joints to the sternum, lungs, heart, airways.

The cage is an oval at every height; ribs run on it, sloping down, and the
lungs fill it above the domes of the diaphragm.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import interpolate

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas, smooth_noise
from vf_jax.multispine.phantom.last_ribs import last_ribs, start_of
from vf_jax.multispine.phantom.spine import Spine, Vertebra
from vf_jax.multispine.phantom.torso import Body, Course, anchor

# Level (T1 is 7) -> half width of the cage, mm.
_CAGE = ((5.5, 7, 8, 9, 11, 13, 15, 17, 19, 21),
         (20, 54, 77, 94, 112, 125, 133, 135, 131, 122))  # fmt: skip
# Rib -> where its bone ends around the cage, degrees from the back, and how
# far it has sunk by then, mm.
_RIBS = {
  "T1": (140, 30), "T2": (142, 45), "T3": (145, 58), "T4": (145, 70),
  "T5": (145, 80), "T6": (142, 90), "T7": (138, 98), "T8": (130, 100),
  "T9": (122, 98), "T10": (112, 92), "T11": (88, 70), "T12": (62, 45),
  "T13": (44, 25),
}  # fmt: skip
_TO_STERNUM = ("T1", "T2", "T3", "T4", "T5", "T6", "T7")
_FLOATING = ("T11", "T12", "T13")
_SHORT_DEG = 100  # that far the last ribs would go; most end before
_JOINT_MM = 0.8  # between rib and vertebra


@dataclasses.dataclass(frozen=True, eq=False)
class Cage:
  """The oval of the rib cage at every height.

  Attributes:
    z: heights, ascending, mm.
    x: of the middle, mm.
    back: y where the lungs' gutters end, mm.
    front: y behind the sternum, mm.
    half: half width, mm.
  """

  z: Float32[np.ndarray, " z"]
  x: Float32[np.ndarray, " z"]
  back: Float32[np.ndarray, " z"]
  front: Float32[np.ndarray, " z"]
  half: Float32[np.ndarray, " z"]

  @classmethod
  def of(cls, spine: Spine, z: Float[np.ndarray, " z"], girth: float) -> Cage:
    """Makes the cage around a spine.

    Args:
      spine: the spine.
      z: ascending heights, mm.
      girth: of the patient.

    Returns:
      The cage.
    """
    course = Course.of(spine, z)
    half = np.interp(course.level, *_CAGE) * spine.size * girth**0.7
    ahead = np.interp(
      course.level, [5.5, 7, 9, 12, 16, 19, 22],
      [25, 42, 75, 112, 132, 132, 122],
    )  # fmt: skip
    behind = np.interp(
      course.level, [5.5, 7, 9, 12, 19, 22], [4, 12, 26, 32, 34, 30]
    )
    back = course.smooth[:, 1] - course.half[:, 1] - behind * spine.size
    return cls(
      course.z, course.smooth[:, 0], back.astype(np.float32),
      (course.smooth[:, 1] + ahead * spine.size * girth).astype(np.float32),
      half.astype(np.float32),
    )  # fmt: skip

  def point(self, angle: float, side: float, z: float) -> np.ndarray:
    """A point on the cage.

    Args:
      angle: radians from the back.
      side: 1 for right, -1 for left.
      z: height, mm.

    Returns:
      mm RAS+.
    """
    x, back, front, half = (
      float(np.interp(z, self.z, row))
      for row in (self.x, self.back, self.front, self.half)
    )
    # Flatter than an ellipse at the back, as cages are.
    sine = abs(np.sin(angle)) ** 0.75
    cosine = np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.7
    middle, reach = (back + front) / 2, (front - back) / 2
    return np.array([x + side * half * sine, middle - reach * cosine, z])


def ribs(
  canvas: Canvas, spine: Spine, cage: Cage, rng: np.random.Generator
) -> None:
  """Adds ribs, costal cartilage and sternum.

  Args:
    canvas: gets bone and cartilage.
    spine: the ribs' heads lie on its thoracic vertebrae.
    cage: what the ribs run on.
    rng: for lengths and slopes.
  """
  slope = rng.uniform(0.85, 1.15)
  short = last_ribs([v.name for v in spine.vertebrae], rng)
  ends: dict[float, list[np.ndarray]] = {-1.0: [], 1.0: []}
  top = anchor(spine, 9.2)[2]
  foot = anchor(spine, 15.6)[2]
  thoracic = [v for v in spine.vertebrae if v.name in _RIBS]
  for bone in thoracic:
    degrees, drop = _RIBS[bone.name]
    if bone is thoracic[-1] and bone.name == "T11":
      degrees, drop = _RIBS["T12"]  # the last rib is short, whatever its name
    for side in (-1.0, 1.0):
      if bone.name in short:
        degrees = _SHORT_DEG
      end = np.deg2rad(degrees * rng.uniform(0.95, 1.05))
      path = _rib_path(bone, cage, side, end, drop * slope * spine.size)
      if bone.name in short:
        path = start_of(path, short[bone.name][int(side > 0)])
      wide = rng.uniform(3.3, 4.2) * spine.size
      thick = np.full(len(path), wide)
      thick *= np.interp(np.arange(len(path)), [0, 8], [0.8, 1.0])
      if bone.name in short:  # they end in a point
        thick *= np.interp(np.arange(len(path))[::-1], [0, 4], [0.6, 1.0])
      canvas.bone_tube(path, thick, (1.0, 1.0, 1.7))
      if bone.name in _FLOATING:
        continue
      share = (
        _TO_STERNUM.index(bone.name) / 6 if (bone.name in _TO_STERNUM) else 1.0
      )
      ends[side].append(path[-1])
      goal = _sternum_edge(cage, side, top + share * (foot - top))
      if bone.name not in _TO_STERNUM:
        goal = ends[side][-2] * 0.5 + goal * 0.5
      middle = (path[-1] + goal) / 2 + (0.0, 4.0, -8.0)
      curve = _smooth_path(np.array([path[-1], middle, goal]), 4.0)
      canvas.tube(curve, np.full(len(curve), 5.5), tissues.CARTILAGE, 95.0)
  _sternum(canvas, cage, top + 12, foot)
  for bone in spine.vertebrae:
    _part(canvas, bone)


def _part(canvas, bone) -> None:
  """Leaves a joint between a vertebra and the ribs that touch it."""
  box = canvas.box(*bone.box_mm)
  if box is None:
    return
  below = bone.depth(canvas.x[box[0]], canvas.y[box[1]], canvas.z[box[2]])
  here = canvas.bone[box]
  np.minimum(here, -below - np.float32(_JOINT_MM), out=here)


def _rib_path(bone: Vertebra, cage, side, end, drop):
  wide, deep = bone.template.half_mm
  tall = bone.template.height_mm / 2
  inside = bone.template.distance > 0
  tip = np.flatnonzero(inside.any(axis=(1, 2))).max()
  y, z = np.argwhere(inside[tip]).mean(axis=0) * bone.template.spacing_mm
  tip_x = tip * bone.template.spacing_mm
  low_y, low_z = bone.template.low_mm
  up = 0.75 if bone.name in [f"T{n}" for n in range(2, 10)] else 0.25
  joints = [
    bone.to_world(np.array([side * (wide + 2.5), -deep * 0.75, tall * up])),
    bone.to_world(
      np.array([side * (tip_x - 3), low_y + y + 8.5, low_z + z + 1.0])
    ),
  ]
  start = np.deg2rad(38)
  height = joints[-1][2] - 6.0
  for angle in np.linspace(start, end, 9):
    sunk = drop * ((angle - start) / np.deg2rad(110)) ** 0.9
    joints.append(cage.point(angle, side, height - sunk))
  return _smooth_path(np.array(joints), 4.0)


def _smooth_path(joints, step) -> Float64[np.ndarray, "points 3"]:
  far = np.concatenate(
    [[0], np.cumsum(np.linalg.norm(np.diff(joints, axis=0), axis=1) + 1e-3)]
  )
  curve = interpolate.PchipInterpolator(far, joints)
  return curve(np.linspace(0, far[-1], max(int(far[-1] / step), 2)))


def _sternum_edge(cage, side, z):
  place = cage.point(np.pi, side, z)
  return place + np.array([side * 14.0, 3.0, 0.0])


def _sternum(canvas, cage, top, foot) -> None:
  heights = np.linspace(top, foot, 12)
  path = np.array([cage.point(np.pi, 1.0, z) for z in heights])
  path[:, 1] += 4
  radii = np.interp(range(12), [0, 2, 4, 11], [8.0, 7.0, 5.0, 6.0])
  canvas.bone_tube(path, radii, (2.8, 1.0, 1.0))


def diaphragm(
  canvas: Canvas, spine: Spine, cage: Cage, rng: np.random.Generator
) -> Float32[np.ndarray, "x y z"]:
  """Height above the diaphragm; the lungs are where it is positive.

  Args:
    canvas: for its axes.
    spine: gives the height of the domes.
    cage: its size.
    rng: how deep the patient breathes.

  Returns:
    mm, negative in the abdomen.
  """
  breath = rng.uniform(-0.8, 1.0)
  right = anchor(spine, 15.3 + breath)
  x, y = canvas.x[:, None], canvas.y[None, :]
  at = float(right[2])
  mid, back, front, half = (
    float(np.interp(at, cage.z, row))
    for row in (cage.x, cage.back, cage.front, cage.half)
  )
  height = np.full((canvas.x.size, canvas.y.size), -1e3, np.float32)
  for side, lower in ((1.0, 0.0), (-1.0, 14.0)):
    u = (x - mid - side * 0.5 * half) / (0.55 * half)
    v = (y - (0.3 * back + 0.7 * front)) / (0.52 * (front - back))
    dome = at - lower - 42 * spine.size * (u**2 + v**2)
    np.maximum(height, dome, out=height)
  return canvas.z[None, None, :] - height[:, :, None]


def lungs(
  canvas: Canvas,
  spine: Spine,
  cage: Cage,
  body: Body,
  above: Float32[np.ndarray, "x y z"],
  rng: np.random.Generator,
) -> None:
  """Paints lungs, heart and airways; great vessels are in `organs`.

  Args:
    canvas: is painted.
    spine: the spine.
    cage: what holds them.
    body: the outline.
    above: height above the diaphragm, mm.
    rng: for texture and heart.
  """
  box = canvas.box(
    (-1e4, -1e4, anchor(spine, 22)[2]), (1e4, 1e4, anchor(spine, 6.2)[2])
  )
  if box is None:
    return
  cut = box[2]
  course = body.course
  rows = [
    row[cut][None, None, :].astype(np.float32)
    for row in (cage.x, cage.back, cage.front, cage.half)
  ]
  mid, back, front, half = rows
  x = canvas.x[:, None, None] - mid
  y = canvas.y[None, :, None]
  inner = np.abs(x / (half - 6)) ** 2.7
  reach = (front - back) / 2 - 4
  inner = inner + np.abs((y - (back + front) / 2) / reach) ** 2.7
  inner += np.float32(0.04) * smooth_noise(inner.shape, 14, rng)
  cx, cy = (course.centre[cut, i][None, None, :] for i in range(2))
  wide, deep = (course.half[cut, i][None, None, :] for i in range(2))
  off = canvas.x[:, None, None] - cx
  rise = y - cy
  spine_side = wide + 4 + np.float32(0.35) * np.maximum(-rise, 0)
  # Transverse processes and necks of ribs hold the gutters off.
  spine_side += np.float32(1.5) * np.maximum(-rise - 16, 0)
  middle = np.where(rise < deep + 6, spine_side, np.float32(21))
  middle = np.where(rise > deep + 60, np.float32(10), middle)
  # Pleura and fat stay on the bone, however uneven the surface is.
  uneven = smooth_noise(inner.shape, 12, rng)
  middle = middle + 4 * np.maximum(uneven, np.float32(-0.4))
  lung = (inner < 1) & (np.abs(off) > middle) & (above[box] > 0)
  chest = (inner < 1) & (above[box] > 0) & ~lung
  canvas.paint(box, chest, tissues.FAT, -80.0, (tissues.MUSCLE, tissues.FAT))
  value = rng.uniform(-880, -780)
  canvas.paint(box, lung, tissues.LUNG, value)
  branch = smooth_noise(inner.shape, 5, rng) + smooth_noise(inner.shape, 2, rng)
  hu = canvas.hu[box]
  hu += np.where(lung, np.float32(40) * branch, np.float32(0))
  vessel = lung & (branch > 3.1)
  hu[vessel] = -150.0
  _heart(canvas, spine, rng)
  _airways(canvas, spine, rng)


def _heart(canvas, spine, rng) -> None:
  place = anchor(spine, 13.6 + rng.uniform(-0.4, 0.4))
  size = spine.size * rng.uniform(0.9, 1.1)
  centre = place + np.array([-18, 72, -6]) * size
  over = (tissues.LUNG, tissues.FAT, tissues.MUSCLE)
  canvas.ellipsoid(
    centre, np.array([60, 52, 58]) * size, tissues.FAT, -85.0,
    (tissues.LUNG,),
  )  # fmt: skip
  canvas.ellipsoid(
    centre, np.array([54, 47, 52]) * size, tissues.VESSEL, 45.0, over
  )
  canvas.ellipsoid(
    place + np.array([8, 52, 26]) * size, np.array([34, 26, 30]) * size,
    tissues.VESSEL, 45.0, over,
  )  # fmt: skip


def _airways(canvas, spine, rng) -> None:
  """Throat, trachea, main bronchi and the oesophagus."""
  path = []
  for level in np.arange(-0.5, 11.1, 0.5):
    ahead = np.interp(level, [-0.5, 3, 6, 9, 11], [24, 22, 26, 30, 38])
    path.append(anchor(spine, max(level, 0)))
    path[-1][1] += ahead * spine.size
    if level < 0:
      path[-1][2] += 10
  path_ = np.array(path)
  radius = np.interp(np.arange(len(path_)), [0, 8, 12, 24], [9, 7, 8.5, 8.0])
  canvas.tube(path_, radius + 2.0, tissues.MUSCLE, 60.0)
  canvas.tube(path_, radius, tissues.GAS, -990.0)
  fork = path_[-1]
  for side, low in ((1.0, -22.0), (-1.0, -30.0)):
    way = np.array([fork, fork + np.array([side * 32, -4, low])])
    canvas.tube(way, [7.5, 6.0], tissues.GAS, -985.0)
  gullet = np.array([anchor(spine, n) for n in np.arange(5.0, 17.0)])
  gullet += np.array([-5.0, 19.0, 0]) * spine.size
  wide = np.full(len(gullet), 6.0)
  canvas.tube(gullet, wide, tissues.MUSCLE, 40.0)
  if rng.random() < 0.4:
    canvas.tube(gullet, wide * 0.35, tissues.GAS, -800.0)


def shoulders(
  canvas: Canvas, spine: Spine, cage: Cage, rng: np.random.Generator
) -> None:
  """Adds shoulder blades, collar bones and the heads of the humeri.

  Args:
    canvas: gets bone.
    spine: for the heights.
    cage: the blades lie on it.
    rng: how far the arms are raised.
  """
  raised = rng.uniform(0, 1)
  for side in (-1.0, 1.0):
    blade = []
    for level, angle in ((8.0, 62), (10, 52), (12, 46), (14, 42)):
      z = anchor(spine, level)[2] + 10 * raised
      blade.append(cage.point(np.deg2rad(angle), side, z))
    edge = np.array(blade) + np.array([side * 6, -12, 0])
    for shift in (0.0, 14.0, 28.0):
      line = edge + shift * np.array([side, 0.55, 0])
      canvas.bone_tube(line[: 4 if shift == 0 else 3], [3.2, 2.4, 2.4, 2.8])
    shoulder = anchor(spine, 8.2)
    shoulder += np.array([side * 112 * spine.size, -2.0, -4 + 14 * raised])
    canvas.bone_ellipsoid(shoulder, (23, 23, 24))
    neck = np.stack(
      [
        edge[0] + np.array([side * 26, 4, 4]),
        shoulder - np.array([side * 26, 10, 0]),
      ]
    )
    canvas.bone_tube(neck, [5.0, 9.0])
    inner = _sternum_edge(cage, side, anchor(spine, 8.8)[2])
    outer = shoulder + np.array([-side * 12, 8, 18])
    middle = (inner + outer) / 2 + np.array([0, 12, -4])
    line = _smooth_path(np.stack([inner, middle, outer]), 6.0)
    canvas.bone_tube(line, np.full(len(line), 5.5))
