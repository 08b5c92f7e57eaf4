# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Detections as the numbering decoder will meet them: moved, missed, false."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vf_jax.labels import CODES, VERTEBRAE
from vf_jax.model_config import MAX_ADVANCE

_BORDER_MM = 6.0  # nearer to the border of the crop nothing is found
_MOVED = 1.0  # standard deviation of a detection's error, voxels
_MISSED = 0.04
_FALSE = (0.2, 0.1)  # chance of a first and of a second false detection
_BESIDE = 0.6  # chance that a false one is a displaced true one
_BESIDE_VOXELS = 6.0  # standard deviation
_FALSE_MM = 10.0  # from here on a detection is false

_ORDER = np.full(CODES, -1, np.int32)
for _level in VERTEBRAE:
  _ORDER[_level.code] = _level.order


def draw_points(
  key: Key[Array, ""] | None,
  centres: Float[Array, "codes 3"],
  known: Bool[Array, " codes"],
  crop: tuple[int, int, int],
  spacing_mm: float,
  slots: int,
) -> tuple[
  Float[Array, "slots 3"], Int[Array, " slots"], Bool[Array, " slots"]
]:
  """Draws the detections of a crop.

  Args:
    key: of the draw; None gives the true centres.
    centres: body centre of each VerSe code, voxels of the crop.
    known: whether that code has a centre.
    crop: voxels (depth, height, width).
    spacing_mm: voxel edge.
    slots: places for detections.

  Returns:
    Points from head to foot, index into `VERTEBRAE` (-1 = false detection),
    and True for real slots, which come first.
  """
  levels = jnp.asarray(_ORDER)
  size = jnp.asarray([crop], jnp.float32)
  border = _BORDER_MM / spacing_mm
  points, found = centres, known & (levels >= 0)
  if key is not None:
    normal, uniform = _numbers(key, len(centres))
    points = points + _MOVED * normal[: len(centres)]
    found &= uniform[0, : len(centres)] >= _MISSED
  found &= ((points >= border) & (points < size - border)).all(axis=1)
  if key is not None:
    wrong = _false_points(
      normal[len(centres) :], uniform[1:], points, found, size, border
    )
    away = jnp.linalg.norm(wrong[:, None] - centres[None], axis=-1)
    nearest = jnp.where(known[None], away, jnp.inf).min(axis=1)
    drawn = uniform[1:, -1] < jnp.asarray(_FALSE)
    points = jnp.concatenate([points, wrong])
    found = jnp.concatenate([found, drawn & (nearest > _FALSE_MM / spacing_mm)])
    levels = jnp.concatenate([levels, jnp.full(len(wrong), -1, jnp.int32)])
  order = jnp.argsort(jnp.where(found, -points[:, 0], jnp.inf))[:slots]
  points, levels, found = points[order], levels[order], found[order]
  spare = max(0, slots - len(order))
  return (
    jnp.pad(jnp.where(found[:, None], points, 0.0), ((0, spare), (0, 0))),
    jnp.pad(jnp.where(found, levels, -1), (0, spare), constant_values=-1),
    jnp.pad(found, (0, spare)),
  )


def ascends(levels: Int[Array, " slots"]) -> Bool[Array, ""]:
  """Whether true levels follow each other closely enough for the chain.

  Args:
    levels: index into `VERTEBRAE` from head to foot; -1 is passed over.

  Returns:
    False if the crop lost sight of the spine in between: no chain explains
    it.
  """
  # NOTE: the running maximum is the last true level as long as all ascend,
  # so the first that does not is found.
  last = jax.lax.cummax(levels)
  step = levels[1:] - last[:-1]
  counts = (levels[1:] >= 0) & (last[:-1] >= 0)
  return (~counts | ((step >= 1) & (step <= MAX_ADVANCE))).all()


def _numbers(key, codes):
  """Normal numbers a point; uniform ones: a row of misses, one a false one."""
  normal, uniform = jax.random.split(key)
  wrong = len(_FALSE)
  return (
    jax.random.normal(normal, (codes + wrong, 3)),
    jax.random.uniform(uniform, (1 + wrong, codes + 5)),
  )


def _false_points(normal, uniform, points, found, size, border):
  """Doubled, displaced and invented detections."""
  place, beside, which = uniform[:, :3], uniform[:, 3], uniform[:, 4:-1]
  anywhere = border + (size - 2 * border) * place
  # The found point with the largest of independent numbers: any as often.
  some = jnp.argmax(jnp.where(found[None], which, -1.0), axis=1)
  near = points[some] + _BESIDE_VOXELS * normal
  displaced = (beside < _BESIDE) & found.any()
  return jnp.clip(jnp.where(displaced[:, None], near, anywhere), 0.0, size - 1)
