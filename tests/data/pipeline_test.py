# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The stream of windows: the same again, from anywhere, by any number."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from vf_jax.data import pipeline
from vf_jax.data.crops import SYNTHETIC
from vf_jax.data.pipeline import cases_of_part, domain_names, make_batches
from vf_jax.errors import ConfigError, InputError
from vf_jax.multispine.splits import Split, make_split, write_split


@contextlib.contextmanager
def stream(store, config, **options):
  iterator = make_batches(store, config, **options)
  try:
    yield iterator
  finally:
    iterator.close()


def take(store, config, count, start=0, **options):
  with stream(store, config, **options) as iterator:
    if start:
      # A checkpoint keeps the state as JSON would.
      state = {"global_next_index": start * config.data.batch}
      iterator.set_state(json.loads(json.dumps(state)))
    # Copies: what a worker sends holds a file open as long as it lives.
    return [
      {name: np.array(array) for name, array in next(iterator).items()}
      for _ in range(count)
    ]


def digest(batch):
  """SHA-256 over names, types and values."""
  total = hashlib.sha256()
  for name in sorted(batch):
    array = np.ascontiguousarray(batch[name])
    total.update(f"{name} {array.dtype} {array.shape}".encode())
    total.update(array.tobytes())
  return total.hexdigest()


def digests(*args, **options):
  return [digest(batch) for batch in take(*args, **options)]


HOSTS = [
  ((0, 1), (2, 3)),
  ((0,), (1,), (2,), (3,)),
  ((0, 3), (1, 2)),  # on a torus of TPUs
]
"""Rows of a batch of 4 that the devices of each host hold."""


def merged(rows, hosts):
  """The global batches, as devices put them together from several hosts."""
  place = np.argsort(np.concatenate(rows))
  for parts in zip(*hosts):
    yield {
      name: np.concatenate([part[name] for part in parts])[place]
      for name in parts[0]
    }


@pytest.fixture(scope="module")
def config(changed):
  return changed(batch=4, synthesis=0.3)


@pytest.fixture(scope="module")
def expected(drawn, config):
  """What one thread of one process of one host reads."""
  return digests(drawn, config, 8)


def test_the_number_of_threads_changes_nothing(drawn, changed, expected):
  many = changed(batch=4, synthesis=0.3, threads=3, prefetch=7)
  assert digests(drawn, many, 8) == expected


def test_a_batch_may_be_a_single_crop(drawn, changed, expected):
  single = take(drawn, changed(batch=1, synthesis=0.3), 4)
  rows = merged(((0,), (1,), (2,), (3,)), [[crop] for crop in single])
  assert [digest(batch) for batch in rows] == expected[:1]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_processes_changes_nothing(
  drawn, changed, expected, workers
):
  others = changed(batch=4, synthesis=0.3, workers=workers)
  with stream(drawn, others) as iterator:
    assert [digest(next(iterator)) for _ in range(5)] == expected[:5]
    assert iterator.get_state() == {"global_next_index": 20}


@pytest.mark.parametrize("rows", HOSTS)
def test_the_number_of_hosts_changes_nothing(drawn, config, expected, rows):
  hosts = [take(drawn, config, 8, rows=own) for own in rows]
  assert all(len(batch["image"]) == len(rows[0]) for batch in hosts[0])
  assert [digest(batch) for batch in merged(rows, hosts)] == expected


@pytest.mark.parametrize("done", [1, 5])
def test_a_resumed_stream_goes_on_where_it_was(drawn, config, expected, done):
  with stream(drawn, config) as iterator:
    for _ in range(done):
      next(iterator)
    assert iterator.get_state() == {"global_next_index": 4 * done}
  assert digests(drawn, config, 3, start=done) == expected[done : done + 3]
  # On another number of hosts, too.
  rows = HOSTS[0]
  hosts = [take(drawn, config, 2, start=done, rows=own) for own in rows]
  assert [digest(b) for b in merged(rows, hosts)] == expected[done : done + 2]


def test_a_resumed_stream_may_have_another_batch(drawn, changed):
  """Positions count, so nothing comes twice and nothing is left out."""
  narrow, wide = (changed(batch=n, synthesis=0.3) for n in (2, 4))
  with stream(drawn, narrow) as iterator:
    for _ in range(3):
      next(iterator)
    state = iterator.get_state()
  hosts = []
  for own in HOSTS[0]:
    with stream(drawn, wide, rows=own) as iterator:
      iterator.set_state(state)
      hosts.append([next(iterator)])
  (batch,) = merged(HOSTS[0], hosts)
  seeds = [tuple(seed) for seed in batch["seed"]]
  all_seeds = [tuple(seed) for b in take(drawn, wide, 3) for seed in b["seed"]]
  assert seeds == all_seeds[6:10]


