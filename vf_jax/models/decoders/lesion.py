# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Lesion decoder: heat map, box size and centre at 1/4 resolution."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.models.layers import ConvBlock, Dense, Domain


@flax.struct.dataclass
class LesionMaps:
  """One candidate box per cell.

  Attributes:
    heat: logit that the cell lies deep in a lesion.
    offset: from the cell's centre to the lesion's, in cells.
    log_size: natural log of the edge lengths in mm.
  """

  heat: Float[Array, "batch d h w"]
  offset: Float[Array, "batch d h w 3"]
  log_size: Float[Array, "batch d h w 3"]


class LesionHead(nn.Module):
  """One box per cell, after Tian et al. 2019, FCOS (arXiv 1904.01355).

  Given the contrast of bone (`bone_contrast`), it has a convolutional block of
  its own: what the masks need of a cell does not tell a lesion from the bone
  around it.

  Attributes:
    hidden: width of the hidden layer, and of the block.
    dtype: compute type; outputs are float32.
  """

  hidden: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    features: Float[Array, "batch d h w channel"],
    contrast: Float[Array, "batch d h w features"] | None,
    domain: Domain,
  ) -> LesionMaps:
    """Returns a candidate box for every cell.

    Args:
      features: of each cell.
      contrast: of bone in each cell; None for no block.
      domain: embedding that modulates the block.
    """
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(features)
    if contrast is not None:
      x = Dense(self.hidden, dtype=self.dtype, name="cells")(x)
      contrast = contrast.astype(self.dtype)
      x = x + Dense(self.hidden, dtype=self.dtype, name="contrast")(contrast)
      x = ConvBlock(dtype=self.dtype, name="block")(x, domain)
      x = nn.LayerNorm(dtype=self.dtype, name="block_norm")(x)
    x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
    # Lesions are rare: a prior of 1 % keeps the first steps quiet.
    heat = nn.Dense(
      1,
      dtype=jnp.float32,
      name="heat",
      bias_init=nn.initializers.constant(-4.6),
    )(x)
    box = nn.Dense(6, dtype=jnp.float32, name="box")(x)
    return LesionMaps(
      heat=heat[..., 0],
      offset=box[..., :3],
      log_size=box[..., 3:] + jnp.log(15.0),
    )
