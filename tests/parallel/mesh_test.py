# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Meshes of the eight simulated devices."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from vf_jax.config import MeshConfig
from vf_jax.errors import ConfigError
from vf_jax.parallel.mesh import AXES, make_mesh


@pytest.mark.parametrize(
  ("config", "shape"),
  [
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 1, 2, 1), (2, 1, 2, 1)),
    ((0, 1, 1, 1), (8, 1, 1, 1)),
    ((0, 2, 1, 2), (2, 2, 1, 2)),
  ],
)
def test_data_takes_what_is_left(config, shape):
  mesh = make_mesh(MeshConfig(*config))
  assert mesh.axis_names == AXES
  assert mesh.devices.shape == shape
  assert set(mesh.axis_types) == {AxisType.Auto}


def test_devices_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match="needs 16 devices, there are 8"):
    make_mesh(MeshConfig(16, 1, 1, 1))
  with pytest.raises(ConfigError, match="do not divide 8 devices"):
    make_mesh(MeshConfig(0, 3, 1, 1))


def test_devices_can_be_given():
  devices = jax.devices()[4:6]
  mesh = make_mesh(MeshConfig(0, 1, 1, 2), devices)
  assert mesh.devices.flatten().tolist() == devices
