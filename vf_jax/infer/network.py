# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The network on a whole CT: its compiled programs, and what they are asked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, Int16

from vf_jax.config import Config
from vf_jax.hounsfield import AIR_HU, MAX_HU
from vf_jax.infer.evidence import gather_evidence
from vf_jax.infer.sweep import Sweep, WindowOutputs, sweep
from vf_jax.model_config import STEM_STRIDE
from vf_jax.models.decoders.level_chain import ChainScores
from vf_jax.models.vertebraformer import VertebraFormer
from vf_jax.volume import Grid, Volume, resample, to_network

_RANGE_HU = (AIR_HU, MAX_HU)
_NO_LESION = -1e4  # a logit that no threshold lets through


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """VertebraFormer with its parameters. One compilation serves all scans.

  The programs get the parameters as their first argument, or they would be
  constants of the compilation.

  Attributes:
    config: the experiment it was trained in.
    params: averaged parameters.
  """

  config: Config
  params: Any

  def show(
    self, volume: Volume, grid: Grid
  ) -> Int16[np.ndarray, "depth height width"]:
    """What the network sees of a CT.

    Args:
      volume: the CT, HU.
      grid: of the network.

    Returns:
      HU on that grid, clipped to what it was trained on.
    """
    image = resample(
      volume.voxels, volume.grid, grid, order=1, fill=AIR_HU, clip=_RANGE_HU
    )
    return to_network(image)

  def sweep(
    self,
    image: Int16[np.ndarray, "depth height width"],
    spacing: Float32[np.ndarray, " 3"],
  ) -> Sweep:
    """Runs over a whole CT, window by window.

    Args:
      image: of `show`.
      spacing: of the scan, ascending, mm.

    Returns:
      Blended outputs on the grid of `image`.
    """
    p = self.config.predict
    return sweep(
      image,
      lambda block: self.forward(block, spacing),
      self.config.model.crop,
      p.overlap,
      p.batch,
      p.threshold,
      p.in_flight,
    )

  def number(
    self,
    image: Int16[np.ndarray, "depth height width"],
    spacing: Float32[np.ndarray, " 3"],
    centres: Float[np.ndarray, "points 3"],
  ) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Numbers the bodies of a scan.

    Args:
      image: of `show`.
      spacing: of the scan, ascending, mm.
      centres: (depth, height, width), voxels of `image`, from head to foot.

    Returns:
      Levels (index into `VERTEBRAE`, -1 = rejected) and confidences, 0..1.
    """
    count = len(centres)
    if not count:
      return np.zeros(0, int), np.zeros(0)
    levels, sure = self.chain(self.params, *self._read(image, spacing, centres))
    return np.asarray(levels)[0, :count], np.asarray(sure, float)[0, :count]

  def level_scores(
    self,
    image: Int16[np.ndarray, "depth height width"],
    spacing: Float32[np.ndarray, " 3"],
    centres: Float[np.ndarray, "points 3"],
  ) -> ChainScores:
    """What it thinks of the levels at given body centres.

    Args:
      image: of `show`.
      spacing: of the scan, ascending, mm.
      centres: (depth, height, width), voxels of `image`, from head to foot;
        one at least.

    Returns:
      The scores of one chain, not tempered; places after the last centre are
      masked.
    """
    return self.scores(self.params, *self._read(image, spacing, centres))

  def _read(self, image, spacing, centres):
    """Evidence, positions in mm and mask of one chain."""

    def forward(block, points, mask):
      return self.evidence(self.params, block, spacing, points, mask)

    p = self.config.predict
    found = gather_evidence(
      image, centres, forward, self.config.model.crop, p.batch, p.in_flight
    )
    count = len(centres)
    slots = 32 * -(-count // 32)  # few shapes, few compilations
    rows = np.zeros((1, slots, found.shape[1]), np.float32)
    rows[0, :count] = found
    points_mm = np.zeros((1, slots, 3), np.float32)
    points_mm[0, :count] = centres * self.config.model.spacing_mm
    return rows, points_mm, np.arange(slots)[None] < count

  def forward(
    self,
    block: Int16[np.ndarray, "batch d h w"],
    spacing: Float32[np.ndarray, " 3"],
  ) -> WindowOutputs:
    """Runs a batch of windows; several threads may call it.

    Args:
      block: HU.
      spacing: of the scan, ascending, mm.

    Returns:
      What it says of every voxel and cell.
    """
    found = self.maps(self.params, block, spacing)
    return WindowOutputs(*(np.asarray(x) for x in found))

  @functools.cached_property
  def maps(self) -> Callable[..., tuple[jax.Array, ...]]:
    """Program: parameters, windows, spacing -> arrays of `WindowOutputs`."""
    model = VertebraFormer(self.config.model)

    @jax.jit
    def run(params, image, spacing):
      out = model.apply(
        {"params": params},
        image.astype(jnp.float32),
        jnp.broadcast_to(spacing, (image.shape[0], 3)),
      )
      maps = out.lesions
      if maps is None:
        cells = [n // STEM_STRIDE for n in image.shape[1:]]
        lesions = jnp.full((image.shape[0], *cells, 7), _NO_LESION)
      else:
        lesions = jnp.concatenate(
          [maps.heat[..., None], maps.offset, maps.log_size], axis=-1
        )
      return out.logits, out.offsets, lesions

    return run

  @functools.cached_property
  def evidence(self) -> Callable[..., jax.Array]:
    """Program: parameters, windows, spacing, points, mask -> features."""
    model = VertebraFormer(self.config.model)

    @jax.jit
    def run(params, image, spacing, points, mask):
      out = model.apply(
        {"params": params},
        image.astype(jnp.float32),
        jnp.broadcast_to(spacing, (image.shape[0], 3)),
        points,
        mask,
      )
      return out.evidence

    return run

  @functools.cached_property
  def scores(self) -> Callable[..., ChainScores]:
    """Program: parameters, features, points in mm, mask -> scores."""
    model = VertebraFormer(self.config.model)

    @jax.jit
    def run(params, evidence, points_mm, mask):
      return model.apply(
        {"params": params}, evidence, points_mm, mask, method="number"
      )

    return run

  @functools.cached_property
  def chain(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Program: as `scores`, but gives levels and confidences."""
    temperature = self.config.predict.level_temperature
    score = self.scores

    @jax.jit
    def run(params, evidence, points_mm, mask):
      scores = score(params, evidence, points_mm, mask)
      return scores.tempered(temperature).decode()

    return run
