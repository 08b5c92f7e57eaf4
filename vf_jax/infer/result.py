# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a prediction is: small typed records in mm RAS+."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vf_jax.volume import Grid

_NAN = float("nan")


def heights_ratio(over_mm: float, under_mm: float) -> float:
  """One height over another.

  Args:
    over_mm: the one.
    under_mm: the other.

  Returns:
    Their ratio; NaN if either is missing.
  """
  return over_mm / under_mm if under_mm > 0 else _NAN


@dataclasses.dataclass(frozen=True)
class Vertebra:
  """One vertebra found in a CT, with what was measured of it.

  docs/method.md defines the measures. A number that is missing is NaN.

  Attributes:
    level: name of the level, e.g. `L3`.
    code: VerSe label code of the level, the value of its voxels in the mask.
    centre_mm: centre of the vertebral body, mm RAS+; a guess where it lies
      outside the scan.
    confidence: probability of the level given this scan, 0..1; that of the
      neighbour if the body lies outside.
    complete: False if the field of view cuts the vertebra.
    volume_ml: volume of the mask inside the field of view.
    mean_hu: mean intensity under the whole mask.
    core_ml: volume of the trabecular core of the body.
    core_mean_hu: mean intensity of the core.
    core_median_hu: median intensity of the core.
    height_anterior_mm: height of the body near its front.
    height_middle_mm: height of the body in its middle.
    height_posterior_mm: height of the body near the canal.
    crush_ratio: posterior height over the mean of the neighbours'.
    partial: column -> why its number is incomplete or missing, in words.

  Units:
    ml, HU, mm.
  """

  level: str
  code: int
  centre_mm: tuple[float, float, float]
  confidence: float
  complete: bool
  volume_ml: float
  mean_hu: float
  core_ml: float = _NAN
  core_mean_hu: float = _NAN
  core_median_hu: float = _NAN
  height_anterior_mm: float = _NAN
  height_middle_mm: float = _NAN
  height_posterior_mm: float = _NAN
  crush_ratio: float = _NAN
  partial: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def wedge_ratio(self) -> float:
    """Anterior over posterior height."""
    return heights_ratio(self.height_anterior_mm, self.height_posterior_mm)

  @property
  def biconcave_ratio(self) -> float:
    """Middle over posterior height."""
    return heights_ratio(self.height_middle_mm, self.height_posterior_mm)


@dataclasses.dataclass(frozen=True)
class Lesion:
  """One lesion box.

  Attributes:
    centre_mm: centre of the box, mm RAS+.
    size_mm: edge lengths along R, A, S, mm.
    score: 0..1.
    level: level of the vertebra with most bone in the box, None if the box
      holds no vertebra.
    share: part of that vertebra's bone, as far as the scan shows it, that
      lies in the box, 0..1; None without a level.
  """

  centre_mm: tuple[float, float, float]
  size_mm: tuple[float, float, float]
  score: float
  level: str | None
  share: float | None = None

  def is_finding(self, least: float) -> bool:
    """Whether it is reported: sure enough, and in a vertebra."""
    return self.score >= least and self.level is not None


@dataclasses.dataclass(frozen=True, eq=False)
class CaseResult:
  """Everything a prediction knows of one CT.

  Attributes:
    case: name of the case, used for its folder and files.
    grid: the input's own grid.
    mask: VerSe codes on `grid`, axes as in the file, uint8; on the disk if
      large (`scratch.empty`).
    vertebrae: from head to foot.
    lesions: those in vertebrae, by falling score, from
      `predict.lesion_threshold` on.
    warnings: sentences for people.
    run: versions, config, checkpoint, timings; JSON types only.
    abstained: True if all levels may be shifted, so that a person should
      decide; also without any vertebra.
    candidates: boxes of lower scores, or in no vertebra. They are no
      findings: AP and FROC ask what another threshold would find.
  """

  case: str
  grid: Grid
  mask: np.ndarray
  vertebrae: tuple[Vertebra, ...]
  lesions: tuple[Lesion, ...]
  warnings: tuple[str, ...]
  run: Mapping[str, Any]
  abstained: bool = False
  candidates: tuple[Lesion, ...] = ()
