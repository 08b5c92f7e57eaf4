# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A scanner: from a patient without noise to the image of one protocol.

What is modelled, in this order: contrast agent and tube voltage (on the
patient), field of view and slices (thickness, gantry tilt, oblique position),
metal, the kernel's transfer function, noise that grows with the body's
thickness and has the kernel's colour, streaks, the table, the scale's error,
the round field of view and the 12 bits of the scale.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.fft
from jaxtyping import Float32, Float64, Int16

from vf_jax import hounsfield
from vf_jax.grid import Grid
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.anatomy import Anatomy
from vf_jax.multispine.phantom.domains import KERNELS, Kernel, Protocol
from vf_jax.multispine.phantom.field_of_view import (
  extent,
  is_inside,
  place,
)
from vf_jax.multispine.phantom.metal import (
  Rod,
  Streaks,
  draw_screws,
  insert_metal,
  streaks_of,
)
from vf_jax.resampling import antialias_sigma, resample_indices
from vf_jax.volume import Volume, reorient, resample

AIR_HU = -1000
LIMITS_HU = (hounsfield.AIR_HU, hounsfield.MAX_HU)
_MARGIN = 8  # pixels that keep the kernel from wrapping around
_FWHM = 2 * math.sqrt(2 * math.log(2))
# Standard deviation of quantum noise doubles with 14 cm of water: half of
# what physics says, because the tube current is modulated.
_NOISE_PER_MM = 0.005
_THICK_MM = 300.0


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
  """What comes out of a scanner, and the truth on the same grid.

  Attributes:
    image: HU, int16, in the protocol's axis order.
    labels: VerSe codes of all that is in view, cut vertebrae and sacrum too.
    protocol: the settings.
  """

  image: Volume
  labels: Volume
  protocol: Protocol


def acquire(
  anatomy: Anatomy, protocol: Protocol, rng: np.random.Generator
) -> Scan:
  """Scans a patient.

  Args:
    anatomy: the patient.
    protocol: the settings; `domains.draw_protocol` draws them.
    rng: position of the field of view, screws and noise.

  Returns:
    Image and labels on the native grid.

  Raises:
    InputError: if the patient has none of the levels that are to be scanned.

  Units:
    HU, mm RAS+.
  """
  grid = place(anatomy, protocol, rng)
  hu = _irradiate(anatomy, protocol)
  image = _sample(hu, anatomy.grid, grid, protocol)
  del hu
  labels = resample(anatomy.labels, anatomy.grid, grid, order=0, fill=0)
  parts: tuple[Rod, ...] = ()
  if protocol.metal:
    seen = {c: p for c, p in anatomy.centres.items() if is_inside(grid, p)}
    parts = draw_screws(seen, anatomy.pedicles, rng)
  slices = insert_metal(image, grid, parts)
  streaks = None
  if slices[0] < slices[1]:
    streaks = streaks_of(image, grid, slices, rng)
  _expose(image, grid, protocol, _Body.of(anatomy), streaks, rng)
  if protocol.padding_hu is not None:
    outside = ~_circle(image.shape[0], image.shape[1])
    image[outside] = protocol.padding_hu
    labels[outside] = 0
  codes = protocol.orientation
  return Scan(
    reorient(Volume(image, grid.affine), codes),
    reorient(Volume(labels, grid.affine), codes),
    protocol,
  )


def cut_codes(labels: Volume) -> frozenset[int]:
  """Finds the vertebrae that the top or bottom of a scan cuts.

  Args:
    labels: VerSe codes in any axis order.

  Returns:
    Codes with voxels in the first or last layer towards the head or feet.
  """
  axis = next(i for i, c in enumerate(labels.axis_codes) if c in "SI")
  ends = labels.voxels.take([0, -1], axis)
  return frozenset(np.unique(ends).tolist()) - {0}


def _irradiate(
  anatomy: Anatomy, protocol: Protocol
) -> Int16[np.ndarray, "x y z"]:
  """What the tube's voltage and contrast agent make of the patient."""
  hu = anatomy.hu
  gain = {100: 1.12, 110: 1.06, 130: 0.96, 140: 0.92}.get(protocol.kvp, 1.0)
  agent = np.zeros(256, np.int16)
  agent[tissues.VESSEL.code] = round(protocol.contrast_hu * gain)
  agent[tissues.ORGAN.code] = round(protocol.contrast_hu * gain * 0.2)
  scale = np.arange(-32768, 32768, dtype=np.float64)
  scale += np.maximum(scale - 80.0, 0.0) * (gain - 1)
  table = np.clip(np.rint(scale), -32768, 32767).astype(np.int16)
  result = np.empty_like(hu)
  for layer in range(hu.shape[2]):
    plane = table[hu[:, :, layer].astype(np.int32) + 32768]
    result[:, :, layer] = plane + agent[anatomy.tissue[:, :, layer]]
  return result


