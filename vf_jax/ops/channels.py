# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Features side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def join_channels(
  x: Float[Array, "*position first"], y: Float[Array, "*position second"]
) -> Float[Array, "*position both"]:
  """Concatenates along the last axis.

  XLA:CPU makes a concatenation anew for every product that takes it in another
  shape, so there the channels are written into one array, which it keeps.

  Args:
    x: the first channels.
    y: those behind them, of the same type.

  Returns:
    All channels.
  """
  if jax.default_backend() != "cpu":
    return jnp.concatenate([x, y], axis=-1)
  behind = [(0, 0, 0)] * (x.ndim - 1) + [(0, y.shape[-1], 0)]
  wide = lax.pad(x, jnp.zeros((), x.dtype), behind)
  return lax.dynamic_update_slice_in_dim(wide, y, x.shape[-1], axis=-1)
