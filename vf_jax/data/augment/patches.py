# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the host hands to the device."""

from __future__ import annotations

import flax.struct
from jaxtyping import Array, Bool, Float, Int, Int16, UInt8, UInt32


@flax.struct.dataclass
class Patches:
  """Windows as read, a margin larger than the crops cut from them.

  A single sample, without the batch axis, passes through the same class.
  Spatial order is (depth, height, width); places are in voxels of the window.

  Attributes:
    image: HU; air where a sample is painted.
    labels: VerSe codes, 0 background, `IGNORE` unknown.
    painted: whether intensities are synthetic.
    spacing_mm: spacing of the scan before resampling, ascending, mm.
    centres: body centre of each VerSe code.
    has_centre: whether that code has a centre.
    boxes: lesion centre and edge lengths (mm).
    box_mask: True for real slots.
    domain: index of the source's domain.
    has_masks: whether vertebra masks are annotated.
    has_levels: whether levels are annotated.
    has_lesions: whether lesions are annotated.
    case: index of the case in the store.
    seed: of everything random that happens to the sample on the device.
    tissue: tissue classes where painted, 0 elsewhere; None if this experiment
      paints nothing.
    depth: distance below the surface of the own bone in `DEPTH_STEP_MM`; like
      `tissue`.
  """

  image: Int16[Array, "*batch depth height width"]
  labels: UInt8[Array, "*batch depth height width"]
  painted: Bool[Array, "*batch"]
  spacing_mm: Float[Array, "*batch 3"]
  centres: Float[Array, "*batch codes 3"]
  has_centre: Bool[Array, "*batch codes"]
  boxes: Float[Array, "*batch boxes 6"]
  box_mask: Bool[Array, "*batch boxes"]
  domain: Int[Array, "*batch"]
  has_masks: Bool[Array, "*batch"]
  has_levels: Bool[Array, "*batch"]
  has_lesions: Bool[Array, "*batch"]
  case: Int[Array, "*batch"]
  seed: UInt32[Array, "*batch 2"]
  tissue: UInt8[Array, "*batch depth height width"] | None = None
  depth: UInt8[Array, "*batch depth height width"] | None = None
