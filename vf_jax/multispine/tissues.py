# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tissue classes of synthetic CT, and how known masks map onto them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer, UInt8


@dataclasses.dataclass(frozen=True)
class Tissue:
  """A class of tissue.

  Attributes:
    code: its value in a tissue map.
    hu: range of its typical mean, HU.
    texture: standard deviation of its coarse texture, HU.
  """

  code: int
  hu: tuple[float, float]
  texture: float


UNKNOWN = Tissue(0, (0.0, 0.0), 0.0)  # filled by random soft tissue
OUTSIDE = Tissue(1, (-1024.0, -990.0), 2.0)
LUNG = Tissue(2, (-900.0, -650.0), 60.0)
FAT = Tissue(3, (-120.0, -70.0), 12.0)
MUSCLE = Tissue(4, (30.0, 80.0), 10.0)
ORGAN = Tissue(5, (20.0, 140.0), 10.0)
VESSEL = Tissue(6, (30.0, 350.0), 8.0)
BONE = Tissue(7, (-20.0, 330.0), 40.0)  # trabecular; the shell is added
GAS = Tissue(8, (-1000.0, -600.0), 30.0)
CARTILAGE = Tissue(9, (60.0, 140.0), 15.0)

TISSUES = (
  UNKNOWN, OUTSIDE, LUNG, FAT, MUSCLE, ORGAN, VESSEL, BONE, GAS, CARTILAGE,
)  # fmt: skip

# TotalSegmentator v2, task `total`: inclusive code ranges. Vertebrae (27-50)
# are bone as well; which vertebra they are is the label map's business.
_TOTALSEGMENTATOR = (
  (1, 9, ORGAN), (10, 14, LUNG), (15, 15, ORGAN), (16, 16, GAS),
  (17, 24, ORGAN), (25, 50, BONE), (51, 68, VESSEL), (69, 78, BONE),
  (79, 79, MUSCLE), (80, 90, MUSCLE), (91, 116, BONE), (117, 117, CARTILAGE),
)  # fmt: skip


def from_totalsegmentator(
  mask: Integer[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"]:
  """Tissue map of a TotalSegmentator v2 multi-label mask.

  Args:
    mask: codes 0..117.

  Returns:
    Tissue codes; 0 where the mask is background.
  """
  table = np.zeros(118, np.uint8)
  for first, last, tissue in _TOTALSEGMENTATOR:
    table[first : last + 1] = tissue.code
  return table[mask]
