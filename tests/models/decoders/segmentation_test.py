# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The sub-voxel head: what its gains do to the voxels of a cell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.models.decoders.segmentation import SubvoxelHead
from vf_jax.ops.subvoxel import space_to_depth

STRIDE, OUTPUTS, GAINED, WINDOWS = 4, 3, 2, 2


@pytest.fixture(scope="module")
def cells():
  """Features of 2 x 1 x 2 cells, the voxels in them, and the same packed."""
  rng = np.random.default_rng(0)
  voxels = rng.standard_normal((1, 8, 4, 8, WINDOWS), np.float32)
  features = rng.standard_normal((1, 2, 1, 2, 5), np.float32)
  packed = space_to_depth(jnp.asarray(voxels), STRIDE)
  return jnp.asarray(features), voxels, packed


def head(edge_gains: int) -> SubvoxelHead:
  return SubvoxelHead(OUTPUTS, STRIDE, hidden=6, edge_gains=edge_gains)


def params_of(cells, edge_gains):
  features, _, packed = cells
  model = head(edge_gains)
  return model.init(jax.random.key(0), features, packed)["params"]


def test_gains_change_nothing_at_initialisation(cells):
  features, _, packed = cells
  params = params_of(cells, GAINED)
  with_gains = head(GAINED).apply({"params": params}, features, packed)
  params.pop("gain")
  without = head(0).apply({"params": params}, features, packed)
  assert with_gains.shape == (1, 8, 4, 8, OUTPUTS)
  np.testing.assert_array_equal(with_gains, without)


def test_the_first_outputs_get_their_voxels_times_the_gains(cells):
  features, voxels, packed = cells
  params = params_of(cells, GAINED)
  before = head(GAINED).apply({"params": params}, features, packed)
  gains = np.arange(1.0, 1 + WINDOWS * GAINED, dtype=np.float32)
  params["gain"]["bias"] = gains  # the same in all cells
  after = head(GAINED).apply({"params": params}, features, packed)
  change = np.asarray(after - before)
  expected = voxels @ gains.reshape(WINDOWS, GAINED)
  np.testing.assert_allclose(change[..., :GAINED], expected, atol=1e-4)
  assert (change[..., GAINED:] == 0).all()


def test_gains_differ_from_cell_to_cell_and_are_learned(cells):
  features, voxels, packed = cells
  params = params_of(cells, GAINED)
  rng = np.random.default_rng(1)
  kernel = params["gain"]["kernel"]
  params["gain"]["kernel"] = rng.standard_normal(kernel.shape, np.float32)

  def outputs(params):
    return head(GAINED).apply({"params": params}, features, packed)

  plain = dict(params, gain=jax.tree.map(np.zeros_like, params["gain"]))
  edges = np.asarray(outputs(params) - outputs(plain))
  first, second = (  # least squares of gains in each cell
    np.linalg.lstsq(
      voxels[0, :4, :, part].reshape(-1, WINDOWS),
      edges[0, :4, :, part].reshape(-1, OUTPUTS),
      rcond=None,
    )[0]
    for part in (slice(0, 4), slice(4, 8))
  )
  assert np.abs(first - second).max() > 0.1
  np.testing.assert_allclose(
    voxels[0, :4, :, :4] @ first, edges[0, :4, :, :4], rtol=1e-3, atol=1e-4
  )
  grads = jax.grad(lambda p: (outputs(p) ** 2).sum())(plain)
  assert np.abs(grads["gain"]["kernel"]).max() > 0
