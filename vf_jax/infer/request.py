# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What was asked for a case: the same again need not be computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import vf_jax
from vf_jax.errors import InputError
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.summary import SUMMARY
from vf_jax.io.ct import InputOptions, kind_of
from vf_jax.io.dicom_files import list_files
from vf_jax.io.results import read_run

# What a run with --out in the folder of the scan writes beside its cases.
_TABLES = (SUMMARY, "index.html", "vf_jax_index.html")


def request_of(
  predictor: Predictor,
  path: str | os.PathLike[str],
  options: InputOptions,
  dicom_seg: bool,
) -> dict[str, Any]:
  """Sums up all that a result depends on.

  The input counts as unchanged while the paths, sizes and times of its files
  are: reading a cohort only to hash it would take as long as to predict it. Of
  a folder those files count that its reader looks at, so that neither results
  nor hidden files in it make it another input.

  Args:
    predictor: the model.
    path: the CT, a file or a folder.
    options: what the file does not say itself.
    dicom_seg: whether a DICOM SEG is wanted.

  Returns:
    JSON types; equal for equal requests.

  Raises:
    InputError: if the input is not there.
  """
  config = predictor.config.to_dict()
  # How the weights were trained is in the weights.
  used = json.dumps([config["model"], config["predict"]], sort_keys=True)
  return {
    "input": os.path.realpath(path),
    "files_sha256": _state(path),
    "options": dataclasses.asdict(options) | {"dicom_seg": dicom_seg},
    "checkpoint_sha256": predictor.digest,
    "config_sha256": hashlib.sha256(used.encode()).hexdigest(),
    "vf_jax": vf_jax.__version__,
  }


def finished(folder: pathlib.Path, request: Mapping[str, Any]) -> bool:
  """Whether a case is there already, made by the same request.

  Args:
    folder: of the case.
    request: of `request_of`.

  Returns:
    True if nothing is left to do.
  """
  run = read_run(folder) or {}
  mask = folder / f"{folder.name}_seg-vert_msk.nii.gz"
  return (
    run.get("state") == "done" and run["request"] == request and mask.is_file()
  )


def check_same_input(folder: pathlib.Path, request: Mapping[str, Any]) -> None:
  """Refuses to replace the result of another scan of the same name.

  Args:
    folder: of the case.
    request: of `request_of`.

  Raises:
    InputError: if the folder holds the result of another file; one of the same
      state that is gone from its place was moved, and is no other.
  """
  before = (read_run(folder) or {"request": {}})["request"]
  other, mine = before.get("input"), request["input"]
  if not isinstance(other, str) or other == mine:
    return
  same = before.get("files_sha256") == request["files_sha256"]
  if os.path.exists(other) or not same:
    raise InputError(
      mine,
      f"has the case name '{folder.name}', as {other}, whose result is in "
      f"{folder}.",
      "choose another --out, or replace that result by --overwrite.",
    )


def _state(path: str | os.PathLike[str]) -> str:
  """Digest of the names, sizes and times of all files of an input."""
  digest = hashlib.sha256()
  name = os.fspath(path)
  try:
    for part in _files(name):
      found = os.stat(part)
      facts = (os.path.relpath(part, name), found.st_size, found.st_mtime_ns)
      digest.update(json.dumps(facts).encode())
  except OSError as error:
    reason = (error.strerror or "").lower()
    raise InputError(
      path, f"cannot be read: {reason}.", "check the path."
    ) from error
  return digest.hexdigest()


def _files(name: str) -> Iterator[str]:
  kind = kind_of(name)
  if os.path.isdir(name):
    for part in list_files(name):
      if os.path.basename(part) not in _TABLES:
        yield part
    return
  yield name
  if kind == "metaimage":
    from vf_jax.io.metaimage import data_file

    voxels = data_file(name)
    if voxels is not None:
      yield os.fspath(voxels)
