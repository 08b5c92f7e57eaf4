# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Predicting a list of files into a folder, one sub-folder a case."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import os
import pathlib
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vf_jax.errors import InputError, InputWarning, OutputError
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.request import request_of
from vf_jax.infer.result import CaseResult
from vf_jax.infer.summary import FAILURES
from vf_jax.io import nifti
from vf_jax.io.atomic import OLD, PARTS, replace_folder, write_text
from vf_jax.io.centroids import Centroids, write_centroids
from vf_jax.io.ct import AS_STORED, InputOptions, case_name, read_ct
from vf_jax.io.dicom_seg import SegSource, read_source, write_dicom_seg
from vf_jax.io.lesions import write_lesions
from vf_jax.io.results import RUN
from vf_jax.io.vertebrae import write_vertebrae_csv, write_vertebrae_json
from vf_jax.labels import BY_CODE
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
  "_seg.dcm",
)
# The longest name that is made of a case's: the mask's.
_LONGEST = max(map(len, _SUFFIXES))
_NAME_MAX = 255  # bytes; what nearly every disk allows
_PART = ".part"
_STALE_SECONDS = 24 * 3600.0


def predict_file(
  predictor: Predictor,
  path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  write_report: WriteReport,
  options: InputOptions = AS_STORED,
  *,
  case: str | None = None,
  volume: Volume | None = None,
  request: Mapping[str, Any] | None = None,
  dicom_seg: bool = False,
) -> CaseResult:
  """Predicts one CT and writes its folder, which appears when complete.

  Args:
    predictor: the model.
    path: the CT.
    out: folder of all cases, made if missing.
    write_report: writes the page of a case.
    options: what the file does not say itself.
    case: its name; that of the file if None.
    volume: the CT, if it has been read already.
    request: of `request_of`, if it was taken before the CT was read.
    dicom_seg: also write a DICOM SEG, if the CT is DICOM.

  Returns:
    The result.

  Raises:
    InputError: if the CT is refused; `OutputError` if the folder cannot be
      written.
  """
  began = time.monotonic()
  case = case_name(path) if case is None else case
  check_target(pathlib.Path(out), case)
  if request is None:
    request = request_of(predictor, path, options, dicom_seg)
  if volume is None:
    with warnings.catch_warnings():
      # They are kept in volume.warnings and reach the report from there.
      warnings.simplefilter("ignore", InputWarning)
      volume = read_ct(path, options)
  source = _seg_source(path, volume, options.series) if dicom_seg else None
  try:
    result = predictor(volume, case, run_facts() | device_facts())
  except InputError as error:
    raise InputError(path, error.fault, error.fix) from error
  notes = list(result.warnings)
  if dicom_seg and source is None:
    notes.append("No DICOM SEG was written: the CT is no DICOM.")
  elif source is not None and not result.vertebrae:
    source = None
    notes.append("No DICOM SEG was written: it cannot be empty.")
  elif source is not None:
    notes += source.notes
  result = dataclasses.replace(result, warnings=tuple(notes))
  run = dict(result.run)
  run["input"] = os.fspath(path)
  run["request"] = dict(request)
  run["warnings"] = list(result.warnings)
  run["seconds"] = {
    **run["seconds"],
    "total": round(time.monotonic() - began, 3),
  }
  run["found"] = {
    "levels": [v.level for v in result.vertebrae],
    "least_confidence": min(
      (round(v.confidence, 4) for v in result.vertebrae), default=None
    ),
    "lesions": len(result.lesions),
    "abstained": result.abstained,
  }
  run["state"] = "done"
  result = dataclasses.replace(result, run=run)
  _write_case(pathlib.Path(out), volume, result, write_report, source)
  return result


def _seg_source(
  path: str | os.PathLike[str], volume: Volume, series: str | None
) -> SegSource | None:
  """The series to write a DICOM SEG for; None if the CT is no DICOM."""
  if volume.source is None or volume.source.format != "dicom":
    return None
  return read_source(path, series)


