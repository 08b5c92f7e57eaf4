# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Arrays on the disk: ordinary to everybody, and gone when let go of."""

from __future__ import annotations

import ctypes
import mmap
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vf_jax import scratch

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder for scratch files, used from 1 MiB on."""
  monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
  monkeypatch.setattr(scratch, "ON_DISK", MIB)
  return tmp_path


def resident():
  """Resident memory of this process, bytes."""
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * mmap.PAGESIZE


def is_on_disk(array):
  return isinstance(array.base, mmap.mmap)


def test_small_arrays_stay_in_memory_and_large_ones_do_not(folder):
  small = scratch.empty((64, 64, 64), np.uint8)
  large = scratch.empty((128, 128, 64), np.uint8)
  assert not is_on_disk(small)
  assert is_on_disk(large)
  for array in (small, large):
    assert array.flags.f_contiguous
    assert array.flags.writeable
    array[...] = 7
    assert array.sum() == 7 * array.size
  assert scratch.empty((128, 128, 64), np.int16, "C").flags.c_contiguous


def test_no_file_is_ever_seen(folder):
  array = scratch.empty(2 * MIB, np.uint8)
  array[:] = 1
  assert os.listdir(folder) == []


def test_released_pages_leave_memory_and_keep_their_values(folder):
  array = scratch.empty((1024, 1024, 64), np.uint8)
  before = resident()
  array[...] = np.arange(64, dtype=np.uint8)
  assert resident() - before > 56 * MIB
  # A view of a view, as `Volume` and `to_network` make them.
  scratch.release(array.swapaxes(0, 2)[3:, ::2])
  assert resident() - before < 8 * MIB
  np.testing.assert_array_equal(array[5, 5], np.arange(64))


def test_slabs_cover_the_last_axis_once_and_release_it(folder):
  array = scratch.empty((1024, 512, 77), np.int16)
  other = np.zeros(array.shape, np.uint8)
  before = resident()
  seen = np.zeros(77, int)
  for part in scratch.slabs(other, array):
    seen[part] += 1
    array[..., part] = part.start
    assert (part.stop - part.start) * 2 * 1024 * 512 <= 2 * MIB
    assert resident() - before < 16 * MIB
  assert (seen == 1).all()
  assert array[0, 0, 76] == 76
  assert list(scratch.slabs(np.zeros((3, 0)))) == []


def test_arrays_of_others_are_left_alone(folder, tmp_path):
  """A private mapping would lose what was written to it."""
  path = tmp_path / "own"
  path.write_bytes(bytes(2 * MIB))
  own = np.memmap(path, np.uint8, "c")
  own[:] = 9
  scratch.release(own, np.ones(3))
  assert (own == 9).all()


def test_a_folder_that_is_missing_or_full_means_memory(folder, monkeypatch):
  monkeypatch.setenv(scratch.VARIABLE, str(folder / "missing"))
  assert not is_on_disk(scratch.empty(2 * MIB, np.uint8))
  monkeypatch.setenv(scratch.VARIABLE, str(folder))

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "posix_fallocate", full)
  array = scratch.empty(2 * MIB, np.uint8)
  assert not is_on_disk(array)
  array[:] = 1
  assert os.listdir(folder) == []


def test_systems_that_cannot_reserve_write_zeros(folder, monkeypatch):
  monkeypatch.delattr(os, "posix_fallocate")
  array = scratch.empty(3 * MIB + 5, np.uint8)
  assert is_on_disk(array)
  assert not array.any()


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_freed_memory_goes_back_to_the_system():
  # Small enough to lie on the heap, with something above that stays in use.
  blocks = [np.ones(1 << 13) for _ in range(2048)]
  kept = blocks[::64]
  before = resident()
  del blocks
  scratch.trim()
  assert resident() < before - 96 * MIB
  assert all(block.all() for block in kept)


def test_a_c_library_that_cannot_trim_is_let_be(monkeypatch):
  def refuse(name):
    raise OSError(name)

  monkeypatch.setattr(scratch.ctypes, "CDLL", refuse)
  scratch.trim()


_HEAPS = """
import ctypes, threading
from vf_jax.scratch import share_heaps
{call}
start = threading.Barrier(8)
def work():
  start.wait()
  kept = [bytearray(5000) for _ in range(200)]
  start.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_threads_share_two_heaps():
  heaps = {}
  for call in ("", "share_heaps()"):
    done = subprocess.run(
      [sys.executable, "-c", _HEAPS.format(call=call)],
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    heaps[call] = done.stdout.count("<heap nr=")
  assert heaps[""] > 2 >= heaps["share_heaps()"]
