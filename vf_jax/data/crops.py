# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Reads the window that a crop needs; NumPy only, nothing is computed here.

A window is the crop and a margin around it, so that the device can turn and
bend it without running out of scan at once. Only the chunks that a window
touches are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vf_jax.config import Config
from vf_jax.data.targets import Target
from vf_jax.hounsfield import AIR_HU
from vf_jax.labels import CODES, IGNORE
from vf_jax.multispine.record import Record
from vf_jax.multispine.store import StoredCase
from vf_jax.multispine.tissues import OUTSIDE

MAX_BOXES = 8
"""Lesions that a window can tell of; the loss takes time for each of them."""

SYNTHETIC = "synthetic"
"""Domain of samples with synthetic intensities."""

_REACH = (0.4, 0.25, 0.25)
"""How far a target lies from the middle of its crop at most, in crops."""

_VIEW = ((0.4, 1.6), (0.4, 1.2), (0.4, 1.2))
"""Edges of a narrower field of view, in crops; above 1 most are not seen."""


@dataclasses.dataclass(frozen=True)
class WindowReader:
  """Places and reads windows.

  Attributes:
    crop: the crop in voxels (depth, height, width).
    margin: voxels read beyond it on every side.
    synthesis: chance that a case with a tissue map is painted although it has
      an image.
    paints: whether windows carry what painting needs.
    domains: names of domains; index = place.
    narrow: chance that a window shows a narrower field of view than its scan.
  """

  crop: tuple[int, int, int]
  margin: int
  synthesis: float
  paints: bool
  domains: tuple[str, ...]
  narrow: float = 0.0

  def __call__(
    self, case: StoredCase, target: Target, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """Reads one window around a target.

    Args:
      case: the case of the target.
      target: what it is drawn for.
      rng: of the place and of the seed for the device.

    Returns:
      The fields of `augment.patches.Patches` without the batch axis.
    """
    record = case.record
    start = self._start(case.shape, target, rng)
    size = tuple(n + 2 * self.margin for n in self.crop)
    painted = self._is_painted(case, rng)
    sample: dict[str, Any] = self._arrays(case, start, size, painted) | {
      "painted": np.bool_(painted),
      "spacing_mm": np.array(record.native_spacing_mm, np.float32),
      "domain": np.int32(
        self.domains.index(SYNTHETIC if painted else record.domain)
      ),
      "case": np.int32(target.case),
      # NOTE: drawn from the generator of this element, so that the device
      # does the same with it on any number of hosts.
      "seed": rng.integers(0, 1 << 32, 2, dtype=np.uint32),
    }
    for task in ("masks", "levels"):
      sample[f"has_{task}"] = np.bool_(task in record.annotates)
    boxes, complete = _boxes(record, start, size)
    sample["has_lesions"] = np.bool_(
      "lesions" in record.annotates and complete and not painted
    )
    sample |= _centres(record, start) | boxes
    if self.narrow and rng.random() < self.narrow:
      _hide(sample, *self._view(rng), record.spacing_mm)
    return sample

  def _view(self, rng) -> tuple[np.ndarray, np.ndarray]:
    """First voxel of a narrower field of view, and the first after it."""
    crop = np.array(self.crop)
    edge = np.rint(crop * [rng.uniform(*reach) for reach in _VIEW])
    middle = (crop - 1) / 2 + rng.uniform(-1, 1, 3) * crop * _REACH
    low = self.margin + np.rint(middle - edge / 2).astype(int)
    return low, low + edge.astype(int)

  def _arrays(self, case, start, size, painted) -> dict[str, Any]:
    """Reads what this sample needs; the rest of its fields is empty."""
    imaged = "image" in case.arrays
    # Beyond a scan nothing is known; beyond a mask alone there is no vertebra.
    fills = {"labels": IGNORE if imaged else 0}
    if painted:
      fills |= {"tissue": OUTSIDE.code if imaged else 0, "depth": 0}
    else:
      fills["image"] = AIR_HU
    found = case.read_all(fills, start, size)
    if painted:
      found["image"] = np.full(size, AIR_HU, np.int16)
    elif self.paints:
      found |= {name: np.zeros(size, np.uint8) for name in ("tissue", "depth")}
    return found

  def _start(self, shape, target, rng) -> tuple[int, int, int]:
    """First voxel of the window."""
    crop, spare = np.array(self.crop), np.array(shape) - self.crop
    # At most a quarter of what can be shown is given up beyond the border.
    beyond = np.minimum(crop, shape) // 4
    low = np.minimum(spare, 0) - beyond
    high = np.maximum(spare, 0) + beyond
    if target.point is None:
      start = rng.integers(low, high + 1)
    else:
      away = rng.uniform(-1, 1, 3) * crop * _REACH
      start = np.rint(np.array(target.point) + away - (crop - 1) / 2)
      start = np.clip(start, low, high)
    d, h, w = (int(v) - self.margin for v in start)
    return d, h, w

  def _is_painted(self, case: StoredCase, rng) -> bool:
    draw = rng.random()
    if "image" not in case.arrays:
      return True
    return "tissue" in case.arrays and draw < self.synthesis


def _hide(
  sample: dict[str, Any],
  low: np.ndarray,
  high: np.ndarray,
  spacing_mm: float,
) -> None:
  """Hides what lies outside a box of a window, as a scan's border does.

  Bodies and lesions are told of where their centres are seen. Part of another
  lesion is no healthy bone, so that nothing is said of lesions then.
  """
  hidden = np.ones(sample["labels"].shape, bool)
  hidden[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low, high))] = False
  fills = {"image": AIR_HU, "labels": IGNORE}
  if sample["painted"]:
    fills |= {"tissue": OUTSIDE.code, "depth": 0}
  for name, fill in fills.items():
    sample[name] = np.where(hidden, sample[name].dtype.type(fill), sample[name])

  def reaches(places, half=0.0):
    return ((places + half >= low) & (places - half <= high - 1)).all(axis=1)

  sample["has_centre"] &= reaches(sample["centres"])
  places, half = np.split(sample["boxes"], [3], axis=1)
  touched = sample["box_mask"] & reaches(places, half / (2 * spacing_mm))
  sample["box_mask"] = touched & reaches(places)
  if (touched != sample["box_mask"]).any():
    sample["has_lesions"] = np.bool_(False)