def check_target(out: pathlib.Path, case: str) -> None:
  """Refuses, before the work, a place that must not or cannot be written.

  NOTE: the folder of a case is replaced as a whole. A CT that lies in a folder
  of its own name (BIDS) would be lost with --out on the folder above.

  Args:
    out: folder of all cases.
    case: name of the case.

  Raises:
    InputError: if the name is too long or something is in the way;
      `OutputError` if nothing at all can be written there.
  """
  length, room = len(os.fsencode(case)), room_for_names(out)
  if length > room:
    raise InputError(
      case,
      f"the name of the case is too long: {length} bytes, there is room for "
      f"{room}.",
      "rename the file; or, if the name is made of the folders above it, give "
      "a folder nearer to it.",
    )
  target = out / case
  # NOTE: unlike their methods of pathlib, the functions of os.path take places
  # that may not be looked at and names that no disk can hold.
  if os.path.islink(target) or (
    os.path.exists(target) and not os.path.isdir(target)
  ):
    raise InputError(
      target, "is in the way: not a folder.", "remove it, or change --out."
    )
  if os.path.isdir(target):
    held: list[str] = []
    try:
      held = os.listdir(target)
    except FileNotFoundError:
      pass  # Another run takes the old folder away at this very moment.
    except OSError as error:
      raise InputError(
        target,
        f"cannot be read ({error.strerror}), and would be replaced.",
        "change its permissions, or --out.",
      ) from error
    foreign = sorted(set(held) - _files_of(case))
    if foreign:
      raise InputError(
        target,
        f"holds what vf-jax did not write ({foreign[0]}) and would replace.",
        "choose another --out.",
      )
    if set(held) - {".DS_Store"} and RUN not in held:
      raise InputError(
        target,
        f"holds {min(held)} and no {RUN}: vf-jax did not write it, and would "
        "replace it.",
        "choose another --out.",
      )
  above = _existing(out)
  if not os.path.isdir(above):
    raise OutputError(out, f"{above} is not a folder.", "change --out.")
  if not os.access(above, os.W_OK | os.X_OK):
    raise OutputError(
      out, f"{above} is not writable.", "change its permissions, or --out."
    )
  new = out.relative_to(above).parts
  if any(len(os.fsencode(name)) > room + _LONGEST for name in new):
    raise OutputError(out, "has a name that is too long.", "change --out.")


def _files_of(case: str) -> set[str]:
  """What the folder of a case may hold."""
  return {RUN, ".DS_Store", *(f"{case}{suffix}" for suffix in _SUFFIXES)}


def room_for_names(out: pathlib.Path) -> int:
  """How long the name of a case may be, for all its files to have theirs.

  Args:
    out: folder of all cases; it need not be there yet.

  Returns:
    Bytes of the name, as the disk counts them.
  """
  most = _NAME_MAX
  with contextlib.suppress(AttributeError, OSError, ValueError):
    most = os.pathconf(_existing(out), "PC_NAME_MAX")
  return most - _LONGEST


def _existing(folder: pathlib.Path) -> pathlib.Path:
  """The folder, or the nearest above it that is there."""
  while not os.path.exists(folder) and folder != folder.parent:
    folder = folder.parent
  return folder


def _write_case(
  out: pathlib.Path,
  volume: Volume,
  result: CaseResult,
  write_report: WriteReport,
  source: SegSource | None,
) -> None:
  target = out / result.case
  part = out / f".{result.case}.{secrets.token_hex(4)}{_PART}"
  try:
    part.mkdir(parents=True)
    mask, centroids, lesions, table, facts, report, _, segmentation = (
      part / f"{result.case}{suffix}" for suffix in _SUFFIXES
    )
    nifti.write(mask, result.mask, like=volume)
    write_centroids(centroids, _centroids(result), volume.grid)
    write_lesions(lesions, result.lesions, result.candidates)
    write_vertebrae_csv(table, result.vertebrae)
    write_vertebrae_json(facts, result.vertebrae)
    write_report(report, volume, result)
    if source is not None:
      checkpoint = str(result.run["checkpoint_sha256"])
      write_dicom_seg(
        segmentation,
        result.mask,
        source,
        checkpoint,
        abstained=result.abstained,
      )
    write_text(part / RUN, json.dumps(dict(result.run), indent=1) + "\n")
    check_target(out, result.case)
    replace_folder(part, target)
  except OSError as error:
    raise OutputError(
      target,
      f"cannot be written ({error.strerror}).",
      "check that the folder of --out is writable and the disk not full.",
    ) from error
  except InputError as error:
    if not error.source.startswith(os.fspath(part)):
      raise
    # The hidden folder of the moment says nothing to anyone.
    raise OutputError(target, error.fault, error.fix) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def drop_leftovers(out: pathlib.Path) -> None:
  """Removes what runs that were killed a day ago or more left half-written.

  NOTE: younger ones may belong to another run that is still writing, and a
  hidden folder that holds anything else than a case's files is not ours.

  Args:
    out: folder of all cases; it need not be there yet.
  """
  if not os.path.isdir(out):
    return
  for path in (*out.glob(PARTS), *out.glob(f"{FAILURES}/{PARTS}")):
    with contextlib.suppress(OSError):
      if path.is_file() and _is_stale(path):
        path.unlink()
  for path in out.glob(".*.????????.*"):
    case = path.name[1:].rsplit(".", 2)[0]
    with contextlib.suppress(OSError):
      held = {n for n in os.listdir(path) if not fnmatch.fnmatch(n, PARTS)}
      ours = path.suffix in (_PART, OLD) and held <= _files_of(case)
      if ours and _is_stale(path):
        shutil.rmtree(path, ignore_errors=True)


def _is_stale(path: pathlib.Path) -> bool:
  return time.time() - path.stat().st_mtime > _STALE_SECONDS


def _centroids(result: CaseResult) -> Centroids:
  """The body centres that the scan shows; programs index arrays with them."""
  grid = result.grid
  return Centroids(
    {
      BY_CODE[v.code]: v.centre_mm
      for v in result.vertebrae
      if not grid.outside_mm(grid.to_voxel(np.array([v.centre_mm])))[0]
    }
  )
