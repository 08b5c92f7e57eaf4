# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic lesions in the vertebrae of a crop, with their boxes.

Real lesions with boxes are few; a network that sees the same few remembers
them. Here every crop has others: bumpy ellipsoids of soft tissue, of dense bone
or of both, most in the bodies of vertebrae. Sizes and HU are ours, wide enough
for metastases as radiologists describe them (lytic, sclerotic, mixed). Dense
bone also grows, without a box, into arches: worn joints look like it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from vf_jax.data.augment.fields import draw_knots, smooth
from vf_jax.labels import IGNORE
from vf_jax.ops.separable import apply_along_axes
from vf_jax.ops.subvoxel import space_to_depth

SLOTS = 3
"""Lesions of a crop at most."""

_DRAWS = 11  # numbers of one lesion
_AGAIN = 0.4  # chance of each lesion beyond the first
_RADIUS_MM = (4.0, 16.0)  # log uniform
_LYTIC_HU, _DENSE_HU = (0.0, 90.0), (350.0, 1100.0)
_LYTIC, _MIXED = 0.5, 0.15  # shares; the others are sclerotic
_BUMPS = 0.2  # of the radius, standard deviation
_BUMP_MM, _GRAIN_MM = 6.0, 4.0
_GRAIN_HU = (8.0, 150.0)  # log uniform: from even to moth-eaten
_BLOCK = 4  # voxels; the centre of a lesion lies in a block
_SOLID = 0.7  # of which so much is bone: what thins a rim or a tip is not seen
_MARROW = 2.0  # power of the bone around a place, to draw it
_JOINT_MM = (4.0, 9.0)  # radii of dense joints, which are no lesions
_JOINTS = 0.4  # chance of each
_LEAST_ML = 0.3
_LEAST_HU = 80.0  # mean change; what changes less cannot be seen either


def grow(
  key: Key[Array, ""],
  image: Float[Array, "depth height width"],
  labels: UInt8[Array, "depth height width"],
  edge_mm: float,
  chance: Float[Array, ""],
) -> tuple[
  Float[Array, "depth height width"],
  Float[Array, "lesions 6"],
  Bool[Array, " lesions"],
]:
  """Grows lesions into vertebrae.

  Args:
    key: of the draw.
    image: HU.
    labels: VerSe codes; nothing grows where there is no vertebra.
    edge_mm: voxel edge.
    chance: that there is any.

  Returns:
    HU, the tight box of each of `SLOTS` lesions (centre in voxels, edges in mm)
    and whether that lesion exists.
  """
  places, numbers, fields = jax.random.split(key, 3)
  bumps, grain = _fields(fields, image.shape, edge_mm)
  bone = (labels > 0) & (labels != IGNORE)
  u = jax.random.uniform(numbers, (SLOTS, _DRAWS))
  wanted = (u[0, 0] < chance) & ((u[:, 1] < _AGAIN) | (jnp.arange(SLOTS) == 0))
  boxes, real = [], []
  for slot, centre in enumerate(_centres(places, bone, _MARROW)):
    radius = _radius(u[slot], centre, bumps, edge_mm, _RADIUS_MM)
    # In the vertebra nearest to the centre: few cross a disc or a joint.
    nearest = jnp.where(bone, radius, jnp.inf).argmin()
    inside = (radius < 1) & bone & (labels == labels.reshape(-1)[nearest])
    changed = jnp.where(inside, _matter(u[slot], image, radius, grain), image)
    count = inside.sum()
    change = jnp.abs(changed - image).sum() / jnp.maximum(count, 1)
    exists = wanted[slot] & (count * edge_mm**3 >= _LEAST_ML * 1000)
    exists &= change >= _LEAST_HU
    image = jnp.where(exists, changed, image)
    boxes.append(jnp.where(exists, _box(inside, edge_mm), 0.0))
    real.append(exists)
  return image, jnp.stack(boxes), jnp.stack(real)


