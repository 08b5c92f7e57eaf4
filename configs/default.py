# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
r"""The weights in the package: synthetic domains, for real CTs.

The network of `configs/tiny.py` at 2 mm with every task and the modulation
unit, on phantoms of eight domains, three expert masks painted anew in every
crop, the real chest CT (a network's mask) and real lesion patches. The demo CT
is in none of them. docs/training.md has the whole recipe with its times and
scores; `launch/default_weights.sh` runs it.

    vf-jax phantom --out PHANTOMS --cases 48 --seed 1
    vf-jax prepare PHANTOMS/verse PHANTOMS/ctspine1k PHANTOMS/spineweb \
      PHANTOMS/cohort --out PREPARED --spacing 2
    vf-jax merge phantom=PREPARED tests/data/store --out STORE
    vf-jax train --config configs/default.py --workdir RUN \
      --config.data.store=STORE

Variants: `default:-modulation` without the unit, `default:-synthesis` real CTs
only.
"""

from __future__ import annotations

import importlib.util
import pathlib

from ml_collections import ConfigDict

PHANTOMS = (
  "colonog", "msd-liver", "covid19", "hnscc", "cohort", "spineweb2",
  "spineweb3", "verse",
)  # fmt: skip
_REAL = {"lidc": 3.0, "verse": 4.0, "blds": 1.5}
"""Shares beside 1/2 for each phantom domain; `verse` has masks, no CTs."""


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration; `variant` is '' or takes one part away."""
  if variant not in ("", "-modulation", "-synthesis"):
    raise ValueError(
      f"configs/default.py has no variant '{variant}': use '-modulation' or "
      "'-synthesis'"
    )
  config = _tiny().get_config()
  config.name = f"default{variant}"
  config.model.prototypes = len(PHANTOMS) + len(_REAL) + 1
  config.data.store = ""
  shares = {f"phantom-{name}": 0.5 for name in PHANTOMS} | _REAL
  if variant == "-synthesis":
    shares = {name: 0.0 for name in shares} | {"lidc": 3.0, "blds": 1.5}
    config.data.synthesis = 0.0
  if variant == "-modulation":
    config.model.modulation = "none"
  config.data.weights = tuple(shares.items())
  config.optim.update(learning_rate=5e-4, warmup_steps=100)
  config.train.update(steps=2000, log_every=25, checkpoint_every=100)
  return config


def _tiny():
  """The file beside this one, however this one was loaded."""
  path = pathlib.Path(__file__).parent / "tiny.py"
  spec = importlib.util.spec_from_file_location("tiny", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
