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

from vf_jax.models.descriptor import describe

_SHARPNESS = 4.0
"""Of the mixture: no share exceeds e^8 times another.

Dot products have no bound: a scan like none before may seem as certain as a
known one.
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
    content = nn.LayerNorm(name="norm")(pooled.astype(jnp.float32))
    # Mean features follow the mean of the image: they tell what is in view.
    # At unit length they do not drown the statistics.
    content = content / np.sqrt(content.shape[1])
    read = jnp.concatenate([describe(image, spacing_mm), content], axis=1)
    hidden = nn.gelu(
      nn.Dense(
        self.width,
        # What is read is a few units long, however many numbers it has.
        kernel_init=nn.initializers.normal(1.0),
        name="read",
      )(read.astype(jnp.float32))
    )
    query = nn.Dense(self.width, name="query")(hidden)
    if self.kind == "film":
      query = _unit(query) * np.sqrt(self.width)
      return DomainState(embedding=query, log_mixture=None)
    table = self.param(
      "prototypes", nn.initializers.normal(1.0), (self.prototypes, self.width)
    )
    logits = _SHARPNESS * _unit(query) @ _unit(table).T
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