def wear_joints(
  key: Key[Array, ""],
  image: Float[Array, "depth height width"],
  labels: UInt8[Array, "depth height width"],
  edge_mm: float,
) -> Float[Array, "depth height width"]:
  """Makes arches dense in places, as worn joints are, which are no lesions.

  Args:
    key: of the draw.
    image: HU.
    labels: VerSe codes.
    edge_mm: voxel edge.

  Returns:
    HU.
  """
  places, numbers, fields = jax.random.split(key, 3)
  bumps, grain = _fields(fields, image.shape, edge_mm)
  bone = (labels > 0) & (labels != IGNORE)
  u = jax.random.uniform(numbers, (SLOTS, _DRAWS)).at[:, 8].set(1.0)  # dense
  for slot, centre in enumerate(_centres(places, bone, -_MARROW)):
    radius = _radius(u[slot], centre, bumps, edge_mm, _JOINT_MM)
    inside = (radius < 1) & bone & (u[slot, 1] < _JOINTS)
    image = jnp.where(inside, _matter(u[slot], image, radius, grain), image)
  return image


def _fields(key, shape, edge_mm):
  """Bumps of outlines and grain of matter, of unit deviation."""
  sizes = (_BUMP_MM, _GRAIN_MM)
  knots = draw_knots(key, shape, [(1, mm / edge_mm) for mm in sizes])
  return [
    smooth(knot, shape, mm / edge_mm)[0] for knot, mm in zip(knots, sizes)
  ]


def _centres(key, bone, power: float) -> Float[Array, "lesions 3"]:
  """Places in solid bone, or in any if none is solid.

  A place is as likely as the bone around it to a power: above 0 most lie in
  bodies, where the marrow is, below 0 in arches.
  """
  blocks = space_to_depth(bone[None, ..., None], _BLOCK)[0].mean(axis=-1)
  around = apply_along_axes(
    blocks,
    [jnp.eye(n) + jnp.eye(n, k=1) + jnp.eye(n, k=-1) for n in blocks.shape],
  )
  choose, shift = jax.random.split(key)
  good = blocks >= jnp.minimum(_SOLID, blocks.max())
  chance = jnp.where(good, power * jnp.log(around), -jnp.inf)
  flat = jax.random.categorical(choose, chance.reshape(-1), shape=(SLOTS,))
  places = jnp.stack(jnp.unravel_index(flat, blocks.shape), axis=1)
  return _BLOCK * (places + jax.random.uniform(shift, (SLOTS, 3))) - 0.5


def _radius(u, centre, bumps, edge_mm, radii_mm):
  """Distance from the centre in radii of the lesion."""
  radii = _log_uniform(u[2], radii_mm) * (0.75 + 0.5 * u[3:6])
  squares = [
    ((jnp.arange(n) - centre[axis]) * edge_mm / radii[axis]) ** 2
    for axis, n in enumerate(bumps.shape)
  ]
  d, h, w = jnp.ix_(*squares)
  return jnp.sqrt(d + h + w) + _BUMPS * bumps


def _matter(u, image, radius, grain):
  """HU of a lesion: soft, dense, or soft with a dense rim."""
  lytic = _LYTIC_HU[0] + (_LYTIC_HU[1] - _LYTIC_HU[0]) * u[6]
  dense = _DENSE_HU[0] + (_DENSE_HU[1] - _DENSE_HU[0]) * u[7]
  is_soft = u[8] < _LYTIC
  is_mixed = ~is_soft & (u[8] < _LYTIC + _MIXED)
  soft_part = is_soft | (is_mixed & (radius < 0.6))
  edge = jnp.clip((1 - radius) / (0.05 + 0.3 * u[9]), 0.3, 1.0)
  aim = jnp.where(soft_part, lytic, jnp.maximum(image, dense))
  grain = _log_uniform(u[10], _GRAIN_HU) * grain
  return image + edge * (aim + grain - image)


def _log_uniform(u, limits: tuple[float, float]):
  """A draw between limits, each ratio as likely, from one of 0..1."""
  low, high = jnp.log(jnp.asarray(limits))
  return jnp.exp(low + (high - low) * u)


def _box(inside, edge_mm) -> Float[Array, " 6"]:
  """Centre in voxels and edges in mm of what a lesion fills."""
  first, last = [], []
  for axis, n in enumerate(inside.shape):
    rows = inside.any(axis=tuple(a for a in range(3) if a != axis))
    place = jnp.arange(n)
    first.append(jnp.where(rows, place, n).min())
    last.append(jnp.where(rows, place, -1).max())
  low, high = jnp.stack(first), jnp.stack(last)
  return jnp.concatenate([(low + high) / 2, (high - low + 1) * edge_mm])
