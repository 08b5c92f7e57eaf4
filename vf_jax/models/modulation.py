# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Dynamic modulation unit: where among the known domains does this scan lie?

The paper names the unit but not its form (docs/method.md); this form is ours.
A descriptor is read from the image alone, placed among learned prototypes, and
the mixture conditions every block, so that an unseen domain is a mixture of
known ones. No domain label is needed at inference.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_HU = (-1000.0, 1400.0, 25)  # lowest and highest centre, number of bins
_CURVATURE = (0.0, 7.0, 11)  # log(1 + HU)
_BODY_HU = -500.0  # below lies air: around the body, in it, and padding
_SOFT_HU = (-200.0, 300.0)
_METAL_HU = 500.0  # beside soft tissue: cortical bone and screws
_SPACING_MM = (0.2, 10.0)
_SHARPNESS = 4.0
"""Of the mixture: no share exceeds e^8 times another.

Dot products without bound make a new domain as certain as a known one, and 8
or more already do; see benchmarks/results/modulation_study.md.
"""


@flax.struct.dataclass
class DomainState:
  """What the unit says of a scan.

  Attributes:
    embedding: conditions the blocks, None without modulation.
    log_mixture: log share of each prototype, None without prototypes.
  """

  embedding: Float[Array, "batch domain"] | None
  log_mixture: Float[Array, "batch prototypes"] | None


def mixture_entropy(
  log_mixture: Float[Array, "*batch prototypes"],
) -> Float[Array, "*batch"]:
  """How undecided a mixture is.

  Args:
    log_mixture: log share of each prototype.

  Returns:
    Nats: 0 for one prototype alone, log(prototypes) for all alike.
  """
  return -(jnp.exp(log_mixture) * log_mixture).sum(axis=-1)


def describe(
  image: Float[Array, "batch depth height width"],
  spacing_mm: Float[Array, "batch 3"],
) -> Float[Array, "batch descriptor"]:
  """Statistics of the scanner rather than of the anatomy's place.

  Curvature along an axis (the second difference) is noise and kernel where
  tissue is soft, and flat anatomy cancels in it. The three axes are kept apart
  because slices are thicker than pixels. An eighth of the voxels is read.

  Args:
    image: HU.
    spacing_mm: spacing of the scan before resampling, ascending order, mm.

  Returns:
    Square roots of soft histograms (HU inside the body, curvature of soft
    tissue along each axis) and half the log spacing. All of them vary about
    as much from scan to scan.
  """
  image = image.astype(jnp.float32)
  spacing = jnp.log(jnp.clip(spacing_mm, *_SPACING_MM).astype(jnp.float32))
  middle = image[:, 1:-1:2, 1:-1:2, 1:-1:2]
  soft = (middle > _SOFT_HU[0]) & (middle < _SOFT_HU[1])
  parts = [_histogram(middle, middle > _BODY_HU, _HU)]
  for axis in (1, 2, 3):
    before, after = (
      image[_beside(axis, image.shape[axis], side)] for side in (-1, 1)
    )
    counts = soft
    for other in (before, after):
      counts &= (other > _BODY_HU) & (other < _METAL_HU)
    bend = jnp.log1p(jnp.abs(before - 2.0 * middle + after))
    parts.append(_histogram(bend, counts, _CURVATURE))
  return jnp.concatenate([*parts, 0.5 * spacing], axis=1)


def _beside(axis: int, size: int, side: int) -> tuple[slice, ...]:
  """Where the neighbours of every second voxel lie along an axis."""
  place = [slice(None)] + [slice(1, -1, 2)] * 3
  place[axis] = slice(1 + side, size - 1 + side, 2)
  return tuple(place)


def _histogram(
  values: Float[Array, "batch d h w"],
  counts: Bool[Array, "batch d h w"],
  bins: tuple[float, float, int],
) -> Float[Array, "batch bins"]:
  """Square roots of the shares of linear bins; 0 where nothing counts."""
  low, high, number = bins
  centres = jnp.linspace(low, high, number)[None, :, None]
  values = jnp.clip(values, low, high).reshape(values.shape[0], 1, -1)
  weight = counts.astype(jnp.float32).reshape(values.shape)
  away = jnp.abs(values - centres) * ((number - 1) / (high - low))
  share = (jnp.maximum(0.0, 1.0 - away) * weight).sum(axis=2)
  return jnp.sqrt(share / (weight.sum(axis=2) + 1.0))


class ModulationUnit(nn.Module):
  """Turns the descriptor into a domain embedding.

  Attributes:
    kind: 'none', 'film' (descriptor only) or 'prototype'.
    prototypes: number of prototypes.
    width: size of the embedding.
    prototype_dropout: chance that a sample's own prototype is masked in
      training, which rehearses leaving its domain out.
  """

  kind: Literal["none", "film", "prototype"]
  prototypes: int
  width: int
  prototype_dropout: float

  @nn.compact
  def __call__(
    self,
    image: Float[Array, "batch depth height width"],
    spacing_mm: Float[Array, "batch 3"],
    pooled: Float[Array, "batch channel"],
    domain: Int[Array, " batch"] | None = None,
    train: bool = False,
  ) -> DomainState:
    """Places a batch of scans.

    Args:
      image: HU.
      spacing_mm: spacing before resampling, ascending, mm.
      pooled: mean features of the stem.
      domain: index of the sample's own prototype, only for its dropout.
      train: whether prototype dropout is on (needs the rng 'prototype').

    Returns:
      The embedding and the mixture.
    """
    if self.kind == "none":
      return DomainState(embedding=None, log_mixture=None)
    # Mean features are near the mean of the image: they tell what is in view.
    # At unit length they no longer drown the statistics.
    content = nn.LayerNorm(name="norm")(pooled.astype(jnp.float32))
    read = jnp.concatenate(
      [describe(image, spacing_mm), content / np.sqrt(content.shape[1])], axis=1
    )
    # Inputs are a few units long whatever their number.
    hidden = nn.gelu(
      nn.Dense(
        self.width, kernel_init=nn.initializers.normal(1.0), name="read"
      )(read)
    )
    query = _unit(nn.Dense(self.width, name="query")(hidden))
    if self.kind == "film":
      return DomainState(
        embedding=query * np.sqrt(self.width), log_mixture=None
      )
    table = self.param(
      "prototypes", nn.initializers.normal(1.0), (self.prototypes, self.width)
    )
    logits = _SHARPNESS * query @ _unit(table).T
    mixing = logits
    if train and domain is not None and self.prototype_dropout > 0:
      drop = jax.random.bernoulli(
        self.make_rng("prototype"), self.prototype_dropout, domain.shape
      )
      own = jax.nn.one_hot(domain, self.prototypes) > 0
      mixing = jnp.where(own & drop[:, None], -1e9, logits)
    return DomainState(
      embedding=jax.nn.softmax(mixing) @ table,
      log_mixture=jax.nn.log_softmax(logits),
    )


def _unit(x: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
  """Brings rows to length 1."""
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)
