# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From windows to the batch that the network trains on, on the device.

Each sample depends on its own window and seed only, never on the batch that it
is in.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from vf_jax.config import AugmentConfig
from vf_jax.data.augment import intensity, lesions, points, spatial
from vf_jax.data.augment.patches import Patches
from vf_jax.data.augment.synthesis import paint
from vf_jax.hounsfield import AIR_HU, MAX_HU
from vf_jax.labels import IGNORE
from vf_jax.losses import Batch
from vf_jax.model_config import ModelConfig
from vf_jax.multispine.tissues import OUTSIDE

_REAL_STRENGTH = 0.5
"""Of blur and noise added to an image that has a scanner's already."""


def augment(
  patches: Patches, model: ModelConfig, config: AugmentConfig
) -> Batch:
  """Turns, bends, paints and rescans windows; jit-compatible.

  Args:
    patches: the windows, `config.margin` larger than the crops on every side
      if `config.turns`.
    model: crop size, voxel edge and slots for points.
    config: what is done.

  Returns:
    The crops.
  """
  fields = jax.vmap(lambda patch: _augment(patch, model, config))(patches)
  return Batch(**fields)


def centre_crops(patches: Patches, model: ModelConfig) -> Batch:
  """Cuts the middle of windows and changes nothing; jit-compatible.

  Args:
    patches: the windows.
    model: crop size, voxel edge and slots for points.

  Returns:
    The crops, with the true centres as detections. Painted samples are
    painted: they have no other intensities.
  """
  fields = jax.vmap(lambda patch: _centre_crop(patch, model))(patches)
  return Batch(**fields)


@dataclasses.dataclass(frozen=True)
class _Crop:
  """One sample, cut.

  Attributes:
    values: HU, or the depth below the bone surface if it is painted.
    labels: VerSe codes.
    tissue: tissue classes; None if the experiment paints nothing.
    centres: body centres, voxels of the crop.
    boxes: lesions, centre in voxels of the crop.
    box_mask: True for real slots.
    has_lesions: whether `boxes` are all that there are.
  """

  values: Float[Array, "depth height width"]
  labels: UInt8[Array, "depth height width"]
  tissue: UInt8[Array, "depth height width"] | None
  centres: Float[Array, "codes 3"]
  boxes: Float[Array, "boxes 6"]
  box_mask: Bool[Array, " boxes"]
  has_lesions: Bool[Array, ""]


def _augment(patch: Patches, model: ModelConfig, config: AugmentConfig):
  pose_key, paint_key, scan_key, point_key, lesion_key = _keys(patch)
  if config.turns:
    pose = spatial.draw_pose(pose_key, model.crop, model.spacing_mm, config)
    crop = _resample(patch, pose, model.crop)
  else:
    crop = _cut(patch, model.crop)
  clean = jax.lax.optimization_barrier(_image(paint_key, patch, crop))
  if config.lesion:
    clean, crop = _grow(lesion_key, clean, patch, crop, model, config)
  image, spacing_mm = intensity.rescan(
    scan_key,
    clean,
    patch.spacing_mm,
    jnp.where(patch.painted, 1.0, _REAL_STRENGTH),
    model.spacing_mm,
    config,
  )
  # Where no scan was taken there is no noise either.
  image = jnp.where(clean <= AIR_HU + 1, float(AIR_HU), image)
  return _fields(patch, crop, image, spacing_mm, point_key, model)


def _centre_crop(patch: Patches, model: ModelConfig):
  crop = _cut(patch, model.crop)
  image = _image(_keys(patch)[1], patch, crop)
  return _fields(patch, crop, image, patch.spacing_mm, None, model)


def _keys(patch: Patches):
  """Keys of pose, painting, scanner, detections and lesions."""
  key = jax.random.wrap_key_data(patch.seed, impl="threefry2x32")
  return jax.random.split(key, 5)


def _values(patch: Patches):
  """What is interpolated: a sample has an image or is painted, never both."""
  if patch.depth is None:
    return patch.image
  return jnp.where(patch.painted, patch.depth.astype(jnp.int16), patch.image)


