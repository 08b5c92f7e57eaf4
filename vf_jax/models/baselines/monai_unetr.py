# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Weights of MONAI's UNETR as parameters of ours, without PyTorch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vf_jax.errors import InputError
from vf_jax.models.baselines.unetr import Unetr
from vf_jax.models.decoders.unetr import TOKEN
from vf_jax.models.layers import stack_blocks

_SOURCE = "MONAI state_dict"
# MONAI 1.6 creates these in every block and never calls them.
_UNUSED = re.compile(r"vit\.blocks\.\d+\.(norm_cross_attn|cross_attn)\..*")


@dataclasses.dataclass(frozen=True)
class _Layout:
  """How PyTorch stores a parameter of ours.

  Attributes:
    shape: ours -> theirs.
    read: their array -> ours.
  """

  shape: Callable[[tuple[int, ...]], tuple[int, ...]]
  read: Callable[[np.ndarray], np.ndarray]


_SAME = _Layout(lambda s: s, lambda w: w)
_DENSE = _Layout(lambda s: (s[1], s[0]), lambda w: w.T)
_CONV = _Layout(
  lambda s: (s[4], s[3], *s[:3]), lambda w: w.transpose(2, 3, 4, 1, 0)
)
_POINTWISE = _Layout(
  lambda s: (s[1], s[0], 1, 1, 1), lambda w: w[:, :, 0, 0, 0].T
)
_UPSAMPLE = _Layout(
  lambda s: (s[0], s[1] // 8, 2, 2, 2),
  lambda w: w.transpose(0, 2, 3, 4, 1).reshape(w.shape[0], -1),
)
_PATCH = _Layout(
  lambda s: (s[1], s[0] // TOKEN**3, TOKEN, TOKEN, TOKEN),
  lambda w: w.transpose(2, 3, 4, 1, 0).reshape(-1, w.shape[0]),
)

_PATCHES = "vit.patch_embedding.patch_embeddings"
# Our path -> their name; the layout follows from the kind of layer.
_NAMES: tuple[tuple[str, str, _Layout], ...] = (
  (r"positions", "vit.patch_embedding.position_embeddings", _SAME),
  (r"norm/scale", "vit.norm.weight", _SAME),
  (r"norm/bias", "vit.norm.bias", _SAME),
  (r"block(\d+)/attn_norm/scale", r"vit.blocks.\1.norm1.weight", _SAME),
  (r"block(\d+)/attn_norm/bias", r"vit.blocks.\1.norm1.bias", _SAME),
  (r"block(\d+)/mlp_norm/scale", r"vit.blocks.\1.norm2.weight", _SAME),
  (r"block(\d+)/mlp_norm/bias", r"vit.blocks.\1.norm2.bias", _SAME),
  (r"block(\d+)/qkv/kernel", r"vit.blocks.\1.attn.qkv.weight", _DENSE),
  (r"block(\d+)/qkv/bias", r"vit.blocks.\1.attn.qkv.bias", _SAME),
  (r"block(\d+)/proj/kernel", r"vit.blocks.\1.attn.out_proj.weight", _DENSE),
  (r"block(\d+)/proj/bias", r"vit.blocks.\1.attn.out_proj.bias", _SAME),
  (r"block(\d+)/up/kernel", r"vit.blocks.\1.mlp.linear1.weight", _DENSE),
  (r"block(\d+)/up/bias", r"vit.blocks.\1.mlp.linear1.bias", _SAME),
  (r"block(\d+)/down/kernel", r"vit.blocks.\1.mlp.linear2.weight", _DENSE),
  (r"block(\d+)/down/bias", r"vit.blocks.\1.mlp.linear2.bias", _SAME),
  (r"decoder/out/kernel", "out.conv.conv.weight", _POINTWISE),
  (r"decoder/out/bias", "out.conv.conv.bias", _SAME),
  (
    r"decoder/encoder1/(conv[12])/kernel",
    r"encoder1.layer.\1.conv.weight",
    _CONV,
  ),
  (
    r"decoder/encoder1/project/kernel",
    r"encoder1.layer.conv3.conv.weight",
    _POINTWISE,
  ),
  (
    r"decoder/(decoder\d)/up/expand/kernel",
    r"\1.transp_conv.conv.weight",
    _UPSAMPLE,
  ),
  (
    r"decoder/(decoder\d)/block/(conv[12])/kernel",
    r"\1.conv_block.\2.conv.weight",
    _CONV,
  ),
  (
    r"decoder/(decoder\d)/block/project/kernel",
    r"\1.conv_block.conv3.conv.weight",
    _POINTWISE,
  ),
  (
    r"decoder/(encoder\d)/up0/expand/kernel",
    r"\1.transp_conv_init.conv.weight",
    _UPSAMPLE,
  ),
)


def params_from_monai(
  state: Mapping[str, np.ndarray], model: Unetr, image_shape: tuple[int, ...]
) -> dict[str, Any]:
  """Reorders the weights of a MONAI 1.6 UNETR into parameters of `Unetr`.

  Both patch embeddings of MONAI ('conv' and 'perceptron') are read. Gradients
  by name can be reordered in the same way.

  Args:
    state: name -> array, as `UNETR.state_dict()` names them.
    model: the network to fill.
    image_shape: (batch, depth, height, width, channel) of its input; the
      learned positions belong to one shape of crop.

  Returns:
    fp32 parameters for `model.apply({'params': ...}, image)`.

  Raises:
    InputError: if a name is unknown or missing, or an array has another
      shape; names all of them.
  """
  expected = _expected(model, image_shape, f"{_PATCHES}.1.weight" in state)
  unknown = sorted(
    name for name in set(state) - set(expected) if not _UNUSED.fullmatch(name)
  )
  missing = sorted(set(expected) - set(state))
  wrong = [
    f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
    for name, (_, shape, _) in expected.items()
    if name in state and tuple(state[name].shape) != shape
  ]
  faults = [
    f"{title}: {', '.join(names)}"
    for title, names in (
      ("unknown names", unknown),
      ("missing names", missing),
      ("wrong shapes", wrong),
    )
    if names
  ]
  if faults:
    raise InputError(
      _SOURCE,
      "; ".join(faults) + ".",
      "Build Unetr with the sizes, res_block, conv_block, qkv_bias and crop "
      "that these weights were made with.",
    )
  flat = {
    path: jnp.asarray(layout.read(np.asarray(state[name], np.float32)))
    for name, (path, _, layout) in expected.items()
  }
  params = flax.traverse_util.unflatten_dict(flat, sep="/")
  return stack_blocks(params) if model.scan else params


def _expected(
  model: Unetr, image_shape: tuple[int, ...], perceptron: bool
) -> dict[str, tuple[str, tuple[int, ...], _Layout]]:
  """Their name -> our path, their shape, the layout."""
  unrolled = model.clone(scan=False)
  abstract = jax.eval_shape(
    unrolled.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct(image_shape, jnp.float32),
  )["params"]
  found = {}
  for path, leaf in flax.traverse_util.flatten_dict(abstract, sep="/").items():
    name, layout = _theirs(path, model.convolve, perceptron)
    found[name] = (path, tuple(layout.shape(leaf.shape)), layout)
  return found


def _theirs(path: str, convolve: bool, perceptron: bool) -> tuple[str, _Layout]:
  if path.startswith("embed/"):
    stem = f"{_PATCHES}.1" if perceptron else _PATCHES
    if path == "embed/bias":
      return f"{stem}.bias", _SAME
    return f"{stem}.weight", _DENSE if perceptron else _PATCH
  # Upsamplings after the first count from 1 here, from 0 there.
  step = re.fullmatch(r"decoder/(encoder\d)/(up|block)(\d)/(\w+)/kernel", path)
  if step and step[3] != "0":
    stem = f"{step[1]}.blocks.{int(step[3]) - 1}"
    if step[2] == "up":
      part = ".0" if convolve else ""
      return f"{stem}{part}.conv.weight", _UPSAMPLE
    return f"{stem}.1.{step[4]}.conv.weight", _CONV
  for pattern, name, layout in _NAMES:
    match = re.fullmatch(pattern, path)
    if match:
      return match.expand(name), layout
  raise KeyError(f"no MONAI name for parameter '{path}'")
