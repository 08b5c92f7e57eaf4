# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
r"""The weights in the package, trained further on synthetic domains.

Starts from the weights in the package and goes on with phantoms of eight
domains, three expert masks with newly synthesised intensities in every crop,
the real chest CT (a network's mask) and real lesion patches. The demo CT is in
none of them. Synthetic lesions are grown in the vertebrae of most crops; a
quarter of the crops show a narrower field of view than their scan. The
shipped weights come of repeated runs of it, the last stage on the lesion
decoder alone (docs/training.md); the last run, from the weights at commit
991bb93, took 37 minutes on two cores: vertebra Dice 0.927 on the demo CT.
`launch/default_weights.sh FOLDER` makes phantoms and store and trains:

    vf-jax train --config configs/default.py --workdir RUN \
      --config.data.store=STORE --config.train.init=WEIGHTS

Variants, joined by commas: `default:lesion-decoder` trains that decoder alone
(the last stage); `default:-modulation` is without the modulation unit,
`default:-synthesis` trains on real CTs only, `default:-lesions` leaves out the
real lesion patches, to be evaluated on them.
"""

from __future__ import annotations

import pathlib
import runpy

from ml_collections import ConfigDict

_HERE = pathlib.Path(__file__).parent
_tiny = runpy.run_path(str(_HERE / "tiny.py"))["get_config"]

PHANTOMS = (
  "colonog", "msd-liver", "covid19", "hnscc", "cohort", "spineweb2",
  "spineweb3", "verse",
)  # fmt: skip
_REAL = {"lidc": 3.0, "verse": 4.0, "blds": 1.5}
"""Shares beside 1/2 for each phantom domain; `verse` has masks, no CTs."""

VARIANTS = ("-modulation", "-synthesis", "-lesions", "lesion-decoder")


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration; `variant` is some of VARIANTS, or ''."""
  parts = variant.split(",") if variant else []
  for part in parts:
    if part not in VARIANTS:
      raise ValueError(
        f"configs/default.py has no variant '{part}': use one of "
        f"{list(VARIANTS)}"
      )
  config = _tiny()
  config.name = f"default:{variant}" if variant else "default"
  config.model.lesion_channels = 64
  config.model.prototypes = len(PHANTOMS) + len(_REAL) + 1
  config.data.store = ""
  shares = {f"phantom-{name}": 0.5 for name in PHANTOMS} | _REAL
  if "-synthesis" in parts:
    shares = {name: 0.0 for name in shares} | {"lidc": 3.0, "blds": 1.5}
    config.data.synthesis = 0.0
  if "-modulation" in parts:
    config.model.modulation = "none"
  if "-lesions" in parts:
    shares["blds"] = 0.0
  config.data.weights = tuple(shares.items())
  config.data.lesions = 0.1
  config.data.narrow = 0.25
  config.data.augment.lesion = 0.75
  config.loss.update(lesion=0.1, lesion_size=0.01)
  config.optim.update(learning_rate=4e-4, warmup_steps=100)
  config.train.update(
    steps=3800,
    log_every=25,
    checkpoint_every=100,
    seed=9,  # that of the stage: other crops than the stages before saw
    init=str(_HERE.parent / "vf_jax" / "assets" / "weights"),
  )
  if "lesion-decoder" in parts:
    config.data.augment.lesion = 0.85
    config.loss.update(lesion=1.0, lesion_size=0.1)
    config.optim.update(learning_rate=5e-4, warmup_steps=50)
    config.train.update(steps=400, only=("lesion",))
  return config
