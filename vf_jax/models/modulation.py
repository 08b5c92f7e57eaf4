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
from jaxtyping import Array, Float, Int

_HU_CENTRES = np.linspace(-1000, 1400, 25, dtype=np.float32)
_NOISE_CENTRES = np.linspace(0, 7, 15, dtype=np.float32)  # log(1 + HU)


@flax.struct.dataclass
class DomainState:
  """What the unit says of a scan.

  Attributes:
    embedding: conditions the blocks, None without modulation.
    log_mixture: log share of each prototype, None without prototypes.
  """

  embedding: Float[Array, "batch domain"] | None
  log_mixture: Float[Array, "batch prototypes"] | None


def describe(
  image: Float[Array, "batch depth height width"],
  spacing_mm: Float[Array, "batch 3"],
) -> Float[Array, "batch descriptor"]:
  """Statistics of the scanner rather than of the anatomy's place.

  Args:
    image: HU.
    spacing_mm: spacing of the scan before resampling, ascending order, mm.

  Returns:
    Soft histograms of HU and of neighbour differences (noise, kernel) inside
    the body, and the log spacing.
  """
  even = image[:, ::2, ::2, 0::2]
  odd = image[:, ::2, ::2, 1::2]
  even = even[..., : odd.shape[-1]].reshape(image.shape[0], -1)
  noise = jnp.log1p(jnp.abs(odd.reshape(image.shape[0], -1) - even))
  body = (even > -500.0).astype(image.dtype)
  inside = body.sum(axis=1, keepdims=True) + 1.0

  def histogram(values, centres):
    width = centres[1] - centres[0]
    distance = jnp.abs(values[:, None, :] - centres[None, :, None]) / width
    share = jnp.maximum(0.0, 1.0 - distance)  # linear binning
    return (share * body[:, None, :]).sum(axis=2) / inside

  return jnp.concatenate(
    [
      jnp.sqrt(
        histogram(jnp.clip(even, -1000, 1400), jnp.asarray(_HU_CENTRES))
      ),
      jnp.sqrt(histogram(noise, jnp.asarray(_NOISE_CENTRES))),
      jnp.log(spacing_mm),
    ],
    axis=1,
  )


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
    read = jnp.concatenate(
      [describe(image, spacing_mm), nn.LayerNorm(name="norm")(pooled)], axis=1
    ).astype(jnp.float32)
    hidden = nn.gelu(nn.Dense(self.width, name="read")(read))
    query = nn.Dense(self.width, name="query")(hidden)
    if self.kind == "film":
      return DomainState(embedding=nn.gelu(query), log_mixture=None)
    table = self.param(
      "prototypes", nn.initializers.normal(1.0), (self.prototypes, self.width)
    )
    logits = query @ table.T / np.sqrt(self.width)
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
