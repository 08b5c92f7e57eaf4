# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What one crop costs, counted from the shapes of the layers.

Compilers count the body of a scan once and GPUs give no count at all, so the
roofline needs one of its own. Multiplications and additions of matrix products
and convolutions are counted, as two operations a pair; norms, activations,
modulation and the numbering decoder (a few dozen points) are not: together they
are below a tenth.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from vf_jax.model_config import STEM_STRIDE, ModelConfig
from vf_jax.models.contrast import FEATURES, count_smoothing
from vf_jax.models.vertebraformer import INSTANCE_OUTPUTS, LEVEL_CLASSES

_WINDOWS = 2  # intensity windows that the network sees
_BOX = 7  # of the lesion head: heat, offset, size


@dataclasses.dataclass(frozen=True)
class Cost:
  """Work and memory of one crop.

  Attributes:
    parts: part of the network -> operations of its forward pass.
    attention: operations of the products of queries, keys and values, which
      are among those of the transformer.
    activation_bytes: what the backward pass keeps: every input of a matrix
      product, convolution or norm, or with `remat` of the transformer only
      what its policy keeps of each block.
  """

  parts: dict[str, int]
  attention: int
  activation_bytes: int

  @property
  def forward(self) -> int:
    """Operations of a forward pass."""
    return sum(self.parts.values())

  def training(self, remat: str) -> int:
    """Operations of a training step; the backward pass is two forward ones.

    Args:
      remat: as in `ModelConfig`; most policies run the transformer once more,
        'dots' only its attention.

    Returns:
      Operations.
    """
    again = self.parts["transformer"]
    if remat in ("none", "dots"):
      again = self.attention if remat == "dots" else 0
    return 3 * self.forward + again


def count_cost(config: ModelConfig) -> Cost:
  """Counts operations and kept activations of one crop.

  Args:
    config: shape of the network.

  Returns:
    The cost.
  """
  c = config
  voxels = math.prod(c.crop)
  cells, tokens = voxels // STEM_STRIDE**3, voxels // c.token**3
  attention = 2 * 2 * tokens**2 * c.dim * c.depth
  layer = 2 * tokens * (4 + 2 * c.mlp_ratio) * c.dim**2
  # A block keeps its input, q, k, v, what attention gives and both sides of
  # the MLP.
  in_block = {
    "none": 7 + 2 * c.mlp_ratio,
    "dots": 6 + c.mlp_ratio,
    "names": 2,
    "offload": 1,
    "full": 1,
  }[c.remat]
  outputs = INSTANCE_OUTPUTS if c.identification else LEVEL_CLASSES
  if c.decoder == "unetr":
    packed, parts, kept, width = _unetr(c, voxels, tokens, outputs)
  else:
    packed, parts, kept, width = _subvoxel(c, cells, tokens, outputs)
  parts["transformer"] = (
    2 * tokens * packed * c.dim + c.depth * layer + attention
  )
  kept += tokens * (packed + c.depth * in_block * c.dim + c.dim)
  single = outputs * voxels  # outputs and their losses are float32
  if c.lesion:
    hidden, each = c.lesion_channels or c.channels, width + _BOX
    contrast = 0
    if c.lesion_channels:
      each += FEATURES + (1 + 2 * 27) * hidden
      contrast = count_smoothing(c.crop)
      kept += cells * (FEATURES + 5 * hidden)
    parts["lesion"] = 2 * cells * hidden * each + contrast
    kept += cells * (width + hidden)
    single += _BOX * cells
  size = jnp.dtype(c.dtype).itemsize
  return Cost(parts, attention, size * kept + 4 * single)


def _subvoxel(c: ModelConfig, cells: int, tokens: int, outputs: int):
  """Inputs of a token, parts, numbers kept, and width of a cell."""
  block = STEM_STRIDE**3
  packed, hidden = _WINDOWS * block, 2 * c.channels
  merged = (c.token // STEM_STRIDE) ** 3 * c.channels
  conv = 2 * cells * 2 * 27 * c.channels**2
  masks = 1 if c.identification else outputs
  gains = masks * _WINDOWS if c.edge_gains else 0
  parts = {
    "stem": 2 * cells * packed * c.channels + c.stem_blocks * conv,
    "decoder": 2 * tokens * c.dim * merged + c.decoder_blocks * conv,
    "segmentation": 2
    * cells
    * hidden
    * (c.channels + packed + outputs * block + gains)
    + 2 * cells * block * gains,
  }
  # A block keeps its input, both inputs of convolutions and the value before
  # the activation.
  blocks = c.stem_blocks + c.decoder_blocks
  kept = cells * (
    packed
    + c.channels
    + 4 * blocks * c.channels
    + c.channels
    + packed
    + 2 * hidden
  )
  return merged, parts, kept, c.channels


def _unetr(c: ModelConfig, voxels: int, tokens: int, outputs: int):
  """As `_subvoxel`, for the convolutional decoder."""
  size = c.feature_size
  work = kept = 0

  def block(at: int, inputs: int, features: int) -> None:
    """A UnetBlock at 1 / 2^at resolution."""
    nonlocal work, kept
    places = voxels // 8**at
    project = inputs != features
    work += 2 * places * 27 * (inputs + features) * features
    work += 2 * places * inputs * features * project
    kept += places * (inputs + (4 + project) * features)

  def double(at: int, inputs: int, features: int) -> None:
    """An Upsample that ends at 1 / 2^at resolution."""
    nonlocal work, kept
    places = voxels // 8**at
    work += 2 * places * inputs * features
    kept += places // 8 * inputs

  block(0, _WINDOWS, size)
  for level in (1, 2, 3):
    # An ascent is as wide as the stage that it ends at, all the way up.
    width = size * 2**level
    double(3, c.dim, width)
    for at in range(2, level - 1, -1):
      double(at, width, width)
      block(at, width, width)
  for level in (3, 2, 1, 0):
    width = size * 2**level
    double(level, c.dim if level == 3 else 2 * width, width)
    block(level, 2 * width, width)
  heads = voxels * size
  if c.deep_supervision:
    heads += voxels // 8 * 2 * size + voxels // 64 * 4 * size
  work += 2 * heads * outputs
  kept += heads
  packed = _WINDOWS * c.token**3
  return packed, {"decoder": work}, kept, 4 * size
