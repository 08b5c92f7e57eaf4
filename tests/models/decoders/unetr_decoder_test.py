# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.errors import ConfigError
from vf_jax.models.decoders.unetr import UnetrDecoder, instance_norm
from vf_jax.ops.subvoxel import depth_to_space

GOLDEN = pathlib.Path(__file__).parent.parent / "baselines" / "upsampling.npz"


@pytest.mark.parametrize("factor", [2, 4])
def test_dense_and_depth_to_space_is_a_transposed_convolution(factor):
  with np.load(GOLDEN) as golden:
    x, kernel, y = (golden[f"{name}{factor}"] for name in ("x", "kernel", "y"))
  x, y = (np.moveaxis(array, 1, -1) for array in (x, y))
  matrix = kernel.transpose(0, 2, 3, 4, 1).reshape(kernel.shape[0], -1)
  ours = depth_to_space(jnp.asarray(x) @ jnp.asarray(matrix), factor)
  np.testing.assert_allclose(ours, y, atol=1e-5, rtol=0)
  flax = jax.lax.conv_transpose(
    jnp.asarray(x),
    jnp.asarray(kernel.transpose(2, 3, 4, 0, 1))[::-1, ::-1, ::-1],
    (factor,) * 3,
    "VALID",
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )
  # lax.conv_transpose does not flip: with the flipped kernel it correlates.
  np.testing.assert_allclose(ours, flax, atol=1e-5, rtol=0)


def test_instance_norm_acts_on_one_channel_of_one_sample():
  x = np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 4, 5, 2))
  x[1, ..., 0] *= 100.0
  y = np.asarray(instance_norm(jnp.asarray(x, jnp.float32)))
  np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), 0.0, atol=1e-5)
  np.testing.assert_allclose(y.std(axis=(1, 2, 3)), 1.0, atol=1e-4)


def test_states_that_do_not_fit_the_image_are_refused():
  states = (jnp.zeros((1, 2, 1, 1, 4)),) * 4
  with pytest.raises(ConfigError, match=r"\(32, 16, 16\)"):
    jax.eval_shape(
      UnetrDecoder(classes=2, feature_size=2).init,
      jax.random.key(0),
      jnp.zeros((1, 16, 16, 16, 1)),
      states,
    )
