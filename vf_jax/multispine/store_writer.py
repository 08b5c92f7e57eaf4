# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes cases so that they are there in full or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore

from vf_jax.errors import InputError
from vf_jax.io.atomic import OLD, replace_folder, write_text
from vf_jax.io.lock import sole_writer
from vf_jax.multispine.record import (
  ARRAYS,
  CHUNK,
  SCHEMA,
  PreparedCase,
  index_levels,
)
from vf_jax.multispine.store import file_digest, folder_digests

_SHARD = 256  # voxels a side of one file


def write_case(
  store: str | os.PathLike[str], case: PreparedCase, fingerprint: str = ""
) -> None:
  """Adds a case to a store, or replaces it; same input, same bytes.

  The folder is made under a hidden name and renamed when it is whole.

  Args:
    store: folder, made if missing.
    case: the case.
    fingerprint: of everything that went into it; see `written_fingerprint`.

  Raises:
    InputError: if the folder cannot be written.
  """
  cases = pathlib.Path(store) / "cases"
  final = cases / case.record.case
  part = cases / f".{case.record.case}.{secrets.token_hex(6)}.part"
  try:
    part.mkdir(parents=True)
  except OSError as error:
    raise InputError(
      cases, f"cannot be written: {error.strerror}.", "check the permissions."
    ) from error
  try:
    for name in ARRAYS:
      array = getattr(case, name)
      if array is not None:
        _write_array(part / name, name, array)
    index = index_levels(case.labels)
    buffer = io.BytesIO()
    np.save(buffer, np.column_stack([index.codes, index.voxels]))
    (part / "index.npy").write_bytes(buffer.getvalue())
    values = {
      "schema": SCHEMA,
      "fingerprint": fingerprint,
      "shape": list(case.labels.shape),
      "arrays": [n for n in ARRAYS if getattr(case, n) is not None],
      "files": folder_digests(part),
      "record": dataclasses.asdict(case.record),
    }
    write_text(part / "case.json", _json(values))
    _sync(part)
    replace_folder(part, final)
  except (OSError, ValueError) as error:
    raise InputError(
      final, f"cannot be written: {error}.", "check the free space."
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _json(values: Any) -> str:
  return json.dumps(values, sort_keys=True, indent=1) + "\n"


def _write_array(path: pathlib.Path, name: str, array: np.ndarray) -> None:
  dtype, fill = ARRAYS[name]
  shard = [
    min(_SHARD, -(-max(size, 1) // CHUNK) * CHUNK) for size in array.shape
  ]
  codecs = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {
      "name": "blosc",
      "configuration": {
        "cname": "lz4",
        "clevel": 9,
        "shuffle": "bitshuffle",
        "typesize": np.dtype(dtype).itemsize,
        "blocksize": 0,
      },
    },
    {"name": "crc32c"},
  ]
  sharding = {
    "chunk_shape": [CHUNK] * 3,
    "codecs": codecs,
    "index_codecs": [codecs[0], {"name": "crc32c"}],
  }
  target = tensorstore.open(
    {
      "driver": "zarr3",
      "kvstore": {"driver": "file", "path": str(path)},
      "metadata": {
        "shape": list(array.shape),
        "data_type": dtype,
        "fill_value": fill,
        "dimension_names": ["depth", "height", "width"],
        "chunk_grid": {
          "name": "regular",
          "configuration": {"chunk_shape": shard},
        },
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
      },
    },
    create=True,
  ).result()
  target.write(array.astype(dtype, copy=False)).result()


def _sync(folder: pathlib.Path) -> None:
  """Brings every file of a folder to the disk before it gets its name."""
  for path in [*folder.rglob("*"), folder]:
    with contextlib.suppress(OSError):  # some disks cannot sync a folder
      descriptor = os.open(path, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)


def written_fingerprint(store: str | os.PathLike[str], name: str) -> str | None:
  """Reads what a case that is there already was made from.

  Args:
    store: the folder.
    name: the case.

  Returns:
    Its fingerprint; None if there is no such case or it is damaged.
  """
  folder = pathlib.Path(store) / "cases" / name
  try:
    values = json.loads((folder / "case.json").read_text("utf-8"))
    if values["schema"] != SCHEMA or folder_digests(folder) != values["files"]:
      return None
    return values["fingerprint"]
  except (OSError, ValueError, KeyError, TypeError):
    return None


@contextlib.contextmanager
def writing(store: str | os.PathLike[str]) -> Iterator[None]:
  """Holds a store for writing and clears what killed runs have left.

  Args:
    store: folder, made if missing.

  Yields:
    Nothing.

  Raises:
    InputError: if another run holds it, or it is a folder of another kind.
  """
  folder = pathlib.Path(store)
  if folder.is_dir() and not (folder / "cases").is_dir():
    if any(not path.name.startswith(".") for path in folder.iterdir()):
      raise InputError(
        folder, "is a folder of something else.", "name an empty or new one."
      )
  with sole_writer(folder):
    try:
      (folder / "cases").mkdir(exist_ok=True)
    except OSError as error:
      raise InputError(
        folder,
        f"cannot be written: {error.strerror}.",
        "check the permissions.",
      ) from error
    _clear_parts(folder)
    yield
    _clear_parts(folder)


def _clear_parts(folder: pathlib.Path) -> None:
  for end in (".part", OLD):
    for path in (folder / "cases").glob(f".*{end}"):
      shutil.rmtree(path, ignore_errors=True)


def written_cases(store: str | os.PathLike[str]) -> tuple[str, ...]:
  """Names of the cases that have a folder, listed in the store or not.

  Args:
    store: the folder.

  Returns:
    The names, sorted; stray files and hidden folders are no cases.
  """
  folders = (pathlib.Path(store) / "cases").iterdir()
  return tuple(
    sorted(p.name for p in folders if p.is_dir() and p.name[0] != ".")
  )


def refuse_others(
  store: str | os.PathLike[str], asked: Collection[str], given: str
) -> None:
  """Keeps a run from removing cases that nobody spoke of.

  Args:
    store: the folder.
    asked: cases that the run makes.
    given: what it makes them of, 'archives' or 'stores'.

  Raises:
    InputError: if the store holds other cases.
  """
  others = [name for name in written_cases(store) if name not in asked]
  if others:
    cases = "1 case" if len(others) == 1 else f"{len(others)} cases"
    raise InputError(
      store,
      f"holds {cases} that the {given} given do not have, the first is "
      f"'{others[0]}'.",
      f"name all its {given} again, in the same order, or give "
      "--prune to remove such cases.",
    )


def finish(
  store: str | os.PathLike[str],
  names: Sequence[str],
  spacing_mm: float,
  *,
  spare: Collection[str] = (),
) -> None:
  """Writes the list of cases, which makes the store readable.

  Args:
    store: the folder.
    names: cases to list; folders of other cases are removed.
    spacing_mm: voxel edge of all arrays, mm.
    spare: cases whose folders stay although they are not listed.
  """
  folder = pathlib.Path(store)
  for name in set(written_cases(folder)).difference(names, spare):
    case = folder / "cases" / name
    if case.is_symlink():
      case.unlink()
    else:
      shutil.rmtree(case)
  listed = {
    name: file_digest(folder / "cases" / name / "case.json")
    for name in sorted(names)
  }
  values = {"schema": SCHEMA, "spacing_mm": spacing_mm, "cases": listed}
  write_text(folder / "store.json", _json(values))
