# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""VertebraFormer: one encoder, three decoders, one forward pass."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vf_jax.labels import VERTEBRAE
from vf_jax.model_config import STEM_STRIDE, ModelConfig
from vf_jax.models.contrast import bone_contrast
from vf_jax.models.decoders.lesion import LesionHead, LesionMaps
from vf_jax.models.decoders.numbering import (
  ChainScores,
  NumberingDecoder,
  read_evidence,
)
from vf_jax.models.decoders.segmentation import SubvoxelHead
from vf_jax.models.decoders.unetr import UnetrDecoder
from vf_jax.models.encoder import Stem, Transformer, intensity_windows
from vf_jax.models.layers import ConvBlock, Dense, Domain
from vf_jax.models.modulation import DomainState, ModulationUnit
from vf_jax.ops.subvoxel import depth_to_space
from vf_jax.parallel.sharding import constrain

LEVEL_CLASSES = 1 + len(VERTEBRAE)
"""Background and every level, in the order of `VERTEBRAE`."""

INSTANCE_OUTPUTS = 4
"""Vertebra logit and offset, what a network with identification emits."""

_REACH = 8.0  # voxels; offsets are learned in units of it
_CELLS = ("batch", "depth", None, None, None)
_Place = Callable[[Float[Array, "batch d h w channel"]], DomainState]


@flax.struct.dataclass
class Masks:
  """What is said of every voxel, at some resolution.

  Attributes:
    logits: of vertebra against everything else, fp32.
    offsets: from each voxel to the body centre of its vertebra, in voxels
      along (depth, height, width); None without identification.
    levels: logits of background and of each of `VERTEBRAE`, which only a
      network without identification gives.
  """

  logits: Float[Array, "batch depth height width"]
  offsets: Float[Array, "batch depth height width 3"] | None
  levels: Float[Array, "batch depth height width classes"] | None


@flax.struct.dataclass
class Outputs(Masks):
  """All that one forward pass says of a window.

  Attributes:
    coarse: masks at 1/2 and 1/4 resolution, with deep supervision only.
    lesions: candidate boxes at 1/4 resolution, None without that decoder.
    domain: embedding and prototype mixture.
    evidence: features at the given points, None without points.
    chain: level scores of the given points, None without points.
  """

  coarse: tuple[Masks, ...]
  lesions: LesionMaps | None
  domain: DomainState
  evidence: Float[Array, "batch points channel"] | None
  chain: ChainScores | None


@flax.struct.dataclass
class _Decoded:
  """What both kinds of mask decoder give.

  Attributes:
    masks: outputs per voxel.
    coarse: the same at lower resolutions.
    cells: features at 1/4 resolution.
    tokens: of the transformer, on their grid.
    domain: what the modulation unit says.
  """

  masks: Float[Array, "batch depth height width outputs"]
  coarse: tuple[Float[Array, "batch _ _ _ outputs"], ...]
  cells: Float[Array, "batch d h w channel"]
  tokens: Float[Array, "batch td th tw dim"]
  domain: DomainState


