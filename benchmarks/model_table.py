# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How large is each model, and what does a crop cost? Writes docs/models.md.

python benchmarks/model_table.py --out docs/models.md
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys

import measuring

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

_HEAD = """# Models

Made by `python benchmarks/model_table.py --out docs/models.md`. Operations are
counted from the shapes of matrix products and convolutions
(`vf_jax/models/cost.py`; within a tenth of XLA's own count where that sees
every layer). Training is three forward passes, and what `remat` computes again.
Activations are what the backward pass keeps of one crop. `base` is UNETR with
the paper's components added one by one; each can also be taken from the full
model (configs/base.py)."""


def main() -> None:
  """Builds every configuration abstractly and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", metavar="FILE")
  options = parser.parse_args()
  text = f"{_HEAD}\n\n{table()}\n"
  print(text)
  if options.out:
    pathlib.Path(options.out).write_text(text)


def table() -> str:
  """Renders the table of all configurations."""
  import jax

  from configs import base, fast, tiny
  from vf_jax.config import from_config_dict
  from vf_jax.models.cost import count_cost
  from vf_jax.train.state import init_params

  rows = []
  ladder = ("unetr", "unetr+identification", "unetr+identification+lesion", "")
  for values in (
    tiny.get_config(),
    *map(base.get_config, ladder),
    *map(fast.get_config, fast.SIZES),
  ):
    config = from_config_dict(values)
    params = jax.eval_shape(lambda c=config: init_params(c, jax.random.key(0)))
    model, cost = config.model, count_cost(config.model)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    rows.append(
      [
        config.name,
        " x ".join(map(str, model.crop)),
        f"{model.depth} x {model.dim} x {model.heads}",
        f"{count / 1e6:.1f} M",
        f"{cost.forward / 1e9:.1f}",
        f"{cost.training(model.remat) / 1e9:.1f}",
        f"{cost.activation_bytes / 2**20:.0f} MiB ({model.dtype})",
      ]
    )
  return measuring.table(
    [
      "configuration", "crop", "blocks x width x heads", "parameters",
      "forward, GFLOP", "training, GFLOP", "activations",
    ],
    rows,
  )  # fmt: skip


if __name__ == "__main__":
  main()
