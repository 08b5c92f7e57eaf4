# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One random crop of one case, with everything that moves along with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int32
from scipy import ndimage

from vf_jax.config import MAX_ADVANCE, DataConfig, ModelConfig
from vf_jax.data.synthesis import degrade, synthesize
from vf_jax.hounsfield import AIR_HU
from vf_jax.labels import CODES, IGNORE, VERTEBRAE
from vf_jax.multispine.store import PreparedCase

MAX_BOXES = 8
SYNTHETIC = "synthetic"
"""Domain of samples with synthetic intensities."""

_ORDER = np.full(256, -1, np.int32)
for _level in VERTEBRAE:
  _ORDER[_level.code] = _level.order


@dataclasses.dataclass(frozen=True)
class CropMaker:
  """Cuts, turns, scales and paints crops.

  Attributes:
    model: crop size, voxel edge and slots for points.
    data: how crops are drawn.
    domains: names of domains; index = place.
  """

  model: ModelConfig
  data: DataConfig
  domains: tuple[str, ...]

  def __call__(
    self, case: PreparedCase, index: int, rng: np.random.Generator
  ) -> Mapping[str, np.ndarray]:
    """Draws one crop.

    Args:
      case: the case.
      index: its place in the store, kept for error messages.
      rng: all randomness of the crop.

    Returns:
      The fields of `losses.Batch` without the batch axis.
    """
    size = np.array(self.model.crop)
    matrix, centre = self._pose(case, rng)
    grid = _warp(size, matrix, centre, rng)
    labels = _pull(case.labels, grid, 0, 0 if case.image is None else IGNORE)
    painted = self._is_synthetic(case, rng)
    if painted:
      assert case.tissue is not None
      assert case.depth is not None
      tissue = _pull(case.tissue, grid, 0, 0)
      depth = _pull(case.depth.astype(np.float32), grid, 1, 0)
      image = synthesize(_as_background(labels), tissue, depth, rng)
      image = degrade(image, rng)
    else:
      assert case.image is not None
      image = _pull(case.image.astype(np.float32), grid, 1, AIR_HU)
      outside = image <= AIR_HU + 1
      image = degrade(image, rng, strength=0.5)
      image[outside] = AIR_HU
    inverse = np.linalg.inv(matrix)

    def carry(points):
      return (np.asarray(points, float) - centre) @ inverse.T + (size - 1) / 2

    sample = {
      "image": np.clip(image, AIR_HU, 3071).astype(np.float32),
      "labels": labels,
      "spacing_mm": np.array(case.record.native_spacing_mm, np.float32),
      "domain": np.int32(
        self.domains.index(SYNTHETIC if painted else case.record.domain)
      ),
      "case": np.int32(index),
    }
    for task in ("masks", "levels", "lesions"):
      sample[f"has_{task}"] = np.bool_(
        task in case.record.annotates and not (task == "lesions" and painted)
      )
    sample |= self._centres(case, carry, rng)
    if not _ascends(sample["point_levels"]):
      # The crop lost sight of the spine in between: no chain explains it.
      sample["has_levels"] = np.bool_(False)
    sample |= _boxes(case, carry, abs(np.linalg.det(inverse)) ** (1 / 3), size)
    return sample

  def _is_synthetic(self, case, rng) -> bool:
    draw = rng.random()  # drawn always: the stream stays aligned
    if case.image is None:
      return True
    return case.tissue is not None and draw < self.data.synthesis

  def _pose(self, case, rng):
    """Source voxel = matrix @ (crop voxel - crop middle) + centre."""
    size = np.array(self.model.crop)
    targets = list(case.record.centres.values())
    targets += [box[:3] for box in case.record.boxes]
    near, pick = rng.random() < self.data.foreground, rng.random()
    jitter = rng.uniform(-0.5, 0.5, 3) * size * (0.8, 0.5, 0.5)
    shape = np.array(case.labels.shape)
    if targets and near:
      centre = np.array(targets[int(pick * len(targets))]) + jitter
    else:
      centre = rng.uniform(0, 1, 3) * shape
    turn = np.deg2rad(rng.normal(0, self.data.rotate_deg, 3))
    scale = np.exp(rng.normal(0, self.data.scale))
    matrix = _rotation(turn) * scale
    if rng.random() < 0.5:  # left-right: levels do not depend on the side
      matrix[:, 2] *= -1
    return matrix, centre

  def _centres(self, case, carry, rng):
    centres = np.zeros((CODES, 3), np.float32)
    known = np.zeros(CODES, bool)
    for code, point in case.record.centres.items():
      centres[code] = carry(point)
      known[code] = True
    size = np.array(self.model.crop)
    margin = 6.0 / self.model.spacing_mm
    points, levels = [], []
    for code in np.flatnonzero(known):
      place = centres[code] + rng.normal(0, 1.0, 3)
      inside = (place >= margin).all() and (place < size - margin).all()
      if inside and rng.random() > 0.04:
        points.append(place)
        levels.append(_ORDER[code])
    for _ in range(int(rng.random() < 0.2) + int(rng.random() < 0.1)):
      place = rng.uniform(margin, size - margin)
      if points and rng.random() < 0.6:  # a doubled or displaced seed
        place = points[int(rng.integers(len(points)))] + rng.normal(0, 6, 3)
      gap = [np.linalg.norm(place - centres[c]) for c in np.flatnonzero(known)]
      if min(gap, default=99.0) * self.model.spacing_mm > 10.0:
        points.append(np.clip(place, 0, size - 1))
        levels.append(-1)
    slots = self.model.max_points
    order = np.argsort([-p[0] for p in points])[:slots]
    sample = {
      "centres": centres,
      "has_centre": known,
      "points": np.zeros((slots, 3), np.float32),
      "point_levels": np.full(slots, -1, np.int32),
      "point_mask": np.arange(slots) < len(order),
    }
    for slot, i in enumerate(order):
      sample["points"][slot] = points[i]
      sample["point_levels"][slot] = levels[i]
    return sample