def _sample(hu, source, grid, protocol) -> Int16[np.ndarray, "u v w"]:
  """Takes the slices, each as thick as it is, without kernel and noise."""
  index_map = np.linalg.solve(source.affine, grid.affine)
  x, y, z = antialias_sigma(index_map)
  if protocol.reformat_mm is None:
    # Slices may be thicker than they are apart.
    thick = protocol.slice_mm / source.spacing[2]
    z = math.sqrt(max(thick**2 - 1.0, 0.0)) / _FWHM
  return resample_indices(
    hu, index_map, grid.shape, order=1, fill=AIR_HU, sigma=(x, y, z)
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Body:
  """How thick the patient is at every height.

  Attributes:
    middle: of the body in a slice, mm RAS+.
    back: how far it reaches to the back, y in mm RAS+.
    front: how far it reaches to the front.
    heights: mm.
    water_mm: diameter of the water cylinder that attenuates as much.
    streak: share of the noise that lies in streaks from side to side.
  """

  middle: tuple[float, float]
  back: float
  front: float
  heights: Float64[np.ndarray, " z"]
  water_mm: Float64[np.ndarray, " z"]
  streak: Float64[np.ndarray, " z"]

  @classmethod
  def of(cls, anatomy: Anatomy) -> _Body:
    """Measures a patient."""
    step = 4
    edge = anatomy.grid.spacing[0] * step
    part = anatomy.hu[::step, ::step]
    water = np.clip((part.astype(np.float64) + 1000) / 1000, 0.0, 2.5)
    area = water.sum(axis=(0, 1)) * edge**2
    side = water.sum(axis=0).max(axis=0) * edge
    front = water.sum(axis=1).max(axis=0) * edge
    (left, right), (back, front_end) = extent(anatomy)
    place = np.arange(part.shape[2]) * anatomy.grid.spacing[2]
    return cls(
      ((left + right) / 2, (back + front_end) / 2),
      back,
      front_end,
      place + anatomy.grid.affine[2, 3],
      2 * np.sqrt(area / np.pi),
      np.clip((side - front - 140.0) / 250.0, 0.0, 0.6),
    )


def _expose(
  image: Int16[np.ndarray, "x y z"],
  grid: Grid,
  protocol: Protocol,
  body: _Body,
  streaks: Streaks | None,
  rng: np.random.Generator,
) -> None:
  """Applies kernel, noise, streaks, table, offset and limits, in place."""
  size = [scipy.fft.next_fast_len(n + 2 * _MARGIN) for n in image.shape[:2]]
  kernel = _Filter.of(KERNELS[protocol.kernel], size, grid.spacing)
  middle_z = grid.to_world(
    np.stack(
      [np.full(image.shape[2], (n - 1) / 2) for n in image.shape[:2]]
      + [np.arange(image.shape[2])],
      axis=1,
    )
  )[:, 2]
  water = np.interp(middle_z, body.heights, body.water_mm)
  streak = np.interp(middle_z, body.heights, body.streak)
  level = protocol.noise_hu * np.exp((water - _THICK_MM) * _NOISE_PER_MM)
  bowl = _bowl(grid, body)
  table = _table(grid, protocol, body)
  # Slices that overlap share a part of their noise.
  memory = max(0.0, 1.0 - grid.spacing[2] / protocol.slice_mm)
  fresh = np.float32(math.sqrt(1 - memory**2))
  inner = tuple(slice(_MARGIN, _MARGIN + n) for n in image.shape[:2])
  pads = [(_MARGIN, m - n - _MARGIN) for n, m in zip(image.shape, size)]
  white = rng.standard_normal(size, dtype=np.float32)
  for layer in range(image.shape[2]):
    plane = np.maximum(image[:, :, layer], table).astype(np.float32)
    signal = kernel.blur(np.pad(plane, pads, mode="edge"))[inner]
    white *= np.float32(memory)
    white += fresh * rng.standard_normal(size, dtype=np.float32)
    noise = kernel.colour(white, float(streak[layer]))[inner]
    spread = bowl * np.float32(level[layer])
    # Air lets all photons through.
    spread = np.where(plane < -800, np.float32(0.5) * spread, spread)
    signal = signal + spread * noise
    if streaks is not None:
      streaks.add_to(signal, layer)
    signal += np.float32(protocol.offset_hu)
    np.clip(np.rint(signal), *LIMITS_HU, out=signal)
    image[:, :, layer] = signal


@dataclasses.dataclass(frozen=True, eq=False)
class _Filter:
  """A kernel in the frequencies of one slice format."""

  transfer: Float32[np.ndarray, "u v"]
  grain: Float32[np.ndarray, "u v"]
  lines: Float32[np.ndarray, "u v"]
  size: tuple[int, int]

  @classmethod
  def of(cls, kernel: Kernel, size, spacing) -> _Filter:
    """Tabulates a kernel for slices of `size` pixels."""
    u = np.fft.fftfreq(size[0], spacing[0])[:, None]
    v = np.fft.rfftfreq(size[1], spacing[1])
    square = (u**2 + v**2) / kernel.half_per_mm**2
    transfer = np.exp2(-square) * (1 + kernel.boost * square)
    # The patient's own voxels have blurred the image once already.
    grain = np.sqrt(np.sqrt(u**2 + v**2) + 0.01) * transfer
    lines = grain * np.exp(-((u * 14.0) ** 2))
    return cls(
      transfer.astype(np.float32),
      _unit_power(grain, size[1]),
      _unit_power(lines, size[1]),
      (size[0], size[1]),
    )

  def blur(self, plane):
    """The image that the kernel makes of a slice."""
    spectrum = scipy.fft.rfft2(plane) * self.transfer
    return scipy.fft.irfft2(spectrum, s=self.size)

  def colour(self, white, streak):
    """Noise of unit variance with the kernel's texture."""
    weights = self.grain
    if streak > 0:
      weights = np.sqrt(
        np.float32(1 - streak) * self.grain**2
        + np.float32(streak) * self.lines**2
      )
    return scipy.fft.irfft2(scipy.fft.rfft2(white) * weights, s=self.size)


def _unit_power(weights, columns) -> Float32[np.ndarray, "u v"]:
  """Scales a noise filter so that it keeps the variance of white noise."""
  # All columns but the first (and the last, of even sizes) stand for two.
  twice = np.full(weights.shape[1], 2.0)
  twice[0] = 1.0
  if columns % 2 == 0:
    twice[-1] = 1.0
  power = float((weights**2 * twice).sum()) / (weights.shape[0] * columns)
  return (weights / math.sqrt(power)).astype(np.float32)


def _bowl(grid, body) -> Float32[np.ndarray, "x y"]:
  """Noise is strongest where the rays are longest, in the body's middle."""
  x, y = _plane_mm(grid)
  square = ((x - body.middle[0]) / 190.0) ** 2 + (
    (y - body.middle[1]) / 130.0
  ) ** 2
  return (0.55 + 0.45 * np.exp(-square)).astype(np.float32)


def _table(grid, protocol, body) -> Int16[np.ndarray, "x y"]:
  """The table's cross-section: two thin shells with foam between them."""
  x, y = _plane_mm(grid)
  away = y - body.front if protocol.table == "front" else body.back - y
  # The middle of the table is hollow, its mat is not to be seen.
  depth = away - 8.0 + ((x - body.middle[0]) / 60.0) ** 2
  wide = np.abs(x - body.middle[0]) < 215.0
  image = np.full(x.shape, -2000, np.int16)
  image[wide & (depth > 0) & (depth < 32)] = -940
  image[wide & ((np.abs(depth) < 1.5) | (np.abs(depth - 32) < 1.5))] = -250
  return image


def _plane_mm(grid):
  """World x and y of the pixels of the middle slice."""
  place = np.indices(grid.shape[:2]).reshape(2, -1)
  index = np.vstack([place, np.full(place.shape[1], (grid.shape[2] - 1) / 2)])
  points = grid.to_world(index.T)
  shape = grid.shape[:2]
  return points[:, 0].reshape(shape), points[:, 1].reshape(shape)


def _circle(columns: int, rows: int):
  """Pixels of the round field of view."""
  x, y = np.ogrid[:columns, :rows]
  radius = ((x + 0.5) / columns - 0.5) ** 2 + ((y + 0.5) / rows - 0.5) ** 2
  return radius <= 0.25
