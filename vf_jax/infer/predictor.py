# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The predictor: a checkpoint that turns a CT into a `CaseResult`."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from vf_jax.config import Config
from vf_jax.errors import InputError
from vf_jax.infer.arrays import as_volume
from vf_jax.infer.boxes import label_boxes
from vf_jax.infer.decode import find_boxes, find_instances
from vf_jax.infer.native import carry_back, cut_out, measure, place_lesions
from vf_jax.infer.network import Network
from vf_jax.infer.pieces import add_pieces
from vf_jax.infer.plausibility import find_doubts, find_level_doubts
from vf_jax.infer.programs import keep_programs
from vf_jax.infer.result import CaseResult, Vertebra
from vf_jax.infer.view import fill_up, find_view
from vf_jax.io.ct import AS_STORED, InputOptions
from vf_jax.io.nifti_header import MIN_SLICES
from vf_jax.labels import VERTEBRAE
from vf_jax.train.checkpoint import load as load_checkpoint
from vf_jax.volume import (
  Volume,
  check_hounsfield,
  crop,
  network_grid,
)

_UNSURE = 0.5
_MOST_VOXELS = 1 << 29  # of the network's grid: 4 m^3 at 2 mm


def default_checkpoint() -> str:
  """Path of the weights shipped with the package."""
  return str(importlib.resources.files("vf_jax") / "assets" / "weights")


