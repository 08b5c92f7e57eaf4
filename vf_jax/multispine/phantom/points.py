# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Points and sizes as plain numbers, as truth and tables hold them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

Triple = tuple[float, float, float]


def triple(place: Float64[np.ndarray, " 3"]) -> Triple:
  """Gives a point as plain numbers.

  Args:
    place: mm.

  Returns:
    The same.
  """
  x, y, z = place.tolist()
  return x, y, z
