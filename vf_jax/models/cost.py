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

from vf_jax.config import STEM_STRIDE, ModelConfig

_WINDOWS = 2  # intensity windows that the stem packs
_OUTPUTS = 4  # of the segmentation head: logit and offset
_BOX = 7  # of the lesion head: heat, offset, size


@dataclasses.dataclass(frozen=True)
class Cost:
  """Work and memory of one crop.

  Attributes:
    parts: part of the network -> operations of its forward pass.
    activation_bytes: what the backward pass keeps: every input of a matrix
      product or convolution, or with `remat` of the transformer only the
      input of each block there.
  """

  parts: dict[str, int]
  activation_bytes: int

  @property
  def forward(self) -> int:
    """Operations of a forward pass."""
    return sum(self.parts.values())

  def training(self, remat: str) -> int:
    """Operations of a training step; the backward pass is two forward ones.

    Args:
      remat: as in `ModelConfig`; 'full' runs the transformer once more.

    Returns:
      Operations.
    """
    again = self.parts["transformer"] if remat == "full" else 0
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
  block = STEM_STRIDE**3
  cells, tokens = voxels // block, voxels // c.token**3
  merged = (c.token // STEM_STRIDE) ** 3 * c.channels
  packed, hidden = _WINDOWS * block, 2 * c.channels
  conv = 2 * cells * 2 * 27 * c.channels**2
  layer = 2 * tokens * (4 + 2 * c.mlp_ratio) * c.dim**2
  attention = 2 * 2 * tokens**2 * c.dim
  parts = {
    "stem": 2 * cells * packed * c.channels + c.stem_blocks * conv,
    "transformer": 2 * tokens * merged * c.dim + c.depth * (layer + attention),
    "decoder": 2 * tokens * c.dim * merged + c.decoder_blocks * conv,
    "segmentation": 2
    * cells
    * hidden
    * (c.channels + packed + _OUTPUTS * block),
    "lesion": 2 * cells * c.channels * (c.channels + _BOX),
  }
  size = jnp.dtype(c.dtype).itemsize
  blocks = c.stem_blocks + c.decoder_blocks
  # A convolution block keeps its input, both inputs of convolutions and the
  # value before the activation; a transformer block its input, q, k, v, what
  # attention gives and both sides of the MLP.
  in_block = c.dim if c.remat == "full" else (7 + 2 * c.mlp_ratio) * c.dim
  kept = (
    cells * (packed + c.channels)
    + 4 * blocks * cells * c.channels
    + tokens * (merged + c.depth * in_block + c.dim)
    + cells * (c.channels + packed + 2 * hidden)
    + 2 * cells * c.channels
  )
  return Cost(parts, size * kept + 4 * cells * (_OUTPUTS * block + _BOX))
