# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
r"""VertebraFormer in sizes for scaling studies: fast:S, fast:B, fast:L, fast:H.

8^3 tokens over a stem of stride 4, rotary positions in 3D, matmul-only output
at full resolution; crops of 96^3 at 1 mm, bfloat16 compute. Only S has been
trained, for some 400 steps (benchmarks/results/same_job.md).
docs/models.md has parameters and operations of every size.

    vf-jax train --config configs/fast.py:S --workdir DIR \
      --config.data.store=STORE
"""

from __future__ import annotations

import pathlib
import runpy

from ml_collections import ConfigDict

_HERE = pathlib.Path(__file__).parent
_tiny = runpy.run_path(str(_HERE / "tiny.py"))["get_config"]

# B, L and H follow ViT (Dosovitskiy et al. 2021, table 1), their channels fill
# the lanes of a TPU. S is what trains on two CPU cores (docs/models.md): it
# keeps activations instead of computing them twice.
_LARGE = {"decoder_blocks": 2, "remat": "full"}
SIZES = {
  "S": {
    "dim": 192,
    "depth": 4,
    "heads": 3,
    "channels": 64,
    "decoder_blocks": 1,
    "remat": "none",
  },
  "B": {"dim": 768, "depth": 12, "heads": 12, "channels": 128, **_LARGE},
  "L": {"dim": 1024, "depth": 24, "heads": 16, "channels": 256, **_LARGE},
  "H": {"dim": 1280, "depth": 32, "heads": 16, "channels": 256, **_LARGE},
}


def get_config(variant: str = "S") -> ConfigDict:
  """Returns the configuration; `variant` is one of `SIZES`."""
  size = variant or "S"
  if size not in SIZES:
    raise ValueError(
      f"configs/fast.py has no variant '{variant}': use one of {list(SIZES)}"
    )
  config = _tiny("own")
  config.name = f"fast-{size}"
  config.model.update(
    crop=(96, 96, 96),
    spacing_mm=1.0,
    stem_blocks=1,
    attention="auto",
    sequence_dim=192,
    dtype="bfloat16",
    **SIZES[size],
  )
  config.data.batch = 8
  config.mesh.data = 0  # every device takes crops
  config.data.augment.margin = 12
  config.optim.update(learning_rate=3e-4, warmup_steps=2000, weight_decay=0.05)
  config.train.update(steps=100_000, log_every=100, checkpoint_every=2000)
  return config
