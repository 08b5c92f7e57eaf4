# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VertebraFormer: one encoder, three decoders, one forward pass."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vf_jax.config import STEM_STRIDE, ModelConfig
from vf_jax.models.decoders.lesion import LesionHead, LesionMaps
from vf_jax.models.decoders.numbering import (
  ChainScores,
  NumberingDecoder,
  read_evidence,
)
from vf_jax.models.decoders.segmentation import SubvoxelHead
from vf_jax.models.encoder import Stem, Transformer
from vf_jax.models.layers import ConvBlock
from vf_jax.models.modulation import DomainState, ModulationUnit
from vf_jax.ops.subvoxel import depth_to_space


@flax.struct.dataclass
class Outputs:
  """All that one forward pass says of a window.

  Attributes:
    logits: vertebra logit per voxel, fp32.
    offsets: from each voxel to the body centre of its vertebra, in voxels
      along (depth, height, width).
    lesions: candidate boxes at 1/4 resolution.
    domain: embedding and prototype mixture.
    evidence: features at the given points, None without points.
    chain: level scores of the given points, None without points.
  """

  logits: Float[Array, "batch depth height width"]
  offsets: Float[Array, "batch depth height width 3"]
  lesions: LesionMaps
  domain: DomainState
  evidence: Float[Array, "batch points channel"] | None
  chain: ChainScores | None


class VertebraFormer(nn.Module):
  """The network, as docs/method.md defines it.

  Attributes:
    config: its shape.
  """

  config: ModelConfig

  def setup(self) -> None:
    """Builds the parts."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    self.stem = Stem(c.channels, STEM_STRIDE, dtype=dtype)
    self.stem_blocks = [ConvBlock(dtype=dtype) for _ in range(c.stem_blocks)]
    self.modulation = ModulationUnit(
      kind=c.modulation,
      prototypes=c.prototypes,
      width=c.channels,
      prototype_dropout=c.prototype_dropout,
    )
    self.transformer = Transformer(
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      mlp_ratio=c.mlp_ratio,
      implementation=c.attention,
      remat=c.remat,
      dtype=dtype,
    )
    self.merge = nn.Dense(
      (c.token // STEM_STRIDE) ** 3 * c.channels, dtype=dtype
    )
    self.decoder_blocks = [
      ConvBlock(dtype=dtype) for _ in range(c.decoder_blocks)
    ]
    self.segmentation = SubvoxelHead(
      stride=STEM_STRIDE, hidden=2 * c.channels, dtype=dtype
    )
    self.lesion = LesionHead(hidden=c.channels, dtype=dtype)
    self.numbering = NumberingDecoder(
      width=c.sequence_dim, depth=c.sequence_depth, dtype=dtype
    )

  def __call__(
    self,
    image: Float[Array, "batch depth height width"],
    spacing_mm: Float[Array, "batch 3"],
    points: Float[Array, "batch points 3"] | None = None,
    point_mask: Bool[Array, "batch points"] | None = None,
    domain: Int[Array, " batch"] | None = None,
    train: bool = False,
  ) -> Outputs:
    """Runs encoder, modulation and all decoders.

    Args:
      image: HU at `config.spacing_mm`.
      spacing_mm: spacing of the scan before resampling, ascending, mm.
      points: body centres from head to foot, voxels of the window.
      point_mask: True for real points.
      domain: index of the sample's domain, training only.
      train: training mode (prototype dropout).

    Returns:
      Everything the losses and the decoding of a scan need.
    """
    c = self.config
    packed, cells = self.stem(image)
    state = self.modulation(
      image, spacing_mm, cells.mean(axis=(1, 2, 3)), domain, train
    )
    for block in self.stem_blocks:
      cells = block(cells, state.embedding)
    factor = c.token // STEM_STRIDE
    tokens = self.transformer(cells, factor, state.embedding)
    cells = cells + depth_to_space(self.merge(tokens), factor)
    for block in self.decoder_blocks:
      cells = block(cells, state.embedding)
    logits, offsets = self.segmentation(cells, packed)
    evidence = scores = None
    if points is not None and point_mask is not None:
      evidence = read_evidence(cells, tokens, points, STEM_STRIDE, c.token)
      scores = self.numbering(evidence, points * c.spacing_mm, point_mask)
    return Outputs(
      logits=logits,
      offsets=offsets,
      lesions=self.lesion(cells),
      domain=state,
      evidence=evidence,
      chain=scores,
    )

  def number(
    self,
    evidence: Float[Array, "batch points channel"],
    points_mm: Float[Array, "batch points 3"],
    mask: Bool[Array, "batch points"],
  ) -> ChainScores:
    """Numbers a whole scan from evidence gathered window by window.

    Args:
      evidence: `Outputs.evidence` at each point.
      points_mm: positions along (depth, height, width) from head to foot, mm.
      mask: True for real points.

    Returns:
      The scores of the chain.
    """
    return self.numbering(evidence, points_mm, mask)
