# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a run that goes on shares with its past, as `run.json` tells it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from vf_jax.config import Config
from vf_jax.errors import ConfigError
from vf_jax.multispine.store import Store


def check_domains(
  config: Config, store: Store, workdir: str | os.PathLike[str]
) -> None:
  """Refuses to go on with a run whose domains would get other numbers.

  A domain's number is its place in the alphabet: one more moves others.

  Args:
    config: the experiment.
    store: that it goes on with.
    workdir: folder of the run, whose `run.json` says what it was trained on; of
      a missing or damaged one nothing is known.

  Raises:
    ConfigError: if they changed and the network has prototypes.
  """
  cases: Any = _facts(workdir).get("cases")
  before: list[str] = []
  with contextlib.suppress(AttributeError, KeyError, TypeError):
    before = sorted({case["domain"] for case in cases.values()})
  if (
    config.model.modulation == "prototype"
    and before
    and before != list(store.domains)
  ):
    raise ConfigError(
      f"the run {workdir} was trained on the domains {before}, the store "
      f"{store.path} has {list(store.domains)}: prototypes would change their "
      "domains. Fix: --config.data.store=STORE with the domains of before, or "
      "another --workdir."
    )


def changed_data(config: Config, workdir: str | os.PathLike[str]) -> list[str]:
  """Finds the settings of the data that are not those of before.

  Args:
    config: the experiment.
    workdir: folder of the run.

  Returns:
    For each of store, split and part a line with both values, if they differ.
  """
  then: Any = _facts(workdir).get("config")
  before = then.get("data") if isinstance(then, dict) else None
  if not isinstance(before, dict):
    return []
  return [
    f"data.{name} was {before[name]!r}, is {now!r}"
    for name in ("store", "split", "part")
    if name in before and before[name] != (now := getattr(config.data, name))
  ]


def _facts(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """What `run.json` says; nothing if it is missing or damaged."""
  with contextlib.suppress(OSError, ValueError):
    facts = json.loads((pathlib.Path(workdir) / "run.json").read_text("utf-8"))
    if isinstance(facts, dict):
      return facts
  return {}