def _ascends(levels: Int32[np.ndarray, " slots"]) -> bool:
  """Whether true levels follow each other closely enough for the chain."""
  steps = np.diff(levels[levels >= 0])
  return bool(((steps >= 1) & (steps <= MAX_ADVANCE)).all())


def _as_background(labels):
  return np.where(labels == IGNORE, 0, labels).astype(np.uint8)


def _rotation(turn) -> Float[np.ndarray, "3 3"]:
  """Rotation about the depth, height and width axes, radians."""
  result = np.eye(3)
  for axis, angle in enumerate(turn):
    i, j = [a for a in range(3) if a != axis]
    step = np.eye(3)
    step[i, i] = step[j, j] = np.cos(angle)
    step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
    result = result @ step
  return result


def _warp(size, matrix, centre, rng) -> Float[np.ndarray, "3 d h w"]:
  """Source coordinates of every crop voxel: affine plus a gentle bend."""
  axes = np.meshgrid(
    *(np.arange(n, dtype=np.float32) for n in size), indexing="ij"
  )
  place = np.stack(axes) - (size.reshape(3, 1, 1, 1) - 1) / 2
  bend = rng.normal(0, 0.8, (3, 5, 4, 4))
  for axis in range(3):
    place[axis] += ndimage.zoom(
      bend[axis].astype(np.float32),
      size / np.array(bend.shape[1:]),
      order=1,
      mode="nearest",
      grid_mode=True,
    )
  flat = matrix.astype(np.float32) @ place.reshape(3, -1).astype(np.float32)
  return flat.reshape(3, *size) + centre.astype(np.float32).reshape(3, 1, 1, 1)


def _pull(array, grid, order, fill) -> Any:
  return ndimage.map_coordinates(
    array, grid, order=order, mode="constant", cval=fill, prefilter=False
  )


def _boxes(case, carry, scale, size):
  boxes = np.zeros((MAX_BOXES, 6), np.float32)
  mask = np.zeros(MAX_BOXES, bool)
  slot = 0
  for box in case.record.boxes:
    centre = carry(box[:3])
    if slot < MAX_BOXES and (centre >= 0).all() and (centre < size).all():
      boxes[slot, :3] = centre
      boxes[slot, 3:] = np.array(box[3:]) * scale
      mask[slot] = True
      slot += 1
  return {"boxes": boxes, "box_mask": mask}
