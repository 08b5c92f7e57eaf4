# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a prediction is: small typed records in mm RAS+."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vf_jax.volume import Grid


@dataclasses.dataclass(frozen=True)
class Vertebra:
  """One vertebra found in a CT.

  Attributes:
    level: name of the level, e.g. `L3`.
    code: VerSe label code of the level, the value of its voxels in the mask.
    centre_mm: centre of the vertebral body, mm RAS+.
    confidence: probability of the level given this scan, 0..1.
    complete: False if the field of view cuts the vertebra.
    volume_ml: volume of the mask inside the field of view, ml.
    mean_hu: mean intensity under the mask, HU.
  """

  level: str
  code: int
  centre_mm: tuple[float, float, float]
  confidence: float
  complete: bool
  volume_ml: float
  mean_hu: float


@dataclasses.dataclass(frozen=True)
class Lesion:
  """One lesion box.

  Attributes:
    centre_mm: centre of the box, mm RAS+.
    size_mm: edge lengths along R, A, S, mm.
    score: 0..1.
    level: level of the vertebra the centre lies in, None outside the spine.
  """

  centre_mm: tuple[float, float, float]
  size_mm: tuple[float, float, float]
  score: float
  level: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class CaseResult:
  """Everything a prediction knows of one CT.

  Attributes:
    case: name of the case, used for its folder and files.
    grid: the input's own grid.
    mask: VerSe codes on `grid`, axes as in the file, uint8; on the disk if
      large (`scratch.empty`).
    vertebrae: from head to foot.
    lesions: by falling score.
    warnings: sentences for people.
    run: versions, config, checkpoint, timings; JSON types only.
  """

  case: str
  grid: Grid
  mask: np.ndarray
  vertebrae: tuple[Vertebra, ...]
  lesions: tuple[Lesion, ...]
  warnings: tuple[str, ...]
  run: Mapping[str, Any]
