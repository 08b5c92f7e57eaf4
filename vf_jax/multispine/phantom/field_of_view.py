# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The field of view of a scan: which slab of the patient, on which voxels.

A field around the spine holds every vertebra in view to the tips of its
processes, unless it is narrow: then it may cut them, but shows every body.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError
from vf_jax.grid import Grid
from vf_jax.labels import BY_CODE, BY_NAME, SACRUM
from vf_jax.multispine.phantom.anatomy import Anatomy, find_span
from vf_jax.multispine.phantom.domains import Protocol
from vf_jax.multispine.phantom.spine import level_names

# From a body's centre to beyond the next disc: some ends cut a vertebra.
_BEYOND_MM = (-4.0, 35.0)
_SHORTEST_MM = 60.0
# Of a body that a narrow field shows at least, around its centre.
_BODY_MM = 12.0
SACRUM_MM = (25.0, 85.0)
"""How much farther down a scan goes whose span ends at the sacrum."""


def is_inside(grid: Grid, point: tuple[float, float, float]) -> bool:
  """Tells whether a point lies in a voxel of a grid.

  Args:
    grid: the grid.
    point: mm RAS+.

  Returns:
    True if it does.
  """
  voxel = grid.to_voxel(np.array([point]))[0]
  return bool(((voxel > -0.5) & (voxel < np.array(grid.shape) - 0.5)).all())


def place(
  anatomy: Anatomy, protocol: Protocol, rng: np.random.Generator
) -> Grid:
  """Chooses the grid of a scan.

  Args:
    anatomy: the patient.
    protocol: the settings.
    rng: where the scan begins and ends.

  Returns:
    Array axes: towards the right, the front and the head, before the protocol's
    `orientation` is applied. Sheared if the gantry is tilted.

  Raises:
    InputError: if the patient has none of the levels that are to be scanned.

  Units:
    mm RAS+.
  """
  low, high = _slab(anatomy, protocol, rng)
  middle = _middle(anatomy, protocol, (low, high))
  tilt = math.radians(protocol.tilt_deg)
  axes = np.eye(3)
  axes[:, 1] = (0.0, math.cos(tilt), math.sin(tilt))
  axes = _rotation(protocol.turn_deg) @ axes
  field = protocol.field_mm
  if protocol.narrow:
    field = max(field, _body_width(anatomy, (low, high), middle, axes))
  elif protocol.centred_on == "spine":
    field = max(field, _spine_width(anatomy, (low, high), middle))
  pixel = field / protocol.matrix
  if protocol.reformat_mm is None:
    spacing = np.array([pixel, pixel, protocol.step_mm])
    shape = [protocol.matrix, protocol.matrix, 0]
  else:
    width = max(0.7 * field, 110.0)
    spacing = np.array([protocol.reformat_mm, pixel, pixel])
    shape = [round(width / protocol.reformat_mm), protocol.matrix, 0]
  # A slab that is not level must not lean out of the patient at its ends.
  body = [end - start for start, end in extent(anatomy)]
  reach = np.minimum(spacing[:2] * shape[:2], body)
  lean = float(np.abs(axes[2, :2]) @ reach) / 2
  bottom, top = _ends(anatomy)
  low, high = max(low, bottom + lean), min(high, top - lean)
  middle[2] = (low + high) / 2
  shape[2] = max(8, int(max(high - low, _SHORTEST_MM) / spacing[2]))
  affine = np.eye(4)
  affine[:3, :3] = axes * spacing
  affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
  return Grid((shape[0], shape[1], shape[2]), np.round(affine, 6))


def _slab(anatomy, protocol, rng) -> tuple[float, float]:
  """Lower and upper end of the scan; both may cut a vertebra."""
  heights = _heights(anatomy, protocol.span)
  if not heights:
    names = level_names(anatomy.variant)
    first, last = find_span(names, protocol.span)
    heights = _heights(anatomy, (names[first], names[last]))
  if not heights:
    raise InputError(
      "phantom",
      f"the patient has none of the levels {'-'.join(protocol.span)}.",
      "draw an anatomy that covers the protocol's span.",
    )
  low = min(heights) - rng.uniform(*_BEYOND_MM)
  high = max(heights) + rng.uniform(*_BEYOND_MM)
  if protocol.span[1] == SACRUM.name:
    low -= rng.uniform(*SACRUM_MM)
  bottom, top = _ends(anatomy)
  return max(low, bottom), min(high, top)


