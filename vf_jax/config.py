# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Settings of an experiment: frozen, typed and checked once.

A config file gives a `ConfigDict`; `from_config_dict` turns it into the frozen
dataclasses below. Library code never sees a `ConfigDict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from vf_jax.errors import ConfigError
from vf_jax.model_config import ModelConfig
from vf_jax.typed import (
  build,
  check_not_negative,
  check_positive,
  check_probability,
  to_plain,
)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How crops are changed on the device; 0 everywhere changes nothing.

  Attributes:
    margin: voxels read beyond the crop on every side, so that a turned crop
      has something to show; beyond them it shows air and teaches nothing.
    rotate_deg: standard deviation of the rotation about each axis.
    scale: standard deviation of the log scale.
    elastic_mm: standard deviation of the bend's displacement.
    mirror: chance of a left-right mirror. There is none along the spine or
      front to back: levels would be told wrongly.
    gamma: chance of another response of bone, as of another tube voltage.
    contrast: chance of a gain of all HU.
    shift: chance of an offset of all HU.
    blur: chance of another reconstruction kernel.
    slices: chance of thick slices along one axis.
    low_resolution: chance of larger voxels along every axis.
    noise: chance of noise, as of another dose.
    lesion: chance that lesions grow into the vertebrae of a crop with masks.
  """

  margin: int
  rotate_deg: float
  scale: float
  elastic_mm: float
  mirror: float
  gamma: float
  contrast: float
  shift: float
  blur: float
  slices: float
  low_resolution: float
  noise: float
  lesion: float = 0.0

  def __post_init__(self) -> None:
    group = "data.augment"
    check_not_negative(
      self, "margin", "rotate_deg", "scale", "elastic_mm", group=group
    )
    check_probability(
      self, "mirror", "gamma", "contrast", "shift", "blur", "slices",
      "low_resolution", "noise", "lesion", group=group,
    )  # fmt: skip

  @property
  def turns(self) -> bool:
    """Whether crops are resampled at all."""
    return any((self.rotate_deg, self.scale, self.elastic_mm, self.mirror))


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the cases are and how crops are drawn from them.

  Attributes:
    store: folder of prepared cases (`vf-jax prepare`).
    split: file that divides subjects into parts (`vf-jax split`); '' uses
      every case.
    part: the part of it that crops are drawn from.
    batch: crops per step, over all hosts.
    weights: relative share of each domain; domains not named get 1.
    foreground: chance that a crop is drawn for a voxel of any vertebra.
    levels: chance that it is drawn for a level, each level as often.
    lesions: chance that it is drawn for a lesion. The rest is drawn anywhere;
      what a domain does not have is shared among what it has.
    synthesis: chance that a case with a tissue map gets synthetic intensities
      although it has a real image.
    workers: processes that read; 0 reads in threads of this one.
    threads: reading threads of each.
    prefetch: batches that each reads ahead.
    cache_mib: unpacked chunks that each process keeps, over all cases.
    augment: what happens to crops on the device.
    narrow: chance that a crop shows a narrower field of view than its scan:
      beyond it there is air and nothing is known, as beyond a scan.
  """

  store: str
  split: str
  part: str
  batch: int
  weights: tuple[tuple[str, float], ...]
  foreground: float
  levels: float
  lesions: float
  synthesis: float
  workers: int
  threads: int
  prefetch: int
  cache_mib: int
  augment: AugmentConfig
  narrow: float = 0.0

  def __post_init__(self) -> None:
    check_positive(self, "batch", "threads", "prefetch", group="data")
    check_not_negative(self, "workers", "cache_mib", group="data")
    check_probability(
      self, "foreground", "levels", "lesions", "synthesis", "narrow",
      group="data",
    )  # fmt: skip
    total = self.foreground + self.levels + self.lesions
    if total > 1 + 1e-6:
      raise ConfigError(
        f"data.foreground={self.foreground}, data.levels={self.levels} and "
        f"data.lesions={self.lesions} add up to {total:g}. Fix: lower them to "
        "1 together."
      )
    if self.split and not self.part:
      raise ConfigError(
        f"data.split={self.split} without data.part. Fix: data.part=train."
      )
    if any(weight < 0 for _, weight in self.weights):
      raise ConfigError(
        f"data.weights={dict(self.weights)} has a negative share. "
        "Fix: use 0 to leave a domain out."
      )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weight of each task in the sum; 0 removes it.

  Attributes:
    weighting: 'fixed', or 'uncertainty': each weight is divided by a learned
      variance, whose log is added (Kendall et al. 2018, arXiv 1705.07115).
    dice: overlap of masks.
    cross_entropy: of masks.
    offset: vectors to body centres.
    numbering: likelihood of the level chain.
    lesion: heat map of lesions.
    lesion_size: their boxes.
    domain: likelihood of the own domain's prototype.
  """

  weighting: Literal["fixed", "uncertainty"]
  dice: float
  cross_entropy: float
  offset: float
  numbering: float
  lesion: float
  lesion_size: float
  domain: float

  @property
  def weights(self) -> dict[str, float]:
    """Task -> weight, of the tasks that are left."""
    every = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "weighting"
    }
    return {name: weight for name, weight in every.items() if weight}

  def __post_init__(self) -> None:
    check_not_negative(self, *self.weights, group="loss")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW with linear warm-up and cosine decay.

  Attributes:
    learning_rate: peak.
    warmup_steps: steps of linear rise.
    weight_decay: on kernels only.
    clip_norm: largest global gradient norm.
    ema: decay of the averaged parameters used for prediction; 0 turns it off.
  """

  learning_rate: float
  warmup_steps: int
  weight_decay: float
  clip_norm: float
  ema: float

  def __post_init__(self) -> None:
    check_positive(self, "learning_rate", "clip_norm", group="optim")
    check_not_negative(self, "warmup_steps", "weight_decay", group="optim")
    check_probability(self, "ema", group="optim")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The loop.

  Attributes:
    steps: total number of steps.
    micro_batches: parts of a batch that are computed one after another; their
      gradients are averaged, which saves memory. Terms are means over what a
      part annotates (voxels, points, cells of lesions), so the loss differs
      from that of the batch as one: a part without lesions divides the loss of
      its healthy cells by 1.
    seed: of parameters, dropout and data.
    log_every: steps between metric records.
    checkpoint_every: steps between checkpoints.
    keep: latest checkpoints kept beside the best one.
    init: weights or run to start from, parameter by parameter of the same name
      and shape; '' draws all.
    only: parts of the network that learn, by the first name of their parameters
      ('lesion', 'numbering'); all others stay as `init` gave them. () is all.
  """

  steps: int
  micro_batches: int
  seed: int
  log_every: int
  checkpoint_every: int
  keep: int
  init: str = ""
  only: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    check_positive(
      self, "steps", "micro_batches", "log_every", "checkpoint_every", "keep",
      group="train",
    )  # fmt: skip
    check_not_negative(self, "seed", group="train")
    if self.only and not self.init:
      raise ConfigError(
        f"train.only={list(self.only)} leaves the rest of the network as it "
        "starts, which is at random. Fix: name weights by train.init."
      )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How devices share the work; their product is the number of devices.

  Attributes:
    data: groups that each take a part of the batch; 0 takes what is left.
    fsdp: like `data`, and each keeps a part of the parameters only.
    tensor: devices that share the width of layers.
    context: devices that share the depth axis of crops.
  """

  data: int
  fsdp: int
  tensor: int
  context: int

  def __post_init__(self) -> None:
    check_not_negative(self, "data", group="mesh")
    check_positive(self, "fsdp", "tensor", "context", group="mesh")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
  """How a whole CT is decoded.

  Attributes:
    overlap: share of a window that its neighbour covers again.
    batch: windows per call.
    in_flight: calls that the network works at together. One alone leaves cores
      idle between its steps, and a device while the host adds up; two need
      more memory.
    threshold: probability above which a voxel is vertebra.
    vote_sigma_mm: smoothing of the centre votes.
    min_distance_mm: smallest distance between two body centres.
    min_volume_ml: smaller instances are dropped.
    lesion_threshold: smallest score of a reported lesion (in a vertebra).
    level_temperature: divides the scores of the chain of levels, so that
      confidences are true on cases of `vf-jax calibrate`; 1 before.
  """

  overlap: float
  batch: int
  threshold: float
  vote_sigma_mm: float
  min_distance_mm: float
  min_volume_ml: float
  lesion_threshold: float
  level_temperature: float = 1.0
  in_flight: int = 2

  def __post_init__(self) -> None:
    check_positive(
      self, "batch", "in_flight", "vote_sigma_mm", "min_distance_mm",
      "level_temperature", group="predict",
    )  # fmt: skip
    check_not_negative(self, "min_volume_ml", group="predict")
    check_probability(
      self, "overlap", "threshold", "lesion_threshold", group="predict"
    )
    if self.overlap >= 1:
      raise ConfigError(
        f"predict.overlap={self.overlap} must be below 1. Fix: 0.5."
      )


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment."""

  name: str
  model: ModelConfig
  data: DataConfig
  loss: LossConfig
  optim: OptimConfig
  train: TrainConfig
  mesh: MeshConfig
  predict: PredictConfig

  def __post_init__(self) -> None:
    self._check_mesh()
    if self.optim.warmup_steps >= self.train.steps:
      raise ConfigError(
        f"optim.warmup_steps={self.optim.warmup_steps} leaves nothing of "
        f"train.steps={self.train.steps}. Fix: optim.warmup_steps="
        f"{self.train.steps // 10}."
      )

  def _check_mesh(self) -> None:
    m, mesh = self.model, self.mesh
    for axis, count, name in (
      ("context", m.crop[0] // m.token, "tokens along the crop's depth"),
      ("tensor", m.heads, "heads of the model"),
      # Else no parameter would be divided, without a word.
      ("fsdp", m.dim, "channels of a token"),
    ):
      if count % getattr(mesh, axis):
        raise ConfigError(
          f"mesh.{axis}={getattr(mesh, axis)} does not divide the {count} "
          f"{name}. Fix: mesh.{axis}=1 or another model."
        )
    self.check_batch(max(mesh.data, 1))

  def check_batch(self, groups: int) -> None:
    """Refuses a batch that does not divide among devices and micro batches.

    `mesh.data=0` is known on the devices only, where this is asked again.

    Args:
      groups: size of the mesh along `data`.

    Raises:
      ConfigError: if it does not divide.
    """
    fsdp, parts = self.mesh.fsdp, self.train.micro_batches
    step = groups * fsdp * parts
    if self.data.batch % step:
      raise ConfigError(
        f"data.batch={self.data.batch} does not divide among mesh.data="
        f"{groups}, mesh.fsdp={fsdp} and train.micro_batches={parts}. Fix: "
        f"data.batch={-(-self.data.batch // step) * step}."
      )

  def to_dict(self) -> dict[str, Any]:
    """Returns plain JSON types, accepted again by `from_dict`."""
    return to_plain(self)


def from_dict(values: Mapping[str, Any]) -> Config:
  """Builds a `Config` from nested mappings.

  Args:
    values: one entry a field; a `ConfigDict` fits.

  Returns:
    The checked configuration.

  Raises:
    ConfigError: on unknown, missing or wrongly typed keys, and on values that
      do not fit together; the message names the key and the fix.
  """
  return build(Config, values)


def from_config_dict(config: Any) -> Config:
  """Turns the `ConfigDict` of a config file into a `Config`.

  Args:
    config: what `get_config()` returned, after overrides.

  Returns:
    The checked configuration.

  Raises:
    ConfigError: see `from_dict`.
  """
  plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  return from_dict(plain)
