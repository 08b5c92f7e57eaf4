# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One resampling of a window onto a crop, and what moves along with it.

Rotation, scale, shift, mirror and bend are one map from crop to window, so a
voxel is interpolated once. Labels take the value of the nearest voxel: none
is ever invented.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from vf_jax.config import AugmentConfig
from vf_jax.data.augment.bend import bend_at, bend_everywhere, draw_bend

_STEPS = 8
"""Of the fixed point; a bend of 2 voxels contracts by 0.3 in each at most."""


@flax.struct.dataclass
class Pose:
  """Window voxel = matrix @ (crop voxel - crop middle + bend) + centre.

  Attributes:
    matrix: rotation, one scale and mirror, so its inverse is its transpose
      over the squared scale.
    centre: what the middle of the crop shows, voxels of the window.
    bend: control points of the displacement; None without one.
  """

  matrix: Float[Array, "*batch 3 3"]
  centre: Float[Array, "*batch 3"]
  bend: Float[Array, "*batch 3 knots_d knots_h knots_w"] | None


def draw_pose(
  key: Key[Array, ""],
  crop: tuple[int, int, int],
  spacing_mm: float,
  config: AugmentConfig,
) -> Pose:
  """Draws how a crop lies in its window.

  Args:
    key: of the draw.
    crop: voxels (depth, height, width).
    spacing_mm: voxel edge.
    config: spread of the draw. Rotations and scales end at two standard
      deviations.

  Returns:
    The pose.
  """
  turn, place, bend = jax.random.split(key, 3)
  # Few draws of many numbers: each call of a generator costs 50 ms to compile.
  normal = jax.random.truncated_normal(turn, -2.0, 2.0, (4,))
  uniform = jax.random.uniform(place, (4,))
  matrix = _rotation(jnp.deg2rad(config.rotate_deg) * normal[:3])
  matrix = matrix * jnp.exp(config.scale * normal[3])
  # Width only, which is left to right: levels do not depend on the side.
  mirror = jnp.where(uniform[3] < config.mirror, -1.0, 1.0)
  matrix = matrix.at[:, 2].multiply(mirror)
  middle = (jnp.asarray(crop, jnp.float32) - 1) / 2 + config.margin
  return Pose(
    matrix=matrix,
    centre=middle + uniform[:3] - 0.5,
    bend=draw_bend(bend, crop, config.elastic_mm / spacing_mm)
    if config.elastic_mm > 0
    else None,
  )


def source_places(
  pose: Pose, crop: tuple[int, int, int]
) -> Float[Array, "3 depth height width"]:
  """Where in the window each voxel of the crop comes from.

  Args:
    pose: how the crop lies.
    crop: voxels (depth, height, width).

  Returns:
    Voxels of the window.
  """
  offsets = [
    np.expand_dims(
      np.arange(n, dtype=np.float32) - (n - 1) / 2,
      [a for a in range(3) if a != axis],
    )
    for axis, n in enumerate(crop)
  ]
  places = [jnp.broadcast_to(jnp.asarray(o), crop) for o in offsets]
  if pose.bend is not None:
    field = bend_everywhere(pose.bend, crop)
    places = [place + field[axis] for axis, place in enumerate(places)]
  return jnp.stack(
    [
      sum(pose.matrix[row, axis] * places[axis] for axis in range(3))
      + pose.centre[row]
      for row in range(3)
    ]
  )


def carry(
  pose: Pose, crop: tuple[int, int, int], points: Float[Array, "points 3"]
) -> Float[Array, "points 3"]:
  """Where in the crop places of the window come to lie.

  Args:
    pose: how the crop lies.
    crop: voxels (depth, height, width).
    points: voxels of the window.

  Returns:
    Voxels of the crop; exact far outside it only without a bend.
  """
  inverse = _inverse(pose.matrix)
  away = points - pose.centre[None, :]
  straight = jnp.einsum("ij,pj->pi", inverse, away, precision="highest")
  straight = straight + (jnp.asarray([crop], jnp.float32) - 1) / 2
  if pose.bend is None:
    return straight
  place = straight
  for _ in range(_STEPS):
    place = straight - bend_at(pose.bend, crop, place)
  return place


