# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
r"""VertebraFormer on UNETR, and the ablation ladder of the paper.

UNETR as published (96^3 crops, tokens of 16^3 voxels, 12 blocks of width 768
with 12 heads, convolutional decoder with skips), plus numbering, lesion decoder
and modulation. The paper's table 6 adds one component after the other:

    base:unetr                                  one class per level and voxel
    base:unetr+identification                   bodies, numbered as a sequence
    base:unetr+identification+lesion            ... and lesion boxes
    base:unetr+identification+lesion+modulation the full model, = base

Each component can also be taken from the full model: base:-identification,
base:-lesion, base:-modulation, or several, base:-lesion-modulation. Add
`+supervision` for deep supervision of the decoder. Not trained yet: no score is
claimed. docs/models.md has parameters and operations.

    vf-jax train --config configs/base.py:unetr+identification --workdir DIR \
      --config.data.store=STORE
"""

from __future__ import annotations

import pathlib
import re
import runpy

from ml_collections import ConfigDict

_HERE = pathlib.Path(__file__).parent
_tiny = runpy.run_path(str(_HERE / "tiny.py"))["get_config"]

COMPONENTS = ("identification", "lesion", "modulation")
_PART = re.compile(r"([+-])([a-z]+)")


def get_config(variant: str = "") -> ConfigDict:
  """Returns the configuration.

  Args:
    variant: 'unetr' with '+component's, or '-component's of the full model.

  Returns:
    The experiment.
  """
  bare = variant.startswith("unetr")
  rest = variant.removeprefix("unetr")
  changes = _PART.findall(rest)
  known = (*COMPONENTS, "supervision")
  if "".join(sign + name for sign, name in changes) != rest or any(
    name not in known or (sign == "-" and (bare or name == "supervision"))
    for sign, name in changes
  ):
    raise ValueError(
      f"configs/base.py has no variant '{variant}': use 'unetr' with any of "
      f"{['+' + name for name in known]}, or '' with any of "
      f"{['-' + name for name in COMPONENTS]}"
    )
  has = dict.fromkeys(COMPONENTS, not bare) | {
    name: sign == "+" for sign, name in changes
  }
  config = _tiny("own")
  config.name = f"base-{variant}" if variant else "base"
  config.model.update(
    crop=(96, 96, 96),
    spacing_mm=1.0,
    decoder="unetr",
    channels=64,
    stem_blocks=0,
    decoder_blocks=0,
    edge_gains=False,
    feature_size=16,
    deep_supervision=has.get("supervision", False),
    token=16,
    positions="learned",
    dim=768,
    depth=12,
    heads=12,
    attention="auto",
    identification=has["identification"],
    lesion=has["lesion"],
    modulation="prototype" if has["modulation"] else "none",
    sequence_dim=192,
    remat="none",
    dtype="bfloat16",
  )
  config.data.batch = 8
  config.data.augment.margin = 12
  # UNETR's own rate and decay (reference code of Hatamizadeh et al. 2022).
  config.optim.update(learning_rate=1e-4, warmup_steps=2000, weight_decay=1e-5)
  config.train.update(steps=100_000, log_every=100, checkpoint_every=2000)
  config.mesh.data = 0  # every device takes crops
  return config
