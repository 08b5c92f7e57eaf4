# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The Grain pipeline: an endless, exactly resumable stream of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import grain.experimental
import numpy as np

from vf_jax.config import Config
from vf_jax.data.crops import SYNTHETIC, CropMaker
from vf_jax.errors import ConfigError
from vf_jax.multispine.store import Store

_EPOCH = 1 << 20  # elements per repetition; their number has no meaning


class _Draw(grain.transforms.RandomMap):
  """Picks a case by the shares of the domains and cuts one crop."""

  def __init__(self, store: Store, config: Config):
    self._store = store
    self._make = CropMaker(config.model, config.data, domain_names(store))
    self._shares = case_shares(store, dict(config.data.weights))

  def random_map(
    self, element: int, rng: np.random.Generator
  ) -> Mapping[str, np.ndarray]:
    index = int(rng.choice(len(self._shares), p=self._shares))
    return self._make(self._store.case(index), index, rng)


def domain_names(store: Store) -> tuple[str, ...]:
  """Names of the domains that samples of a store come from.

  Args:
    store: the prepared cases.

  Returns:
    The store's domains and, last, the synthetic one.
  """
  return (*store.domains, SYNTHETIC)


def case_shares(store: Store, weights: Mapping[str, float]) -> np.ndarray:
  """Chance of each case: domains share by weight, cases of one equally.

  Args:
    store: the prepared cases.
    weights: domain -> relative share; 1 where not named.

  Returns:
    Probabilities that sum to 1.

  Raises:
    ConfigError: if a named domain does not exist or nothing is left.
  """
  unknown = set(weights) - set(store.domains)
  if unknown:
    raise ConfigError(
      f"data.weights names {sorted(unknown)}, the store {store.path} has "
      f"{list(store.domains)}. Fix: name its domains."
    )
  counts = {d: sum(r.domain == d for r in store.records) for d in store.domains}
  shares = np.array(
    [weights.get(r.domain, 1.0) / counts[r.domain] for r in store.records]
  )
  if not shares.sum() > 0:
    raise ConfigError(
      "data.weights leaves no domain. Fix: give one a share above 0."
    )
  return shares / shares.sum()


def make_batches(store: Store, config: Config) -> Any:
  """Builds the iterator over this process' share of the global batches.

  Args:
    store: the prepared cases.
    config: the experiment.

  Returns:
    An iterator of dicts (fields of `losses.Batch`) with `get_state()` and
    `set_state()`; the state is one number, the same on every host.
  """
  dataset = (
    grain.MapDataset.range(_EPOCH)
    .seed(config.train.seed)
    .repeat(None)
    .random_map(_Draw(store, config))
  )
  return iter(
    grain.experimental.ElasticIterator(
      dataset,
      config.data.batch,
      grain.sharding.ShardByJaxProcess(drop_remainder=True),
      read_options=grain.ReadOptions(
        num_threads=config.data.threads, prefetch_buffer_size=4
      ),
    )
  )
