# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Numbers a spine from its points alone, without features of the image.

The evidence is where bodies and pedicles lie and whether the detector called a
body cervical, thoracic or lumbar. A small transformer sees the whole scan,
with distances in mm; a chain of levels holds its scores together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vf_jax.labels import VERTEBRAE
from vf_jax.model_config import MAX_ADVANCE
from vf_jax.models.decoders.level_chain import (
  ChainScores,
  emission_scores,
  level_likelihood,
  level_moves,
  prefer_next_level,
  transition_scores,
)
from vf_jax.models.layers import sinusoids
from vf_jax.ops import chain

_LEVELS = len(VERTEBRAE)
_USUAL_MM = 30.0  # from body to body
_NEAR_MM = 20.0  # from body to pedicle

# Batches are put together on the host.
Numbers = Array | np.ndarray


@flax.struct.dataclass
class KeypointBatch:
  """Candidates of several scans, from head to foot, padded to one length.

  Attributes:
    points: of bodies, DICOM world (x left, y back, z head), mm; any origin.
    pedicles: vectors from body to left and right pedicle, mm; 0 if none.
    paired: 1 for a pedicle that there is.
    scores: logits of cervical, thoracic, lumbar; 0 if not known.
    made: 1 for a body that only its pedicles speak of.
    mask: True for candidates, which come first.
    targets: index into `VERTEBRAE`, -1 for a false one or if not known.
  """

  points: Float[Numbers, "scans points 3"]
  pedicles: Float[Numbers, "scans points 2 3"]
  paired: Float[Numbers, "scans points 2"]
  scores: Float[Numbers, "scans points 3"]
  made: Float[Numbers, "scans points"]
  mask: Bool[Numbers, "scans points"]
  targets: Int[Numbers, "scans points"]


@flax.struct.dataclass
class LevelScores:
  """What the network says of a batch; the chain makes levels of it.

  Attributes:
    levels: score of each level.
    rejected: score of being no vertebra.
    advance: log-probability of going on by 1, 2, ... vertebrae.
    rare: price of T13, of L6, of an absent T12.
    mask: True for candidates.
  """

  levels: Float[Array, "scans points levels"]
  rejected: Float[Array, "scans points 1"]
  advance: Float[Array, "scans pairs advance"]
  rare: Float[Array, " 3"]
  mask: Bool[Array, "scans points"]

  def chain(self) -> ChainScores:
    """Returns the chain that these scores describe."""
    return ChainScores(
      emissions=emission_scores(self.levels, self.rejected),
      transitions=transition_scores(self.advance, self.rare),
      mask=self.mask,
    )

  def negative_log_likelihood(
    self, targets: Int[Array, "scans points"]
  ) -> Float[Array, " scans"]:
    """Exact -log p of the true levels.

    Args:
      targets: index into `VERTEBRAE`, or -1 for a false candidate.

    Returns:
      One value a scan.
    """
    moves = level_moves(self.advance, self.rare)
    return level_likelihood(
      self.levels, self.rejected, moves, self.mask, targets
    )

  def marginals(self) -> Float[Array, "scans points outcomes"]:
    """Returns the probability of each level and, last, of no vertebra."""
    scores = self.chain()
    states = jax.vmap(chain.marginals)(
      scores.emissions, scores.transitions, scores.mask
    )
    rejected = states[..., _LEVELS:].sum(axis=-1, keepdims=True)
    return jnp.concatenate([states[..., :_LEVELS], rejected], axis=-1)


def decode_expected_accuracy(
  marginals: Float[Array, "scans points outcomes"],
  mask: Bool[Array, "scans points"],
) -> tuple[Int[Array, "scans points"], Float[Array, "scans points"]]:
  """Finds the permitted sequence of levels of maximum expected accuracy.

  The most probable sequence is not that: when a doubtful end splits the
  probability of one numbering among several sequences, the other may win.

  Args:
    marginals: from `LevelScores.marginals`, or a mean of them.
    mask: True for candidates.

  Returns:
    Index into `VERTEBRAE`, -1 = no vertebra, and the probability of each.

  Source:
    Käll et al. 2005, An HMM posterior decoder for sequence feature prediction
    (Bioinformatics 21, i251): its optimal accuracy decoding.
  """
  pairs = marginals.shape[1] - 1
  forbidden = transition_scores(
    jnp.zeros((1, pairs, MAX_ADVANCE)), jnp.zeros(3)
  )
  rules = jnp.where(forbidden[0] < -1e8, -1e9, 0.0)
  gain = emission_scores(marginals[..., :_LEVELS], marginals[..., _LEVELS:])
  path = jax.vmap(chain.viterbi, in_axes=(0, None, 0))(gain, rules, mask)
  kept = (path >= 0) & (path < _LEVELS)
  outcome = jnp.where(kept, path, _LEVELS)
  sure = jnp.take_along_axis(marginals, outcome[..., None], axis=-1)[..., 0]
  return jnp.where(kept, path, -1), jnp.where(mask, sure, 0.0)


