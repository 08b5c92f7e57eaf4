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

_FREE = (
  "data.workers", "data.threads", "data.prefetch", "data.cache_mib",
  "train.log_every", "train.checkpoint_every", "train.keep", "train.init",
)  # fmt: skip
"""What may be another and changes nothing that is learnt from here on."""


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


def changed_settings(
  config: Config, workdir: str | os.PathLike[str]
) -> list[str]:
  """Finds the settings that make later steps other than they would have been.

  Those that decide which parameters there are do not get here: the checkpoint
  refuses them.

  Args:
    config: the experiment.
    workdir: folder of the run.

  Returns:
    A line with both values for each setting of data, losses, optimizer and
    schedule that differs.
  """
  before = _flat(_facts(workdir).get("config"))
  return [
    f"{key} was {before[key]!r}, is {now!r}"
    for key, now in _flat(config.to_dict()).items()
    if key.startswith(("data.", "loss.", "optim.", "train."))
    and key not in _FREE
    and before.get(key, now) != now
  ]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
  """Nested groups as one, keys joined by dots; nothing if it is no group."""
  found: dict[str, Any] = {}
  for key, value in values.items() if isinstance(values, dict) else ():
    name = f"{prefix}{key}"
    found |= (
      _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    )
  return found


def _facts(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """What `run.json` says; nothing if it is missing or damaged."""
  with contextlib.suppress(OSError, ValueError):
    facts = json.loads((pathlib.Path(workdir) / "run.json").read_text("utf-8"))
    if isinstance(facts, dict):
      return facts
  return {}
