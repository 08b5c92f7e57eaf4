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

from vf_jax.errors import InputError, InputWarning
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.result import CaseResult
from vf_jax.io import nifti
from vf_jax.io.atomic import write_text
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.lesions import write_lesions
from vf_jax.io.vertebrae import write_vertebrae_csv
from vf_jax.labels import BY_CODE
from vf_jax.telemetry import device_facts, run_facts
from vf_jax.volume import Volume

WriteReport = Callable[[pathlib.Path, Volume, CaseResult], None]


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
  return name.removesuffix("_ct") or "case"


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
  with warnings.catch_warnings():
    # They are kept in volume.warnings and reach the report from there.
    warnings.simplefilter("ignore", InputWarning)
    volume = nifti.read(
      path, assume_orientation=options.assume_orientation, index=options.index
    )
  if options.hu_offset:
    shifted = volume.voxels.astype("int32") + options.hu_offset
    volume = dataclasses.replace(volume, voxels=shifted.astype("int16"))
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


def _write_case(
  out: pathlib.Path, volume: Volume, result: CaseResult, write_report
) -> None:
  target = out / result.case
  part = out / f".{result.case}.{secrets.token_hex(4)}.part"
  try:
    part.mkdir(parents=True)
    stem = part / result.case
    nifti.write(f"{stem}_seg-vert_msk.nii.gz", result.mask, like=volume)
    write_centroids(
      f"{stem}_seg-vb_ctd.json",
      Centroids({BY_CODE[v.code]: v.centre_mm for v in result.vertebrae}),
      volume.grid,
    )
    write_lesions(f"{stem}_lesions.json", result.lesions)
    write_vertebrae_csv(f"{stem}_vertebrae.csv", result.vertebrae)
    write_report(pathlib.Path(f"{stem}_report.html"), volume, result)
    write_text(part / "run.json", json.dumps(dict(result.run), indent=1) + "\n")
    old = out / f".{result.case}.{secrets.token_hex(4)}.old"
    if target.exists():
      os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)
  except OSError as error:
    raise InputError(
      target,
      f"cannot be written ({error.strerror}).",
      "check that the folder of --out is writable and the disk not full.",
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
