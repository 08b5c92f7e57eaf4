# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How bone differs from the bone around it, whatever the scanner.

A lesion is what stands out of the vertebrae of its own patient: HU alone say
little, because age, contrast agent and kernel move those of healthy bone more
than many a lesion does. Means and deviations here are taken over the predicted
vertebrae only, and in units of their own spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vf_jax.model_config import STEM_STRIDE
from vf_jax.ops.separable import apply_along_axes, gaussian
from vf_jax.ops.subvoxel import space_to_depth

_POOL = 2  # voxels; what is finer is noise
_PATCHES_MM = (3.0, 5.0, 8.0, 12.0)  # standard deviations of what is compared
_AROUND_MM = 30.0  # of what it is compared with: a vertebra and its neighbours
_RANGE_HU = (-200.0, 1600.0)
_MIDDLE_HU = 300.0  # any; keeps squares small
_NOISE_HU = 20.0  # added to the spread, or even bone would be all contrast
_MOST = 4.0  # spreads
_LITTLE = 0.1  # share of bone at which a patch counts half

FEATURES = (STEM_STRIDE // _POOL) ** 3 * (2 + 2 * len(_PATCHES_MM))
"""Numbers of a cell."""


def bone_contrast(
  image: Float[Array, "batch depth height width"],
  logits: Float[Array, "batch depth height width"],
  edge_mm: float,
) -> Float[Array, "batch d h w features"]:
  """Compares patches of bone with the bone around them.

  Nothing is learned here, and no gradient flows back: lesions shall not bend
  the masks.

  Args:
    image: HU.
    logits: of vertebra.
    edge_mm: voxel edge.

  Returns:
    For each cell of `STEM_STRIDE` voxels, and in it each block of two: the
    share of bone, its own contrast, and contrast and texture of patches of
    four sizes (Gaussians of 3-12 mm standard deviation), which count the less
    the less bone they hold.

  Source:
    Ours; local contrast normalisation (Jarrett et al. 2009, ICCV) over a mask.
  """
  bone = jax.nn.sigmoid(jax.lax.stop_gradient(logits)).astype(jnp.float32)
  hu = jnp.clip(image.astype(jnp.float32), *_RANGE_HU) - _MIDDLE_HU
  sums = jnp.stack([bone, bone * hu, bone * hu**2], axis=-1)
  blocks = space_to_depth(sums, _POOL)
  blocks = blocks.reshape(*blocks.shape[:-1], _POOL**3, 3).mean(axis=-2)

  along = jax.vmap(apply_along_axes, in_axes=(0, None))  # samples
  along = jax.vmap(along, in_axes=(-1, None), out_axes=-1)  # sums

  def over(sigma_mm: float):
    """Share of bone around each block, its mean HU and its variance."""
    sigma = sigma_mm / (_POOL * edge_mm)
    found = along(blocks, [gaussian(n, sigma) for n in blocks.shape[1:4]])
    share = found[..., 0]
    some = jnp.maximum(share, 1e-3)
    mean, square = (found[..., k] / some for k in (1, 2))
    return share, mean, jnp.maximum(square - mean**2, 0.0)

  _, middle, variance = over(_AROUND_MM)
  spread = jnp.sqrt(variance) + _NOISE_HU

  def contrast(mean):
    return jnp.clip((mean - middle) / spread, -_MOST, _MOST)

  share = blocks[..., 0]
  own = blocks[..., 1] / jnp.maximum(share, 1e-2)
  features = [share, share * contrast(own)]
  for sigma_mm in _PATCHES_MM:
    near, mean, variance = over(sigma_mm)
    weight = near / (near + _LITTLE)
    texture = jnp.minimum(jnp.sqrt(variance) / spread, _MOST)
    features += [weight * contrast(mean), weight * texture]
  return space_to_depth(jnp.stack(features, axis=-1), STEM_STRIDE // _POOL)


def count_smoothing(crop: Sequence[int]) -> int:
  """Operations of all the means over patches of one crop.

  Args:
    crop: its voxels along each axis.

  Returns:
    Multiplications and additions.
  """
  sides = [n // _POOL for n in crop]
  fields = 3 * (1 + len(_PATCHES_MM))
  return 2 * fields * math.prod(sides) * sum(sides)