def _heights(anatomy, span) -> list[float]:
  """Of the body centres from one level to another, mm."""
  first, last = (BY_NAME[name].order for name in span)
  return [
    anatomy.centres[code][2]
    for code in _codes(anatomy)
    if first <= BY_CODE[code].order <= last
  ]


def _ends(anatomy) -> tuple[float, float]:
  """Lowest and highest layer of the patient, mm."""
  length = anatomy.grid.spacing[2] * (anatomy.grid.shape[2] - 1)
  bottom = float(anatomy.grid.affine[2, 3])
  return bottom, bottom + length


def _codes(anatomy) -> list[int]:
  """The vertebrae that have a centre."""
  return [code for code in anatomy.centres if code != SACRUM.code]


def _middle(anatomy, protocol, slab) -> Float64[np.ndarray, " 3"]:
  """What lies in the middle of the field of view, mm."""
  low, high = slab
  if protocol.centred_on == "spine":
    points = _in_slab(anatomy, slab)
    x, y = (points[:, :2].min(0) + points[:, :2].max(0)) / 2
    right, front = protocol.off_mm
    # Vertebrae reach further back than forward from their body's centre.
    return np.array([x + right, y - 20.0 + front, (low + high) / 2])
  x, y = (sum(ends) / 2 for ends in extent(anatomy))
  return np.array([x, y, (low + high) / 2])


def extent(anatomy: Anatomy) -> list[tuple[float, float]]:
  """Finds the ends of the body.

  Args:
    anatomy: the patient.

  Returns:
    From left to right and from back to front, mm RAS+.
  """
  body = np.any(anatomy.hu[::2, ::2, ::4] > -400, axis=2)
  ends = []
  for axis in range(2):
    first, *_, last = np.flatnonzero(body.any(axis=1 - axis)) * 2.0
    low = anatomy.grid.affine[axis, 3]
    edge = anatomy.grid.spacing[axis]
    ends.append((float(low + first * edge), float(low + last * edge)))
  return ends


def _in_slab(anatomy, slab) -> Float64[np.ndarray, "points 3"]:
  """Body centres in view, or the nearest one."""
  points = np.array([anatomy.centres[code] for code in _codes(anatomy)])
  inside = (points[:, 2] >= slab[0]) & (points[:, 2] <= slab[1])
  if not inside.any():
    inside[np.argmin(np.abs(points[:, 2] - np.mean(slab)))] = True
  return points[inside]


def _spine_width(anatomy, slab, middle) -> float:
  """The field that holds every vertebra in view, curved as the spine is."""
  points = _in_slab(anatomy, slab)
  return 2 * float(np.abs(points[:, :2] - middle[:2]).max()) + 90.0


def _body_width(anatomy, slab, middle, axes) -> float:
  """The field, round or square, that holds the core of every body in view.

  What it cuts at the sides is annotated as far as it is seen; a body out of
  view with its processes in view is not what such a scan is made for.
  """
  points = np.linalg.solve(axes, (_in_slab(anatomy, slab) - middle).T)
  return 2 * (float(np.hypot(*points[:2]).max()) + _BODY_MM)


def _rotation(degrees) -> Float64[np.ndarray, "3 3"]:
  """Turns about x, then y, then z."""
  turn = np.eye(3)
  for axis, angle in enumerate(np.radians(degrees)):
    i, j = (axis + 1) % 3, (axis + 2) % 3
    step = np.eye(3)
    step[i, i] = step[j, j] = math.cos(angle)
    step[j, i] = math.sin(angle)
    step[i, j] = -step[j, i]
    turn = step @ turn
  return turn