@pytest.mark.slow
def test_two_hundred_batches_are_equal_everywhere(drawn, changed):
  def variant(**data):
    return changed(batch=4, synthesis=0.3, threads=2, **data)

  expected = digests(drawn, variant(), 200)
  assert len(set(expected)) == 200
  for workers in (1, 2):
    assert digests(drawn, variant(workers=workers), 200) == expected
    rows = HOSTS[0]
    hosts = [take(drawn, variant(workers=workers), 200, rows=r) for r in rows]
    assert [digest(batch) for batch in merged(rows, hosts)] == expected
  for workers in (0, 1, 2):
    after = digests(drawn, variant(workers=workers), 63, start=137)
    assert after == expected[137:]


def test_asking_for_the_state_does_not_move_the_stream(drawn, config, expected):
  with stream(drawn, config) as iterator:
    for place in range(3):
      states = [iterator.get_state() for _ in range(2)]
      assert states == [{"global_next_index": 4 * place}] * 2
      assert digest(next(iterator)) == expected[place]


def test_no_window_comes_twice_and_a_seed_means_another_stream(
  drawn, config, changed
):
  def seeds(config):
    batches = take(drawn, config, 8)
    return {tuple(seed) for batch in batches for seed in batch["seed"]}

  first = seeds(config)
  assert len(first) == 32
  assert not first & seeds(changed(batch=4, synthesis=0.3, seed=1))


def test_the_domain_of_a_window_is_that_of_its_case_or_synthetic(drawn, config):
  names = domain_names(drawn)
  assert names == ("back", "bone", "neck", SYNTHETIC)
  seen = set()
  for batch in take(drawn, config, 40):
    for domain, case, painted in zip(
      batch["domain"], batch["case"], batch["painted"]
    ):
      own = drawn.records[case].domain
      assert names[domain] == (SYNTHETIC if painted else own)
      seen.add((own, bool(painted)))
  assert seen == {
    ("back", True), ("bone", False), ("neck", False), ("neck", True)
  }  # fmt: skip


def test_a_part_of_a_split_is_read_and_nothing_else(drawn, changed, tmp_path):
  shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
  for seed in range(50):
    split = make_split(drawn.records, "parts", seed, shares)
    if all(split.parts.get(part) for part in shares):
      break
  path = tmp_path / "split.json"
  write_split(path, split)
  for part in shares:
    places = cases_of_part(drawn, str(path), part)
    assert [drawn.names[i] for i in places] == sorted(split.parts[part])
    config = changed(split=str(path), part=part)
    batches = take(drawn, config, 12)
    assert {int(c) for b in batches for c in b["case"]} == set(places)
  assert cases_of_part(drawn, "", "train") == (0, 1, 2, 3, 4)
  # An evaluation names its cases itself.
  batches = take(drawn, changed(split=str(path), part="train"), 8, cases=(2,))
  assert {int(c) for b in batches for c in b["case"]} == {2}
  with pytest.raises(ConfigError, match=r"data\.part=tset .*has no case"):
    make_batches(drawn, changed(split=str(path), part="tset"))
  with pytest.raises(InputError):
    make_batches(drawn, changed(split=str(tmp_path / "no.json"), part="train"))


def test_a_split_that_parts_what_is_now_one_patient_is_refused(
  cases, stored, tmp_path
):
  apart = stored(cases["neck-1"], cases["neck-2"], cases["bone-1"])
  split = Split(
    name="old", seed=0, rule="by hand", groups=(), leaks=(), domains={},
    parts={"train": ("bone-1", "neck-1"), "validation": (),
           "test": ("neck-2",), "excluded": ()},
  )  # fmt: skip
  path = tmp_path / "split.json"
  write_split(path, split)
  assert cases_of_part(apart, str(path), "test") == (2,)
  record = dataclasses.replace(cases["neck-2"].record, subject="neck-1")
  one = stored(dataclasses.replace(cases["neck-2"], record=record),
               cases["neck-1"], cases["bone-1"])  # fmt: skip
  message = r"one patient in several parts: neck-1 \(train\), neck-2 \(test\)"
  with pytest.raises(InputError, match=message):
    cases_of_part(one, str(path), "train")


def test_a_reading_process_does_not_die_of_ctrl_c(monkeypatch):
  some = pipeline._Read.__new__(pipeline._Read)
  some._store = "a store"
  read = pickle.dumps(some)
  before = signal.getsignal(signal.SIGINT)
  try:
    pickle.loads(read)
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "train")
    pickle.loads(read)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_reading_needs_no_network():
  """Workers import what reads; what computes costs them seconds and memory."""
  code = (
    "import sys, vf_jax.data.pipeline;"
    "print(sorted({'flax', 'optax', 'vf_jax.losses'} & set(sys.modules)))"
  )
  found = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "[]"
