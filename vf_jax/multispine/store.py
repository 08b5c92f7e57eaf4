# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The store: one file a prepared case, on the network's grid.

A case is a `.npz` with the arrays and a JSON record; it appears under its name
only when it is complete. Arrays are in (depth, height, width) order.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int16, UInt8

from vf_jax.errors import InputError
from vf_jax.io.atomic import atomic_write

SCHEMA = 1
DEPTH_STEP_MM = 0.25  # of the stored depth below the bone surface


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of a prepared case beside its arrays.

  Attributes:
    case: its name.
    domain: where it comes from; what is left out in cross-domain studies.
    subject: patient, the unit of splits.
    spacing_mm: voxel edge of the arrays, mm.
    native_spacing_mm: spacing of the scan in ascending order, mm.
    affine: 4x4, (x, y, z) voxel of the arrays -> mm RAS+.
    centres: VerSe code -> body centre in voxels (depth, height, width).
    centre_kind: 'annotated', 'derived' (from the mask) or 'none'.
    boxes: lesions, centre in voxels and edge lengths in mm, both along
      (depth, height, width).
    annotates: subset of 'masks', 'levels', 'lesions'.
    mask_kind: 'expert', 'network' or 'none': what the masks may be called.
    licence: of image and annotation.
    source: where they come from.
    files: name -> SHA-256 of what was read.
    schema: version of this format.
  """

  case: str
  domain: str
  subject: str
  spacing_mm: float
  native_spacing_mm: tuple[float, float, float]
  affine: tuple[tuple[float, ...], ...]
  centres: Mapping[int, tuple[float, float, float]]
  centre_kind: str
  boxes: tuple[tuple[float, ...], ...]
  annotates: tuple[str, ...]
  mask_kind: str
  licence: str
  source: str
  files: Mapping[str, str]
  schema: int = SCHEMA


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCase:
  """One case, ready for crops.

  Attributes:
    record: what is known of it.
    image: HU, None for a mask without its CT.
    labels: VerSe codes, 255 unknown.
    tissue: tissue classes, None if intensities cannot be synthesised.
    depth: distance below the surface of the own bone in `DEPTH_STEP_MM`,
      0 outside bone; None without tissue.
  """

  record: Record
  image: Int16[np.ndarray, "depth height width"] | None
  labels: UInt8[np.ndarray, "depth height width"]
  tissue: UInt8[np.ndarray, "depth height width"] | None
  depth: UInt8[np.ndarray, "depth height width"] | None


_ARRAYS = {
  "image": "int16",
  "labels": "uint8",
  "tissue": "uint8",
  "depth": "uint8",
}
_DAMAGE = (
  OSError, EOFError, KeyError, ValueError, TypeError, AttributeError,
  RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What the readers of zip, JSON and NumPy raise on broken bytes."""


def write_case(store: str | os.PathLike[str], case: PreparedCase) -> None:
  """Adds a case to a store, or replaces it; same input, same bytes.

  Args:
    store: folder, made if missing.
    case: the case.
  """
  folder = pathlib.Path(store)
  folder.mkdir(parents=True, exist_ok=True)
  record = json.dumps(dataclasses.asdict(case.record), sort_keys=True)
  with (
    atomic_write(folder / f"{case.record.case}.npz") as file,
    zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
  ):
    # ZipInfo's fixed date keeps the bytes equal from run to run.
    archive.writestr(
      zipfile.ZipInfo("record.json"), record, zipfile.ZIP_DEFLATED
    )
    for name in _ARRAYS:
      array = getattr(case, name)
      if array is not None:
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array))
        archive.writestr(
          zipfile.ZipInfo(f"{name}.npy"),
          buffer.getvalue(),
          zipfile.ZIP_DEFLATED,
          9,
        )


def read_case(path: str | os.PathLike[str]) -> PreparedCase:
  """Reads one case.

  Args:
    path: its `.npz`.

  Returns:
    The case.

  Raises:
    InputError: if the file is damaged or of another schema.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      record = _record(path, json.loads(archive.read("record.json")))
      names = set(archive.namelist())
      strange = names - {"record.json", *(f"{name}.npy" for name in _ARRAYS)}
      if strange:
        raise ValueError(f"it holds {sorted(strange)}")
      arrays: dict[str, Any] = {
        name: np.load(io.BytesIO(archive.read(f"{name}.npy")))
        if f"{name}.npy" in names
        else None
        for name in _ARRAYS
      }
    _check_arrays(arrays)
  except InputError:
    raise
  except _DAMAGE as error:
    raise InputError(
      path, f"not a prepared case ({error}).", "run `vf-jax prepare` again."
    ) from error
  return PreparedCase(record=record, **arrays)


def _check_arrays(arrays: Mapping[str, Any]) -> None:
  if arrays["labels"] is None:
    raise ValueError("it has no labels")
  if (arrays["tissue"] is None) != (arrays["depth"] is None):
    raise ValueError("it has only one of tissue and depth")
  if arrays["image"] is None and arrays["tissue"] is None:
    raise ValueError("it has neither image nor tissue")
  for name, array in arrays.items():
    if array is None:
      continue
    if array.dtype != _ARRAYS[name] or array.shape != arrays["labels"].shape:
      raise ValueError(f"its {name} is {array.dtype} {array.shape}")


def _record(path, values) -> Record:
  if values.get("schema") != SCHEMA:
    raise InputError(
      path,
      f"has store schema {values.get('schema')}, this version reads {SCHEMA}.",
      "run `vf-jax prepare` again.",
    )
  values["centres"] = {
    int(code): tuple(point) for code, point in values["centres"].items()
  }
  for key in ("native_spacing_mm", "annotates"):
    values[key] = tuple(values[key])
  for key in ("affine", "boxes"):
    values[key] = tuple(tuple(row) for row in values[key])
  return Record(**values)


class Store:
  """All cases of a folder, in the order of their names.

  Attributes:
    path: the folder.
    names: cases.
    domains: names of the domains, sorted; a case's index is its place here.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = pathlib.Path(path)
    files = sorted(self.path.glob("*.npz")) if self.path.is_dir() else []
    if not files:
      raise InputError(
        path or "data.store",
        "holds no prepared cases.",
        "run `vf-jax prepare MANIFEST --out STORE` and pass "
        "--config.data.store=STORE.",
      )
    self.names = tuple(file.stem for file in files)
    self._load = functools.lru_cache(maxsize=64)(read_case)
    self.records = tuple(self.case(i).record for i in range(len(files)))
    self.domains = tuple(sorted({r.domain for r in self.records}))

  def __len__(self) -> int:
    return len(self.names)

  def case(self, index: int) -> PreparedCase:
    """Returns a case, kept in memory while it is in use."""
    return self._load(self.path / f"{self.names[index]}.npz")