class VertebraFormer(nn.Module):
  """The network, as docs/method.md defines it.

  Attributes:
    config: its shape.
  """

  config: ModelConfig

  def setup(self) -> None:
    """Builds the parts that the configuration names."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    outputs = INSTANCE_OUTPUTS if c.identification else LEVEL_CLASSES
    masks = 1 if c.identification else LEVEL_CLASSES  # offsets have no edges
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
      positions=c.positions,
      grid=(c.crop[0] // c.token, c.crop[1] // c.token, c.crop[2] // c.token),
      taps=c.taps if c.decoder == "unetr" else (),
      scan=c.scan,
      remat=c.remat,
      dtype=dtype,
    )
    if c.decoder == "unetr":
      self.decoder = UnetrDecoder(
        classes=outputs,
        feature_size=c.feature_size,
        deep_supervision=c.deep_supervision,
        dtype=dtype,
      )
    else:
      self.stem = Stem(c.channels, STEM_STRIDE, dtype=dtype)
      self.stem_blocks = [ConvBlock(dtype=dtype) for _ in range(c.stem_blocks)]
      self.merge = Dense(
        (c.token // STEM_STRIDE) ** 3 * c.channels, dtype=dtype
      )
      self.decoder_blocks = [
        ConvBlock(dtype=dtype) for _ in range(c.decoder_blocks)
      ]
      self.segmentation = SubvoxelHead(
        outputs=outputs,
        stride=STEM_STRIDE,
        hidden=2 * c.channels,
        edge_gains=masks if c.edge_gains else 0,
        dtype=dtype,
      )
    if c.lesion:
      self.lesion = LesionHead(
        hidden=c.lesion_channels or c.channels, dtype=dtype
      )
    if c.identification:
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
    image = constrain(image, "batch", "depth", None, None)

    def place(features: Float[Array, "batch d h w channel"]) -> DomainState:
      pooled = features.mean(axis=(1, 2, 3))
      return self.modulation(image, spacing_mm, pooled, domain, train)

    if c.decoder == "unetr":
      found = self._convolutional(image, place)
    else:
      found = self._subvoxel(image, place)
    evidence = scores = None
    if c.identification and points is not None and point_mask is not None:
      evidence = read_evidence(
        found.cells, found.tokens, points, STEM_STRIDE, c.token
      )
      scores = self.numbering(evidence, points * c.spacing_mm, point_mask)
    fine = _read(found.masks, c.identification)
    lesions = None
    if c.lesion:
      contrast = None
      if c.lesion_channels:
        contrast = constrain(
          bone_contrast(image, fine.logits, c.spacing_mm), *_CELLS
        )
      _, decoder = self._modulated(found.domain)
      lesions = self.lesion(found.cells, contrast, decoder)
    return Outputs(
      logits=fine.logits,
      offsets=fine.offsets,
      levels=fine.levels,
      coarse=tuple(_read(raw, c.identification) for raw in found.coarse),
      lesions=lesions,
      domain=found.domain,
      evidence=evidence,
      chain=scores,
    )

  def _subvoxel(self, image, place: _Place) -> _Decoded:
    """Cells before the transformer, and blocks of 4^3 voxels after it."""
    c = self.config
    packed, cells = self.stem(image)
    cells = constrain(cells, *_CELLS)
    state = place(cells)
    encoder, decoder = self._modulated(state)
    for block in self.stem_blocks:
      cells = constrain(block(cells, encoder), *_CELLS)
    factor = c.token // STEM_STRIDE
    (tokens,) = self.transformer(
      self.transformer.tokenise(cells, factor), encoder
    )
    cells = cells + depth_to_space(self.merge(tokens), factor)
    for block in self.decoder_blocks:
      cells = constrain(block(cells, decoder), *_CELLS)
    masks = constrain(self.segmentation(cells, packed), *_CELLS)
    return _Decoded(masks, (), cells, tokens, state)

  def _convolutional(self, image, place: _Place) -> _Decoded:
    """Tokens of voxels, and convolutions with skips after the transformer."""
    windows = intensity_windows(image).astype(jnp.dtype(self.config.dtype))
    tokens = self.transformer.tokenise(windows, self.config.token)
    state = place(tokens)
    encoder, decoder = self._modulated(state)
    states = self.transformer(tokens, encoder)
    found = self.decoder(windows, states, decoder)
    return _Decoded(found.logits, found.coarse, found.cells, states[-1], state)

  def _modulated(self, state: DomainState) -> tuple[Domain, Domain]:
    """The embedding for the encoder and for the decoders."""
    where = self.config.modulate
    return (
      None if where == "decoder" else state.embedding,
      None if where == "encoder" else state.embedding,
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


def _read(
  raw: Float[Array, "batch depth height width outputs"], identification: bool
) -> Masks:
  """Gives the outputs of every voxel their meaning."""
  if identification:
    return Masks(raw[..., 0], raw[..., 1:] * _REACH, None)
  vertebra = jax.nn.logsumexp(raw[..., 1:], axis=-1)
  return Masks(vertebra - raw[..., 0], None, raw)
