# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The count of operations agrees with the compiler's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vf_jax.models.cost import count_cost
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.train.state import init_params


def compiler_count(config):
  """XLA's operations of a forward pass without points."""
  params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  image = jax.ShapeDtypeStruct((1, *config.model.crop), jnp.float32)
  spacing = jax.ShapeDtypeStruct((1, 3), jnp.float32)

  def forward(params, image, spacing):
    out = VertebraFormer(config.model).apply({"params": params}, image, spacing)
    return out.logits, out.offsets, out.levels, out.coarse, out.lesions

  compiled = jax.jit(forward).lower(params, image, spacing).compile()
  return compiled.cost_analysis()["flops"]


@pytest.fixture
def _plain_operations(monkeypatch):
  """Convolutions that save nothing and attention without a loop."""
  monkeypatch.setattr(
    "vf_jax.ops.conv3d.choose_implementation", lambda *_, **__: "native"
  )
  monkeypatch.setattr("vf_jax.ops.attention._on_one_cpu", lambda: False)


BASE = {
  "decoder": "unetr",
  "token": 16,
  "stem_blocks": 0,
  "decoder_blocks": 0,
  "edge_gains": False,
  "feature_size": 8,
  "depth": 5,
  "scan": False,
}


# One block, because the compiler counts the body of a scan once; a large crop,
# because it leaves out what convolutions read beyond the border.
@pytest.mark.parametrize(
  "change",
  [
    {},
    {"dim": 384, "heads": 6},
    {"channels": 64, "decoder_blocks": 3},
    {"token": 16, "crop": (128, 80, 96)},
    {"edge_gains": False},
    {"lesion_channels": 64},
    {"identification": False, "lesion": False},
    BASE,
    BASE | {"lesion_channels": 32},
    BASE | {"deep_supervision": True, "identification": False},
  ],
  ids=str,
)
@pytest.mark.usefixtures("_plain_operations")
def test_forward_is_within_a_tenth_of_the_compiler(test_config, change):
  model = dataclasses.replace(
    test_config.model,
    **{
      "crop": (96, 96, 96),
      "channels": 96,
      "dim": 192,
      "heads": 3,
      "depth": 1,
    }
    | change,
  )
  config = dataclasses.replace(test_config, model=model)
  counted = count_cost(model).forward
  assert compiler_count(config) == pytest.approx(counted, rel=0.1)


def test_training_runs_the_transformer_again_with_remat(test_config):
  cost = count_cost(test_config.model)
  again = cost.training("full") - cost.training("none")
  assert again == cost.parts["transformer"]
  assert cost.training("dots") - cost.training("none") == cost.attention > 0
  assert cost.training("none") == 3 * cost.forward


def test_blocks_add_up(test_config):
  def parts(depth):
    model = dataclasses.replace(test_config.model, depth=depth)
    return count_cost(model).parts["transformer"]

  assert parts(5) - parts(4) == parts(2) - parts(1) > 0


def test_remat_and_half_precision_keep_less(test_config):
  def kept(**changes):
    return count_cost(
      dataclasses.replace(test_config.model, **changes)
    ).activation_bytes

  assert kept(remat="full") < kept(remat="none")
  assert 0.5 * kept() < kept(dtype="bfloat16") < kept()