def load(checkpoint: str | os.PathLike[str] | None = None) -> Predictor:
  """Loads a predictor. What it compiles is kept (`keep_programs`).

  Args:
    checkpoint: exported weights or the workdir of a run; the weights shipped
      with the package if None.

  Returns:
    The predictor.

  Raises:
    InputError: if there is no readable checkpoint.
  """
  folder = default_checkpoint() if checkpoint is None else checkpoint
  config, params, digest = load_checkpoint(folder)
  if not config.model.identification:
    raise InputError(
      folder,
      "was trained with model.identification=False: it names voxels, not "
      "vertebrae.",
      "use a checkpoint of the full model; this baseline is for training "
      "studies.",
    )
  keep_programs()
  return Predictor(config=config, params=params, digest=digest)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
  """VertebraFormer with its parameters.

  Attributes:
    config: the experiment it was trained in.
    params: averaged parameters.
    digest: SHA-256 of the parameters.
  """

  config: Config
  params: Any
  digest: str

  @functools.cached_property
  def network(self) -> Network:
    """What finds and numbers vertebrae."""
    return Network(self.config, self.params)

  def __getstate__(self) -> dict[str, Any]:
    # Compiled programs stay behind: a copy in another process makes its own.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  def __call__(
    self,
    ct: Any,
    case: str | None = None,
    facts: Mapping[str, Any] | None = None,
    *,
    affine: Any = None,
    spacing: Any = None,
    orientation: str | None = None,
    options: InputOptions = AS_STORED,
  ) -> CaseResult:
    """Predicts one CT.

    Args:
      ct: path of a CT (see `io.ct.read_ct`), a `Volume`, or an array of HU,
        axes (x, y, z), in any layout and real dtype.
      case: its name; that of the file if None.
      facts: of the run, kept in the result.
      affine: of an array; voxel positions to mm, RAS+.
      spacing: of an array without affine; voxel size along each axis, mm.
      orientation: axis codes of an array without affine, as 'LPS'.
      options: for a path; what the file does not say itself.

    Returns:
      Vertebrae and lesions, the mask on the native grid.

    Raises:
      InputError: if the input is refused or its values are not Hounsfield
        units.
    """
    volume, name = as_volume(ct, affine, spacing, orientation, options)
    return self._predict(volume, case or name, facts)

  def _predict(
    self, volume: Volume, case: str, facts: Mapping[str, Any] | None
  ) -> CaseResult:
    check = check_hounsfield(volume)
    if check.refused:
      offset = f"{check.offset:.0f}"
      fix = f"--hu-offset {offset} adds it." if check.offset else ""
      raise InputError(case, check.message, fix)
    notes = list(volume.warnings)
    if check.verdict != "ok":
      notes.append(check.message)
    view = find_view(volume.voxels)
    sizes = [side.stop - side.start for side in view]
    if min(sizes) < MIN_SLICES:
      edges = " x ".join(map(str, sizes))
      fault = f"all but {edges} voxels of it are slices of one value."
      raise InputError(case, fault, "give a whole volume.")
    if tuple(sizes) == volume.voxels.shape:
      return self._predict_view(volume, case, facts, notes)
    scanned = crop(volume, [side.start for side in view], sizes, fill=0)
    found = self._predict_view(scanned, case, facts, notes)
    mask = fill_up(found.mask, view, volume.voxels.shape)
    return dataclasses.replace(found, grid=volume.grid, mask=mask)

  def _predict_view(
    self,
    volume: Volume,
    case: str,
    facts: Mapping[str, Any] | None,
    notes: list[str],
  ) -> CaseResult:
    began = time.monotonic()
    grid = network_grid(volume.grid, self.config.model.spacing_mm)
    if math.prod(grid.shape) > _MOST_VOXELS:
      edges = " x ".join(f"{n * grid.spacing[0]:.0f}" for n in grid.shape)
      raise InputError(
        case,
        f"its box, upright, is {edges} mm large.",
        "correct the affine, or crop the scan.",
      )
    image = self.network.show(volume, grid)
    spacing = np.sort(np.array(volume.spacing, np.float32))
    prepared = time.monotonic()
    outputs = self.network.sweep(image, spacing)
    swept = time.monotonic()
    found = find_instances(
      outputs, self.config.model.spacing_mm, self.config.predict
    )
    notes += found.warnings
    region = cut_out(outputs, found)
    least = self.config.predict.lesion_threshold
    boxes = find_boxes(outputs, least, self.config.model.spacing_mm)
    windows = {"run": outputs.windows, "skipped": outputs.skipped}
    centres, bodies, pieces = found.centres, found.bodies, found.pieces
    # What is as large as the scan goes as soon as it can.
    del outputs, found
    levels, confidence = self.network.number(image, spacing, centres[bodies])
    rejected = int((levels < 0).sum())
    if rejected:
      notes.append(
        f"{rejected} vertebra-like region(s) were rejected by the numbering."
      )
    levels, confidence, lost = add_pieces(
      region, pieces, levels, confidence, grid, volume.grid
    )
    notes += lost
    del image
    mask = carry_back(
      region, levels, grid, volume.grid, self.config.predict.threshold
    )
    around = label_boxes(mask)
    vertebrae = measure(centres, levels, confidence, mask, around, grid, volume)
    vertebrae = _keep_visible(vertebrae, notes)
    lesions = place_lesions(boxes, grid, mask, volume.grid, vertebrae)
    if not vertebrae:
      notes.append("No vertebra was found in this scan.")
    # What is in view of a body that is not tells nothing of the levels.
    counted = {VERTEBRAE[i].code for i in levels[bodies] if i >= 0}
    numbered = [v for v in vertebrae if v.code in counted]
    notes += find_doubts(volume, around, numbered)
    unfounded = find_level_doubts(volume.grid, mask, around, numbered)
    notes += unfounded
    unsure = [v.level for v in vertebrae if v.confidence < _UNSURE]
    if unsure and not unfounded:
      notes.append(
        f"The level of {', '.join(unsure)} is uncertain (confidence below "
        f"{_UNSURE:.0%}); the numbering may be shifted."
      )
    ended = time.monotonic()
    run = dict(facts or {}) | {
      "checkpoint_sha256": self.digest,
      "config": self.config.to_dict(),
      "windows": windows,
      "seconds": {
        "resample": round(prepared - began, 3),
        "network": round(swept - prepared, 3),
        "decode": round(ended - swept, 3),
      },
    }
    return CaseResult(
      case=case,
      grid=volume.grid,
      mask=mask,
      vertebrae=tuple(vertebrae),
      lesions=tuple(v for v in lesions if v.is_finding(least)),
      warnings=tuple(notes),
      run=run,
      abstained=bool(unfounded) or not numbered,
      candidates=tuple(v for v in lesions if not v.is_finding(least)),
    )


def _keep_visible(vertebrae: list[Vertebra], notes) -> list[Vertebra]:
  """Drops levels that leave no voxel on the native grid."""
  lost = [v.level for v in vertebrae if v.volume_ml == 0]
  if lost:
    notes.append(
      f"{', '.join(lost)} left no voxel on the native grid and were dropped."
    )
  return [v for v in vertebrae if v.volume_ml > 0]