def _resample(patch: Patches, pose: spatial.Pose, size) -> _Crop:
  # NOTE: without the barriers XLA:CPU computes places, and then the gathers,
  # anew for every consumer, which takes five times as long.
  places = jax.lax.optimization_barrier(spatial.source_places(pose, size))
  seen = spatial.in_sight(places, patch.image.shape)
  values = spatial.pull_linear(_values(patch), places)
  values = jax.lax.optimization_barrier(values)
  labels = spatial.pull_nearest(patch.labels, places)
  tissue = None
  if patch.tissue is not None:
    tissue = spatial.pull_nearest(patch.tissue, places)
    tissue = jnp.where(seen, tissue, jnp.uint8(OUTSIDE.code))
  return _Crop(
    values=jnp.where(seen | patch.painted, values, float(AIR_HU)),
    labels=jnp.where(seen, labels, jnp.uint8(IGNORE)),
    tissue=tissue,
    centres=spatial.carry(pose, size, patch.centres),
    boxes=spatial.carry_boxes(pose, size, patch.boxes),
    box_mask=patch.box_mask,
    has_lesions=patch.has_lesions,
  )


def _cut(patch: Patches, size) -> _Crop:
  start = [(n - c) // 2 for n, c in zip(patch.image.shape, size)]
  middle = tuple(slice(s, s + c) for s, c in zip(start, size))
  first = jnp.asarray([start], jnp.float32)
  return _Crop(
    values=_values(patch)[middle].astype(jnp.float32),
    labels=patch.labels[middle],
    tissue=None if patch.tissue is None else patch.tissue[middle],
    centres=patch.centres - first,
    boxes=patch.boxes - jnp.pad(first, ((0, 0), (0, 3))),
    box_mask=patch.box_mask,
    has_lesions=patch.has_lesions,
  )


def _image(key, patch: Patches, crop: _Crop):
  """HU of a crop, painted where it has none."""
  if crop.tissue is None:
    return crop.values
  painted = paint(key, crop.labels, crop.tissue, crop.values)
  return jnp.where(patch.painted, painted, crop.values)


def _grow(key, image, patch: Patches, crop: _Crop, model, config):
  """Grows lesions where vertebrae are known; what is painted has no others.

  What looks like one and is none grows there as well.
  """
  # A window with more lesions than slots must not tell of any (`data.crops`).
  overfull = patch.box_mask.all() & ~patch.has_lesions & ~patch.painted
  chance = jnp.where(patch.has_masks & ~overfull, config.lesion, 0.0)
  wear, key = jax.random.split(key)
  worn = lesions.wear_joints(wear, image, crop.labels, model.spacing_mm)
  image = jnp.where(chance > 0, worn, image)
  image, boxes, real = lesions.grow(
    key, image, crop.labels, model.spacing_mm, chance
  )
  own = crop.box_mask & ~patch.painted
  painted = patch.painted & patch.has_masks
  return image, dataclasses.replace(
    crop,
    boxes=jnp.concatenate([crop.boxes, boxes]),
    box_mask=jnp.concatenate([own, real]),
    has_lesions=crop.has_lesions | painted | real.any(),
  )


def _fields(patch, crop: _Crop, image, spacing_mm, point_key, model):
  """The fields of `Batch` without the batch axis."""
  places, levels, real = points.draw_points(
    point_key,
    crop.centres,
    patch.has_centre,
    model.crop,
    model.spacing_mm,
    model.max_points,
  )
  last = jnp.asarray([model.crop], jnp.float32) - 1
  middle, half = crop.boxes[:, :3], crop.boxes[:, 3:] / (2 * model.spacing_mm)
  # What the border leaves of a lesion is no healthy bone.
  inside = ((middle + half > 0) & (middle - half < last)).all(axis=1)
  inside &= crop.box_mask
  return {
    "image": jnp.clip(image, AIR_HU, MAX_HU),
    "labels": crop.labels,
    "spacing_mm": spacing_mm,
    "centres": crop.centres,
    "has_centre": patch.has_centre,
    "points": places,
    "point_levels": levels,
    "point_mask": real,
    "chain_fits": points.ascends(levels),
    "boxes": jnp.where(inside[:, None], crop.boxes, 0.0),
    "box_mask": inside,
    "domain": patch.domain,
    "has_masks": patch.has_masks,
    "has_levels": patch.has_levels,
    "has_lesions": crop.has_lesions,
    "case": patch.case,
  }
