# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which lesions a scan shows enough of to be annotated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.multispine.phantom.points import triple
from vf_jax.multispine.phantom.scanner import Scan

JUDGED_SHARE = 0.25
"""Of a lesion's volume, from which on a reader would mark it; our choice."""

_STEPS = 16  # along every edge of a box


def judge_lesions(
  lesions: Iterable[AnnotatedLesion], scan: Scan
) -> tuple[tuple[AnnotatedLesion, ...], bool]:
  """Finds the lesions that a reader of a scan would mark.

  Args:
    lesions: of the whole patient.
    scan: what is seen of him.

  Returns:
    Boxes around the parts in view, mm RAS+, and whether they are all: not if
    the scan shows a sliver of another one.
  """
  found = [seen_of(box, scan) for box in lesions]
  marked = tuple(
    box for box, share in found if box is not None and share >= JUDGED_SHARE
  )
  return marked, len(marked) == sum(share > 0 for _, share in found)


def seen_of(
  box: AnnotatedLesion, scan: Scan
) -> tuple[AnnotatedLesion | None, float]:
  """Finds the part of a lesion that a scan shows.

  Args:
    box: around the whole lesion, which is taken for an ellipsoid.
    scan: its padding shows nothing.

  Returns:
    The box around the part in view, None if there is none, and the share of
    the volume that is in view, 0..1.

  Units:
    mm RAS+.
  """
  steps = (np.arange(_STEPS) + 0.5) / _STEPS * 2 - 1
  ball = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
  ball = ball[(ball**2).sum(axis=1) <= 1]
  half = np.array(box.size_mm) / 2
  points = box.centre_mm + ball * half
  shape = np.array(scan.image.voxels.shape)
  voxels = np.rint(scan.image.grid.to_voxel(points)).astype(int)
  seen = ((voxels >= 0) & (voxels < shape)).all(axis=1)
  if scan.protocol.padding_hu is not None:
    hu = scan.image.voxels[tuple(np.clip(voxels, 0, shape - 1).T)]
    seen &= hu != scan.protocol.padding_hu
  if seen.all():
    return box, 1.0
  if not seen.any():
    return None, 0.0
  step = half / _STEPS
  low = points[seen].min(axis=0) - step
  high = points[seen].max(axis=0) + step
  part = AnnotatedLesion(triple((low + high) / 2), triple(high - low), box.kind)
  return part, float(seen.mean())
