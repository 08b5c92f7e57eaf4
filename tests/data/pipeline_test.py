# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The stream of batches: the same again, from anywhere, by any thread count."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.config import Config
from vf_jax.data.crops import SYNTHETIC
from vf_jax.data.pipeline import case_shares, domain_names, make_batches
from vf_jax.errors import ConfigError
from vf_jax.losses import Batch
from vf_jax.multispine.store import Store


@pytest.fixture(scope="module")
def store(test_config):
  return Store(test_config.data.store)


def changed(config: Config, seed=0, **data) -> Config:
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, **data),
    train=dataclasses.replace(config.train, seed=seed),
  )


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_equal(first, second):
  assert first.keys() == second.keys()
  for name in first:
    np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def stream(store, test_config):
  """The first eight batches, read by one thread."""
  return take(make_batches(store, test_config), 8)


def test_batches_are_of_the_model(stream, test_config):
  for arrays in stream:
    assert sorted(arrays) == sorted(f.name for f in dataclasses.fields(Batch))
    batch = Batch(**{k: jnp.asarray(v) for k, v in arrays.items()})
    assert batch.image.shape == (
      test_config.data.batch,
      *test_config.model.crop,
    )
    assert batch.labels.dtype == jnp.uint8


def test_the_number_of_threads_changes_nothing(stream, store, test_config):
  other = take(make_batches(store, changed(test_config, threads=3)), 8)
  for first, second in zip(stream, other):
    assert_equal(first, second)


def test_no_crop_comes_twice_and_a_seed_means_another_stream(
  stream, store, test_config
):
  images = [image for arrays in stream for image in arrays["image"]]
  prints = {image.tobytes() for image in images}
  assert len(prints) == len(images) == 16
  other = next(make_batches(store, changed(test_config, seed=1)))
  assert not {image.tobytes() for image in other["image"]} & prints


@pytest.mark.parametrize("done", [1, 4])
def test_a_resumed_stream_goes_on_where_it_was(
  stream, store, test_config, done
):
  first = make_batches(store, test_config)
  take(first, done)
  # A checkpoint keeps it as JSON would.
  state = json.loads(json.dumps(first.get_state()))
  second = make_batches(store, changed(test_config, threads=2))
  second.set_state(state)
  assert second.get_state() == first.get_state()
  for expected in stream[done : done + 3]:
    assert_equal(expected, next(second))


def test_asking_for_the_state_does_not_move_the_stream(
  stream, store, test_config
):
  iterator = make_batches(store, test_config)
  states = []
  for expected in stream[:3]:
    states.append(iterator.get_state())
    assert iterator.get_state() == states[-1]
    assert_equal(expected, next(iterator))
  assert states[0] != states[1] != states[2]


def test_domains_share_by_weight_and_their_cases_equally(store):
  shares = case_shares(store, {"lidc": 4.0, "verse": 6.0, "blds": 2.0})
  assert shares.sum() == pytest.approx(1)
  expected = {"lidc": 4 / 12, "verse": 6 / 12 / 3, "blds": 2 / 12 / 6}
  for record, share in zip(store.records, shares):
    assert share == pytest.approx(expected[record.domain])
  even = case_shares(store, {"blds": 0.0})  # domains not named get 1
  for record, share in zip(store.records, even):
    assert share == pytest.approx(
      {"lidc": 0.5, "verse": 1 / 6}.get(record.domain, 0)
    )


def test_crops_come_from_the_cases_that_have_a_share(store, test_config):
  only = (("blds", 1.0), ("lidc", 0.0), ("verse", 0.0))
  iterator = make_batches(store, changed(test_config, weights=only))
  cases = np.concatenate([arrays["case"] for arrays in take(iterator, 10)])
  assert {store.records[i].domain for i in cases} == {"blds"}
  assert len(set(cases)) > 2


def test_the_domain_of_a_crop_is_that_of_its_case_or_synthetic(stream, store):
  names = domain_names(store)
  assert names == ("blds", "lidc", "verse", SYNTHETIC)
  for arrays in stream:
    for domain, case in zip(arrays["domain"], arrays["case"]):
      record = store.records[case]
      assert names[domain] in (record.domain, SYNTHETIC)
      if record.domain == "verse":  # masks without their CT
        assert names[domain] == SYNTHETIC


def test_an_unknown_domain_is_refused_by_name(store, test_config):
  wrong = changed(test_config, weights=(("lidc", 1.0), ("verze", 1.0)))
  with pytest.raises(ConfigError, match=r"\['verze'\].*\['blds', 'lidc'"):
    make_batches(store, wrong)


def test_weights_that_leave_nothing_are_refused(store):
  with pytest.raises(ConfigError, match="leaves no domain"):
    case_shares(store, dict.fromkeys(store.domains, 0.0))