def window_reader(
  config: Config, domains: tuple[str, ...], cases: Sequence[StoredCase]
) -> WindowReader:
  """Builds the reader of an experiment.

  Args:
    config: the experiment.
    domains: names of domains; index = place.
    cases: all cases that windows are read from.

  Returns:
    The reader.
  """
  return WindowReader(
    crop=config.model.crop,
    margin=config.data.augment.margin if config.data.augment.turns else 0,
    synthesis=config.data.synthesis,
    paints=any(
      "image" not in case.arrays
      or (config.data.synthesis > 0 and "tissue" in case.arrays)
      for case in cases
    ),
    domains=domains,
    narrow=config.data.narrow,
  )


def _centres(record: Record, start: Sequence[int]) -> dict[str, np.ndarray]:
  centres = np.zeros((CODES, 3), np.float32)
  known = np.zeros(CODES, bool)
  for code, point in record.centres.items():
    if code < CODES:
      centres[code] = np.asarray(point) - start
      known[code] = True
  return {"centres": centres, "has_centre": known}


def _boxes(
  record: Record, start: Sequence[int], size: Sequence[int]
) -> tuple[dict[str, np.ndarray], bool]:
  """The boxes in sight, nearest to the middle first; and if these are all.

  One that the border cuts is in sight: what is seen of it is no healthy bone.

  NOTE: where some are left out, their places must not count as free of lesions.
  """
  boxes = np.zeros((MAX_BOXES, 6), np.float32)
  mask = np.zeros(MAX_BOXES, bool)
  complete = True
  if record.boxes:
    found = np.array(record.boxes, float)
    found[:, :3] -= start
    centre, half = found[:, :3], found[:, 3:] / (2 * record.spacing_mm)
    found = found[
      ((centre + half > 0) & (centre - half < np.array(size) - 1)).all(axis=1)
    ]
    away = np.linalg.norm(found[:, :3] - (np.array(size) - 1) / 2, axis=1)
    complete = len(found) <= MAX_BOXES
    found = found[np.argsort(away, kind="stable")][:MAX_BOXES]
    boxes[: len(found)] = found
    mask[: len(found)] = True
  return {"boxes": boxes, "box_mask": mask}, complete
