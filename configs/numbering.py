# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The numbering by points that is shipped: a small transformer and a chain.

Learns from the detections of VID (Buergin et al., MICCAI 2023). Results and
the command that made them: benchmarks/results/numbering.md.

    vf-jax train-numbering --data vid_training.tar.xz --out DIR \
      --cross-validate 5 --config configs/numbering.py

Variants: `numbering:spare_verse` learns nothing from VerSe's validation and
test scans, which VID contains: take such weights for a test on VerSe.
`numbering:test` takes two steps, for the test suite.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from vf_jax.train.numbering_config import NumberingConfig


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration; see above for `variant`."""
  if variant not in ("", "spare_verse", "test"):
    raise ValueError(f"no variant '{variant}': use 'spare_verse' or 'test'")
  config = ConfigDict(dataclasses.asdict(NumberingConfig()))
  config.spare_verse = variant == "spare_verse"
  if variant == "test":
    config.width = 8
    config.depth = 1
    config.heads = 2
    config.members = 1
    config.steps = 2
    config.batch = 4
  return config
