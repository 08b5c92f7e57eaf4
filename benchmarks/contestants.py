# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Networks that do the same job, behind one face.

For `same_job.py` and `recipe_study.py`.

Each takes a batch of crops (HU and VerSe codes) for a training step (forward
pass, Dice and cross-entropy of vertebra against the rest, gradients, clipping,
AdamW on a warm-up cosine, averaged parameters) and gives vertebra logits. Ours
runs the real training step of the package, with all its decoders. The peers are
MONAI's own classes; their loop is the usual one of PyTorch.
"""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

CROP = 96
OURS = "vf_jax fast:S"
UNETR = "MONAI UNETR"
SWIN = "MONAI SwinUNETR"
NAMES = (OURS, UNETR, SWIN)
PLAIN = "MONAI BasicUNet"
"""Plain U-Net of 2.3 million parameters, for `recipe_study.py`."""

_CLIP, _EMA = 1.0, 0.998
_WARM_UP = 0.1  # of the steps


class Contestant(Protocol):
  """A network in training."""

  def train(self, batch: dict[str, np.ndarray]) -> float:
    """Makes one step on crops and returns their loss before it."""

  def predict(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Vertebra logits of HU (batch, 96, 96, 96), averaged parameters.

    `spacing`: of the scan before it was resampled, ascending, mm.
    """


def build(
  name: str,
  steps: int,
  rate: float,
  seed: int,
  compiled: bool = False,
  windows: int = 2,
  only_mask: bool = True,
) -> Contestant:
  """Builds a network.

  Args:
    name: of `NAMES`, or `PLAIN`.
    steps: of its schedule.
    rate: peak learning rate.
    seed: of its parameters.
    compiled: whether a peer passes through `torch.compile`.
    windows: intensity windows that a peer sees; ours sees two.
    only_mask: whether ours leaves its other tasks out of the loss.

  Returns:
    The network.
  """
  if name == OURS:
    return Ours(our_config(steps, rate, seed, only_mask))
  return _Peer(name, steps, rate, seed, compiled, windows)


def our_config(steps: int, rate: float, seed: int, only_mask: bool) -> Any:
  """`fast:S` in float32 without augmentation, one crop a step."""
  from configs import fast
  from vf_jax.config import from_config_dict

  config = fast.get_config("S")
  config.model.dtype = "float32"  # bfloat16 is no faster on most CPUs
  config.data.batch = 1
  for name, value in config.data.augment.items():
    config.data.augment[name] = type(value)(0)
  if only_mask:
    for name, value in config.loss.items():
      if isinstance(value, float) and name not in ("dice", "cross_entropy"):
        config.loss[name] = 0.0
  config.optim.update(
    learning_rate=rate,
    warmup_steps=_warm_up(steps),
    clip_norm=_CLIP,
    ema=_EMA,
  )
  config.train.update(steps=steps, seed=seed)
  return from_config_dict(config)


def _warm_up(steps: int) -> int:
  return max(1, round(_WARM_UP * steps))


class Ours:
  """`fast:S` in the training step of the package."""

  def __init__(self, config: Any):
    import jax

    from vf_jax.models.vertebraformer import VertebraFormer
    from vf_jax.train.state import init_state
    from vf_jax.train.step import make_train_step

    self._jax = jax
    self._state = jax.jit(lambda: init_state(config))()
    self._step = jax.jit(make_train_step(config), donate_argnums=0)
    model = VertebraFormer(config.model)
    self._forward = jax.jit(
      lambda params, image, spacing: (
        model.apply({"params": params}, image, spacing).logits
      )
    )

  def train(self, batch: dict[str, np.ndarray]) -> float:
    """See `Contestant`; the batch has the fields of `Patches`."""
    from vf_jax.data.augment.patches import Patches

    patches = Patches(
      **{k: self._jax.numpy.asarray(v) for k, v in batch.items()}
    )
    self._state, sums = self._step(self._state, patches)
    self._jax.block_until_ready(self._state)
    return float(sums["loss"][0])

  def predict(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """See `Contestant`."""
    image = np.asarray(image, np.float32)
    rows = np.broadcast_to(np.asarray(spacing, np.float32), (len(image), 3))
    return np.asarray(self._forward(self._state.ema, image, rows))


class _Peer:
  def __init__(self, name, steps, rate, seed, compiled, windows):
    import os

    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    self._torch, self._windows = torch, windows
    self._net = _monai(name, windows)
    # One pass over all parameters, here and in the average: torch's fastest.
    self._optimizer = torch.optim.AdamW(
      self._net.parameters(), rate, weight_decay=1e-5, fused=True
    )
    self._schedule = torch.optim.lr_scheduler.LambdaLR(
      self._optimizer, lambda step: _cosine(step + 1, steps)
    )
    self._average = torch.optim.swa_utils.AveragedModel(
      self._net, multi_avg_fn=self._mix
    )
    self._done = 0
    self._run = torch.compile(self._net) if compiled else self._net
    self._run_average = (
      torch.compile(self._average.module) if compiled else self._average.module
    )

  def train(self, batch: dict[str, np.ndarray]) -> float:
    torch = self._torch
    self._net.train()
    loss = self._loss(self._run(self._input(batch["image"])), batch["labels"])
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._net.parameters(), _CLIP)
    self._optimizer.step()
    self._schedule.step()
    self._average.update_parameters(self._net)
    self._done += 1
    return float(loss.detach())

  def predict(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """See `Contestant`; peers do not look at `spacing`."""
    self._average.module.eval()
    with self._torch.inference_mode():
      return self._run_average(self._input(image))[:, 0].numpy()

  def _mix(self, old, new, _):
    decay = min(_EMA, (1 + self._done) / (10 + self._done))  # as ours
    self._torch._foreach_lerp_(old, new, 1 - decay)

  def _input(self, image: np.ndarray):
    """The windows that ours sees (`encoder.intensity_windows`)."""
    image = np.asarray(image, np.float32)
    seen = [
      np.clip(image, -1000, 1500) / 1000,
      (np.clip(image, -150, 450) - 150) / 300,
    ]
    return self._torch.from_numpy(np.stack(seen[: self._windows], axis=1))

  def _loss(self, logits, labels: np.ndarray):
    """As `losses.segmentation_terms`: Dice and cross-entropy, 255 ignored."""
    torch = self._torch
    truth = torch.from_numpy(((labels > 0) & (labels != 255)).astype("float32"))
    valid = torch.from_numpy((labels != 255).astype("float32"))
    logits = logits[:, 0]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
      logits, truth, valid, reduction="sum"
    )
    found = torch.sigmoid(logits) * valid
    both = (found * truth).sum()
    dice = 1 - (2 * both + 1) / (found.sum() + (truth * valid).sum() + 1)
    return dice + entropy / valid.sum().clamp(min=1)


def _monai(name: str, channels: int) -> Any:
  from monai.networks import nets

  if name == UNETR:
    return nets.UNETR(
      in_channels=channels,
      out_channels=1,
      img_size=(CROP,) * 3,
      feature_size=16,
    )
  if name == PLAIN:
    return nets.BasicUNet(3, channels, 1, features=(16, 32, 64, 96, 96, 16))
  return nets.SwinUNETR(in_channels=channels, out_channels=1, feature_size=24)


def _cosine(step: int, steps: int) -> float:
  """As `optax.warmup_cosine_decay_schedule` with an end of 1 %."""
  rise = _warm_up(steps)
  if step < rise:
    return step / rise
  share = min(1.0, (step - rise) / max(1, steps - rise))
  return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
