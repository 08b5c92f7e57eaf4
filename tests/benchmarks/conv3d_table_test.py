# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The benchmark measures what our models compute, and renders it by rounds."""

from __future__ import annotations

import importlib
import pathlib
import runpy
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from vf_jax.config import from_config_dict
from vf_jax.models import layers
from vf_jax.models.vertebraformer import VertebraFormer

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
  return importlib.import_module("conv3d")


@pytest.mark.parametrize(
  ("name", "variant"), [("base", ""), ("fast", "L"), ("default", "")]
)
def test_every_shape_of_a_model_is_measured(benchmark, name, variant):
  get_config = runpy.run_path(str(_ROOT / f"configs/{name}.py"))["get_config"]
  config = from_config_dict(get_config(variant)).model
  found = set()

  def convolve(x, kernel):
    cout = kernel.shape[-1]
    found.add(",".join(map(str, (*x.shape[1:], cout))))
    return jnp.zeros((*x.shape[:4], cout), x.dtype)

  with mock.patch.object(layers, "convolve", convolve):
    jax.eval_shape(
      VertebraFormer(config).init,
      jax.random.key(0),
      jnp.zeros((1, *config.crop)),
      jnp.ones((1, 3)),
    )
  assert found
  assert found <= set(benchmark.SHAPES)


def test_ratios_are_of_one_round_and_the_peak_is_the_fastest(benchmark):
  shape = "24,16,16,96,96"
  seconds = {"matmul": [2.0, 0.1, 9.0]}
  for what in benchmark.WHAT:
    seconds[f"{shape} {what} winograd"] = [1.0, 4.0, 9.0]
    seconds[f"{shape} {what} torch"] = [4.0, 5.0, 3.0]
  text = benchmark.render(
    {
      "facts": {
        "date": "d", "command": "c", "commit": "1", "machine": "m",
        "packages": {"jax": "1", "torch": "2"},
      },
      "settings": {"threads": 2, "rounds": 3, "shapes": [shape]},
      "implementations": ["winograd", "torch"],
      "chosen": {shape: "winograd"},
      "seconds": seconds,
    }
  )  # fmt: skip
  assert "same run: 172 GF/s" in text
  assert text.count("| 0.80 |") == 2
