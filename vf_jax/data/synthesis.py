# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic CT intensities on a label map (domain randomisation).

Every call draws another scanner and another patient: bone shell and marrow,
soft tissue, noise, kernel, slice thickness. What a network learns from it
cannot be the intensities of one hospital.

Source: Billot et al. 2023, SynthSeg (Medical Image Analysis 86), adapted to
Hounsfield units.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from vf_jax.multispine import tissues
from vf_jax.multispine.store import DEPTH_STEP_MM

_SOFT = (tissues.FAT, tissues.MUSCLE, tissues.ORGAN, tissues.VESSEL)


def synthesize(
  labels: UInt8[np.ndarray, "depth height width"],
  tissue: UInt8[np.ndarray, "depth height width"],
  depth: Float32[np.ndarray, "depth height width"],
  rng: np.random.Generator,
) -> Float32[np.ndarray, "depth height width"]:
  """Paints a CT on a crop.

  Args:
    labels: VerSe codes.
    tissue: tissue classes.
    depth: distance below the surface of the own bone, in `DEPTH_STEP_MM`.
    rng: the draw.

  Returns:
    HU without noise; `degrade` adds the scanner.
  """
  shape = labels.shape
  image = _soft_tissue(shape, rng)
  for kind in tissues.TISSUES[1:]:
    if kind.code != tissues.BONE.code:
      where = tissue == kind.code
      if where.any():
        image[where] = (
          rng.uniform(*kind.hu) + kind.texture * _smooth(shape, 4, rng)[where]
        )
  bone = tissue == tissues.BONE.code
  return _paint_bone(image, labels, bone, depth * DEPTH_STEP_MM, rng)


def _paint_bone(image, labels, bone, depth_mm, rng):
  """Cortical shell over marrow; every vertebra differs a little."""
  shell_mm = rng.uniform(0.8, 3.0)
  shell_hu = rng.uniform(250, 1100)
  marrow = rng.uniform(-20, 330) + rng.normal(0, 20, 256)
  marrow_hu = marrow[labels] + rng.uniform(10, 60) * _smooth(
    image.shape, 3, rng
  )
  softness = rng.uniform(0.4, 1.0)
  share = 1 / (1 + np.exp(np.clip((depth_mm - shell_mm) / softness, -9, 9)))
  shell = shell_hu * (1 + 0.25 * _smooth(image.shape, 5, rng))
  value = marrow_hu + np.maximum(shell - marrow_hu, 0) * share
  return np.where(bone, value, image).astype(np.float32)


def _soft_tissue(shape, rng):
  """Blobs of fat, muscle, organ, vessel and now and then gas."""
  field = _smooth(shape, int(rng.integers(4, 14)), rng)
  field = field + 0.5 * _smooth(shape, 4, rng)
  cuts = np.sort(rng.normal(0, 0.8, 4))
  kinds = [_SOFT[i] for i in rng.choice(4, 5, p=(0.3, 0.4, 0.25, 0.05))]
  if rng.random() < 0.1:
    kinds[0] = tissues.GAS
  means = np.array([rng.uniform(*kind.hu) for kind in kinds])
  index = np.searchsorted(cuts, field.ravel()).reshape(shape)
  image = means[index].astype(np.float32)
  return image + rng.uniform(3, 15) * _smooth(shape, 3, rng)


def _smooth(shape, cell, rng):
  """Unit-variance noise with features of about `cell` voxels."""
  coarse = rng.standard_normal(
    [max(2, -(-n // cell) + 1) for n in shape], dtype=np.float32
  )
  zoom = [n / c for n, c in zip(shape, coarse.shape)]
  fine = ndimage.zoom(coarse, zoom, order=1, mode="nearest", grid_mode=True)
  return fine / max(float(fine.std()), 1e-3)


def degrade(
  image: Float32[np.ndarray, "depth height width"],
  rng: np.random.Generator,
  strength: float = 1.0,
) -> Float32[np.ndarray, "depth height width"]:
  """Passes a clean image through a random scanner.

  Args:
    image: HU.
    rng: the draw.
    strength: 1 for synthetic images, below for images that have a scanner's
      noise and blur already.

  Returns:
    HU with blur, thick slices, noise and contrast of its own.
  """
  blur = rng.uniform(0.0, 0.8, 3) * strength
  if rng.random() < 0.3:  # thick slices along one axis
    blur[rng.choice(3, p=(0.6, 0.1, 0.3))] = rng.uniform(0.6, 1.6)
  image = ndimage.gaussian_filter(image, blur, truncate=3.0)
  level = rng.uniform(0, 90) * strength * (rng.random() < 0.8)
  noise = rng.standard_normal(image.shape, dtype=np.float32)
  if rng.random() < 0.5:
    noise = ndimage.gaussian_filter(noise, rng.uniform(0.4, 1.0), truncate=3.0)
    noise /= max(float(noise.std()), 1e-3)
  image = image + level * noise
  gain = 1 + rng.normal(0, 0.06)
  return (image * gain + rng.normal(0, 15)).astype(np.float32)
