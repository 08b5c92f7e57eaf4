# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Contrast of bone: what stands out, whatever scanner it was seen by."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vf_jax.config import MeshConfig
from vf_jax.model_config import STEM_STRIDE
from vf_jax.models.contrast import FEATURES, bone_contrast
from vf_jax.parallel.mesh import make_mesh
from vf_jax.parallel.sharding import constrain

SHAPE = (32, 24, 28)
EDGE_MM = 2.0
BLOCK = 2  # voxels
KINDS = FEATURES // 8  # of a block; share, own contrast, then four patches


@pytest.fixture(scope="module")
def see():
  """Runs on one crop and puts the features back in their blocks."""
  run = jax.jit(bone_contrast, static_argnums=2)

  def one(image, bone):
    logits = np.where(bone, 30.0, -30.0).astype(np.float32)
    image = np.asarray(image, np.float32)
    cells = np.asarray(run(image[None], logits[None], EDGE_MM))[0]
    assert cells.shape == (*(n // STEM_STRIDE for n in SHAPE), FEATURES)
    d, h, w = cells.shape[:3]
    blocks = cells.reshape(d, h, w, 2, 2, 2, KINDS)
    blocks = blocks.transpose(0, 3, 1, 4, 2, 5, 6)
    return blocks.reshape(2 * d, 2 * h, 2 * w, KINDS)

  return one


@pytest.fixture(scope="module")
def scan():
  """A block of bone in fat, with a noise that is the same every time."""
  rng = np.random.default_rng(3)
  bone = np.zeros(SHAPE, bool)
  bone[2:30, 4:20, 4:24] = True
  image = np.where(bone, 250.0, -100.0) + rng.normal(0, 25, SHAPE)
  return image, bone


def test_means_are_of_bone_only(see, scan):
  image, bone = scan
  found = see(image, bone)
  # Independent: every block against every other, in float64.
  blocks = [n // BLOCK for n in SHAPE]

  def pooled(x):
    d, h, w = blocks
    return x.reshape(d, 2, h, 2, w, 2).mean(axis=(1, 3, 5)).reshape(-1)

  place = np.stack(np.meshgrid(*map(np.arange, blocks), indexing="ij"), -1)
  place = place.reshape(-1, 3) * BLOCK * EDGE_MM
  square = ((place[:, None] - place[None]) ** 2).sum(axis=-1)
  share, total, second = (pooled(bone * image**k) for k in (0, 1, 2))

  def over(sigma):
    near = np.exp(-square / (2 * sigma**2))
    weight = near @ share
    mean = near @ total / weight
    return mean, np.sqrt(near @ second / weight - mean**2)

  around, spread = over(30.0)
  inside = share == 1
  for k, sigma in enumerate((3.0, 5.0, 8.0, 12.0)):
    mean, deviation = over(sigma)
    patch = found[..., 2 + 2 * k].reshape(-1)[inside]
    texture = found[..., 3 + 2 * k].reshape(-1)[inside]
    # Patches with little bone count less: at most by 0.1 / (0.3 + 0.1).
    expected = ((mean - around) / (spread + 20))[inside]
    assert np.all(np.abs(patch) <= np.abs(expected) + 2e-3)
    assert np.corrcoef(patch, expected)[0, 1] > 0.99
    expected = (deviation / (spread + 20))[inside]
    assert np.all(texture <= expected + 2e-3)
    assert np.all(texture > 0.7 * expected - 2e-3)


def test_a_scanner_that_adds_and_multiplies_changes_little(see, scan):
  image, bone = scan
  spot = (slice(12, 18), slice(8, 14), slice(10, 16))
  image = image.copy()
  image[spot] += 400.0
  first = see(image, bone)
  np.testing.assert_allclose(see(image + 60, bone), first, atol=0.02)
  twice = see(1.5 * image, bone)
  assert np.abs(twice - first).max() < 0.15 * np.abs(first).max()


@pytest.mark.parametrize("sign", [1, -1])
def test_what_stands_out_is_where_it_is(see, scan, sign):
  image, bone = scan
  image = image.copy()
  image[12:18, 8:14, 10:16] += sign * 250.0
  found, clean = see(image, bone), see(*scan)
  for kind in (2, 4, 6):  # patches of 3, 5 and 8 mm
    peak = np.unravel_index((sign * found[..., kind]).argmax(), found.shape[:3])
    assert (
      np.abs(BLOCK * np.array(peak) + 0.5 - [14.5, 10.5, 12.5]).max() <= 2.5
    )
    # More than what the noise alone shows anywhere.
    assert sign * found[(*peak, kind)] > 1.5 * np.abs(clean[..., kind]).max()


def test_outside_bone_there_is_nothing(see, scan):
  image, bone = scan
  np.testing.assert_allclose(see(image, np.zeros_like(bone)), 0, atol=1e-6)
  far = see(image, bone)[:, 11:, :, :]  # 4 mm and more from the bone
  np.testing.assert_allclose(far[..., :2], 0, atol=1e-6)


def test_lesions_do_not_bend_the_masks(scan):
  image = jnp.asarray(scan[0], jnp.float32)[None]
  logits = jnp.zeros_like(image)
  slope = jax.grad(lambda x: bone_contrast(image, x, EDGE_MM).sum())(logits)
  assert not jnp.any(slope)


def test_a_divided_depth_is_gathered_once_for_all_patches():
  def divided(image, logits):
    parts = (
      constrain(x, "batch", "depth", None, None) for x in (image, logits)
    )
    return bone_contrast(*parts, EDGE_MM)

  image = jnp.zeros((2, *SHAPE))
  with jax.set_mesh(make_mesh(MeshConfig(2, 1, 1, 4))):
    text = jax.jit(divided).lower(image, image).compile().as_text()
  gathered = re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", text)
  assert sum("," in shape for shape in gathered) == 1  # others are of one axis
