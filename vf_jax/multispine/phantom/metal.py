# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Pedicle screws with their rods, and the streaks they throw.

The streaks are computed, not painted: the metal of every slice is projected,
the projections suffer beam hardening and photon starvation, and what filtered
back-projection makes of the error is added to the image.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int16

from vf_jax.grid import Grid
from vf_jax.labels import BY_CODE
from vf_jax.multispine.phantom.points import Triple, triple

METAL_HU = 9000
_MU_PER_MM = 0.25  # titanium at the mean energy of a 120 kV beam
_WATER_PER_MM = 0.02
_PIXELS = 128  # of the grid that streaks are computed on, at most
_ANGLES = 120
_LAYERS_MM = 2.0
_UP = np.array([0.0, 0.0, 0.1])  # a sphere, as far as a rod can be one


@dataclasses.dataclass(frozen=True)
class Rod:
  """A cylinder of metal with round ends.

  Attributes:
    start: one end of its axis, mm RAS+.
    end: the other one, mm RAS+.
    radius_mm: half its thickness.
  """

  start: Triple
  end: Triple
  radius_mm: float


def draw_screws(
  centres: Mapping[int, Triple],
  pedicles: Mapping[int, tuple[Triple, Triple]],
  rng: np.random.Generator,
) -> tuple[Rod, ...]:
  """Draws a fusion: screws through the pedicles of a few neighbours, two rods.

  Args:
    centres: VerSe code -> body centre, mm RAS+.
    pedicles: VerSe code -> left and right pedicle, mm RAS+.
    rng: which levels, how long.

  Returns:
    The parts; none if fewer than two thoracic or lumbar vertebrae have both.
  """
  codes = [
    code
    for code in sorted(pedicles, key=lambda c: BY_CODE[c].order)
    if code in centres and BY_CODE[code].region in ("thoracic", "lumbar")
  ]
  if len(codes) < 2:
    return ()
  count = min(int(rng.integers(2, 5)), len(codes))
  # Most fusions are low in the spine.
  first = int((len(codes) - count + 1) * rng.random() ** 0.6)
  chosen = codes[min(first, len(codes) - count) :][:count]
  parts: list[Rod] = []
  for side in (0, 1):
    heads = []
    for code in chosen:
      centre, pedicle = np.array(centres[code]), np.array(pedicles[code][side])
      inward = centre + 0.45 * (pedicle - centre) * (1, 0, 0)
      way = inward - pedicle
      way /= np.linalg.norm(way)
      head = pedicle - way * rng.uniform(16.0, 20.0)
      tip = inward + way * rng.uniform(2.0, 8.0)
      parts.append(Rod(triple(head), triple(tip), rng.uniform(2.5, 3.2)))
      heads.append(head)
    radius = rng.uniform(2.6, 3.0)
    parts += [
      Rod(triple(a), triple(b), radius) for a, b in itertools.pairwise(heads)
    ]
    parts += [Rod(triple(h), triple(h + _UP), 5.5) for h in heads]
  return tuple(parts)


