# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The numbers of domains, by which a network knows its prototypes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib

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
  before: list[str] = []
  with contextlib.suppress(
    OSError, ValueError, KeyError, TypeError, AttributeError
  ):
    facts = json.loads((pathlib.Path(workdir) / "run.json").read_text("utf-8"))
    before = sorted({case["domain"] for case in facts["cases"].values()})
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
