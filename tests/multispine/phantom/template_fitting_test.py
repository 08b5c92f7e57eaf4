"""Fitting finds the frame in which a lopsided mask is symmetric."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.multispine.phantom import template_fitting
from vf_jax.volume import Volume


def _vertebra(turn):
  """A body with an arch, turned about the long axis; 2 mm voxels."""
  axes = np.meshgrid(*[np.arange(-60, 61, 2.0)] * 3, indexing="ij")
  c, s = np.cos(turn), np.sin(turn)
  x, y, z = c * axes[0] + s * axes[1], c * axes[1] - s * axes[0], axes[2]
  body = (x / 20) ** 2 + (y / 15) ** 2 < 1
  body &= np.abs(z) < 13
  ring = np.abs(np.hypot(x, y + 25) - 14) < 4
  arch = ring & (y < -8) & (np.abs(z - 4) < 7)
  spine = (np.abs(x) < 3) & (y < -36) & (y > -60) & (np.abs(z) < 9)
  mask = (body | arch | spine).astype(np.uint8) * 21
  affine = np.diag([2.0, 2.0, 2.0, 1.0])
  affine[:3, 3] = -60
  return Volume(mask, affine)


@pytest.mark.parametrize("turn", [0.0, 0.15])
def test_a_turned_vertebra_is_measured_in_its_own_frame(turn):
  volume = _vertebra(turn)
  field = template_fitting._Field.of(
    volume, 21, np.array([2.0, 0.0, 0.0]), np.full(3, 50.0), 0.6
  )
  place, frame = template_fitting._symmetric(
    field, np.array([2.0, 0.0, 0.0]), np.eye(3)
  )
  off = place @ frame[:, 0]
  assert abs(off) < 0.7
  found = np.arctan2(frame[1, 0], frame[0, 0])
  assert found == pytest.approx(turn, abs=0.03)
  template = template_fitting._measure(field, place, frame, 30.0, "test")
  assert template.height_mm == pytest.approx(26, abs=2.6)
  np.testing.assert_allclose(template.half_mm, (20, 15), atol=1.6)
  x, y, z = template.pedicle_mm
  assert x == pytest.approx(14, abs=3)
  assert z == pytest.approx(4, abs=2.5)
  assert -28 < y < -14
