# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One patient's spine: which vertebrae, where each is, which way it looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32, Float64

from vf_jax.labels import BY_NAME, SACRUM
from vf_jax.multispine.phantom import cervical
from vf_jax.multispine.phantom.endplates import lower_endplate, sacral_endplate
from vf_jax.multispine.phantom.pathology import Fracture
from vf_jax.multispine.phantom.proportions import cross_section, pick_shapes
from vf_jax.multispine.phantom.statistics import (
  SLOTS,
  SpineFeatures,
  SpineStatistics,
  level_frame,
)
from vf_jax.multispine.phantom.templates import Template, load_templates

VARIANTS: Mapping[str, float] = {
  # VID: 48 of 1947 scans show L6 and 8 lack T12, though many end above them;
  # VerSe'20 training: 2 of 113 have T13. Raised a little: they are the test.
  "T13": 0.03,
  "L6": 0.06,
  "absent T12": 0.02,
}
_WEDGE_DEG = 15.0, 3.5  # of the disc on S1, mean and deviation: our choice
_DISC_MM = 10.0, 1.3  # its height in the middle

_LIKE = {"T13": "T12"}  # in the statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Vertebra:
  """A bone in its place.

  Attributes:
    name: of the level, or 'sacrum'.
    template: its shape.
    centre: of the body, mm RAS+.
    frame: columns right, anterior, up.
    scale: patient mm per template mm along them.
    lean: sideways drift of the spinous process per mm behind the canal.
    fracture: what deforms the body, None for a whole one.
  """

  name: str
  template: Template
  centre: Float64[np.ndarray, " 3"]
  frame: Float64[np.ndarray, "3 3"]
  scale: Float64[np.ndarray, " 3"]
  lean: float = 0.0
  fracture: Fracture | None = None

  @property
  def code(self) -> int:
    """Its VerSe code."""
    return BY_NAME[self.name].code

  @property
  def half_mm(self) -> Float64[np.ndarray, " 3"]:
    """Half width, depth and height of the body in the patient."""
    wide, deep = self.template.half_mm
    return self.scale * (wide, deep, self.template.height_mm / 2)

  def to_world(
    self, place: Float[np.ndarray, " 3"]
  ) -> Float64[np.ndarray, " 3"]:
    """Takes a point of the template to mm RAS+."""
    return self.centre + self.frame @ (self.scale * place)

  def fold(self, place: Float[np.ndarray, " 2"]) -> Float64[np.ndarray, " 2"]:
    """Where a point of the whole body lies in this bone's frame.

    Args:
      place: y and z in the plane of symmetry of the template, mm.

    Returns:
      y and z, mm of the patient, after what a fracture moved.
    """
    y, z = place
    if self.fracture is not None:
      tall = self.template.height_mm / 2
      front = np.array([y / self.template.half_mm[1]], np.float32)
      (keep,) = self.fracture.keep(np.zeros_like(front), front)
      z = z - (1 - float(keep)) * np.clip(z, -tall, tall)
    return self.scale[1:] * (y, z)

  @property
  def box_mm(self) -> tuple[np.ndarray, np.ndarray]:
    """World-aligned corners of what the bone can reach."""
    low, high = (np.array(c) for c in self.template.box_mm)
    picks = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    corners = np.where(picks, high, low) * self.scale @ self.frame.T
    return (
      self.centre + corners.min(axis=0) - 1,
      self.centre + corners.max(axis=0) + 1,
    )

  def depth(
    self,
    x: Float[np.ndarray, " x"],
    y: Float[np.ndarray, " y"],
    z: Float[np.ndarray, " z"],
  ) -> Float32[np.ndarray, "x y z"]:
    """Distance below the surface on a world-aligned block.

    Args:
      x: places along right, mm.
      y: places along anterior, mm.
      z: places along superior, mm.

    Returns:
      mm, negative outside.
    """
    turn = (self.frame / self.scale).T.astype(np.float32)
    axes = [(a - c).astype(np.float32) for a, c in zip((x, y, z), self.centre)]
    points = np.empty((3, len(x), len(y), len(z)), np.float32)
    for i in range(3):
      points[i] = (turn[i, 0] * axes[0])[:, None, None]
      points[i] += (turn[i, 1] * axes[1])[None, :, None]
      points[i] += (turn[i, 2] * axes[2])[None, None, :]
    if self.lean:
      behind = np.minimum(points[1] - np.float32(self.template.canal_mm), 0)
      points[0] += np.float32(self.lean) * behind
    if self.fracture is not None:
      wide, deep = self.template.half_mm
      self.fracture.unfold(points, (wide, deep, self.template.height_mm / 2))
    found = self.template.depth(points)
    return found * np.float32(np.cbrt(np.prod(self.scale)))


