# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.ops.lookup import lookup


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_takes_the_row_of_each_voxel(monkeypatch, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  rng = np.random.default_rng(0)
  index = rng.integers(0, 7, (2, 3, 4, 5))
  for table in (
    rng.normal(size=(2, 7, 3)).astype(np.float32),
    rng.random((2, 7, 1)) < 0.5,
  ):
    found = lookup(jnp.asarray(table), jnp.asarray(index, jnp.int32))
    wanted = np.stack([table[b][index[b]] for b in range(2)])
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == table.dtype