def carry_boxes(
  pose: Pose, crop: tuple[int, int, int], boxes: Float[Array, "boxes 6"]
) -> Float[Array, "boxes 6"]:
  """Boxes around what a turned crop shows of the lesions.

  Args:
    pose: how the crop lies.
    crop: voxels (depth, height, width).
    boxes: centre (voxels of the window) and edge lengths (mm).

  Returns:
    Centre (voxels of the crop) and edge lengths (mm) of the box around the
    turned ellipsoid that fills the given one; the box around its turned
    corners would be too large for every lesion.
  """
  inverse = _inverse(pose.matrix)
  edges = jnp.sqrt(
    jnp.einsum("ij,pj->pi", inverse**2, boxes[:, 3:] ** 2, precision="highest")
  )
  return jnp.concatenate([carry(pose, crop, boxes[:, :3]), edges], axis=1)


def in_sight(
  places: Float[Array, "3 depth height width"], shape: tuple[int, ...]
) -> Bool[Array, "depth height width"]:
  """Which places are covered by voxels of the window.

  Args:
    places: voxels of the window.
    shape: of the window.

  Returns:
    False where the window ends.
  """
  seen = [
    (places[axis] >= -0.5) & (places[axis] < n - 0.5)
    for axis, n in enumerate(shape)
  ]
  return seen[0] & seen[1] & seen[2]


def pull_nearest(
  volume: Shaped[Array, "window_d window_h window_w"],
  places: Float[Array, "3 depth height width"],
) -> Shaped[Array, "depth height width"]:
  """Values of the nearest voxels.

  Args:
    volume: the window.
    places: its voxels; those outside are moved to the border.

  Returns:
    Values that the window has.
  """
  index = [
    jnp.clip(jnp.floor(places[axis] + 0.5).astype(jnp.int32), 0, n - 1)
    for axis, n in enumerate(volume.shape)
  ]
  return _take(volume, *index)


def pull_linear(
  volume: Shaped[Array, "window_d window_h window_w"],
  places: Float[Array, "3 depth height width"],
) -> Float[Array, "depth height width"]:
  """Trilinear interpolation.

  Args:
    volume: the window.
    places: its voxels; those outside are moved to the border.

  Returns:
    Interpolated values.
  """
  low, share = [], []
  for axis, n in enumerate(volume.shape):
    place = jnp.clip(places[axis], 0.0, n - 1.0)
    first = jnp.minimum(jnp.floor(place), n - 2)
    low.append(first.astype(jnp.int32))
    share.append(place - first)
  total = jnp.zeros(places.shape[1:])
  for corner in np.ndindex(2, 2, 2):
    weight = [s if up else 1 - s for s, up in zip(share, corner)]
    value = _take(volume, *(first + up for first, up in zip(low, corner)))
    total = total + weight[0] * weight[1] * weight[2] * value
  return total


def _take(volume, d, h, w):
  """Gathers by flat index, which XLA vectorises; indices are in bounds."""
  _, height, width = volume.shape
  flat = volume.reshape(-1)
  return flat.at[(d * height + h) * width + w].get(mode="promise_in_bounds")


def _inverse(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
  return matrix.T * (3 / (matrix**2).sum())


def _rotation(angles: Float[Array, " 3"]) -> Float[Array, "3 3"]:
  """Rotation about the width, then height, then depth axis, radians."""
  (cd, ch, cw), (sd, sh, sw) = jnp.cos(angles), jnp.sin(angles)
  one, nil = jnp.ones(()), jnp.zeros(())
  rows = [
    [one, nil, nil, nil, cd, -sd, nil, sd, cd],
    [ch, nil, -sh, nil, one, nil, sh, nil, ch],
    [cw, -sw, nil, sw, cw, nil, nil, nil, one],
  ]
  depth, height, width = (jnp.stack(row).reshape(3, 3) for row in rows)
  return jnp.linalg.multi_dot([depth, height, width], precision="highest")
