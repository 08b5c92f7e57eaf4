# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Large arrays that lie on the disk, so that memory does not grow with a scan.

A CT of 1,200 slices is 630 MB. `empty` gives arrays of that size as a mapped
file without a name, which vanishes with the array, even if the process is
killed. To everybody they are ordinary arrays. Code that passes over one slab by
slab calls `release` as it goes: the pages it has seen leave its memory, and the
system may write them out or keep them as it likes.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

VARIABLE = "VF_JAX_SCRATCH"
"""Environment variable that names the folder of these files."""

ON_DISK = 1 << 24
"""Arrays of fewer bytes stay in memory."""

_M_ARENA_MAX = -8  # malloc.h
_SLAB = 1 << 21  # bytes of the largest array that `slabs` shows at a time


class _Mapping(mmap.mmap):
  """Tells our mappings from a user's, which must not be released."""


def empty(
  shape: int | tuple[int, ...],
  dtype: Any,
  order: Literal["C", "F"] = "F",
) -> Shaped[np.ndarray, "*shape"]:
  """An array as of `np.empty`; on the disk if it is large.

  Args:
    shape: of the array.
    dtype: of the array.
    order: 'F' or 'C', as in `np.empty`.

  Returns:
    A writable array. It lies in memory if the folder for scratch files cannot
    be written or is full.
  """
  sizes = (shape,) if isinstance(shape, int) else tuple(shape)
  size = np.dtype(dtype).itemsize
  for n in sizes:
    size *= n
  if size >= ON_DISK:
    with contextlib.suppress(OSError):
      return np.ndarray(sizes, dtype, _map_file(size), order=order)
  return np.empty(sizes, dtype, order)


def release(*arrays: Shaped[np.ndarray, "*_"]) -> None:
  """Lets go of the pages of arrays that `empty` made; their values stay.

  Args:
    *arrays: any arrays; views count as what they show. Others than those of
      `empty` are left alone.
  """
  for array in arrays:
    base: Any = array
    while isinstance(base, np.ndarray):
      base = base.base
    if isinstance(base, memoryview):
      base = base.obj
    if isinstance(base, _Mapping) and hasattr(mmap, "MADV_DONTNEED"):
      base.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
  """Gives memory that was freed, but kept by the C library, to the system.

  Reading weights and compiling leave holes between what is still in use: 55
  MiB of a UNETR of 96^3 with its program. Does nothing where the C library is
  not glibc.
  """
  with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).malloc_trim(0)


def share_heaps() -> None:
  """Has all threads of this process take memory from two heaps, not one each.

  What a thread frees stays in its heap, where the others cannot take it: of
  1,200 slices a prediction held 825 to 895 MiB, by chance. Counts for threads
  to come. Does nothing where the C library is not glibc.
  """
  with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def slabs(*arrays: Shaped[np.ndarray, "*shape"]) -> Iterator[slice]:
  """Cuts arrays of one shape along their last axis, and releases what is done.

  Args:
    *arrays: of equal last axes, which should be the slowest in memory.

  Yields:
    Slices of the last axis, of about 2 MiB of the largest of the arrays.
  """
  count = arrays[0].shape[-1]
  row = max(array.nbytes for array in arrays) // max(count, 1)
  step = max(1, _SLAB // max(row, 1))
  for first in range(0, count, step):
    yield slice(first, min(first + step, count))
    release(*arrays)


def _map_file(size: int) -> _Mapping:
  """Maps a file without a name whose place on the disk is taken.

  Raises:
    OSError: there is no place. Without this a full disk would kill the process
      when a page is written.
  """
  folder = os.environ.get(VARIABLE) or None
  with tempfile.TemporaryFile(dir=folder) as file:
    if hasattr(os, "posix_fallocate"):
      os.posix_fallocate(file.fileno(), 0, size)
    else:
      zeros = bytes(1 << 20)
      for first in range(0, size, len(zeros)):
        file.write(zeros[: size - first])
      file.flush()
    return _Mapping(file.fileno(), size)
