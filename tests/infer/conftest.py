# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A spine known by formula, and a predictor whose network knows it too."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import ClassVar

import jax
import numpy as np
import pytest

from vf_jax.infer.network import Network
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.sweep import WindowOutputs
from vf_jax.infer.windows import padded_shape, take_window, window_starts
from vf_jax.labels import BY_NAME
from vf_jax.models.decoders.numbering import VERTEBRAE
from vf_jax.train.state import init_params
from vf_jax.volume import Grid, Volume


@dataclasses.dataclass(frozen=True)
class Spine:
  """Bodies with an arch behind them along a curve; everything in mm RAS+.

  The lowest of five is cut by the scan of `make_ct`. A lesion lies in L2.
  """

  levels: tuple[str, ...] = ("T12", "L1", "L2", "L3", "L4")
  centre: tuple[float, float, float] = (12.0, -30.0, 900.0)
  body: tuple[float, float, float] = (20.0, 15.0, 12.5)
  arch: tuple[float, float, float] = (9.0, 13.0, 8.0)
  lesion_size: tuple[float, float, float] = (10.0, 8.0, 6.0)
  ARCH_AT: ClassVar[tuple[float, float, float]] = (0.0, -24.0, -3.0)

  @property
  def centres(self):
    """Body centres, from head to foot."""
    index = np.arange(len(self.levels))
    offsets = np.stack(
      [4.0 * np.sin(index), 2.0 * index, 57.0 - 31.0 * index], axis=1
    )
    return offsets + self.centre

  @property
  def lesion(self):
    """Centre of the lesion."""
    return self.centres[2] + (5.0, 3.0, -2.0)

  def nearness(self, points):
    """1 in the middle of each vertebra, 0 on its surface: points x levels."""
    rows = []
    for centre in self.centres:
      body = np.linalg.norm((points - centre) / self.body, axis=-1)
      arch = np.linalg.norm(
        (points - centre - self.ARCH_AT) / self.arch, axis=-1
      )
      rows.append(1 - np.minimum(body, arch))
    return np.stack(rows, axis=-1)

  def codes_at(self, points):
    """VerSe codes."""
    near = self.nearness(points)
    codes = np.array([BY_NAME[name].code for name in self.levels])
    return np.where(near.max(axis=-1) > 0, codes[near.argmax(axis=-1)], 0)

  def hounsfield(self, points):
    """Bone in muscle in fat in air."""
    away = np.linalg.norm((points - self.centre)[..., :2] / (38, 42), axis=-1)
    hu = np.where(away < 1, 45, np.where(away < 1.1, -100, -1000))
    near = self.nearness(points)
    bone = 200 + 80 * near.argmax(axis=-1)
    return np.where(near.max(axis=-1) > 0, bone, hu)


def voxel_places(grid):
  """World positions of all voxels of a grid."""
  index = np.indices(grid.shape).reshape(3, -1).T
  return grid.to_world(index).reshape(*grid.shape, 3)


_STEPS = {
  "R": (1, 0, 0),
  "L": (-1, 0, 0),
  "A": (0, 1, 0),
  "P": (0, -1, 0),
  "S": (0, 0, 1),
  "I": (0, 0, -1),
}
_FIELD_MM = {"R": 84.0, "L": 84.0, "A": 92.0, "P": 92.0, "S": 150.0, "I": 150.0}


def make_grid(codes="RAS", spacing=(2.0, 2.0, 2.0), turn=None):
  """A grid of any axes around the spine, `turn` applied to the directions."""
  linear = np.array([_STEPS[c] for c in codes], float).T * spacing
  if turn is not None:
    linear = turn @ linear
  shape = tuple(
    round(_FIELD_MM[c] / step) for c, step in zip(codes, spacing, strict=True)
  )
  affine = np.eye(4)
  affine[:3, :3] = linear
  affine[:3, 3] = Spine().centre - linear @ ((np.array(shape) - 1) / 2)
  return Grid(shape, affine)


@pytest.fixture(scope="session")
def spine():
  """The spine that every CT here shows."""
  return Spine()


