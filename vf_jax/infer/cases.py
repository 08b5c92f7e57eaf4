# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Predicting a list of files into a folder, one sub-folder a case."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from vf_jax.errors import InputError, InputWarning
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.result import CaseResult
from vf_jax.io import nifti
from vf_jax.io.atomic import write_text
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.lesions import write_lesions
from vf_jax.io.vertebrae import write_vertebrae_csv, write_vertebrae_json
from vf_jax.labels import BY_CODE
from vf_jax.scratch import empty, slabs
from vf_jax.telemetry import device_facts, run_facts
from vf_jax.volume import Volume

WriteReport = Callable[[pathlib.Path, Volume, CaseResult], None]

_SUFFIXES = (
  "_seg-vert_msk.nii.gz",
  "_seg-vb_ctd.json",
  "_lesions.json",
  "_vertebrae.csv",
  "_vertebrae.json",
  "_report.html",
  "_overview.png",
)
_RUN = "run.json"


@dataclasses.dataclass(frozen=True)
class InputOptions:
  """What a user may say about inputs that do not say it themselves.

  Attributes:
    assume_orientation: axis codes for files without any, e.g. 'LPS'.
    index: volume of a 4D file.
    hu_offset: added to the voxels, for files without their rescale intercept.
  """

  assume_orientation: str | None = None
  index: int | None = None
  hu_offset: int = 0


def case_name(path: str | os.PathLike[str]) -> str:
  """Name of a case: the file name without `_ct` and its suffix.

  Args:
    path: of the CT.

  Returns:
    E.g. `sub-verse004` for `sub-verse004_ct.nii.gz`.
  """
  name = pathlib.Path(path).name
  for suffix in (".gz", ".nii"):
    if name.lower().endswith(suffix):
      name = name[: -len(suffix)]
  # Without its dots no name is hidden, or leads out of the folder.
  return name.removesuffix("_ct").lstrip(".") or "case"


def check_names(paths: Sequence[str | os.PathLike[str]]) -> None:
  """Makes sure that no two inputs would write the same folder.

  Args:
    paths: of all CTs.

  Raises:
    InputError: naming the two.
  """
  seen: dict[str, str] = {}
  for path in paths:
    name = case_name(path)
    if name in seen:
      raise InputError(
        path,
        f"gives the case name '{name}', as {seen[name]} does.",
        "rename one, or predict them into different --out folders.",
      )
    seen[name] = os.fspath(path)


def predict_file(
  predictor: Predictor,
  path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  write_report: WriteReport,
  options: InputOptions = InputOptions(),
) -> CaseResult:
  """Predicts one CT and writes its folder, which appears when complete.

  Args:
    predictor: the model.
    path: the CT.
    out: folder of all cases, made if missing.
    write_report: writes the page of a case.
    options: what the file does not say itself.

  Returns:
    The result.

  Raises:
    InputError: if the CT is refused or the folder cannot be written.
  """
  began = time.monotonic()
  case = case_name(path)
  _check_target(pathlib.Path(out), case)
  with warnings.catch_warnings():
    # They are kept in volume.warnings and reach the report from there.
    warnings.simplefilter("ignore", InputWarning)
    volume = nifti.read(
      path, assume_orientation=options.assume_orientation, index=options.index
    )
  if options.hu_offset:
    volume = _shift(volume, options.hu_offset)
  try:
    result = predictor(volume, case, run_facts() | device_facts())
  except InputError as error:
    raise InputError(path, error.fault, error.fix) from error
  run = dict(result.run)
  run["input"] = os.fspath(path)
  run["warnings"] = list(result.warnings)
  run["seconds"] = {
    **run["seconds"],
    "total": round(time.monotonic() - began, 3),
  }
  run["state"] = "done"
  result = dataclasses.replace(result, run=run)
  _write_case(pathlib.Path(out), volume, result, write_report)
  return result


def _shift(volume: Volume, offset: int) -> Volume:
  """Adds HU to all voxels; what int16 cannot hold saturates."""
  limits = np.iinfo(np.int16)
  shifted = empty(volume.voxels.shape, np.int16)
  for part in slabs(shifted, volume.voxels):
    wide = np.clip(np.rint(volume.voxels[..., part]), -(10**6), 10**6)
    wide = wide.astype(np.int32) + offset
    shifted[..., part] = np.clip(wide, limits.min, limits.max)
  return dataclasses.replace(volume, voxels=shifted)


def _check_target(out: pathlib.Path, case: str) -> None:
  """Refuses, before the work, a place that must not or cannot be written.

  NOTE: the folder of a case is replaced as a whole. A CT that lies in a folder
  of its own name (BIDS) would be lost with --out on the folder above.
  """
  target = out / case
  if target.is_symlink() or (target.exists() and not target.is_dir()):
    raise InputError(
      target, "is in the way: not a folder.", "remove it, or change --out."
    )
  if target.is_dir():
    own = {_RUN, ".DS_Store", *(f"{case}{suffix}" for suffix in _SUFFIXES)}
    foreign = sorted(set(os.listdir(target)) - own)
    if foreign:
      raise InputError(
        target,
        f"holds what vf-jax did not write ({foreign[0]}) and would replace.",
        "choose another --out.",
      )
  above = out
  while not above.exists() and above != above.parent:
    above = above.parent
  if not above.is_dir():
    raise InputError(out, f"{above} is not a folder.", "change --out.")
  if not os.access(above, os.W_OK | os.X_OK):
    raise InputError(
      out, f"{above} is not writable.", "change its permissions, or --out."
    )


def _write_case(
  out: pathlib.Path, volume: Volume, result: CaseResult, write_report
) -> None:
  target = out / result.case
  part = out / f".{result.case}.{secrets.token_hex(4)}.part"
  try:
    part.mkdir(parents=True)
    mask, centroids, lesions, table, facts, report = (
      part / f"{result.case}{suffix}" for suffix in _SUFFIXES[:-1]
    )
    nifti.write(mask, result.mask, like=volume)
    write_centroids(centroids, _centroids(result), volume.grid)
    write_lesions(lesions, result.lesions)
    write_vertebrae_csv(table, result.vertebrae)
    write_vertebrae_json(facts, result.vertebrae)
    write_report(report, volume, result)
    write_text(part / _RUN, json.dumps(dict(result.run), indent=1) + "\n")
    _check_target(out, result.case)
    _replace(part, target)
  except OSError as error:
    raise InputError(
      target,
      f"cannot be written ({error.strerror}).",
      "check that the folder of --out is writable and the disk not full.",
    ) from error
  except InputError as error:
    if not error.source.startswith(os.fspath(part)):
      raise
    # The hidden folder of the moment says nothing to anyone.
    raise InputError(target, error.fault, error.fix) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _centroids(result: CaseResult) -> Centroids:
  """The body centres that the scan shows; programs index arrays with them."""
  positions = {}
  for v in result.vertebrae:
    place = result.grid.to_voxel(np.array([v.centre_mm]))[0]
    if (place >= -0.5).all() and (
      place <= np.array(result.grid.shape) - 0.5
    ).all():
      positions[BY_CODE[v.code]] = v.centre_mm
  return Centroids(positions)


def _replace(part: pathlib.Path, target: pathlib.Path) -> None:
  """Puts a whole folder in the place of an older one, if there is any."""
  if not target.exists():
    os.replace(part, target)
    return
  old = part.with_suffix(".old")
  os.replace(target, old)
  try:
    os.replace(part, target)
  except OSError:
    os.replace(old, target)
    raise
  shutil.rmtree(old, ignore_errors=True)
