# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Overlap of masks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def dice(
  prediction: Bool[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"]
) -> float:
  """2 |P and T| / (|P| + |T|).

  Args:
    prediction: mask.
    truth: mask on the same grid.

  Returns:
    0..1; NaN if both are empty.
  """
  both = np.count_nonzero(prediction & truth)
  size = np.count_nonzero(prediction) + np.count_nonzero(truth)
  return 2 * both / size if size else float("nan")
