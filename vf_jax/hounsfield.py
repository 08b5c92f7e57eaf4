# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Are these voxels Hounsfield units? A verdict from the histogram.

The anchor is soft tissue: every CT of a body, the tightest spine crop
included, has a good part of its voxels between fat (-110 HU) and muscle
(60 HU). Air may be out of view and bone may be rare; neither is needed to
find the zero of the scale.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Shaped

from vf_jax.scratch import release

_SAMPLE = 1 << 21
_LOW, _HIGH = -36000, 70000
_SOFT = (-150, 100)
# Values one finds when slope and intercept were lost, or applied twice.
AIR_HU = -1024
"""Value of what lies outside a scan."""

_OFFSETS = (-1024, -1000, -8192, -32768, -33792, 1024, 1000)
_PADDING_SHARE = 0.02
_MIN_SOFT = 0.005
_MIN_MOVED_SOFT = 0.08
_MIN_BONE = 1e-4


@dataclasses.dataclass(frozen=True)
class HounsfieldCheck:
  """A verdict on the scale of a CT's values.

  Attributes:
    verdict: 'ok', 'offset', 'constant', 'windowed', 'no_bone' or 'not_hu'.
    message: the same for people, with the fix.
    offset: HU to add to the voxels to mend them; 0 unless 'offset'.
  """

  verdict: str
  message: str
  offset: float = 0.0

  @property
  def refused(self) -> bool:
    """Whether nothing can be computed from such values."""
    return self.verdict in ("constant", "windowed", "not_hu", "offset")


def judge_hounsfield(
  voxels: Shaped[np.ndarray, "x y z"],
) -> HounsfieldCheck:
  """Judges whether values are Hounsfield units.

  Looks at about two million voxels of a larger volume, evenly spread.

  Args:
    voxels: a CT, before any windowing or normalisation.

  Returns:
    The verdict; 'ok' if in doubt about everything but soft tissue.

  Units:
    HU.
  """
  if not voxels.size:
    return HounsfieldCheck("constant", "there are no voxels.")
  values = _sample(voxels)
  if not values.size:
    return HounsfieldCheck("not_hu", "no voxel is a finite number.")
  low, high = float(values.min()), float(values.max())
  if low == high and voxels.min() == voxels.max():
    return HounsfieldCheck(
      "constant", f"every voxel is {low:g}; the export went wrong."
    )
  if high - low < 100:
    return HounsfieldCheck(
      "not_hu",
      f"values span only {low:g} to {high:g}: normalised, or a label mask. "
      "Give the CT in Hounsfield units.",
    )
  # HU do not fit into one byte, signed or not.
  if voxels.dtype.itemsize == 1 or (low >= 0 and high <= 255):
    return HounsfieldCheck(
      "windowed",
      f"grey values {low:g} to {high:g}, as in a windowed picture, whose "
      "Hounsfield units are lost, or a label mask. Give the original CT.",
    )
  counts = np.bincount(
    np.clip(np.rint(values), _LOW, _HIGH).astype(np.int64) - _LOW,
    minlength=_HIGH - _LOW + 1,
  )
  padding = _padding(counts)
  top = int(np.rint(high))
  if top <= 400 and _is_cut_off(counts, top - _LOW):
    return HounsfieldCheck(
      "windowed",
      f"values are cut off at {high:g}, below cortical bone. Export the "
      "original CT.",
    )
  return _judge_histogram(counts, padding)


def _sample(voxels: np.ndarray) -> np.ndarray:
  """Finite values of an evenly spread part of the volume, as float64."""
  step = max(1, int(np.ceil((voxels.size / _SAMPLE) ** (1 / 3))))
  planes = []
  for place in range(0, voxels.shape[2], step):
    planes.append(voxels[::step, ::step, place].ravel().astype(np.float64))
    release(voxels)
  values = np.concatenate(planes)
  return values[np.isfinite(values)]


def _is_cut_off(counts: np.ndarray, top: int) -> bool:
  """Whether the values pile up at the largest one."""
  below = counts[max(0, top - 50) : top]
  return bool(
    counts[top] > 0.002 * counts.sum()
    and counts[top] > 3 * below.max(initial=0)
  )


