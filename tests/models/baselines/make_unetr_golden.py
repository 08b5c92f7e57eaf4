# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes what MONAI's UNETR, losses and upsampling answer, for CI to compare.

Needs the extra `peers` (torch, monai, einops); run from the repository:

    python tests/models/baselines/make_unetr_golden.py

Weights are int8 / 256, so that they are exact and small; the answers are
computed in float64, because MONAI's own fp32 gradients differ from it by up to
4e-3 in single parameters. Gradients are int16 of
their largest value (error 1.5e-5 of it), logits every third voxel.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from monai.networks.nets import UNETR

HERE = pathlib.Path(__file__).parent
CASES = {
  "conv": {
    "in_channels": 1,
    "out_channels": 2,
    "img_size": (16, 32, 16),
    "feature_size": 2,
    "hidden_size": 6,
    "mlp_dim": 10,
    "num_heads": 2,
    "proj_type": "conv",
  },
  "perceptron": {
    "in_channels": 1,
    "out_channels": 3,
    "img_size": (32, 16, 16),
    "feature_size": 3,
    "hidden_size": 4,
    "mlp_dim": 10,
    "num_heads": 2,
    "proj_type": "perceptron",
    "res_block": False,
    "conv_block": False,
    "qkv_bias": True,
  },
}


def small(array: np.ndarray) -> np.ndarray:
  """Rounds to int8 / 256."""
  return np.clip(np.round(array * 256), -127, 127).astype(np.int8)


def answer(
  arguments: dict, batch: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
  """Weights, image, logits and gradients of one network in float64.

  Args:
    arguments: of MONAI's UNETR.
    batch: crops.
    random: of weights and image, both small integers.

  Returns:
    `weight/NAME` (int8, / 256), `image` (int8, / 32), `logits` and, where there
    is one, `grad/NAME` of the mean of the logits times the cosine of their
    position.
  """
  net = UNETR(**arguments).double()
  out = {}
  with torch.no_grad():
    for key, value in net.named_parameters():
      scale = 0.15 if value.ndim == 5 and value.shape[-1] < 16 else 0.06
      centre = 0.45 if value.ndim == 1 and key.endswith("weight") else 0.0
      raw = small(centre + scale * random.standard_normal(value.shape))
      out[f"weight/{key}"] = raw
      value.copy_(torch.from_numpy(raw / 256.0))
  shape = (batch, *arguments["img_size"], arguments["in_channels"])
  out["image"] = np.clip(
    np.round(random.standard_normal(shape) * 32), -127, 127
  ).astype(np.int8)
  image = torch.from_numpy(out["image"] / 32.0)
  logits = net(image.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
  weight = np.cos(np.arange(logits.numel())).reshape(logits.shape)
  (logits * torch.from_numpy(weight)).mean().backward()
  out["logits"] = logits.detach().numpy()
  for key, value in net.named_parameters():
    if value.grad is not None:
      out[f"grad/{key}"] = value.grad.numpy()
  return out


def unetr(name: str) -> dict[str, np.ndarray]:
  """The answer of one network, rounded and packed."""
  out = answer(CASES[name], 2, np.random.default_rng(len(name)))
  out["logits"] = out["logits"][:, ::3, ::3, ::3].astype(np.float32)
  for key in [key for key in out if key.startswith("grad/")]:
    top = np.abs(out[key]).max()
    out[key.replace("grad/", "top/")] = np.asarray(top)
    out[key] = np.round(out[key] / top * 32767).astype(np.int16)
  return pack(out)


def pack(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins the arrays of a kind: an archive member costs 250 bytes."""
  packed = {}
  for kind in ("weight", "grad", "top"):
    names = [key for key in parts if key.startswith(f"{kind}/")]
    arrays = [parts.pop(key) for key in names]
    packed[kind] = np.concatenate([np.ravel(array) for array in arrays])
    packed[f"{kind}_index"] = np.array(
      json.dumps(
        [
          (name.split("/")[1], array.shape)
          for name, array in zip(names, arrays)
        ]
      )
    )
  return packed | parts


def losses() -> dict[str, np.ndarray]:
  """Losses of random predictions, with their gradients."""
  random = np.random.default_rng(3)
  logits = random.standard_normal((2, 1, 5, 4, 3)).astype(np.float32) * 2
  truth = (random.random(logits.shape) < 0.3).astype(np.float32)
  levels = random.standard_normal((2, 4, 5, 4, 3)).astype(np.float32) * 2
  classes = random.integers(0, 4, (2, 1, 5, 4, 3))
  out = {
    "logits": logits[:, 0],
    "truth": truth[:, 0],
    "levels": np.moveaxis(levels, 1, -1),
    "classes": classes[:, 0].astype(np.uint8),
  }
  smooth = {"batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
  binary = logits, torch.from_numpy(truth).double()
  named = levels, torch.from_numpy(classes)
  several = {"softmax": True, "to_onehot_y": True, "include_background": False}
  for name, loss, (x, y) in (
    ("dice", DiceLoss(sigmoid=True, **smooth), binary),
    ("entropy", torch.nn.BCEWithLogitsLoss(), binary),
    ("focal", FocalLoss(gamma=2.0, reduction="sum"), binary),
    ("level_dice", DiceLoss(**several, **smooth), named),
    ("level_entropy", _cross_entropy, named),
  ):
    x = torch.from_numpy(x).double().requires_grad_()
    value = loss(x, y)
    value.backward()
    out[name] = value.detach().numpy()
    grad = np.moveaxis(x.grad.numpy(), 1, -1)
    out[f"{name}_grad"] = grad[..., 0] if grad.shape[-1] == 1 else grad
  return out


def _cross_entropy(logits, classes):
  """The cross-entropy of MONAI's DiceCELoss."""
  whole = DiceCELoss(
    softmax=True, to_onehot_y=True, lambda_dice=0.0, lambda_ce=1.0
  )
  return whole(logits, classes)


def upsampling() -> dict[str, np.ndarray]:
  """ConvTranspose3d with kernel = stride of 2 and 4."""
  random = np.random.default_rng(4)
  out = {}
  for factor in (2, 4):
    x = random.standard_normal((2, 3, 3, 2, 1))
    kernel = random.standard_normal((3, 2, factor, factor, factor))
    out[f"x{factor}"], out[f"kernel{factor}"] = x, kernel
    out[f"y{factor}"] = torch.nn.functional.conv_transpose3d(
      torch.from_numpy(x), torch.from_numpy(kernel), stride=factor
    ).numpy()
  return {name: value.astype(np.float32) for name, value in out.items()}


if __name__ == "__main__":
  for case in CASES:
    np.savez_compressed(HERE / f"unetr_{case}.npz", **unetr(case))
  np.savez_compressed(HERE / "losses.npz", **losses())
  np.savez_compressed(HERE / "upsampling.npz", **upsampling())