@dataclasses.dataclass(frozen=True, eq=False)
class Spine:
  """All vertebrae of a patient, from head to foot, and the sacrum.

  Attributes:
    vertebrae: C1 to the last lumbar one.
    sacrum: under the last one, in a frame of its own.
    variant: 'usual' or a key of `VARIANTS`.
    size: of this patient, 1 is usual.
  """

  vertebrae: tuple[Vertebra, ...]
  sacrum: Vertebra
  variant: str
  size: float


def draw_variant(
  rng: np.random.Generator, rates: Mapping[str, float] = VARIANTS
) -> str:
  """Draws the number of vertebrae.

  Args:
    rng: the draw.
    rates: share of patients with each variant.

  Returns:
    'usual' or a key of `rates`.
  """
  value = rng.random()
  for variant, rate in rates.items():
    if value < rate:
      return variant
    value -= rate
  return "usual"


def level_names(variant: str) -> tuple[str, ...]:
  """The levels that a patient has, without the sacrum.

  Args:
    variant: 'usual' or a key of `VARIANTS`.

  Returns:
    Names from C1 down.
  """
  names = [name for name in SLOTS if name != "L6"]
  if variant == "T13":
    names.insert(names.index("L1"), "T13")
  elif variant == "L6":
    names.append("L6")
  elif variant == "absent T12":
    names.remove("T12")
  return tuple(names)


def draw_spine(
  rng: np.random.Generator,
  statistics: SpineStatistics,
  variant: str,
  fractures: Mapping[str, Fracture],
) -> Spine:
  """Draws positions, frames and shapes of all vertebrae.

  Args:
    rng: the draw.
    statistics: what spines are like.
    variant: number of vertebrae.
    fractures: level name -> fracture; they shorten and bend the spine.

  Returns:
    The spine, with C1 at the origin.
  """
  names = level_names(variant)
  features = statistics.sample(rng)
  shapes = pick_shapes(rng, names)
  lengths, sagittal, coronal = _intervals(names, features)
  usual = statistics.mean[: 3 * (len(SLOTS) - 1) : 3]
  size = float(np.exp(np.mean(features.intervals[6:, 0] - usual[6:])))
  shrink = rng.uniform(0.97, 1.03)  # thinner or thicker discs
  # Fractures shorten the way; bones keep the heights of before.
  tall = {
    name: np.clip(
      lengths[max(i - 1, 0) : i + 1].mean()
      * (shrink / shapes[name].interval_mm),
      0.75 * size,
      1.3 * size,
    )
    for i, name in enumerate(names)
  }
  for name, fracture in fractures.items():
    _yield_to_fracture(
      names.index(name), shapes[name], fracture, tall[name], size, lengths,
      sagittal,
    )  # fmt: skip
  ways = np.stack([np.tan(coronal), np.tan(sagittal), -np.ones(len(lengths))])
  ways = (ways / np.linalg.norm(ways, axis=0)).T
  centres = np.concatenate(
    [np.zeros((1, 3)), np.cumsum(ways * lengths[:, None], axis=0)]
  )
  vertebrae = []
  for i, name in enumerate(names):
    near = [j for j in (i - 1, i) if 0 <= j < len(ways)]
    row = features.pedicles[_slot(name)]
    turn = row[3:5] * (0.4 if name in cervical.NAMES else 1.0)
    axis = ways[1] if name == "C2" else ways[near].sum(axis=0)
    frame = _turn(level_frame(-axis), *turn)
    shape = shapes[name]
    breadth = row[0] - statistics.pedicle_mean[_slot(name), 0]
    wide, deep = cross_section(
      name, shape.source, breadth, rng.uniform(0.95, 1.05), size
    )
    vertebrae.append(
      Vertebra(
        name,
        shape,
        centres[i],
        frame,
        np.array([wide, deep, tall[name]]),
        float(rng.normal(0, 0.05)),
        fractures.get(name),
      )
    )
  vertebrae[0] = _seat_atlas(vertebrae[0], vertebrae[1], rng)
  sacrum = _seat_sacrum(vertebrae[-1], size, rng)
  return Spine(tuple(vertebrae), sacrum, variant, size)


