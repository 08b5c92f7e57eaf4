# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The smallest VertebraFormer, for the test suite and a first run.

Trains on the prepared cases in tests/data/store (docs/data.md: one real chest
CT, three real lesion patches without vertebrae, three more with lesion boxes,
three real vertebra masks with synthetic intensities).

    vf-jax train --config configs/tiny.py --workdir DIR

Variants: `tiny:own` for a store of your own, whose domains share equally (give
its path by --config.data.store=STORE); `tiny:test` is a two-minute run for the
test suite.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

_STORE = pathlib.Path(__file__).parent.parent / "tests" / "data" / "store"


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration; `variant` is '', 'own' or 'test'."""
  if variant not in ("", "own", "test"):
    raise ValueError(
      f"configs/tiny.py has no variant '{variant}': use 'own' or 'test'"
    )
  config = ConfigDict()
  config.name = "tiny"
  config.model = ConfigDict(
    {
      "crop": (96, 64, 64),
      "spacing_mm": 2.0,
      "decoder": "subvoxel",
      "channels": 96,
      "stem_blocks": 1,
      "decoder_blocks": 1,
      "edge_gains": True,
      "feature_size": 16,
      "deep_supervision": False,
      "token": 8,
      "positions": "rotary",
      "dim": 192,
      "depth": 4,
      "heads": 3,
      "mlp_ratio": 4,
      "attention": "xla",
      "identification": True,
      "lesion": True,
      "lesion_channels": 0,
      "modulation": "prototype",
      "modulation_version": 2,
      "modulate": "both",
      "prototypes": 8,
      "prototype_dropout": 0.2,
      "sequence_dim": 96,
      "sequence_depth": 2,
      "max_points": 24,
      "scan": True,
      "remat": "none",
      "dtype": "float32",
    }
  )
  config.data = ConfigDict(
    {
      "store": str(_STORE),
      "split": "",
      "part": "train",
      "batch": 2,
      "weights": (("lidc", 4.0), ("verse", 6.0), ("blds", 2.0)),
      "foreground": 0.3,
      "levels": 0.3,
      "lesions": 0.2,
      "synthesis": 0.3,
      "narrow": 0.0,
      "workers": 0,
      "threads": 1,
      "prefetch": 4,
      "cache_mib": 256,
      "augment": {
        "margin": 8,
        "rotate_deg": 8.0,
        "scale": 0.12,
        "elastic_mm": 1.5,
        "mirror": 0.5,
        "gamma": 0.3,
        "contrast": 0.5,
        "shift": 0.5,
        "blur": 0.5,
        "slices": 0.25,
        "low_resolution": 0.1,
        "noise": 0.7,
        "lesion": 0.0,
      },
    }
  )
  config.loss = ConfigDict(
    {
      "weighting": "fixed",
      "dice": 1.0,
      "cross_entropy": 1.0,
      "offset": 0.1,
      "numbering": 0.4,
      "lesion": 0.1,
      "lesion_size": 0.02,
      "domain": 0.05,
    }
  )
  config.optim = ConfigDict(
    {
      "learning_rate": 1e-3,
      "warmup_steps": 100,
      "weight_decay": 0.02,
      "clip_norm": 1.0,
      "ema": 0.998,
    }
  )
  config.train = ConfigDict(
    {
      "steps": 3200,
      "micro_batches": 1,
      "seed": 0,
      "log_every": 20,
      "checkpoint_every": 200,
      "keep": 2,
      "init": "",
      "only": (),
    }
  )
  config.mesh = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1, "context": 1})
  config.predict = ConfigDict(
    {
      "overlap": 0.5,
      "batch": 2,
      "threshold": 0.5,
      "vote_sigma_mm": 2.5,
      "min_distance_mm": 10.0,
      "min_volume_ml": 3.0,
      "lesion_threshold": 0.5,
    }
  )
  if variant == "own":
    config.data.store = ""
    config.data.weights = ()
  if variant == "test":
    config.model.crop = (32, 32, 32)
    config.data.augment.margin = 4
    config.model.channels = 16
    config.model.dim = 32
    config.model.depth = 2
    config.model.heads = 2
    config.model.sequence_dim = 16
    config.optim.warmup_steps = 2
    config.train.steps = 20
    config.train.log_every = 2
    config.train.checkpoint_every = 5
  return config
