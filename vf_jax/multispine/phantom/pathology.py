# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Compression fractures and bone lesions: where, how bad, what shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from vf_jax.multispine.phantom.points import Triple

FRACTURED_PATIENTS = 0.30
"""VerSe'19 grades (HealthiVert table): 91 of 138 scans, an osteoporosis set;
fewer here, as screening scans are part of what the phantom stands for. Of
patients with a level in view that breaks, over all densities of `bone`."""

_MEAN_ODDS = 0.84
"""What `_fragility` is on average over `bone.draw_density`."""

GRADES: Mapping[int, tuple[float, float, float]] = {
  # grade -> share among fractures in VerSe'19 (141, 96, 51), height lost
  # (Genant et al. 1993, J Bone Miner Res 8).
  1: (0.49, 0.20, 0.25),
  2: (0.33, 0.26, 0.40),
  3: (0.18, 0.41, 0.60),
}
_KINDS = (("wedge", 0.55), ("biconcave", 0.3), ("crush", 0.15))
_PRONE = {  # share of fractured vertebrae by level, VerSe'19
  "T4": 0.08, "T5": 0.12, "T6": 0.15, "T7": 0.22, "T8": 0.20, "T9": 0.16,
  "T10": 0.10, "T11": 0.17, "T12": 0.28, "T13": 0.28, "L1": 0.38, "L2": 0.32,
  "L3": 0.26, "L4": 0.25, "L5": 0.14, "L6": 0.10,
}  # fmt: skip

LESION_PATIENTS = 0.30
"""Our choice: enough to learn from; no source counts lesions per scan."""

LYTIC_SHARE = 0.5
_LYTIC_HU = (-30.0, 70.0)  # from necrosis and fat to firm soft tissue
_LYTIC_BELOW_HU = 70.0  # the bone around it, however thin that is
_SCLEROTIC_HU = (450.0, 950.0)
_SCLEROTIC_ABOVE_HU = 210.0  # the body's bone; arches are 60 HU denser


@dataclasses.dataclass(frozen=True)
class Fracture:
  """A compressed body.

  Attributes:
    kind: 'wedge', 'biconcave' or 'crush'.
    grade: Genant's, 1 to 3.
    loss: share of the body height lost where most is.
    fresh: 0..1, how dense the compacted band under the endplate is.
  """

  kind: str
  grade: int
  loss: float
  fresh: float = 0.0

  @property
  def mean_loss(self) -> float:
    """Share of height lost in the middle of the body."""
    return {"wedge": 0.5, "biconcave": 0.45, "crush": 1.0}[
      self.kind
    ] * self.loss

  @property
  def wedge(self) -> float:
    """Height lost in front more than behind."""
    return self.loss if self.kind == "wedge" else 0.0

  def keep(
    self,
    side: Float32[np.ndarray, "*shape"],
    front: Float32[np.ndarray, "*shape"],
  ) -> Float32[np.ndarray, "*shape"]:
    """Share of its height that the body keeps at places of its section.

    Args:
      side: to the right of the middle, in half widths of the body.
      front: before it, in half depths.

    Returns:
      1 where it is whole.
    """
    if self.kind == "wedge":
      share = np.clip((front + 1) / 2, 0, 1)
    elif self.kind == "crush":
      share = np.ones_like(front)
    else:
      share = np.clip(1 - 0.9 * (front**2 + side**2), 0, 1)
    share *= np.clip((front + 1.25) / 0.35, 0, 1)  # arch and pedicles stand
    return 1 - np.float32(self.loss) * share

  def unfold(
    self, points: Float32[np.ndarray, "xyz=3 *shape"], half_mm: Triple
  ) -> None:
    """Takes points of the fractured bone to where they were before, in place.

    Behind the body nothing moves; beyond the endplates everything shifts as
    far as the endplate did, so that rims keep their shape.

    Args:
      points: in the template's frame, mm.
      half_mm: half width, depth and height of the whole body.
    """
    wide, deep, tall = (np.float32(v) for v in half_mm)
    keep = self.keep(points[0] / wide, points[1] / deep)
    edge = tall * keep
    z = points[2]
    inner = np.clip(z, -edge, edge)
    points[2] = inner / keep + (z - inner)