def _padding(counts: np.ndarray) -> list[int]:
  """Single values that stand out of their neighbours: padding or clipping."""
  found = []
  peaks = np.flatnonzero(counts > _PADDING_SHARE * counts.sum())
  for index in peaks.tolist():
    around = counts[max(0, index - 50) : index + 51].copy()
    around[min(index, 50)] = 0
    if counts[index] > 3 * around.max():
      found.append(index + _LOW)
  return found


def _judge_histogram(counts: np.ndarray, padding: list[int]) -> HounsfieldCheck:
  """Judges by where soft tissue is, without padding if tissue is left."""
  bare = counts.copy()
  bare[np.array(padding, np.int64) - _LOW] = 0
  verdict = _judge_shares(bare)
  # Noise-free phantoms are made of a few values that look like padding. They
  # are known by their air and soft tissue, each at one value of its own.
  phantom = min(padding, default=0) <= -900 and any(
    25 < value < 100 for value in padding
  )
  if padding and (
    verdict.verdict == "not_hu" or (verdict.verdict == "offset" and phantom)
  ):
    with_padding = _judge_shares(counts)
    if with_padding.verdict != "not_hu":
      return with_padding
  return verdict


def _judge_shares(counts: np.ndarray) -> HounsfieldCheck:
  """Judges by the shares of voxels in the ranges of the tissues."""
  total = max(int(counts.sum()), 1)
  sums = np.concatenate([[0], np.cumsum(counts)])

  def share(low: int, high: int) -> float:
    edges = np.clip([low - _LOW, high - _LOW], 0, len(counts))
    return float(sums[edges[1]] - sums[edges[0]]) / total

  wrapped = share(_LOW, -4096)
  if wrapped > 1e-4:
    return HounsfieldCheck(
      "not_hu",
      f"{wrapped:.2%} of the voxels are below -4096: an int16 overflow. "
      "Export again as int32 or float32.",
    )
  # Below zero there is fat in every body; unscaled values have none there.
  if share(_LOW, -60) < 0.05:
    moved = [o for o in _OFFSETS if o < 0]
  elif share(_LOW, -1300) > 0.02 or (
    share(*_SOFT) < 0.03 and share(_LOW, -1080) > 0.02
  ):
    moved = [o for o in _OFFSETS if o > 0]
  else:
    moved = []
  best = max(moved, key=lambda o: share(_SOFT[0] - o, _SOFT[1] - o), default=0)
  if best and share(_SOFT[0] - best, _SOFT[1] - best) >= _MIN_MOVED_SOFT:
    offset = _settle_offset(best, counts, share)
    return HounsfieldCheck(
      "offset",
      f"soft tissue lies near {-offset} instead of 0: the rescale intercept "
      f"was lost or applied twice. Export again, or add {offset:+d} to every "
      "voxel.",
      float(offset),
    )
  if share(_LOW, 0) < 0.001:
    return HounsfieldCheck(
      "not_hu",
      "nothing is below 0, neither fat nor air nor marrow: not Hounsfield "
      "units. Give the original CT.",
    )
  if share(*_SOFT) < _MIN_SOFT or share(20000, _HIGH) > 0.005:
    return HounsfieldCheck(
      "not_hu",
      "no soft tissue between -150 and 100: not Hounsfield units of a body. "
      "Give the original CT.",
    )
  if share(200, _HIGH) < _MIN_BONE:
    return HounsfieldCheck(
      "no_bone", "Hounsfield units, but nothing is as dense as bone."
    )
  return HounsfieldCheck("ok", "plausible Hounsfield units.")


def _settle_offset(offset, counts, share) -> int:
  """Tells 1000 from 1024 by the place of air; 1024 if there is none."""
  if abs(offset) not in (1000, 1024):
    return offset
  sign = 1 if offset > 0 else -1
  raw_air = -1000 - sign * 1012
  if share(raw_air - 88, raw_air + 88) < 0.01:
    return sign * 1024
  window = counts[raw_air - 88 - _LOW : raw_air + 88 - _LOW]
  smooth = np.convolve(window, np.ones(9), "same")
  air = int(np.argmax(smooth)) + raw_air - 88
  return (
    min((1000, 1024), key=lambda size: abs(air + sign * size + 1000)) * sign
  )
