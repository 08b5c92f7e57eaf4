# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where arrays lie on the mesh: rules by path, outside the modules.

A parameter's path decides the logical name of each of its axes, and a logical
name decides the axes of the mesh that share it. Exactly one rule must match
every parameter, so that a new layer is not silently replicated.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vf_jax.errors import ConfigError

LOGICAL: dict[str, str | tuple[str, ...] | None] = {
  "batch": ("data", "fsdp"),
  "depth": "context",
  "tokens": "context",
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "layers": None,
}
"""Logical axis -> axes of the mesh."""

_ANYWHERE = r"(.*/)?"
_Rule = tuple[str, tuple[str | None, ...]]
_BLOCK: tuple[_Rule, ...] = (
  (r"qkv/kernel", ("embed", "heads")),
  (r"proj/kernel", ("heads", "embed")),
  (r"up/kernel", ("embed", "mlp")),
  (r"down/kernel", ("mlp", "embed")),
  (r"(attn|mlp)_modulate/film/kernel", (None, "embed")),
  (r".*(bias|scale)", (None,)),
)
_RULES: tuple[_Rule, ...] = (
  *(
    (rf"transformer/blocks/{path}", ("layers", *axes)) for path, axes in _BLOCK
  ),
  *((rf"transformer/block\d+/{path}", axes) for path, axes in _BLOCK),
  # Between cells or voxels and tokens: as wide as the transformer.
  (r"transformer/embed/kernel", ("mlp", "embed")),
  (r"transformer/positions", (None, None, None, None, "embed")),
  (r"merge/kernel", ("embed", "mlp")),
  (r"decoder/.*expand/kernel", ("embed", None)),
  # Kernels at 1/4 resolution and finer are small and lie everywhere.
  (r"(stem|(stem|decoder)_blocks_\d+)/.*", ()),
  (
    r"decoder/.*(conv[12]|project|modulate/film|out(_half|_quarter)?)/kernel",
    (),
  ),
  (r"(decoder/.*|merge|transformer/(embed|norm))/(bias|scale)", ()),
  (r"(segmentation|lesion|numbering|modulation|task_log_variance)/.*", ()),
)


def param_spec(
  path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> P:
  """Finds how one parameter is divided.

  Args:
    path: names joined by '/'; whatever lies before the module's own name (the
      optimizer's moments have such prefixes) does not matter.
    shape: of the parameter.
    mesh: an axis that its devices do not divide is not divided.

  Returns:
    The axes of the mesh for each axis of the parameter.

  Raises:
    ConfigError: if no rule or more than one matches.
  """
  if not shape:
    return P()
  hits = [axes for rule, axes in _RULES if re.fullmatch(_ANYWHERE + rule, path)]
  if len(hits) != 1:
    raise ConfigError(
      f"{len(hits)} sharding rules match the parameter {path}. Fix: one rule "
      "for it in vf_jax/parallel/sharding.py."
    )
  return divide(mesh, shape, hits[0])


def divide(
  mesh: Mesh | AbstractMesh,
  shape: tuple[int, ...],
  axes: tuple[str | None, ...],
) -> P:
  """Finds how an array is divided.

  Args:
    mesh: the devices.
    shape: of the array.
    axes: logical name of each of its first axes.

  Returns:
    The axes of the mesh for each of these; one that its devices do not divide
    is not divided.
  """
  names = [LOGICAL[name] if name else None for name in axes]
  return P(
    *(
      axis if axis is None or not size % _count(mesh, axis) else None
      for axis, size in zip(names, shape)
    )
  )


def sharers(name: str) -> int:
  """How many devices share a logical axis.

  Args:
    name: of the axis.

  Returns:
    Their number on the mesh of `jax.set_mesh`; 1 without one.
  """
  mesh = jax.sharding.get_abstract_mesh()
  axis = LOGICAL[name]
  return 1 if mesh.empty or axis is None else _count(mesh, axis)


def state_shardings(mesh: Mesh | AbstractMesh, state: Any) -> Any:
  """Finds how a whole state is divided; moments follow their parameters.

  Args:
    mesh: the devices.
    state: abstract or real `TrainState`, or parameters.

  Returns:
    The same tree of `NamedSharding`.

  Raises:
    ConfigError: if a parameter has no rule of its own.
  """

  def one(path, leaf):
    shape = () if _is_key(leaf) else leaf.shape
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, param_spec(name, shape, mesh))

  return jax.tree_util.tree_map_with_path(one, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Divides the first axis of everything in a batch.

  Args:
    mesh: the devices.

  Returns:
    One sharding for all arrays of the batch.
  """
  return NamedSharding(mesh, P(LOGICAL["batch"]))


def data_rows(mesh: Mesh, batch: int) -> tuple[int, ...]:
  """Which rows of every global batch this process reads.

  Processes whose devices hold the same rows, because `tensor` or `context`
  goes across them, read the same. The rows of a process need not be neighbours:
  on a torus of TPUs those of one host are not.

  Args:
    mesh: the devices.
    batch: rows of a global batch, which `data` x `fsdp` divides.

  Returns:
    The rows, ascending.

  Raises:
    ConfigError: if the rows of this process are no share.
  """
  rows: dict[int, set[int]] = collections.defaultdict(set)
  places: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((batch,))
  for device, place in places.items():
    rows[device.process_index] |= set(range(*place[0].indices(batch)))
  shares = sorted({tuple(sorted(own)) for own in rows.values()})
  if sum(map(len, shares)) != batch or len({*map(len, shares)}) > 1:
    raise ConfigError(
      "the rows of the batch that the devices of one process hold are no "
      f"share of it: {rows[min(rows)]} of {batch}, and others in part. Fix: "
      "make mesh.tensor x mesh.context a divisor or a multiple of the devices "
      "of a process."
    )
  return tuple(sorted(rows[jax.process_index()]))


def constrain(x: Any, *axes: str | None) -> Any:
  """Says where an intermediate array lies; without a mesh it says nothing.

  Args:
    x: the array.
    *axes: logical name of each of its axes; one that its devices do not
      divide is not divided.

  Returns:
    The array.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, divide(mesh, x.shape, axes))


def _count(mesh: Any, axes: str | tuple[str, ...]) -> int:
  total = 1
  for axis in (axes,) if isinstance(axes, str) else axes:
    total *= mesh.shape[axis]
  return total


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
