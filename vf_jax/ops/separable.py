# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Linear operators that act along one axis after another."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def apply_along_axes(
  image: Float[Array, "depth height width"],
  matrices: Sequence[Array],
) -> Float[Array, "depth height width"]:
  """Applies one linear operator along each axis.

  Args:
    image: any.
    matrices: of depth, height and width, square.

  Returns:
    The image after all three.
  """
  d, h, w = matrices
  # NOTE: highest precision, or TPUs and GPUs would round HU to 8-11 bits.
  # The depth first: a mesh that divides it gathers the image once for all
  # operators, not what each made of height and width.
  image = jnp.einsum("dhw,kd->khw", image, d, precision="highest")
  image = jnp.einsum("dhw,kw->dhk", image, w, precision="highest")
  return jnp.einsum("dhw,kh->dkw", image, h, precision="highest")


def gaussian(size: int, sigma: float | Float[Array, ""]) -> Float[Array, "n n"]:
  """Blur along one axis.

  Args:
    size: voxels of the axis.
    sigma: standard deviation, voxels; 0 gives the identity.

  Returns:
    Rows that sum to 1, at the borders too.
  """
  place = jnp.arange(size, dtype=jnp.float32)
  away = place[:, None] - place[None, :]
  weight = jnp.exp(-0.5 * (away / jnp.maximum(sigma, 1e-2)) ** 2)
  return weight / weight.sum(axis=1, keepdims=True)