@pytest.fixture(scope="session")
def make_ct(spine):
  """Factory of CTs; equal arguments, equal voxels."""

  @functools.cache
  def truth(codes, spacing, turn):
    grid = make_grid(codes, spacing, None if turn is None else np.array(turn))
    places = voxel_places(grid)
    noise = np.random.default_rng(7).normal(0, 12, grid.shape)
    hu = (spine.hounsfield(places) + noise).astype(np.int16)
    return Volume(hu, grid.affine), spine.codes_at(places).astype(np.uint8)

  def make(codes="RAS", spacing=(2.0, 2.0, 2.0), turn=None):
    return truth(codes, spacing, turn)

  return make


class Formula(Network):
  """A network that knows the spine by formula.

  Windows are recognised by their voxels. A slot that was filled up answers
  NaN, which would reach the mask if it leaked.
  """

  def show(self, volume, grid):
    image = super().show(volume, grid)
    crop = self.config.model.crop
    axes = [
      window_starts(n, c, self.config.predict.overlap)
      for n, c in zip(padded_shape(image.shape, crop), crop, strict=True)
    ]
    windows = {}
    for start in itertools.product(*axes):
      windows[take_window(image, start, crop).tobytes()] = start
    ascending = sorted(volume.spacing)
    object.__setattr__(self, "scene", (grid, windows, ascending))
    return image

  def forward(self, block, spacing):
    grid, windows, ascending = self.scene
    np.testing.assert_allclose(spacing, ascending, rtol=1e-6)
    assert block.shape == (self.config.predict.batch, *self.config.model.crop)
    parts = []
    for window in block:
      start = windows.get(window.tobytes())
      parts.append(self._truth(grid, start, window.shape))
    return WindowOutputs(
      *(np.stack(column).astype(np.float32) for column in zip(*parts))
    )

  def _truth(self, grid, start, shape):
    spine = Spine()
    cells = tuple(n // 4 for n in shape)
    if start is None:
      return tuple(
        np.full(size, np.nan) for size in (shape, (*shape, 3), (*cells, 7))
      )
    index = np.indices(shape).reshape(3, -1).T + start
    near = spine.nearness(grid.to_world(index[:, ::-1]))
    centres = grid.to_voxel(spine.centres)[:, ::-1]
    offsets = centres[near.argmax(axis=1)] - index
    place = (grid.to_voxel(spine.lesion[None])[0, ::-1] + 0.5) / 4
    cell = np.floor(place)
    places = np.indices(cells).reshape(3, -1).T + np.array(start) // 4
    lesions = np.concatenate(
      [
        np.where((places == cell).all(axis=1), 3.0, -6.0)[:, None],
        place - 0.5 - places,
        np.broadcast_to(np.log(spine.lesion_size[::-1]), (len(places), 3)),
      ],
      axis=1,
    )
    return (
      30 * near.max(axis=1).reshape(shape),
      offsets.reshape(*shape, 3),
      lesions.reshape(*cells, 7),
    )

  def evidence(self, params, block, spacing, points, mask):
    """The HU at the points: tells whether window and points fit together."""
    place = np.round(points).astype(int)
    rows = np.arange(len(block))[:, None]
    seen = block[rows, place[..., 0], place[..., 1], place[..., 2]]
    return np.where(mask, seen, -1)[..., None].astype(np.float32)

  def chain(self, params, rows, points_mm, mask):
    """The level whose HU the evidence shows; the formula gives each its own."""
    spine = Spine()
    order = {name: i for i, name in enumerate(v.name for v in VERTEBRAE)}
    levels = np.full(mask.shape, -1)
    for i in np.flatnonzero(mask[0]):
      index = int(np.clip(np.round((rows[0, i, 0] - 200) / 80), 0, 4))
      levels[0, i] = order[spine.levels[index]]
    return levels, np.where(mask, 0.9, 0.0)


class Oracle(Predictor):
  """The predictor around it."""

  @functools.cached_property
  def network(self):
    return Formula(self.config, self.params)


@pytest.fixture(scope="session")
def oracle(test_config):
  """The predictor whose network is never wrong."""
  return Oracle(config=test_config, params={}, digest="0" * 64)


@pytest.fixture(scope="session")
def untrained(test_config):
  """The real network with random parameters (drawn here: no compilation)."""
  shapes = jax.eval_shape(lambda: init_params(test_config, jax.random.key(0)))
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: random.normal(0, 0.05, leaf.shape).astype(np.float32), shapes
  )
  return Predictor(config=test_config, params=params, digest="1" * 64)