class KeypointNumbering(nn.Module):
  """Transformer over the candidates of a scan.

  Attributes:
    width: of its tokens.
    depth: its blocks.
    heads: of attention.
    dropout: of every residual branch, in training.
  """

  width: int
  depth: int
  heads: int
  dropout: float = 0.0

  @nn.compact
  def __call__(self, batch: KeypointBatch, train: bool = False) -> LevelScores:
    """Scores a batch of scans.

    Args:
      batch: the candidates.
      train: draws dropout, from the key `dropout`.

    Returns:
      The scores.
    """
    count, length = batch.mask.shape
    drop = nn.Dropout(self.dropout, deterministic=not train)
    x = nn.Dense(self.width, name="embed")(keypoint_features(batch))
    height = jnp.asarray(batch.points[..., 2])
    below = height[:, :, None] - height[:, None, :]
    relation = jnp.concatenate(
      [jnp.clip(below / 100, -4, 4)[..., None], sinusoids(below, 4, 400.0)],
      axis=-1,
    )
    relation = nn.relu(nn.Dense(16, name="relation")(relation))
    bias = nn.Dense(self.heads * self.depth, name="bias")(relation)
    visible = batch.mask[:, None, None, :]
    for i in range(self.depth):
      y = nn.LayerNorm(name=f"attn_norm{i}")(x)
      qkv = nn.Dense(3 * self.width, name=f"qkv{i}")(y)
      qkv = qkv.reshape(count, length, 3, self.heads, self.width // self.heads)
      logits = jnp.einsum("bihd,bjhd->bhij", qkv[:, :, 0], qkv[:, :, 1])
      logits = logits / np.sqrt(self.width // self.heads)
      own = bias[..., i * self.heads : (i + 1) * self.heads]
      logits = logits + jnp.moveaxis(own, -1, 1)
      share = jax.nn.softmax(jnp.where(visible, logits, -1e9), axis=-1)
      y = jnp.einsum("bhij,bjhd->bihd", share, qkv[:, :, 2])
      y = y.reshape(count, length, self.width)
      x = x + drop(nn.Dense(self.width, name=f"proj{i}")(y))
      y = nn.LayerNorm(name=f"mlp_norm{i}")(x)
      y = nn.gelu(nn.Dense(2 * self.width, name=f"up{i}")(y))
      x = x + drop(nn.Dense(self.width, name=f"down{i}")(y))
    x = nn.LayerNorm(name="norm")(x)
    step = jnp.diff(batch.points, axis=1)
    gap = jnp.sqrt((step**2).sum(axis=-1) + 1e-6)
    pair = jnp.concatenate(
      [
        x[:, :-1],
        x[:, 1:],
        sinusoids(gap, 4, 80.0),
        gap[..., None] / _USUAL_MM,
      ],
      axis=-1,
    )
    pair = nn.gelu(nn.Dense(self.width, name="pair")(pair))
    advance = nn.Dense(
      MAX_ADVANCE, bias_init=prefer_next_level, name="advance"
    )(pair)
    usual = nn.initializers.constant(-2.0)
    return LevelScores(
      levels=nn.Dense(_LEVELS, name="levels")(x),
      rejected=nn.Dense(1, name="rejected", bias_init=usual)(x),
      advance=jax.nn.log_softmax(advance),
      rare=self.param("rare", nn.initializers.constant(-4.0), (3,)),
      mask=jnp.asarray(batch.mask),
    )


def scan_confidence(confidences: np.ndarray) -> float:
  """How sure the numbering of a whole scan is.

  The lower quartile: a few doubtful ends do not matter, but where every level
  may be one off, many bodies are doubtful. It tells right scans from shifted
  ones better than the mean or the least of them.

  Args:
    confidences: of the bodies that were kept.

  Returns:
    0..1; 0 if there are none.
  """
  return float(np.quantile(confidences, 0.25)) if len(confidences) else 0.0


def keypoint_features(
  batch: KeypointBatch,
) -> Float[Array, "scans points features"]:
  """What is known of each candidate, in numbers near one.

  Distances to the neighbours and the ends of the scan, pedicles in the frame
  of the spine, the bend, and how many bodies and how many of each region lie
  above and below. The origin of the world plays no part.

  Args:
    batch: the candidates.

  Returns:
    The features, 0 for padding.
  """
  mask = batch.mask[..., None].astype(jnp.float32)
  steps = {k: _step(batch.points, batch.mask, k) for k in (-2, -1, 1, 2)}
  out = [batch.scores / 3, batch.paired, batch.made[..., None]]
  out += _pedicle_features(batch, steps[-1][0] + steps[1][0])
  gaps = {k: _length(step) * there for k, (step, there) in steps.items()}
  pairs = jnp.maximum(steps[1][1].sum(axis=1, keepdims=True), 1.0)
  mean = gaps[1].sum(axis=1, keepdims=True) / pairs
  for k, (step, there) in steps.items():
    gap = gaps[k] + 1.0
    out += [
      there,
      step / (_USUAL_MM * abs(k)),
      jnp.log(gap / (_USUAL_MM * abs(k))) * there,
      jnp.log(gap / abs(k) / (mean + 1.0)) * there,
    ]
  lean = {
    k: step[..., 1:2] / _length(step, 1e-3) for k, (step, _) in steps.items()
  }
  for k in (1, 2):
    out.append((lean[k] - lean[-k]) * steps[k][1] * steps[-k][1])
  height = jnp.asarray(batch.points[..., 2])
  top = jnp.where(batch.mask, height, -1e9).max(axis=1, keepdims=True)
  foot = jnp.where(batch.mask, height, 1e9).min(axis=1, keepdims=True)
  for far in ((top - height) * batch.mask, (height - foot) * batch.mask):
    out += [far[..., None] / 300, sinusoids(far, 2, 400.0)]
  known = (jnp.abs(batch.scores).sum(axis=-1, keepdims=True) > 0) * mask
  detected = mask * (1 - batch.made[..., None])
  region = jax.nn.softmax(batch.scores) * known * detected
  for amount in (region, detected):
    above = jnp.cumsum(amount, axis=1)
    out += [above / 8, (above[:, -1:] - above + amount) / 8]
  made = (mask - detected).sum(axis=1, keepdims=True) / 4
  out.append(jnp.broadcast_to(made, mask.shape))
  return jnp.concatenate(out, axis=-1) * mask


def _step(points, mask, k):
  """Vector towards the feet between a candidate and its k-th neighbour."""
  place = np.arange(points.shape[1]) + k
  inside = (place >= 0) & (place < points.shape[1])
  there = jnp.roll(mask, -k, axis=1) & inside[None] & mask
  step = (jnp.roll(points, -k, axis=1) - points) * np.sign(k)
  there = there[..., None]
  return jnp.where(there, step, 0.0), there.astype(jnp.float32)


def _length(vectors, least=1e-6):
  return jnp.sqrt((vectors**2).sum(axis=-1, keepdims=True) + least)


def _pedicle_features(batch, down):
  """Pedicles in world axes, and along the spine, its left and its back."""
  up = jnp.asarray([0.0, 0.0, 0.01])[None, None] - down
  up = up / _length(up)
  left = jnp.asarray([1.0, 0.0, 0.0])[None, None] - up * up[..., :1]
  left = left / _length(left, 1e-3)
  back = jnp.cross(up, left)
  axes = jnp.stack([left, back, up], axis=2)
  own = jnp.einsum("bnsi,bnki->bnsk", batch.pedicles, axes)
  both = batch.paired.prod(axis=-1)[..., None]
  flat = (*batch.mask.shape, 6)
  world = batch.pedicles.reshape(flat)
  width = batch.pedicles[:, :, 0, :1] - batch.pedicles[:, :, 1, :1]
  parts = [
    own.reshape(flat),
    world[..., jnp.array([1, 2, 4, 5])],
    both * width,
    both * own[..., 1:].mean(axis=2),
  ]
  return [part / _NEAR_MM for part in parts]


def number(
  model: KeypointNumbering, members: Mapping[str, Any], batch: KeypointBatch
) -> tuple[Int[Array, "scans points"], Float[Array, "scans points"]]:
  """Levels by several networks of one shape that vote with probabilities.

  Args:
    model: the network.
    members: its parameters, stacked along a first axis.
    batch: the candidates.

  Returns:
    Index into `VERTEBRAE`, -1 = no vertebra, and its probability.
  """

  def marginals(params):
    return model.apply({"params": params}, batch).marginals()

  mean = jax.vmap(marginals)(members).mean(axis=0)
  return decode_expected_accuracy(mean, jnp.asarray(batch.mask))
