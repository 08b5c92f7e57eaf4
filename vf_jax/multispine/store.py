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

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore
from jaxtyping import Int16, Int32, Shaped, UInt8

from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.io.atomic import write_text
from vf_jax.labels import BY_CODE, SACRUM

SCHEMA = 2
DEPTH_STEP_MM = 0.25  # of the stored depth below the bone surface
CHUNK = 32  # voxels a side; a crop of 96 touches 64 of them
_SHARD = 256  # voxels a side of one file
_PER_LEVEL = 512  # voxels of each level kept in the index

ARRAYS: Mapping[str, tuple[str, int]] = {
  "image": ("int16", AIR_HU),
  "labels": ("uint8", 0),
  "tissue": ("uint8", 0),
  "depth": ("uint8", 0),
}
"""Array -> dtype and the value of chunks that are not stored."""


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of a prepared case beside its arrays.

  Attributes:
    case: its name.
    source: kind of archive: 'verse', 'ctspine1k', ...
    domain: where it comes from; what is left out in cross-domain studies.
    subject: patient, the unit of splits.
    series: which scan of the patient.
    split: part of the official split, None without one.
    spacing_mm: voxel edge of the arrays, mm.
    affine: 4x4, (x, y, z) voxel of the arrays -> mm RAS+.
    native_shape: of the scan as stored in its file, (x, y, z).
    native_affine: 4x4, voxel of the scan as stored -> mm RAS+.
    native_spacing_mm: spacing of the scan in ascending order, mm.
    centres: VerSe code -> body centre in voxels (depth, height, width).
    centre_kind: 'body' (annotated), 'derived' (from the masks) or 'none'.
    boxes: lesions, centre in voxels and edge lengths in mm, both along
      (depth, height, width).
    cut: VerSe codes of vertebrae cut by the field of view.
    annotates: subset of `case.TASKS`.
    mask_kind: 'expert', 'network', 'synthetic' or 'none'.
    licence: of image and annotation.
    origin: archive, version or DOI.
    scanner: facts of the scanner where known.
    files: name -> SHA-256 of what was read.
    voxels: digest of the image's voxels whatever file holds them.
    findings: what the checks found, in words.
  """

  case: str
  source: str
  domain: str
  subject: str
  series: str
  split: str | None
  spacing_mm: float
  affine: tuple[tuple[float, ...], ...]
  native_shape: tuple[int, int, int]
  native_affine: tuple[tuple[float, ...], ...]
  native_spacing_mm: tuple[float, float, float]
  centres: Mapping[int, tuple[float, float, float]]
  centre_kind: str
  boxes: tuple[tuple[float, ...], ...]
  cut: tuple[int, ...]
  annotates: tuple[str, ...]
  mask_kind: str
  licence: str
  origin: str
  scanner: Mapping[str, str]
  files: Mapping[str, str]
  voxels: str
  findings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCase:
  """One case, ready to be written.

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


@dataclasses.dataclass(frozen=True, eq=False)
class SampleIndex:
  """Where the vertebrae of a case are, for balanced crops.

  Attributes:
    voxels: a uniform sample of each level's voxels, sorted by code.
    codes: VerSe code of each.
  """

  voxels: Int32[np.ndarray, "samples 3"]
  codes: UInt8[np.ndarray, " samples"]


def index_levels(
  labels: UInt8[np.ndarray, "depth height width"],
) -> SampleIndex:
  """Draws up to 512 voxels of each level, the same ones every time.

  Args:
    labels: VerSe codes.

  Returns:
    The index.
  """
  flat = labels.ravel()
  vertebra = np.zeros(256, bool)
  vertebra[[code for code in BY_CODE if code != SACRUM.code]] = True
  places = np.flatnonzero(vertebra[flat])
  order = np.argsort(flat[places], kind="stable")
  places = places[order]
  found, starts = np.unique(flat[places], return_index=True)
  kept, codes = [], []
  for code, part in zip(found, np.split(places, starts[1:])):
    if len(part) > _PER_LEVEL:
      rng = np.random.default_rng(int(code))
      part = np.sort(rng.choice(part, _PER_LEVEL, replace=False))
    kept.append(part)
    codes.append(np.full(len(part), code, np.uint8))
  flat_places = np.concatenate([*kept, np.zeros(0, np.int64)])
  voxels = np.stack(np.unravel_index(flat_places, labels.shape), axis=1)
  return SampleIndex(
    voxels.astype(np.int32), np.concatenate([*codes, np.zeros(0, np.uint8)])
  )


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
      "files": _digests(part),
      "record": dataclasses.asdict(case.record),
    }
    write_text(part / "case.json", _json(values))
    _sync(part)
    _replace_folder(part, final)
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


def _digests(folder: pathlib.Path) -> dict[str, str]:
  return {
    path.relative_to(folder).as_posix(): _sha256(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != "case.json"
  }


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: pathlib.Path) -> None:
  """Brings every file of a folder to the disk before it gets its name."""
  for path in [*folder.rglob("*"), folder]:
    with contextlib.suppress(OSError):  # some disks cannot sync a folder
      descriptor = os.open(path, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)


def _replace_folder(part: pathlib.Path, final: pathlib.Path) -> None:
  """Renames a folder into place.

  Between taking the old one away and the new one in, the case is missing and
  never half there; a run killed then makes it again.
  """
  if final.exists():
    old = final.with_name(f".{final.name}.{secrets.token_hex(6)}.part")
    final.rename(old)
    part.rename(final)
    shutil.rmtree(old)
  else:
    part.rename(final)


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
    if values["schema"] != SCHEMA or _digests(folder) != values["files"]:
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
  import fcntl

  folder = pathlib.Path(store)
  if folder.is_dir() and not (folder / "cases").is_dir():
    if any(not path.name.startswith(".") for path in folder.iterdir()):
      raise InputError(
        folder, "is a folder of something else.", "name an empty or new one."
      )
  try:
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
  except OSError as error:
    raise InputError(
      folder, f"cannot be written: {error.strerror}.", "check the permissions."
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise InputError(
        folder, "is being written by another run.", "wait for it to end."
      ) from error
    _clear_parts(folder)
    yield
    _clear_parts(folder)


def _clear_parts(folder: pathlib.Path) -> None:
  for path in (folder / "cases").glob(".*.part"):
    shutil.rmtree(path, ignore_errors=True)


def finish(
  store: str | os.PathLike[str], names: Sequence[str], spacing_mm: float
) -> None:
  """Writes the list of cases, which makes the store readable.

  Args:
    store: the folder.
    names: cases to list; folders of other cases are removed.
    spacing_mm: voxel edge of all arrays, mm.
  """
  folder = pathlib.Path(store)
  for path in (folder / "cases").iterdir():
    if path.name not in names:
      shutil.rmtree(path)
  listed = {
    name: _sha256(folder / "cases" / name / "case.json")
    for name in sorted(names)
  }
  values = {"schema": SCHEMA, "spacing_mm": spacing_mm, "cases": listed}
  write_text(folder / "store.json", _json(values))


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
    """Returns a case; nothing is read until a window is asked for."""
    return self._cases[index]

  def verify(self) -> tuple[str, ...]:
    """Reads every file of the store against its checksum.

    Returns:
      The files that are damaged, missing or strange, relative to the store.
    """
    faults = []
    for case in self._cases:
      found = _digests(case.path)
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
