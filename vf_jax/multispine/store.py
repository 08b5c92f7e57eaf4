# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The store: one folder a prepared case, on the network's grid.

    STORE/store.json               schema, spacing, the cases with checksums
    STORE/cases/<case>/case.json   the record, checksums of the files beside it
    STORE/cases/<case>/index.npy   labelled voxels to centre crops on
    STORE/cases/<case>/<array>/    zarr v3, shards of small chunks with CRC-32C

Arrays are in (depth, height, width) order. A case appears under its name only
when it is complete, and `store.json` is written last.

Source: Zarr v3 sharding (ZEP 2), written and read by TensorStore.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore
from jaxtyping import Shaped

from vf_jax.errors import InputError
from vf_jax.multispine.record import ARRAYS, SCHEMA, Record, SampleIndex


def folder_digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file of a case but its `case.json`.

  Args:
    folder: of the case.

  Returns:
    Name relative to the folder -> digest.
  """
  return {
    path.relative_to(folder).as_posix(): file_digest(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != "case.json"
  }


def file_digest(path: pathlib.Path) -> str:
  """Digests a file.

  Args:
    path: the file.

  Returns:
    SHA-256 in hexadecimal digits.
  """
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _context(cache_mib: int) -> Any:
  """One pool of unpacked chunks for all cases of this process."""
  return tensorstore.Context(
    {
      "cache_pool": {"total_bytes_limit": cache_mib << 20},
      "data_copy_concurrency": {"limit": 2},
      "file_io_concurrency": {"limit": 4},
    }
  )


class StoredCase:
  """A case of a store; its arrays are read window by window.

  Attributes:
    record: what is known of it.
    shape: of every array, (depth, height, width).
    arrays: which of `ARRAYS` it has.
    path: its folder.
  """

  def __init__(
    self, path: pathlib.Path, values: Mapping[str, Any], cache_mib: int
  ):
    self.path = path
    self._cache_mib = cache_mib
    self.record = _record(values["record"])
    depth, height, width = (int(size) for size in values["shape"])
    self.shape = (depth, height, width)
    self.arrays = frozenset(values["arrays"])
    self._files = values["files"]
    self._open: dict[str, Any] = {}

  def __getstate__(self):
    return self.__dict__ | {"_open": {}}

  @functools.cached_property
  def index(self) -> SampleIndex:
    """Where its vertebrae are."""
    try:
      table = np.load(self.path / "index.npy")
      return SampleIndex(
        np.ascontiguousarray(table[:, 1:], np.int32),
        table[:, 0].astype(np.uint8),
      )
    except (OSError, ValueError, EOFError, IndexError) as error:
      raise _damaged(self.path / "index.npy", error) from error

  def read(
    self,
    name: str,
    start: Sequence[int],
    size: Sequence[int],
    fill: int,
  ) -> Shaped[np.ndarray, "depth height width"]:
    """Reads a window of one array; only the chunks that it touches.

    Args:
      name: of `ARRAYS`.
      start: first voxel; may lie outside.
      size: of the window.
      fill: value outside the array.

    Returns:
      The window.

    Raises:
      InputError: if a chunk is damaged or missing.
    """
    return self.read_all({name: fill}, start, size)[name]

  def read_all(
    self, fills: Mapping[str, int], start: Sequence[int], size: Sequence[int]
  ) -> dict[str, Shaped[np.ndarray, "depth height width"]]:
    """Reads the same window of several arrays at a time.

    Args:
      fills: array -> value outside it.
      start: first voxel; may lie outside.
      size: of the window.

    Returns:
      Array -> window.

    Raises:
      InputError: if a chunk is damaged or missing.
    """
    low = [min(max(int(a), 0), n) for a, n in zip(start, self.shape)]
    high = [
      min(max(int(a) + int(m), b), n)
      for a, m, n, b in zip(start, size, self.shape, low)
    ]
    inner = tuple(slice(a, b) for a, b in zip(low, high))
    outer = tuple(
      slice(a - int(s), b - int(s)) for a, b, s in zip(low, high, start)
    )
    shape = tuple(int(m) for m in size)
    try:
      pending = {name: self._array(name)[inner].read() for name in fills}
      found = {name: future.result() for name, future in pending.items()}
    except (ValueError, OSError) as error:
      raise _damaged(self.path, error) from error
    for name, fill in fills.items():
      if found[name].shape != shape:
        padded = np.full(shape, fill, found[name].dtype)
        if found[name].size:
          padded[outer] = found[name]
        found[name] = padded
    return found

  def _array(self, name: str) -> Any:
    handle = self._open.get(name)
    if handle is None:
      if name not in self.arrays:
        raise InputError(self.path, f"has no array '{name}'.")
      folder = self.path / name
      if not (folder / "zarr.json").is_file():
        raise _damaged(folder, "zarr.json is missing")
      for file in self._files:
        # A shard that is not there would be read as air.
        if file.startswith(f"{name}/") and not (self.path / file).is_file():
          raise _damaged(self.path / file, "the file is missing")
      handle = self._open[name] = tensorstore.open(
        {
          "driver": "zarr3",
          "kvstore": {"driver": "file", "path": str(folder)},
          "recheck_cached_data": False,
          "recheck_cached_metadata": False,
        },
        read=True,
        context=_context(self._cache_mib),
      ).result()
      if handle.shape != self.shape or handle.dtype.name != ARRAYS[name][0]:
        raise _damaged(folder, f"{handle.dtype.name} {handle.shape}")
    return handle


def _damaged(path: str | os.PathLike[str], fault: Any) -> InputError:
  text = str(fault).splitlines()[0][:200] if str(fault) else "unreadable"
  return InputError(
    path,
    f"is damaged ({text}).",
    "run the same `vf-jax prepare` again: it mends what is damaged.",
  )


def _record(values: Mapping[str, Any]) -> Record:
  tuples = {
    key: tuple(values[key])
    for key in (
      "native_shape", "native_spacing_mm", "annotates", "cut", "findings",
    )
  }  # fmt: skip
  tables = {
    key: tuple(tuple(row) for row in values[key])
    for key in ("affine", "native_affine", "boxes")
  }
  centres = {
    int(code): tuple(point) for code, point in values["centres"].items()
  }
  return Record(**(dict(values) | tuples | tables | {"centres": centres}))


class Store:
  """All cases of a folder, in the order of their names.

  Attributes:
    path: the folder.
    names: cases.
    records: what is known of each.
    domains: names of the domains, sorted; a case's index is its place here.
    spacing_mm: voxel edge of all arrays, mm.

  Args:
    path: the folder.
    cache_mib: unpacked chunks kept in memory by each process, over all cases;
      the least recently used go first. The packed files are in the page cache
      of the system anyway.

  Raises:
    InputError: if it is no finished store of this schema.
  """

  def __init__(self, path: str | os.PathLike[str], cache_mib: int = 0):
    self.path = pathlib.Path(path)
    listing = self.path / "store.json"
    if not listing.is_file():
      begun = (self.path / "cases").is_dir()
      raise InputError(
        path or "data.store",
        "is a store that was not finished." if begun else "is no store.",
        "run the same `vf-jax prepare` again to go on."
        if begun
        else "run `vf-jax prepare KIND=PATH --out STORE` and pass "
        "--config.data.store=STORE.",
      )
    values = _read_json(listing)
    self.spacing_mm = float(values["spacing_mm"])
    self.names = tuple(values["cases"])
    if not self.names:
      raise InputError(listing, "lists no cases.")
    self._cases = [
      StoredCase(
        self.path / "cases" / name,
        _read_json(self.path / "cases" / name / "case.json", digest),
        cache_mib,
      )
      for name, digest in values["cases"].items()
    ]
    self.records = tuple(case.record for case in self._cases)
    self.domains = tuple(sorted({r.domain for r in self.records}))

  def __len__(self) -> int:
    return len(self.names)

  def case(self, index: int) -> StoredCase:
    """Gives a case; nothing is read until a window is asked for.

    Args:
      index: its place in `names`.

    Returns:
      The case.
    """
    return self._cases[index]

  def verify(self) -> tuple[str, ...]:
    """Reads every file of the store against its checksum.

    Returns:
      The files that are damaged, missing or strange, relative to the store.
    """
    faults = []
    for case in self._cases:
      found = folder_digests(case.path)
      for name in sorted(found.keys() | case._files.keys()):
        if found.get(name) != case._files.get(name):
          faults.append((case.path / name).relative_to(self.path).as_posix())
    return tuple(faults)


def _read_json(path: pathlib.Path, digest: str | None = None) -> Any:
  try:
    data = path.read_bytes()
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
      raise ValueError("its checksum differs from store.json")
    values = json.loads(data)
    schema = values["schema"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(path, error) from error
  if schema != SCHEMA:
    raise InputError(
      path,
      f"has store schema {schema}, this version reads {SCHEMA}.",
      "run `vf-jax prepare` again.",
    )
  return values