def insert_metal(
  hu: Int16[np.ndarray, "x y z"], grid: Grid, parts: tuple[Rod, ...]
) -> tuple[int, int]:
  """Draws metal into an image, in place.

  Args:
    hu: the image, HU.
    grid: where it lies.
    parts: what to draw.

  Returns:
    First and last slice (exclusive) with metal; equal if there is none.
  """
  first, last = hu.shape[2], 0
  edge = max(grid.spacing) / 2
  for part in parts:
    ends = np.array([part.start, part.end])
    reach = part.radius_mm + 2 * edge
    box = np.stack([ends.min(0) - reach, ends.max(0) + reach])
    corners = np.stack(np.meshgrid(*box.T), -1).reshape(-1, 3)
    found = grid.to_voxel(corners)
    low = np.maximum(np.floor(found.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(found.max(0)) + 1, hu.shape).astype(int)
    if (low >= high).any():
      continue
    index = np.indices(high - low).reshape(3, -1).T + low
    points = grid.to_world(index) - ends[0]
    axis = ends[1] - ends[0]
    share = np.clip(points @ axis / (axis @ axis), 0.0, 1.0)
    away = np.linalg.norm(points - share[:, None] * axis, axis=1)
    inside = np.clip(0.5 + (part.radius_mm - away) / (2 * edge), 0.0, 1.0)
    region = hu[tuple(slice(a, b) for a, b in zip(low, high))]
    metal = (inside * (METAL_HU + 1000) - 1000).reshape(region.shape)
    np.maximum(region, metal.astype(np.int16), out=region)
    if inside.max() > 0.5:
      first, last = min(first, int(low[2])), max(last, int(high[2]))
  return (first, last) if first < last else (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Streaks:
  """The streaks of a scan on a coarse grid.

  Attributes:
    layers: artefact, HU, on few pixels over the slice.
    places: the slice that each layer lies in.
  """

  layers: Float32[np.ndarray, "u v layers"]
  places: Float32[np.ndarray, " layers"]

  def add_to(self, plane: Float32[np.ndarray, "x y"], place: int) -> None:
    """Adds the streaks of one slice, in place.

    Args:
      plane: the slice, HU.
      place: its number.
    """
    if not self.places[0] <= place <= self.places[-1]:
      return
    after = int(np.searchsorted(self.places, place))
    layer = self.layers[:, :, after]
    if self.places[after] != place:
      gap = self.places[after] - self.places[after - 1]
      share = np.float32((self.places[after] - place) / gap)
      layer = share * self.layers[:, :, after - 1] + (1 - share) * layer
    left, right = (_widen(n, len(layer)) for n in plane.shape)
    plane += left @ layer @ right.T


def streaks_of(
  hu: Int16[np.ndarray, "x y z"],
  grid: Grid,
  slices: tuple[int, int],
  rng: np.random.Generator,
) -> Streaks:
  """Computes the streaks of the metal in a square-sliced image.

  Args:
    hu: the image with metal in it, HU.
    grid: where it lies.
    slices: first and last (exclusive) with metal.
    rng: noise of the starved detectors.

  Returns:
    The streaks.
  """
  step = max(1, round(_LAYERS_MM / grid.spacing[2]))
  places = np.arange(slices[0], slices[1], step)
  field_mm = grid.spacing[0] * hu.shape[0], grid.spacing[1] * hu.shape[1]
  pixels = min(_PIXELS, *hu.shape[:2])
  pixel_mm = max(field_mm) / pixels
  wide = [_widen(n, pixels) for n in hu.shape[:2]]
  narrow = [matrix.T / matrix.sum(0)[:, None] for matrix in wide]
  metal = np.empty((pixels, pixels, len(places)), np.float32)
  for layer, place in enumerate(places):
    share = np.clip((hu[:, :, place] - 3000) / np.float32(5000), 0.0, 1.0)
    metal[:, :, layer] = narrow[0] @ share @ narrow[1].T
  project = _projector(pixels)
  ideal = project @ metal.reshape(-1, len(places))
  ideal = ideal * np.float32(pixel_mm * _MU_PER_MM)
  hardening = rng.uniform(0.10, 0.16)
  measured = -np.expm1(-hardening * ideal) / hardening
  noise = rng.standard_normal(ideal.shape, dtype=np.float32)
  starved = 0.012 * np.exp(np.minimum(measured, 6.0) / 2) * (ideal > 0.02)
  error = (measured - ideal + starved * noise).astype(np.float32)
  error = error.reshape(_ANGLES, -1, len(places))
  detectors = error.shape[1]
  spectrum = np.fft.rfft(error, 2 * detectors, axis=1)
  frequency = np.fft.rfftfreq(2 * detectors)
  # The ramp is rolled off, as every kernel does.
  ramp = frequency * np.cos(np.pi * frequency)
  filtered = np.fft.irfft(spectrum * ramp[None, :, None], axis=1)
  filtered = filtered[:, :detectors].astype(np.float32)
  image = project.T @ filtered.reshape(-1, len(places))
  scale = np.pi / _ANGLES / pixel_mm * 1000.0 / _WATER_PER_MM
  layers = (image * np.float32(scale)).reshape(metal.shape)
  # Scanners correct a good part of it.
  layers = np.clip(layers * rng.uniform(0.25, 0.6), -900.0, 900.0)
  return Streaks(layers.astype(np.float32), places.astype(np.float32))


@functools.cache
def _projector(pixels: int) -> scipy.sparse.csr_array:
  """Parallel projections of a square image; rows are (angle, detector)."""
  detectors = int(np.ceil(pixels * 1.4143)) + 3
  steps = np.arange(pixels) - (pixels - 1) / 2
  across, along = np.meshgrid(steps, steps, indexing="ij")
  angles = np.arange(_ANGLES)[:, None] * np.pi / _ANGLES
  place = np.cos(angles) * across.ravel() + np.sin(angles) * along.ravel()
  place = place + (detectors - 1) / 2
  left = np.floor(place).astype(np.int32)
  right = (place - left).astype(np.float32)
  row = np.arange(_ANGLES, dtype=np.int32)[:, None] * detectors + left
  pixel = np.broadcast_to(np.arange(pixels**2, dtype=np.int32), row.shape)
  values = np.concatenate([(1 - right).ravel(), right.ravel()])
  rows = np.concatenate([row.ravel(), row.ravel() + 1])
  columns = np.concatenate([pixel.ravel(), pixel.ravel()])
  shape = (_ANGLES * detectors, pixels**2)
  return scipy.sparse.csr_array((values, (rows, columns)), shape=shape)


@functools.cache
def _widen(size: int, pixels: int) -> Float32[np.ndarray, "size coarse"]:
  """Linear interpolation from `pixels` to `size` of them."""
  place = (np.arange(size) + 0.5) * pixels / size - 0.5
  place = np.clip(place, 0, pixels - 1)
  left = np.minimum(np.floor(place).astype(int), pixels - 2)
  weights = np.zeros((size, pixels), np.float32)
  weights[np.arange(size), left] = 1 - (place - left)
  weights[np.arange(size), left + 1] = place - left
  return weights