def _seat_atlas(atlas, axis, rng) -> Vertebra:
  """Puts C1 around the dens; annotations of it scatter too much for that."""
  nod, bow = rng.normal(0, np.deg2rad(4), 2)
  frame = _turn(_tilt(axis.frame, nod), bow, 0.0)
  centre = axis.to_world(cervical.ATLAS_MM)
  return dataclasses.replace(
    atlas, centre=centre, frame=frame, scale=axis.scale
  )


def _seat_sacrum(last, size, rng) -> Vertebra:
  """Puts S1 under the last vertebra, their posterior walls in one line.

  The template's own place is of no use: the L5 above it was another subject's.
  """
  (shape,) = load_templates()["sacrum"]
  scale = np.full(3, np.mean([last.scale[2], size]))
  wedge = np.deg2rad(np.clip(rng.normal(*_WEDGE_DEG), 5, 26))
  thick = size * np.clip(rng.normal(*_DISC_MM), 7, 14)
  slip = rng.normal(0, 0.02)  # of the endplate's length
  below, base = lower_endplate(last.template), sacral_endplate(shape)
  foot = np.array([last.fold(place) for place in (below.back, below.front)])
  head = np.array([base.back, base.front]) * scale[1:]
  slope = _slope(foot) - wedge
  tilt = slope - _slope(head)
  along = np.array([np.cos(slope), np.sin(slope)])
  up = np.array([-along[1], along[0]])
  # Height of the disc behind; the bones do not touch if it is thin.
  room = (foot - foot.mean(axis=0)) @ up
  rear = max(thick + room[0], 3.0, 3.0 + room[0] - room[1])
  corner = (
    foot[0] - rear * up - slip * np.linalg.norm(head[1] - head[0]) * along
  )
  frame = _tilt(last.frame, tilt)
  centre = last.centre + last.frame[:, 1:] @ corner - frame[:, 1:] @ head[0]
  return Vertebra(SACRUM.name, shape, centre, frame, scale)


def _slope(ends) -> float:
  """Angle of a line (rows y, z) over the anterior axis."""
  return float(np.arctan2(*(ends[1] - ends[0])[::-1]))


def _slot(name: str) -> int:
  return SLOTS.index(_LIKE.get(name, name))


def _intervals(names, features: SpineFeatures):
  rows = []
  for upper in names[:-1]:
    slot = min(_slot(upper), len(SLOTS) - 2)
    rows.append(features.intervals[slot])
  rows_ = np.array(rows)
  return np.exp(rows_[:, 0]), rows_[:, 1].copy(), rows_[:, 2].copy()


def _yield_to_fracture(
  i, shape, fracture, tall, size, lengths, sagittal
) -> None:
  """Shortens the ways next to the i-th bone and bends the spine there."""
  lost = fracture.mean_loss * shape.height_mm * tall
  kink = fracture.wedge * shape.height_mm * tall
  kink /= 2 * shape.half_mm[1] * size
  for way in range(len(lengths)):
    above = way < i
    away = i - 1 - way if above else way - i
    if away == 0:
      lengths[way] -= lost / 2
    bend = 0.35 * kink * max(0.0, 1 - away / 5)
    sagittal[way] += -bend if above else bend
  np.clip(sagittal, -1.0, 1.0, out=sagittal)


def _turn(frame, yaw, roll):
  """Turns a frame about its up axis, then about its front axis."""
  yaw, roll = np.clip((yaw, roll), -0.3, 0.3)
  cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
  about_up = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
  about_front = np.array([[cr, 0, -sr], [0, 1, 0], [sr, 0, cr]])
  return frame @ about_up @ about_front


def _tilt(frame, angle):
  """Turns a frame about its right axis."""
  c, s = np.cos(angle), np.sin(angle)
  return frame @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
