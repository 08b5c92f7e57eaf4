# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Settings of the network; `vf_jax.config` holds all others."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vf_jax.errors import ConfigError
from vf_jax.typed import check_not_negative, check_positive, check_probability

STEM_STRIDE = 4  # voxels of a feature cell; the sub-voxel head emits 4^3 blocks
UNETR_TOKEN = 16  # voxels; four doublings of the convolutional decoder undo it
ROTARY_HEAD = 6  # channels of a head that rotary positions need: a pair an axis
MAX_ADVANCE = 6  # levels from one detection to the next that the chain explains


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape of the network.

  Attributes:
    crop: window in voxels (depth, height, width).
    spacing_mm: isotropic voxel edge that the network works at.
    decoder: of the masks. 'subvoxel' packs 4^3 voxels into cells before the
      transformer and emits them again from cells; 'unetr' makes tokens of
      voxels and goes back up by convolutions with skips, as UNETR does.
    channels: features per cell at 1/4 resolution, and width of the domain
      embedding and the lesion decoder.
    stem_blocks: residual convolution blocks before the tokens ('subvoxel').
    decoder_blocks: residual convolution blocks after the tokens ('subvoxel').
    edge_gains: the masks of a cell also have gains of the cell's own on its
      voxels ('subvoxel'); off only for weights that were made without.
    feature_size: channels at full resolution ('unetr').
    deep_supervision: masks at 1/2 and 1/4 resolution are learned too
      ('unetr').
    token: edge of a transformer token in voxels.
    positions: 'rotary' angles or 'learned' embeddings, which fix the crop.
    dim: width of the transformer.
    depth: blocks of the transformer.
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over `dim`.
    attention: 'xla', 'cudnn' (GPUs; 'bfloat16' on meshes without `context`),
      'gpu' or 'tpu' (our kernels for them), or 'auto': our kernel on TPUs, on
      GPUs where it runs and `dtype` is 'bfloat16', and 'xla' elsewhere.
    identification: bodies are found by offsets and numbered as a sequence;
      without it every voxel gets a level of its own, as in UNETR.
    lesion: whether there is a lesion decoder.
    lesion_channels: width of its own convolutional block, which sees how bone
      differs from the bone around it; 0 for no block.
    modulation: 'none', 'film' (descriptor only) or 'prototype'.
    modulation_version: of the unit; weights made with version 1 are refused.
    modulate: what the unit changes: 'encoder', 'decoder' or 'both'.
    prototypes: number of domain prototypes.
    prototype_dropout: chance that a sample's own prototype is masked.
    sequence_dim: width of the numbering transformer.
    sequence_depth: its blocks.
    max_points: slots for vertebrae in one sequence.
    scan: runs the blocks by one scan over stacked parameters; without it the
      compiler sees every block.
    remat: what the backward pass computes again: 'none', 'full' (blocks),
      'dots' (all but matrix products with parameters), 'names' (all but what
      attention gives), 'offload' (like 'names', kept in host memory).
    dtype: compute type, 'float32' or 'bfloat16'; parameters stay float32.
  """

  crop: tuple[int, int, int]
  spacing_mm: float
  decoder: Literal["subvoxel", "unetr"]
  channels: int
  stem_blocks: int
  decoder_blocks: int
  feature_size: int
  deep_supervision: bool
  token: int
  positions: Literal["rotary", "learned"]
  dim: int
  depth: int
  heads: int
  mlp_ratio: int
  attention: Literal["auto", "xla", "cudnn", "gpu", "tpu"]
  identification: bool
  lesion: bool
  modulation: Literal["none", "film", "prototype"]
  modulation_version: Literal[2]
  modulate: Literal["encoder", "decoder", "both"]
  prototypes: int
  prototype_dropout: float
  sequence_dim: int
  sequence_depth: int
  max_points: int
  scan: bool
  remat: Literal["none", "full", "dots", "names", "offload"]
  dtype: Literal["float32", "bfloat16"]
  edge_gains: bool = False
  lesion_channels: int = 0

  def __post_init__(self) -> None:
    check_positive(
      self, "token", "dim", "channels", "depth", "heads", "mlp_ratio",
      "feature_size", "sequence_dim", "max_points", group="model",
    )  # fmt: skip
    check_not_negative(
      self, "stem_blocks", "decoder_blocks", "lesion_channels",
      "sequence_depth", group="model",
    )  # fmt: skip
    self._check_decoder()
    if self.token % STEM_STRIDE:
      raise ConfigError(
        f"model.token={self.token} is not a multiple of the stem stride "
        f"{STEM_STRIDE}. Fix: model.token=8 or 16."
      )
    for axis, voxels in zip(("depth", "height", "width"), self.crop):
      if voxels <= 0 or voxels % self.token:
        near = max(self.token, round(voxels / self.token) * self.token)
        raise ConfigError(
          f"model.crop {axis}={voxels} is not a multiple of "
          f"model.token={self.token}. Fix: use {near}."
        )
    if self.dim % self.heads or (self.dim // self.heads) % 2:
      raise ConfigError(
        f"model.dim={self.dim} does not divide into model.heads="
        f"{self.heads} heads of even width. Fix: model.dim="
        f"{self.heads * max(2, 2 * round(self.dim / self.heads / 2))}."
      )
    if self.positions == "rotary" and self.dim // self.heads < ROTARY_HEAD:
      raise ConfigError(
        f"model.positions='rotary' turns nothing in model.heads={self.heads} "
        f"of {self.dim // self.heads} channels. Fix: model.dim="
        f"{ROTARY_HEAD * self.heads} or model.positions=learned."
      )
    if self.sequence_dim > 32 and self.sequence_dim % 32:
      raise ConfigError(
        f"model.sequence_dim={self.sequence_dim} does not divide into heads of "
        f"32. Fix: model.sequence_dim={32 * round(self.sequence_dim / 32)}."
      )
    if not 0.3 <= self.spacing_mm <= 10:
      raise ConfigError(
        f"model.spacing_mm={self.spacing_mm} is outside 0.3-10 mm. Fix: 2.0."
      )
    if self.lesion_channels and not self.lesion:
      raise ConfigError(
        f"model.lesion_channels={self.lesion_channels} belongs to the lesion "
        "decoder, which model.lesion=False leaves out. Fix: "
        "model.lesion_channels=0."
      )
    check_probability(self, "prototype_dropout", group="model")
    self._check_modulation()

  @property
  def taps(self) -> tuple[int, int, int]:
    """Blocks, from 0, whose output the convolutional decoder sees."""
    first, second, third = (self.depth * k // 4 for k in (1, 2, 3))
    return first, second, third

  def _check_modulation(self) -> None:
    if self.modulation == "none":
      return
    if self.modulation == "prototype" and self.prototypes < 2:
      raise ConfigError(
        f"model.modulation='prototype' needs at least 2 prototypes, "
        f"model.prototypes={self.prototypes}. Fix: raise it or use 'film'."
      )
    blocks = self.decoder_blocks or self.lesion_channels
    bare = self.decoder == "subvoxel" and not blocks
    if self.modulate == "decoder" and bare:
      raise ConfigError(
        "model.modulate='decoder' changes nothing with "
        "model.decoder='subvoxel', model.decoder_blocks=0 and "
        "model.lesion_channels=0. "
        "Fix: model.decoder_blocks=1 or model.modulate='encoder'."
      )

  def _check_decoder(self) -> None:
    if self.decoder == "subvoxel":
      if self.deep_supervision:
        raise ConfigError(
          "model.deep_supervision=True needs the stages of "
          "model.decoder='unetr'. Fix: turn one of them."
        )
      return
    if self.token != UNETR_TOKEN:
      raise ConfigError(
        f"model.token={self.token} does not fit model.decoder='unetr', which "
        f"doubles the resolution four times. Fix: model.token={UNETR_TOKEN}."
      )
    if self.depth < 5:
      raise ConfigError(
        f"model.depth={self.depth} gives model.decoder='unetr' no three "
        "states besides the last. Fix: model.depth=5."
      )
    if self.stem_blocks or self.decoder_blocks:
      raise ConfigError(
        f"model.stem_blocks={self.stem_blocks} and model.decoder_blocks="
        f"{self.decoder_blocks} belong to model.decoder='subvoxel'. "
        "Fix: set both to 0."
      )
    if self.edge_gains:
      raise ConfigError(
        "model.edge_gains=True belongs to model.decoder='subvoxel'. "
        "Fix: model.edge_gains=False."
      )