@dataclasses.dataclass(frozen=True)
class Lesion:
  """A lesion to be.

  Attributes:
    level: name of the vertebra it lies in.
    kind: 'lytic' or 'sclerotic'.
    place: in the template's frame, in halves of the body.
    radii_mm: of the ellipsoid it fills, before bumps.
    hu: of its matter.
    seed: of its bumps.
  """

  level: str
  kind: str
  place: Triple
  radii_mm: Triple
  hu: float
  seed: int


def draw_fractures(
  rng: np.random.Generator,
  names: Sequence[str],
  density: float,
  rate: float = FRACTURED_PATIENTS,
) -> dict[str, Fracture]:
  """Draws the fractures of a patient.

  Args:
    rng: the draw.
    names: levels that may be seen.
    density: trabecular HU; thin bone breaks more often.
    rate: share with any among patients of all densities that have a level
      below T3 in `names`.

  Returns:
    Level name -> fracture.
  """
  prone = [name for name in names if name in _PRONE]
  chance = rate * _fragility(density) / _MEAN_ODDS
  if not prone or rng.random() >= chance:
    return {}
  count = min(1 + rng.geometric(0.55) - 1, 5, len(prone))
  weights = np.array([_PRONE[name] for name in prone])
  picks = rng.choice(len(prone), count, False, weights / weights.sum())
  found = {}
  for pick in sorted(picks.tolist()):
    grades = list(GRADES)
    shares = np.array([GRADES[g][0] for g in grades])
    grade = int(rng.choice(grades, p=shares / shares.sum()))
    kind = str(rng.choice([k for k, _ in _KINDS], p=[p for _, p in _KINDS]))
    loss = float(rng.uniform(*GRADES[grade][1:]))
    found[prone[pick]] = Fracture(kind, grade, loss, float(rng.random()))
  return found


def _fragility(density: float) -> float:
  """How often bone of a trabecular HU breaks, against that of 126 HU."""
  return float(np.clip(1.9 - density / 140, 0.3, 1.8))


def draw_lesions(
  rng: np.random.Generator,
  names: Sequence[str],
  density: float,
  rate: float = LESION_PATIENTS,
) -> tuple[Lesion, ...]:
  """Draws the lesions of a patient.

  Soft tissue is as dense as the thinnest bone; a lesion like that could not
  be seen, so those of thin bone are drawn from the dark end.

  Args:
    rng: the draw.
    names: vertebrae that may be seen, whole or cut.
    density: trabecular HU, 40 at least.
    rate: share of patients with any.

  Returns:
    The lesions; most lie in a body, some in the arch behind it.
  """
  if not names or rng.random() >= rate:
    return ()
  low, high = _LYTIC_HU
  dark = (low, max(low, min(high, density - _LYTIC_BELOW_HU)))
  low, high = _SCLEROTIC_HU
  bright = (max(low, density + _SCLEROTIC_ABOVE_HU), high)
  lytic = rng.random() < LYTIC_SHARE
  found = []
  for _ in range(min(int(rng.geometric(0.4)), 6)):
    same = rng.random() < 0.8  # most patients have one kind
    kind = "lytic" if lytic == same else "sclerotic"
    if rng.random() < 0.8:
      place = tuple(rng.uniform(-0.7, 0.7, 3).tolist())
    else:
      side = rng.choice([-1.0, 1.0])
      place = (side * rng.uniform(0.7, 1.0), rng.uniform(-1.6, -1.1), 0.4)
    radii = rng.uniform(3.0, 11.0) * rng.uniform(0.75, 1.25, 3)
    hu = rng.uniform(*(dark if kind == "lytic" else bright))
    found.append(
      Lesion(
        str(rng.choice(list(names))),
        kind,
        place,
        tuple(radii.tolist()),
        float(hu),
        int(rng.integers(1 << 31)),
      )
    )
  return tuple(found)
