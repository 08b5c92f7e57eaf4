# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Overfitting one real case: does the training pipeline learn at all?

`configs/tiny.py` on the demo CT alone, at its own 3 mm, augmentation off.
`benchmarks/overfit.py` prepares the store, trains, predicts the whole case and
judges: vertebra Dice of at least 0.97 and every whole labelled vertebra under
its own name, in less than ten minutes of two cores.

    vf-jax train --config configs/overfit.py --workdir DIR \
      --config.data.store=STORE
"""

from __future__ import annotations

import pathlib
import runpy

from ml_collections import ConfigDict

_HERE = pathlib.Path(__file__).parent
_tiny = runpy.run_path(str(_HERE / "tiny.py"))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration; there is one."""
  if variant:
    raise ValueError(f"configs/overfit.py has no variant '{variant}'")
  config = _tiny()
  config.name = "overfit"
  config.model.crop = (40, 40, 40)  # more steps in the time
  config.model.spacing_mm = 3.0
  config.data.update(
    store="",
    batch=1,
    weights=(),
    foreground=0.5,
    levels=0.3,
    lesions=0.0,
    synthesis=0.0,
  )
  for name, value in config.data.augment.items():
    config.data.augment[name] = type(value)(0)
  config.model.prototype_dropout = 0.0
  config.optim.update(
    learning_rate=3e-3, warmup_steps=100, weight_decay=0.0, ema=0.99
  )
  config.train.update(steps=3600, log_every=100, checkpoint_every=500)
  return config
