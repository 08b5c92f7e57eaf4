# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Discs that fill the space between two endplates, whatever their shape."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.endplates import lower_endplate, sacral_endplate
from vf_jax.multispine.phantom.spine import Spine

_OVER = 5.0  # mm into the bone, which hides it: endplates are hollow
_OVER_S1 = 1.5  # from endplates that are measured


@dataclasses.dataclass(frozen=True, eq=False)
class _Space:
  """Where a disc lies: centre, frame, half width and depth, half reach; mm."""

  middle: Float64[np.ndarray, " 3"]
  frame: Float64[np.ndarray, "3 3"]
  half: tuple[float, float]
  reach: float


def discs(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
  """Paints the discs; the bones are blended over them later.

  Args:
    canvas: is painted.
    spine: the bodies between which they lie.
    rng: for their state; some hold gas.
  """
  worn = rng.uniform(0, 1)
  bones = spine.vertebrae[1:]
  for upper, lower in zip(bones, (*bones[1:], None)):
    if lower is None:
      space = _above_sacrum(upper, spine.sacrum)
    else:
      space = _between(upper, lower)
    hu = rng.uniform(65, 95)
    gas = rng.random() < 0.12 * worn and space.half[0] > 17
    box = canvas.box(space.middle - space.reach, space.middle + space.reach)
    if box is None:
      continue
    if lower is None:
      room = _above_s1(canvas, box, upper, spine.sacrum)
    else:
      room = _beyond(canvas, box, upper, -1.0)
      room &= _beyond(canvas, box, lower, 1.0)
    _disc(canvas, box, space, room, hu, gas)


def _between(upper, lower) -> _Space:
  """Between two bodies; fractures have moved their endplates."""
  foot, head = (
    bone.centre + bone.frame[:, 1:] @ bone.fold(
      np.array([0.0, side * bone.template.height_mm / 2])
    ) for bone, side in ((upper, -1), (lower, 1))
  )  # fmt: skip
  wide, deep = (upper.half_mm + lower.half_mm)[:2] / 2
  return _Space((foot + head) / 2, upper.frame, (wide, deep), wide + 4)


def _above_sacrum(last, sacrum) -> _Space:
  """In the frame that halves the angle between the two endplates."""
  below = lower_endplate(last.template)
  base = sacral_endplate(sacrum.template)
  ends = [(last, last.fold(p)) for p in (below.back, below.front)]
  ends += [(sacrum, sacrum.fold(p)) for p in (base.back, base.front)]
  rims = np.array([b.centre + b.frame[:, 1:] @ place for b, place in ends])
  ahead = rims[1] - rims[0] + rims[3] - rims[2]
  deep = float(np.linalg.norm(ahead)) / 4
  ahead /= 4 * deep
  right = last.frame[:, 0]
  frame = np.stack([right, ahead, np.cross(right, ahead)], axis=1)
  wide = float(last.half_mm[0])
  return _Space(rims.mean(axis=0), frame, (wide, deep), wide + 4)


def _local(canvas, box, centre, frame):
  x, y, z = canvas.local(box, centre)
  turn = frame.astype(np.float32)
  return [turn[0, i] * x + turn[1, i] * y + turn[2, i] * z for i in range(3)]


def _beyond(canvas, box, bone, side):
  """What lies above the upper (1) or below the lower (-1) endplate.

  The margin is in mm of the whole bone: crushing flattens hollows, too.
  """
  wide, deep, tall = (np.float32(v) for v in bone.half_mm)
  u, v, w = _local(canvas, box, bone.centre, bone.frame)
  over = np.float32(_OVER)
  if bone.fracture is None:
    return np.float32(side) * w > tall - over
  keep = bone.fracture.keep(u / wide, v / deep)
  return np.float32(side) * w > (tall - over) * keep


def _above_s1(canvas, box, last, sacrum):
  """Between two slanted endplates, and in the hollow of a broken one."""
  below = lower_endplate(last.template)
  room = _beyond_line(canvas, box, last, below, -1.0)
  if last.fracture is not None:
    room |= _beyond(canvas, box, last, -1.0)
  base = sacral_endplate(sacrum.template)
  return room & _beyond_line(canvas, box, sacrum, base, 1.0)


def _beyond_line(canvas, box, bone, endplate, side):
  back, front = (bone.fold(p) for p in (endplate.back, endplate.front))
  along = (front - back) / np.linalg.norm(front - back)
  _, v, w = _local(canvas, box, bone.centre, bone.frame)
  a, b = along.astype(np.float32)
  y, z = back.astype(np.float32)
  away = (a * (w - z) - b * (v - y)) * np.float32(side)
  return away > -np.float32(_OVER_S1)


def _disc(canvas, box, space, room, hu, gas) -> None:
  u, v, w = _local(canvas, box, space.middle, space.frame)
  wide, deep = (np.float32(half) for half in space.half)
  radius = (np.abs(u / wide) ** 2.5 + np.abs(v / deep) ** 2.5) ** np.float32(
    0.4
  )
  where = (radius < 1.04) & room
  canvas.paint(box, where, tissues.CARTILAGE, hu)
  canvas.paint(box, where & (radius > 0.7), tissues.CARTILAGE, hu + 22)
  if gas:
    slit = room & (radius < 0.6) & (np.abs(w) < 2.0)
    canvas.paint(box, slit, tissues.GAS, -700.0)
