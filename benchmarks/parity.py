# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Do our UNETR, its upsampling and our losses answer what MONAI's do?

Small networks with both patch embeddings, one and two crops of unequal sides,
and with each option of the decoder; ours in float32, MONAI's in float64,
because its own fp32 gradients are further from that than ours may be. Ends with
1 if a limit is missed. Needs the extra `peers`; what CI compares without it are
the answers of tests/models/baselines/make_unetr_golden.py.

    python benchmarks/parity.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import measuring
import numpy as np
from worker import facts_with_peers

_ROOT = pathlib.Path(__file__).parent.parent
sys.path += [str(_ROOT), str(_ROOT / "tests" / "models" / "baselines")]

# Largest difference of values and of gradients, as the tests have them.
LOGITS, LOSS = (1e-4, 1e-3), (1e-5, 1e-5)
_SMALL: dict[str, Any] = {
  "in_channels": 2,
  "out_channels": 3,
  "img_size": (32, 48, 64),
  "feature_size": 4,
  "hidden_size": 24,
  "mlp_dim": 40,
  "num_heads": 4,
}
# Options of MONAI's UNETR, and how many crops.
_NETWORKS: tuple[tuple[dict[str, Any], int], ...] = (
  ({"proj_type": "conv"}, 1),
  ({"proj_type": "conv"}, 2),
  ({"proj_type": "perceptron"}, 1),
  ({"proj_type": "perceptron"}, 2),
  ({"proj_type": "conv", "conv_block": False}, 1),
  ({"proj_type": "perceptron", "res_block": False, "qkv_bias": True}, 2),
)


