# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Sliding windows over a whole CT, blended slab by slab.

One compiled shape serves every scan. The sums of overlapping windows are kept
only where windows to come can still add to them: one window deep, however long
the scan is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from vf_jax import threads
from vf_jax.hounsfield import AIR_HU
from vf_jax.model_config import STEM_STRIDE
from vf_jax.scratch import release, trim

BONE_HU = 100.0
"""A window whose voxels all lie below this holds no bone and is skipped."""

Forward = Callable[[Int16[np.ndarray, "batch d h w"]], Sequence[Any]]
"""Runs a batch of windows; several threads call it. Gives arrays (batch, d, h,
w, channels), each at full resolution or at a whole part of it that divides
`STEM_STRIDE`."""

_ROWS = 16  # voxels of depth that are finished at a time
_ADDED = STEM_STRIDE  # voxels of depth that a thread adds at a time
_ADDING = 4  # threads that add at most: they wait for the memory


@dataclasses.dataclass(frozen=True, eq=False)
class Slab:
  """Rows of depth that no window to come touches.

  Attributes:
    start: first row, voxels.
    maps: for each array of the network its weighted mean over the windows.
    seen: for each array where any window was run; its mean is 0 elsewhere.
  """

  start: int
  maps: tuple[Float32[np.ndarray, "_d _h _w _c"], ...]
  seen: tuple[Bool[np.ndarray, "_d _h _w"], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The windows of one image.

  Attributes:
    image: HU on the network's grid.
    crop: window.
    shape: of the image with the air behind each axis that makes windows fit.
    starts: first voxels of the windows that hold bone, by rising depth.
    skipped: how many hold none.
  """

  image: Int16[np.ndarray, "depth height width"]
  crop: tuple[int, int, int]
  shape: tuple[int, int, int]
  starts: list[tuple[int, int, int]]
  skipped: int


def window_starts(size: int, window: int, overlap: float) -> list[int]:
  """First voxels of the windows along one axis.

  Args:
    size: voxels of the axis, at least `window`, a multiple of the stem stride.
    window: voxels of the window.
    overlap: share of a window that its neighbour covers again.

  Returns:
    Ascending starts on the cells of the stem; the last window ends at `size`.
  """
  if size < window or size % STEM_STRIDE:
    raise ValueError(f"axis of {size} voxels does not fit windows of {window}")
  stride = max(STEM_STRIDE, int(window * (1 - overlap)))
  count = -(-(size - window) // stride) + 1
  cells = np.linspace(0, (size - window) // STEM_STRIDE, count)
  return [round(cell) * STEM_STRIDE for cell in cells]


def padded_shape(
  shape: tuple[int, ...], crop: tuple[int, int, int]
) -> tuple[int, int, int]:
  """The shape that windows fit into.

  Args:
    shape: of an image.
    crop: window.

  Returns:
    At least the window, a multiple of the stem stride.
  """
  depth, height, width = (
    max(window, -(-size // STEM_STRIDE) * STEM_STRIDE)
    for size, window in zip(shape, crop, strict=True)
  )
  return depth, height, width


def take_window(
  image: Int16[np.ndarray, "depth height width"],
  start: Sequence[int],
  crop: tuple[int, int, int],
) -> Int16[np.ndarray, "d h w"]:
  """Cuts a window out of an image; behind the image there is air.

  Args:
    image: HU.
    start: first voxel, inside the image.
    crop: window.

  Returns:
    The window; a view if it lies inside.
  """
  part = image[_box(start, crop)]
  if part.shape == crop:
    return part
  window = np.full(crop, AIR_HU, np.int16)
  window[tuple(slice(n) for n in part.shape)] = part
  return window


def blend_weight(crop: tuple[int, ...]) -> Float32[np.ndarray, "*crop"]:
  """Gaussian weight of a window, sigma an eighth of its edge.

  Args:
    crop: window.

  Returns:
    Weights in 0.001..1.

  Source:
    Isensee et al. 2021, nnU-Net.
  """
  total = np.ones((), np.float32)
  for size in crop:
    x = (np.arange(size) - (size - 1) / 2) / (size / 8)
    total = np.multiply.outer(total, np.exp(-0.5 * x**2))
  return np.maximum(total, 1e-3).astype(np.float32)


def plan_windows(
  image: Int16[np.ndarray, "depth height width"],
  crop: tuple[int, int, int],
  overlap: float,
) -> Windows:
  """Finds the windows of an image that the network has to see.

  Args:
    image: HU on the network's grid.
    crop: window.
    overlap: of neighbouring windows.

  Returns:
    The windows with and without bone.
  """
  shape = padded_shape(image.shape, crop)
  axes = [window_starts(n, c, overlap) for n, c in zip(shape, crop)]
  starts, skipped = [], 0
  for depth, height, width in itertools.product(*axes):
    start = (depth, height, width)
    if image[_box(start, crop)].max() < BONE_HU:
      skipped += 1
    else:
      starts.append(start)
  release(image)
  return Windows(image, crop, shape, starts, skipped)


def blend(
  windows: Windows, forward: Forward, batch: int, in_flight: int = 1
) -> Iterator[Slab]:
  """Runs the network over a whole CT and gives its mean, slab by slab.

  Args:
    windows: of the image.
    forward: runs exactly `batch` windows.
    batch: windows per call; the last call is filled up with air.
    in_flight: calls at a time. Changes time and memory, not what is found:
      windows are added in their order.

  Yields:
    Slabs by rising depth, which together cover the padded image; none if no
    window holds bone.
  """
  crop, starts = windows.crop, windows.starts
  batches = [starts[i : i + batch] for i in range(0, len(starts), batch)]
  # Rows that a batch needs at once: from its first window to its last.
  rows = max((b[-1][0] - b[0][0] for b in batches), default=0) + crop[0]
  sums: list[_Sums] = []

  def run(places) -> list[np.ndarray]:
    block = np.full((batch, *crop), AIR_HU, np.int16)
    for slot, start in enumerate(places):
      block[slot] = take_window(windows.image, start, crop)
    release(windows.image)
    return [np.asarray(array) for array in forward(block)]

  with (
    threads.pool(_ADDING) as pool,
    contextlib.closing(run_ahead(run, batches, in_flight)) as ahead,
  ):
    for number, (places, outputs) in enumerate(zip(batches, ahead)):
      if not sums:
        trim()  # Now the program is compiled and the scan is read.
        sums = [_Sums(a, crop, windows.shape, rows, pool) for a in outputs]
        yield from _finish(sums, 0, places[0][0])
      for one in sums:
        # Not kept while the next windows are computed.
        array = outputs.pop(0)
        for slot, start in enumerate(places):
          one.add(start, array[slot])
      del array
      last = number + 1 == len(batches)
      stop = windows.shape[0] if last else batches[number + 1][0][0]
      if stop > places[0][0]:
        yield from _finish(sums, places[0][0], stop)
        # Threads leave holes between what they keep; they would add up.
        trim()


def run_ahead(
  work: Callable[[Any], Any], items: Sequence[Any], in_flight: int
) -> Generator[Any, None, None]:
  """Maps in threads: the next items are under way while a result is used.

  Args:
    work: is done alone for the first item, so that programs compile once.
    items: of the work.
    in_flight: items that are worked at together, at least 1.

  Yields:
    Results in the order of the items.
  """
  if not items:
    return
  yield work(items[0])
  running: collections.deque[Future[Any]] = collections.deque()
  with ThreadPoolExecutor(in_flight) as pool:
    try:
      for item in items[1:]:
        running.append(pool.submit(work, item))
        if len(running) > in_flight:
          yield running.popleft().result()
      while running:
        yield running.popleft().result()
    finally:
      # Nobody wants what is not begun once this ends early.
      for future in running:
        future.cancel()


class _Sums:
  """Weighted sums of one array of the network, a ring along depth."""

  def __init__(self, array, crop, shape, rows: int, pool: ThreadPoolExecutor):
    self._pool = pool
    self.stride = stride = crop[0] // array.shape[1]
    self.rows = rows // stride
    self.edges = tuple(n // stride for n in crop)
    self.weight = blend_weight(self.edges)
    plane = tuple(n // stride for n in shape[1:])
    self._total = np.zeros((self.rows, *plane, array.shape[-1]), np.float32)
    self._share = np.zeros((self.rows, *plane), np.float32)

  def add(self, start, values) -> None:
    """Adds a window."""
    depth, height, width = (v // self.stride for v in start)
    across = _box((height, width), self.edges[1:])

    def add_rows(piece) -> None:
      first, ring, size = piece
      part = slice(first - depth, first - depth + size)
      place = (slice(ring, ring + size), *across)
      self._share[place] += self.weight[part]
      self._total[place] += self.weight[part, ..., None] * values[part]

    # No two pieces share a row, so their order changes nothing.
    list(self._pool.map(add_rows, self._pieces(depth, depth + self.edges[0])))

  def take(self, first: int, stop: int):
    """Means of some rows that lie together in the ring; forgets them."""
    ring = first // self.stride % self.rows
    place = slice(ring, ring + (stop - first) // self.stride)
    share, total = self._share[place], self._total[place]
    seen = share > 0
    means = total / np.maximum(share, 1e-6)[..., None]
    share[:], total[:] = 0, 0
    return means, seen

  def _pieces(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Cuts rows, not only where the ring begins again: products fit a cache.

    Yields first row, its place, and how many.
    """
    while first < stop:
      ring = first % self.rows
      size = min(stop - first, self.rows - ring, _ADDED // self.stride)
      yield first, ring, size
      first += size


def _finish(sums: list[_Sums], first: int, stop: int) -> Iterator[Slab]:
  """Gives rows that are finished, a few at a time."""
  rows = sums[0].rows * sums[0].stride
  while first < stop:
    size = min(stop - first, rows - first % rows, _ROWS)
    found = [one.take(first, first + size) for one in sums]
    yield Slab(
      start=first,
      maps=tuple(means for means, _ in found),
      seen=tuple(seen for _, seen in found),
    )
    first += size


def classify(
  image: Int16[np.ndarray, "depth height width"],
  forward: Forward,
  crop: tuple[int, int, int],
  overlap: float,
  batch: int,
  in_flight: int = 1,
  last: tuple[np.ndarray, np.ndarray] | None = None,
) -> UInt8[np.ndarray, "depth height width"]:
  """The class of every voxel, for networks with one logit per class.

  Args:
    image: HU on the network's grid.
    forward: as for `blend`; its first array is at full resolution: logits, or
      features that `last` makes logits of.
    crop: window.
    overlap: of neighbouring windows.
    batch: windows per call.
    in_flight: calls at a time.
    last: kernel (channels, classes) and bias of the last layer. It is linear,
      so that it may as well follow the mean: fewer numbers are blended.

  Returns:
    Index of the largest mean logit, 0 where no window was run.
  """
  classes = np.zeros(image.shape, np.uint8)
  depth, height, width = image.shape
  windows = plan_windows(image, crop, overlap)
  for slab in blend(windows, forward, batch, in_flight):
    found = slab.maps[0][: max(0, depth - slab.start), :height, :width]
    rows = slice(slab.start, slab.start + len(found))
    if last is not None:
      found = found @ last[0] + last[1]
    classes[rows] = found.argmax(axis=-1)
  return classes


def _box(start, size) -> tuple[slice, ...]:
  return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
