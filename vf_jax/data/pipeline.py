# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The Grain pipeline: an endless, exactly resumable stream of windows.

A global position determines a window: its random numbers come from the seed
and the position alone. So the number of processes, threads and hosts changes
who reads what, and nothing else, and the state of the stream is one number.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from vf_jax.config import Config
from vf_jax.data.crops import SYNTHETIC, WindowReader, window_reader
from vf_jax.data.targets import Targets
from vf_jax.errors import ConfigError, InputError
from vf_jax.multispine.splits import find_leaks, read_split
from vf_jax.multispine.store import Store

_EPOCH = 1 << 20  # elements per repetition; their number has no meaning
_STATE = "global_next_index"


class _Read(grain.transforms.RandomMap):
  """Draws a target and reads the window around it."""

  def __init__(self, store: Store, targets: Targets, reader: WindowReader):
    self._store = store
    self._targets = targets
    self._reader = reader

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    if multiprocessing.parent_process() is not None:
      # A terminal sends Ctrl-C to every process; who reads must not die of it
      # before the step under way is saved. Their parent ends them.
      with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)

  def random_map(
    self, element: int, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    target = self._targets.draw(rng)
    return self._reader(self._store.case(target.case), target, rng)


class _Rows(grain.MapDataset):
  """Elements of a dataset that are given rows of batches of it."""

  def __init__(
    self, parent: grain.MapDataset, start: int, batch: int, rows: Sequence[int]
  ):
    super().__init__(parent)
    self._start, self._batch, self._rows = start, batch, tuple(rows)

  def __len__(self) -> int:
    batches = (len(self.parents[0]) - self._start) // self._batch
    # Grain divides by the rows in floats, and the dataset has no end.
    return min(batches * len(self._rows), 1 << 53)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    step, place = divmod(index, len(self._rows))
    position = self._start + step * self._batch + self._rows[place]
    return self.parents[0][position]


class _Batches:
  """Iterator over some rows of every batch, whose state is a global position.

  NOTE: not `grain.experimental.ElasticIterator`, which gives host i of N the
  rows i, i + N, ...: devices hold rows that are neighbours, so these would lie
  elsewhere in the global batch than on one host.
  """

  def __init__(
    self,
    dataset: grain.MapDataset,
    batch: int,
    rows: Sequence[int],
    read: grain.ReadOptions,
    workers: grain.MultiprocessingOptions | None,
  ):
    self._dataset, self._batch, self._rows = dataset, batch, rows
    self._read, self._workers = read, workers
    self._next = 0
    self._open: Any = None

  def __iter__(self) -> _Batches:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._open is None:
      own = _Rows(self._dataset, self._next, self._batch, self._rows)
      stream = own.batch(len(self._rows)).to_iter_dataset(self._read)
      if self._workers is not None:
        stream = stream.mp_prefetch(self._workers)
      self._open = iter(stream)
    found = next(self._open)
    self._next += self._batch
    return found

  def get_state(self) -> dict[str, int]:
    return {_STATE: self._next}

  def set_state(self, state: Mapping[str, int]) -> None:
    self.close()
    self._next = state[_STATE]

  def close(self) -> None:
    if self._open is not None:
      self._open.close()
    self._open = None


def domain_names(store: Store) -> tuple[str, ...]:
  """Names of the domains that samples of a store come from.

  Args:
    store: the prepared cases.

  Returns:
    The store's domains and, last, the synthetic one.
  """
  return (*store.domains, SYNTHETIC)


def cases_of_part(store: Store, split: str, part: str) -> tuple[int, ...]:
  """Places in a store of the cases that a part of a split has.

  Args:
    store: the prepared cases.
    split: file of the split; '' has every case.
    part: 'train', 'validation', 'test' or 'excluded'.

  Returns:
    The places, ascending.

  Raises:
    InputError: if the file is damaged or of another store, or parts patients
      by what the store knows of them now.
    ConfigError: if the part has no case.
  """
  if not split:
    return tuple(range(len(store)))
  found = read_split(split, store.records)
  if leaks := find_leaks(found, store.records):
    cases = ", ".join(f"{c} ({p})" for c, p in sorted(leaks[0].cases.items()))
    more = f"; {len(leaks) - 1} more are" if len(leaks) > 1 else ""
    raise InputError(
      split,
      f"has one patient in several parts: {cases} by {leaks[0].reasons[0]}"
      f"{more}.",
      f"make it anew: vf-jax split {store.path} --out {split}.",
    )
  parts = found.parts
  names = set(parts.get(part, ()))
  places = tuple(i for i, name in enumerate(store.names) if name in names)
  if not places:
    raise ConfigError(
      f"data.part={part} of data.split={split} has no case. Fix: name one of "
      f"{[name for name, cases in parts.items() if cases]}."
    )
  return places


def make_batches(
  store: Store,
  config: Config,
  cases: Sequence[int] | None = None,
  rows: Sequence[int] | None = None,
) -> Any:
  """Builds the iterator over this process' rows of the global batches.

  Row k of global batch n is the window at position n * `data.batch` + k,
  whoever reads it.

  Args:
    store: the prepared cases.
    config: the experiment.
    cases: places in the store of the cases to draw from; None takes
      `data.part` of `data.split`.
    rows: of a global batch that this process reads (`sharding.data_rows`),
      ascending; None reads all.

  Returns:
    An iterator of dicts (fields of `augment.patches.Patches`) with
    `get_state()` and `set_state()`, whose state is one number, the same on
    every host, and `close()`, which ends its processes.

  Raises:
    InputError: if the split cannot be read.
    ConfigError: if shares do not fit or the part has no case.
  """
  data = config.data
  if cases is None:
    cases = cases_of_part(store, data.split, data.part)
  if data.workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags of their own
  reader = window_reader(
    config, domain_names(store), [store.case(case) for case in cases]
  )
  dataset = (
    grain.MapDataset.range(_EPOCH)
    .seed(config.train.seed)
    .repeat(None)
    .random_map(_Read(store, Targets(store, data, cases), reader))
  )
  return _Batches(
    dataset,
    data.batch,
    range(data.batch) if rows is None else rows,
    grain.ReadOptions(
      num_threads=data.threads, prefetch_buffer_size=data.prefetch
    ),
    grain.MultiprocessingOptions(
      num_workers=data.workers, per_worker_buffer_size=data.prefetch
    )
    if data.workers
    else None,
  )
