# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Stores of drawn cases."""

from __future__ import annotations

import dataclasses

import pytest
from drawn_cases import CASES

from vf_jax.multispine.record import PreparedCase
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import finish, write_case


@pytest.fixture(scope="session")
def cases() -> dict[str, PreparedCase]:
  return CASES


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Store:
  """The drawn cases as a store."""
  folder = tmp_path_factory.mktemp("drawn")
  for case in CASES.values():
    write_case(folder, case)
  finish(folder, list(CASES), 2.0)
  return Store(folder)


@pytest.fixture
def stored(tmp_path):
  """Writes cases: PreparedCase ... -> Store."""

  def build(*cases: PreparedCase) -> Store:
    for case in cases:
      write_case(tmp_path / "store", case)
    finish(tmp_path / "store", [case.record.case for case in cases], 2.0)
    return Store(tmp_path / "store")

  return build


@pytest.fixture(scope="session")
def changed(test_config):
  """The test experiment with other keys of `data` (and a seed)."""

  def change(seed=0, **data):
    data = {"weights": ()} | data
    return dataclasses.replace(
      test_config,
      data=dataclasses.replace(test_config.data, **data),
      train=dataclasses.replace(test_config.train, seed=seed),
    )

  return change
