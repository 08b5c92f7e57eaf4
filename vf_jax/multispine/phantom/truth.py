# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What is true of a patient, whoever scans him, in plain numbers and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vf_jax.labels import BY_CODE
from vf_jax.multispine.phantom.anatomy import Anatomy
from vf_jax.multispine.phantom.marks import LICENCE
from vf_jax.multispine.phantom.plan import Plan


def names_of(codes: Iterable[int]) -> list[str]:
  """Names levels from head to foot.

  Args:
    codes: VerSe codes; those of no level are left out.

  Returns:
    The names.
  """
  levels = [BY_CODE[code] for code in codes if code in BY_CODE]
  return [level.name for level in sorted(levels, key=lambda v: v.order)]


def truth_of(plan: Plan, anatomy: Anatomy) -> dict[str, Any]:
  """Tells all that is known of a patient.

  Args:
    plan: who he is.
    anatomy: his body.

  Returns:
    What JSON can hold; places and sizes in mm RAS+.
  """
  return {
    "case": plan.index,
    "source": plan.source,
    "subject": plan.subject,
    "patient": plan.seed_index,
    "part": plan.part,
    "licence": LICENCE,
    "variant": anatomy.variant,
    "levels": names_of(anatomy.centres),
    "centres_mm": {
      BY_CODE[code].name: _rounded(point)
      for code, point in anatomy.centres.items()
    },
    "pedicles_mm": {
      BY_CODE[code].name: [_rounded(point) for point in pair]
      for code, pair in anatomy.pedicles.items()
    },
    "fractures": {
      BY_CODE[code].name: {"kind": kind, "genant": grade}
      for code, (kind, grade) in anatomy.fractures.items()
    },
    "lesions": [
      {
        "centre_mm": _rounded(box.centre_mm),
        "size_mm": _rounded(box.size_mm),
        "kind": box.kind,
        "level": _level_of(anatomy, box.centre_mm),
      }
      for box in anatomy.lesions
    ],
  }


def _rounded(point: Sequence[float]) -> list[float]:
  return [round(float(value), 4) for value in point]


def _level_of(anatomy: Anatomy, point) -> str | None:
  """The vertebra a point lies in; the nearest one if it lies between."""
  voxel = np.rint(anatomy.grid.to_voxel(np.array([point]))[0]).astype(int)
  voxel = np.clip(voxel, 0, np.array(anatomy.grid.shape) - 1)
  code = int(anatomy.labels[tuple(voxel)])
  if code not in BY_CODE and anatomy.centres:
    away = {
      code: float(np.linalg.norm(np.subtract(centre, point)))
      for code, centre in anatomy.centres.items()
    }
    code = min(away, key=lambda code: away[code])
  return BY_CODE[code].name if code in BY_CODE else None