def main() -> None:
  """Compares everything, prints the table; fails if a limit is missed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  # Before the table is written: it may be in the tree.
  result: dict[str, Any] = {"facts": facts_with_peers(), "rows": []}
  for row in itertools.chain(_upsampling(), _losses(), _networks()):
    print(row, flush=True)
    result["rows"].append(row)
  text = render(result)
  print(text)
  if options.out:
    measuring.write(options.out, "parity", result, text)
  if not all(holds(row) for row in result["rows"]):
    sys.exit(1)


def holds(row: Mapping[str, Any]) -> bool:
  """Whether a row keeps its limits; what is not a number does not."""
  return all(
    error is None or error <= limit
    for error, limit in zip(row["errors"], row["limits"])
  )


def gradient_error(ours: Any, theirs: Any) -> float:
  """Largest difference of a parameter's gradient, as part of its largest value.

  The norm after a one-channel projection cancels its scale, so that its
  gradient is rounding: a hundredth of the largest of all is added to each.

  Args:
    ours: pytree of gradients.
    theirs: of the same structure.

  Returns:
    The largest over all parameters.
  """
  import jax

  tops = [float(abs(leaf).max()) for leaf in jax.tree.leaves(theirs)]
  apart = jax.tree.leaves(
    jax.tree.map(lambda a, b: float(abs(a - b).max()), ours, theirs)
  )
  return max(d / (top + 0.01 * max(tops)) for d, top in zip(apart, tops))


def _networks() -> Iterator[dict[str, Any]]:
  from make_unetr_golden import answer

  for options, batch in _NETWORKS:
    arguments = _SMALL | options
    theirs = answer(arguments, batch, np.random.default_rng(batch))
    name = ", ".join(f"{key}={value}" for key, value in options.items())
    yield {
      "what": f"UNETR {name}",
      "batch": batch,
      "errors": _compare_network(arguments, theirs),
      "limits": LOGITS,
    }


def _compare_network(
  arguments: Mapping[str, Any], theirs: Mapping[str, np.ndarray]
) -> tuple[float, float]:
  """Differences of the logits and of the gradients."""
  import jax
  import jax.numpy as jnp

  from vf_jax.models.baselines.monai_unetr import params_from_monai

  model = _our_unetr(arguments)
  image = jnp.asarray(theirs["image"] / 32.0, jnp.float32)
  weights = {k: v / 256.0 for k, v in _named(theirs, "weight/").items()}
  params = params_from_monai(weights, model, image.shape)
  # The sum whose gradient `answer` takes.
  size, shape = theirs["logits"].size, theirs["logits"].shape
  part = jnp.asarray(np.cos(np.arange(size)).reshape(shape) / size, jnp.float32)

  def loss(params, image, part):
    logits = model.apply({"params": params}, image)
    return (logits * part).sum(), logits

  # Nothing may be a constant: XLA would compute with it while it compiles.
  program = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, logits), grads = program(params, image, part)
  expected = params_from_monai(_named(theirs, "grad/"), model, image.shape)
  return (
    float(abs(np.asarray(logits) - theirs["logits"]).max()),
    gradient_error(grads, expected),
  )


def _our_unetr(arguments: Mapping[str, Any]) -> Any:
  from vf_jax.models.baselines.unetr import Unetr

  return Unetr(
    arguments["out_channels"],
    feature_size=arguments["feature_size"],
    dim=arguments["hidden_size"],
    heads=arguments["num_heads"],
    mlp_dim=arguments["mlp_dim"],
    residual=arguments.get("res_block", True),
    convolve=arguments.get("conv_block", True),
    qkv_bias=arguments.get("qkv_bias", False),
  )


def _named(
  arrays: Mapping[str, np.ndarray], prefix: str
) -> dict[str, np.ndarray]:
  return {
    key.removeprefix(prefix): value
    for key, value in arrays.items()
    if key.startswith(prefix)
  }


def _upsampling() -> Iterator[dict[str, Any]]:
  """Transposed convolutions against a matrix product and depth to space."""
  import jax.numpy as jnp
  from make_unetr_golden import upsampling

  from vf_jax.ops.subvoxel import depth_to_space

  arrays = upsampling()
  for factor in (2, 4):
    x, kernel, y = (arrays[f"{name}{factor}"] for name in ("x", "kernel", "y"))
    matrix = kernel.transpose(0, 2, 3, 4, 1).reshape(kernel.shape[0], -1)
    packed = jnp.asarray(np.moveaxis(x, 1, -1)) @ jnp.asarray(matrix)
    ours = np.moveaxis(np.asarray(depth_to_space(packed, factor)), -1, 1)
    yield {
      "what": f"upsampling by {factor}",
      "batch": len(x),
      "errors": (float(abs(ours - y).max()), None),
      "limits": LOGITS,
    }


def _losses() -> Iterator[dict[str, Any]]:
  """Relative differences: of the value, and of the largest gradient."""
  import jax
  import jax.numpy as jnp
  from make_unetr_golden import losses
  from our_losses import LOSSES

  arrays = {name: jnp.asarray(value) for name, value in losses().items()}
  for name, (loss, of) in LOSSES.items():
    value, grad = jax.value_and_grad(loss)(arrays[of], arrays)
    theirs, slope = arrays[name], arrays[f"{name}_grad"]
    yield {
      "what": f"loss: {name.replace('_', ' ')}",
      "batch": len(arrays[of]),
      "errors": (
        float(abs(value - theirs) / abs(theirs)),
        float(abs(grad - slope).max() / abs(slope).max()),
      ),
      "limits": LOSS,
    }


def render(result: Mapping[str, Any]) -> str:
  """The table.

  Args:
    result: what the JSON file holds.

  Returns:
    Markdown.
  """
  facts = result["facts"]
  rows = [
    [
      f"`{row['what']}`" if "=" in row["what"] else row["what"],
      row["batch"],
      *(
        "" if error is None else f"{error:.1e} (<= {limit:.0e})"
        for error, limit in zip(row["errors"], row["limits"])
      ),
      "yes" if holds(row) else "**no**",
    ]
    for row in result["rows"]
  ]
  return "\n\n".join(
    [
      "# The same answers as MONAI's",
      f"{measuring.origin(facts)}, torch "
      f"{facts['packages'].get('torch')}, monai "
      f"{facts['packages'].get('monai')}, jax {facts['packages'].get('jax')}. "
      "Ours in float32, theirs in float64. UNETR: crops of "
      f"{' x '.join(map(str, _SMALL['img_size']))}, "
      f"{_SMALL['in_channels']} channels, feature_size "
      f"{_SMALL['feature_size']}, width {_SMALL['hidden_size']}, 12 blocks; "
      "largest difference of logits, and of a parameter's gradient as part of "
      "its largest (plus 0.01 of the largest of all). Upsampling: a transposed "
      "convolution. Losses: relative.",
      measuring.table(
        ["what", "batch", "values", "gradients", "within the limits"], rows
      ),
    ]
  )


if __name__ == "__main__":
  main()
