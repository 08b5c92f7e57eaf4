# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The descriptor: it sees the scanner, not what is in view."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vf_jax.hounsfield import AIR_HU
from vf_jax.models.descriptor import describe
from vf_jax.multispine.store import Store

_SPACING = jnp.array([[0.7, 0.7, 2.5]])
_jitted = jax.jit(describe)


@pytest.fixture(scope="module")
def real(test_config) -> np.ndarray:
  """The real chest CT, 2 mm."""
  store = Store(test_config.data.store)
  case = store.case(store.names.index("lidc-idri-0001"))
  image = case.read("image", (0, 0, 0), case.shape, AIR_HU)
  return image.astype(np.float32)


def _describe(image):
  return np.asarray(_jitted(jnp.asarray(image)[None], _SPACING))[0]


def _distance(first, second):
  return float(np.linalg.norm(_describe(first) - _describe(second)))


def _crops(image, shift):
  """Pairs of crops of 48^3 along the spine of the chest CT."""
  middle = np.array(image.shape) // 2
  for depth in (40, 70, 100):
    start = np.array([depth, middle[1] - 34, middle[2] - 24])
    other = start + shift
    yield tuple(
      image[tuple(slice(a, a + 48) for a in place)] for place in (start, other)
    )


_RECONSTRUCTIONS = {
  "smooth kernel": lambda x: ndimage.gaussian_filter(x, (0, 0.8, 0.8)),
  "thick slices": lambda x: ndimage.uniform_filter1d(x, 3, axis=0),
  "noise": lambda x: (
    x + 40 * np.random.default_rng(0).standard_normal(x.shape)
  ).astype(np.float32),
  "contrast": lambda x: np.where(x > -200, 1.15 * x + 30, x),
}


@pytest.mark.parametrize("name", _RECONSTRUCTIONS)
def test_descriptor_tells_scanners_apart_and_not_places(real, name):
  # A shift by a sixth of the crop brings other ribs and vessels into view, so
  # the descriptor cannot stay equal; but it must move less than by the
  # mildest change of the scanner here.
  change = _RECONSTRUCTIONS[name]
  moved = [_distance(a, b) for a, b in _crops(real, (8, 0, 0))]
  rescanned = [_distance(a, change(a)) for a, _ in _crops(real, (8, 0, 0))]
  assert max(moved) < min(rescanned)
  assert np.mean(moved) < 0.5 * np.mean(rescanned)


def test_descriptor_ignores_screws_and_what_lies_outside(real):
  crop = next(_crops(real, (0, 0, 0)))[0]
  screws = crop.copy()
  screws[20:23, 16:19, 10:30] = 3000.0
  padded = np.where(crop < -900, -2000.0, crop)
  assert _distance(crop, screws) < 0.05
  assert _distance(crop, padded) < 0.01


def test_a_window_of_air_has_a_finite_descriptor():
  found = _describe(np.full((16, 16, 16), -1000, np.float32))
  np.testing.assert_array_equal(found[:-3], 0.0)
  assert np.isfinite(found).all()


def test_thick_slices_show_along_their_axis():
  rng = np.random.default_rng(0)
  scan = 40 + 30 * rng.standard_normal((32, 32, 32)).astype(np.float32)
  thick = ndimage.uniform_filter1d(scan, 4, axis=0)
  found = _describe(thick)[25:-3].reshape(3, 11)
  bend = (found**2) @ np.arange(11)
  assert bend[0] < 0.75 * bend[1:].min()
