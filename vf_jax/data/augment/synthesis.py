# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic CT intensities on a label map (domain randomisation).

Every key draws another patient: bone shell and marrow, soft tissue. What a
network learns from it cannot be the intensities of one hospital.

Source: Billot et al. 2023, SynthSeg (Medical Image Analysis 86), adapted to
Hounsfield units.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from vf_jax.data.augment.fields import draw_knots, smooth
from vf_jax.labels import CODES, IGNORE
from vf_jax.multispine import tissues
from vf_jax.multispine.record import DEPTH_STEP_MM

_SOFT = (tissues.FAT, tissues.MUSCLE, tissues.ORGAN, tissues.VESSEL)
_SOFT_SHARES = (0.3, 0.4, 0.25, 0.05)
_BLOBS = (4.0, 13.0)  # size of soft-tissue blobs, voxels
_HU = np.array([kind.hu for kind in tissues.TISSUES], np.float32)
_TEXTURE = np.array([kind.texture for kind in tissues.TISSUES], np.float32)


def paint(
  key: Key[Array, ""],
  labels: UInt8[Array, "depth height width"],
  tissue: UInt8[Array, "depth height width"],
  depth: Float[Array, "depth height width"],
) -> Float[Array, "depth height width"]:
  """Paints a CT on a crop.

  Args:
    key: of the draw.
    labels: VerSe codes.
    tissue: tissue classes.
    depth: distance below the surface of the own bone, in `DEPTH_STEP_MM`.

  Returns:
    HU without noise; `intensity.rescan` adds the scanner.
  """
  soft, kinds, bones, fields = jax.random.split(key, 4)
  coarse, middle, fine = draw_knots(
    fields, labels.shape, ((1, _BLOBS[0]), (3, 4.0), (2, 3.0))
  )
  # Textures of blobs, tissues, shell, marrow and soft tissue.
  blobs, grain, shell = smooth(middle, labels.shape, 4.0)
  marrow, texture = smooth(fine, labels.shape, 3.0)
  image = _soft_tissue(soft, coarse, blobs, texture)
  mean = _between(_HU[:, 0], _HU[:, 1], jax.random.uniform(kinds, (len(_HU),)))
  known = tissue != tissues.UNKNOWN.code
  own = mean[tissue] + jnp.asarray(_TEXTURE)[tissue] * grain
  image = jnp.where(known, own, image)
  bone = _bone(bones, labels, depth * DEPTH_STEP_MM, shell, marrow)
  return jnp.where(tissue == tissues.BONE.code, bone, image)


def _bone(key, labels, depth_mm, shell, marrow):
  """Cortical shell over marrow; every vertebra differs a little."""
  size, each = jax.random.split(key)
  u = jax.random.uniform(size, (5,))
  shell_mm = _between(0.8, 3.0, u[0])
  shell_hu = _between(250.0, 1100.0, u[1]) * (1 + 0.25 * shell)
  mean = _between(-20.0, 330.0, u[2]) + 20.0 * jax.random.normal(each, (CODES,))
  code = jnp.where(labels == IGNORE, 0, labels)
  marrow_hu = mean[code] + _between(10.0, 60.0, u[3]) * marrow
  softness = _between(0.4, 1.0, u[4])
  share = jax.nn.sigmoid((shell_mm - depth_mm) / softness)
  return marrow_hu + jnp.maximum(shell_hu - marrow_hu, 0.0) * share


def _soft_tissue(key, coarse, blobs, texture):
  """Blobs of fat, muscle, organ, vessel and now and then gas."""
  size, cuts = jax.random.split(key)
  count = len(_SOFT) + 1
  u = jax.random.uniform(size, (2 * count + 3,))
  cell = _between(*_BLOBS, u[0])
  field = smooth(coarse, blobs.shape, cell)[0] + 0.5 * blobs
  edges = np.cumsum(_SOFT_SHARES)[:-1]
  kind = (u[3 : 3 + count, None] > jnp.asarray(edges)[None, :]).sum(axis=1)
  kind = jnp.asarray([kind.code for kind in _SOFT])[kind]
  kind = kind.at[0].set(jnp.where(u[1] < 0.1, tissues.GAS.code, kind[0]))
  mean = _between(
    jnp.asarray(_HU[:, 0])[kind], jnp.asarray(_HU[:, 1])[kind], u[3 + count :]
  )
  image = jnp.full(blobs.shape, mean[0])
  cut = jnp.sort(0.8 * jax.random.normal(cuts, (count - 1,)))
  for step in range(count - 1):
    image = jnp.where(field > cut[step], mean[step + 1], image)
  return image + _between(3.0, 15.0, u[2]) * texture


def _between(low, high, share):
  return low + (high - low) * share
