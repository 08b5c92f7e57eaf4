# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The mesh of devices: who shares what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from vf_jax.config import MeshConfig
from vf_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor", "context")
"""Outermost (slowest link) first. `context` devices exchange the halos of
convolutions and gather keys and values in every attention layer; `tensor`
devices reduce in every layer."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Arranges devices.

  Args:
    config: how many share what; `data=0` takes all that are left.
    devices: of the program; those of JAX if None. One process may use fewer
      than there are, several must use all.

  Returns:
    A mesh with the axes of `AXES`, all of them automatic.

  Raises:
    ConfigError: if the devices do not fit the configuration.
  """
  devices = jax.devices() if devices is None else list(devices)
  rest = config.fsdp * config.tensor * config.context
  if config.data == 0 and len(devices) % rest:
    raise ConfigError(
      f"mesh.fsdp={config.fsdp}, mesh.tensor={config.tensor} and "
      f"mesh.context={config.context} do not divide {len(devices)} devices. "
      "Fix: lower one of them."
    )
  data = config.data or len(devices) // rest
  shape = (data, config.fsdp, config.tensor, config.context)
  count = math.prod(shape)
  hosts = len({device.process_index for device in devices})
  if count > len(devices) or (hosts > 1 and count != len(devices)):
    raise ConfigError(
      f"the mesh {dict(zip(AXES, shape))} needs {count} devices, there are "
      f"{len(devices)}. Fix: mesh.data=0 takes what is left."
    )
  # As `jax.make_mesh`, which refuses tori whose axes would have to be split.
  arranged = mesh_utils.create_device_mesh(
    shape, devices[:count], allow_split_physical_axes=True
  )
  return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * 4)
