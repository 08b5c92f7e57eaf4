# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Other spines, detectors and scan ranges, drawn from those that there are.

All of it happens on the device, inside the training step, on points: what the
network reads is computed from them afterwards, so it stays consistent.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vf_jax.models.decoders.keypoint_numbering import KeypointBatch
from vf_jax.typed import check_not_negative, check_probability


@dataclasses.dataclass(frozen=True)
class NumberingAugment:
  """How strongly scans are changed.

  NOTE: `crop` teaches short scans, and also that the last body need not be
  L5, which it mostly is; more than a little costs whole scans.

  Attributes:
    scale: spread of the size of a spine, as a share.
    tilt: spread of its rotation about each axis, rad.
    jitter_mm: spread of each coordinate.
    scores: spread added to logits of scores.
    no_scores: chance that a scan has none.
    lost_body: chance that only the pedicles of a body are found.
    lost_pedicle: chance that a pedicle is not found.
    lost: chance that a candidate is not there at all.
    troubled: share of scans in which anything is lost.
    crop: chance that a part of the scan is cut out.
  """

  scale: float = 0.06
  tilt: float = 0.06
  jitter_mm: float = 0.7
  scores: float = 0.3
  no_scores: float = 0.01
  lost_body: float = 0.06
  lost_pedicle: float = 0.1
  lost: float = 0.1
  troubled: float = 0.2
  crop: float = 0.1

  def __post_init__(self) -> None:
    check_not_negative(
      self, "scale", "tilt", "jitter_mm", "scores", group="augment"
    )
    check_probability(
      self,
      "no_scores",
      "lost_body",
      "lost_pedicle",
      "lost",
      "troubled",
      "crop",
      group="augment",
    )


def augment(
  batch: KeypointBatch, key: Key[Array, ""], strength: NumberingAugment
) -> KeypointBatch:
  """Draws a changed copy of every scan.

  Args:
    batch: scans of the data.
    key: decides everything.
    strength: how much.

  Returns:
    Scans of the same shape, sorted from head to foot again.
  """
  keys = jax.random.split(key, 4)
  batch = _mirror(batch, keys[0])
  batch = _bend(batch, keys[1], strength)
  batch = _detect(batch, keys[2], strength)
  return _sort(_cut(batch, keys[3], strength))


def _mirror(batch: KeypointBatch, key: Key[Array, ""]) -> KeypointBatch:
  """Swaps left and right in half of the scans."""
  swap = jax.random.bernoulli(key, 0.5, batch.mask.shape[:1])[:, None, None]
  sign = jnp.where(swap, -1.0, 1.0) * jnp.array([1.0, 0.0, 0.0])[None, None]
  sign = sign + jnp.array([0.0, 1.0, 1.0])[None, None]
  pedicles = batch.pedicles * sign[:, :, None]
  return dataclasses.replace(
    batch,
    points=batch.points * sign,
    pedicles=jnp.where(swap[..., None], pedicles[:, :, ::-1], pedicles),
    paired=jnp.where(swap, batch.paired[:, :, ::-1], batch.paired),
  )


def _bend(
  batch: KeypointBatch, key: Key[Array, ""], strength: NumberingAugment
) -> KeypointBatch:
  """Changes size, pose and every single position."""
  size, tilt, body, pedicle = jax.random.split(key, 4)
  scans = batch.mask.shape[0]
  scale = 1 + strength.scale * jax.random.normal(size, (scans, 1, 1))
  turn = _turns(strength.tilt * jax.random.normal(tilt, (scans, 3)))
  turn = turn * scale
  points = jnp.einsum("bij,bnj->bni", turn, batch.points)
  pedicles = jnp.einsum("bij,bnsj->bnsi", turn, batch.pedicles)
  points += strength.jitter_mm * jax.random.normal(body, points.shape)
  shake = strength.jitter_mm * jax.random.normal(pedicle, pedicles.shape)
  pedicles += shake * batch.paired[..., None]
  return dataclasses.replace(batch, points=points, pedicles=pedicles)


def _turns(angles: Float[Array, "scans 3"]) -> Float[Array, "scans 3 3"]:
  """Rotations about x, then y, then z."""
  zero, one = jnp.zeros(angles.shape[0]), jnp.ones(angles.shape[0])
  c, s = jnp.cos(angles).T, jnp.sin(angles).T

  def matrix(*values):
    return jnp.stack(values, axis=-1).reshape(-1, 3, 3)

  x = matrix(one, zero, zero, zero, c[0], -s[0], zero, s[0], c[0])
  y = matrix(c[1], zero, s[1], zero, one, zero, -s[1], zero, c[1])
  z = matrix(c[2], -s[2], zero, s[2], c[2], zero, zero, zero, one)
  return z @ y @ x


def _detect(
  batch: KeypointBatch, key: Key[Array, ""], strength: NumberingAugment
) -> KeypointBatch:
  """Lets the detector miss bodies and pedicles and waver in its scores."""
  keys = jax.random.split(key, 7)
  shape = batch.mask.shape
  trouble = jax.random.bernoulli(keys[0], strength.troubled, (3, shape[0], 1))
  body = jax.random.bernoulli(keys[1], strength.lost_body, shape)
  # Without its pedicles a lost body would leave no candidate behind.
  body &= trouble[0] & (batch.paired.sum(axis=-1) > 0)
  side = jax.random.bernoulli(keys[2], strength.lost_pedicle, (*shape, 2))
  paired = batch.paired * ~(side & trouble[1][..., None] & ~body[..., None])
  gone = jax.random.bernoulli(keys[3], strength.lost, shape) & trouble[2]
  guess = 3.0 * jax.random.normal(keys[4], batch.points.shape)
  noise = strength.scores * jax.random.normal(keys[5], batch.scores.shape)
  scores = batch.scores + noise * (batch.scores != 0)
  mute = jax.random.bernoulli(keys[6], strength.no_scores, (shape[0], 1))
  return dataclasses.replace(
    batch,
    points=jnp.where(body[..., None], batch.points + guess, batch.points),
    pedicles=batch.pedicles * paired[..., None],
    paired=paired,
    scores=jnp.where((body | mute)[..., None], 0.0, scores),
    made=jnp.where(body, 1.0, batch.made),
    mask=batch.mask & ~gone,
  )


def _cut(
  batch: KeypointBatch, key: Key[Array, ""], strength: NumberingAugment
) -> KeypointBatch:
  """Keeps three or more candidates in a row of some scans."""
  cut, size, place = jax.random.split(key, 3)
  scans = batch.mask.shape[0]
  count = batch.mask.sum(axis=1)
  room = jnp.maximum(count - 3, 0)
  length = 3 + jnp.floor(jax.random.uniform(size, (scans,)) * (room + 1))
  spare = jnp.maximum(count - length, 0)
  first = jnp.floor(jax.random.uniform(place, (scans,)) * (spare + 1))
  order = jnp.cumsum(batch.mask, axis=1) - 1
  inside = order >= first[:, None]
  inside &= order < (first + length)[:, None]
  chosen = jax.random.bernoulli(cut, strength.crop, (scans, 1))
  return dataclasses.replace(batch, mask=batch.mask & (inside | ~chosen))


def _sort(batch: KeypointBatch) -> KeypointBatch:
  """Candidates from head to foot, those that are left first."""
  depth = jnp.where(batch.mask, -batch.points[..., 2], np.inf)
  order = jnp.argsort(depth, axis=1)

  def take(values):
    index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)

  batch = dataclasses.replace(
    batch, targets=jnp.where(batch.mask, batch.targets, -1)
  )
  return jax.tree.map(take, batch)
