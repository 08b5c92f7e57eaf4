# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Settings of the numbering by points, and the files they come from."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Mapping
from typing import Any

from vf_jax.errors import ConfigError
from vf_jax.models.decoders.keypoint_numbering import KeypointNumbering
from vf_jax.train.numbering_augment import NumberingAugment
from vf_jax.typed import build, check_positive, check_probability


@dataclasses.dataclass(frozen=True)
class NumberingConfig:
  """A numbering experiment; the defaults are those of the shipped weights.

  Attributes:
    width: of the tokens.
    depth: blocks.
    heads: of attention.
    dropout: in training.
    members: networks that vote.
    steps: of training.
    batch: scans a step.
    learning_rate: highest.
    weight_decay: of AdamW.
    clip_norm: of gradients.
    ema: decay of the averaged parameters, which are kept.
    long_every: one step in so many sees the scans of many bodies.
    seed: of everything.
    coverage: share of scans that is to be answered.
    spare_verse: leave out scans of VerSe's validation and test parts, for
      weights that are to be used in a test on VerSe.
    augment: how scans are changed.
  """

  width: int = 48
  depth: int = 2
  heads: int = 4
  dropout: float = 0.15
  members: int = 3
  steps: int = 2000
  batch: int = 64
  learning_rate: float = 2e-3
  weight_decay: float = 0.05
  clip_norm: float = 1.0
  ema: float = 0.99
  long_every: int = 6
  seed: int = 0
  coverage: float = 0.95
  spare_verse: bool = False
  augment: NumberingAugment = dataclasses.field(
    default_factory=NumberingAugment
  )

  def __post_init__(self) -> None:
    check_positive(
      self,
      "width",
      "depth",
      "heads",
      "members",
      "steps",
      "batch",
      "learning_rate",
      "clip_norm",
      "long_every",
    )
    check_probability(self, "dropout", "ema", "coverage")
    if self.width % self.heads:
      raise ConfigError(
        f"width={self.width} does not divide into heads={self.heads}. Fix: "
        "make it a multiple."
      )

  def model(self) -> KeypointNumbering:
    """Returns the network."""
    return KeypointNumbering(self.width, self.depth, self.heads, self.dropout)


def numbering_config(values: Mapping[str, Any]) -> NumberingConfig:
  """Checks what `configs/numbering.py` gives.

  Args:
    values: all keys of `NumberingConfig`, nested.

  Returns:
    The configuration.

  Raises:
    ConfigError: unknown, missing or impossible values.
  """
  return build(NumberingConfig, dict(values), "")


def read_config(name: str) -> NumberingConfig:
  """Reads an experiment file.

  Args:
    name: `FILE.py` or `FILE.py:variant`.

  Returns:
    What its `get_config` gives.

  Raises:
    ConfigError: no such file, no `get_config` in it, a fault in it, or values
      that it should not have.
  """
  path, _, variant = name.partition(":")
  try:
    values = runpy.run_path(path)["get_config"](variant).to_dict()
  except Exception as error:  # whatever the file does
    raise ConfigError(
      f"--config {name}: {error}. Fix: give a file such as "
      "configs/numbering.py."
    ) from error
  return numbering_config(values)
