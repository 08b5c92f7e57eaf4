# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The frame of one vertebra: which way is up, to the front and to the right.

Up begins as the direction of the spine and ends as the mean normal of the two
end plates. The front begins as the way from the centre of mass of the whole
bone to its body and is turned until the bone is symmetric. In this frame the
mask is sampled on a small regular grid, so that what is measured there does
not depend on how the scan or the patient lay.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy import ndimage

from vf_jax.volume import Grid

STEP_MM = 1.0
_COARSE_MM = 1.5
_ROUNDS = 3
_REACH_MM = (34.0, 34.0, 30.0)  # of the local grid: right, front, up
_MOST_TILT = np.cos(np.deg2rad(30.0))  # of the end plates against the spine
_MOST_TURN = np.cos(np.deg2rad(45.0))  # of the bone against the patient's front
_MIDLINE_MM = 4.5
_TURNS = np.deg2rad(np.arange(-30.0, 31.0, 2.5))
_MOST_POINTS = 4000


@dataclasses.dataclass(frozen=True, eq=False)
class BodyFrame:
  """A vertebra sampled in its own frame.

  Attributes:
    origin_mm: centre of the body, mm RAS+.
    axes: rows: unit vectors to the right, the front and up, in RAS+.
    inside: share of bone at each node; node `shape // 2` is the origin.
    step_mm: distance of the nodes.
    wall_mm: where the canal begins, along the front axis; negative.
    front_mm: where the body ends in front.
  """

  origin_mm: Float64[np.ndarray, " 3"]
  axes: Float64[np.ndarray, "3 3"]
  inside: Float32[np.ndarray, "right front up"]
  step_mm: float
  wall_mm: float
  front_mm: float

  @property
  def depth_mm(self) -> float:
    """Of the body from its front to the canal."""
    return self.front_mm - self.wall_mm

  def nodes_mm(self, axis: int) -> Float64[np.ndarray, " nodes"]:
    """Gives the positions of the nodes along one axis of the frame.

    Args:
      axis: 0 right, 1 front, 2 up.

    Returns:
      Millimetres from the body centre, ascending.
    """
    count = self.inside.shape[axis]
    return self.step_mm * (np.arange(count) - count // 2)

  def to_local(
    self, points_mm: Float64[np.ndarray, "points 3"]
  ) -> Float64[np.ndarray, "points 3"]:
    """Takes world points to the frame.

    Args:
      points_mm: mm RAS+.

    Returns:
      Millimetres to the right, the front and up of the body centre.
    """
    return (points_mm - self.origin_mm) @ self.axes.T

  def body(self) -> Bool[np.ndarray, "right front up"]:
    """The bone in front of the canal: the body, without arch and processes."""
    solid = solidify(self.inside)
    return solid & (self.nodes_mm(1) >= self.wall_mm)[None, :, None]


def find_frame(
  mask: Bool[np.ndarray, "x y z"],
  grid: Grid,
  centre_mm: Float64[np.ndarray, " 3"],
  spine_up: Float64[np.ndarray, " 3"],
) -> BodyFrame | None:
  """Finds the frame of a vertebra.

  Args:
    mask: of this vertebra alone, in a box around it.
    grid: of the box; oblique, sheared and anisotropic as it may be.
    centre_mm: of the body, about; it is refined.
    spine_up: direction of the spine here, from foot to head, any length.

  Returns:
    The frame; None if no body is there (too little bone, or no canal and no
    front within reach).

  Units:
    mm RAS+.
  """
  where = np.argwhere(mask)
  if len(where) < 8:
    return None
  points = grid.to_world(where)
  padded = np.pad(mask, 1).astype(np.float32)
  up = spine_up / np.linalg.norm(spine_up)
  spine = up
  origin = centre_mm
  step = _COARSE_MM
  axes = _axes(_across(np.array([0.0, 1.0, 0.0]), up), up)
  for turn in range(_ROUNDS):
    shift = _thick_centre(_sample(padded, grid, origin, axes, step), step)
    if shift is None:
      return None
    # Thickness alone may pull to one side; to the sides symmetry decides.
    origin = origin + (shift if turn == 0 else shift * (0, 1, 1)) @ axes
    if turn == 0:
      axes = _axes(_first_front(points, origin, up), up)
    axes = _axes(_symmetric_front(points, origin, axes), up)
    origin = origin + ((points - origin) @ axes[0]).mean() * axes[0]
    inside = _sample(padded, grid, origin, axes, step)
    ends = _wall_and_front(inside, step)
    if ends is None:
      return None
    frame = BodyFrame(origin, axes, inside, step, *ends)
    normal = _plate_normal(frame)
    if normal is None:
      break
    lifted = normal @ axes
    if lifted @ spine >= _MOST_TILT:
      up = lifted
    axes = _axes(axes[1], up)
  inside = _sample(padded, grid, origin, axes, STEP_MM)
  ends = _wall_and_front(inside, STEP_MM)
  if ends is None:
    return None
  return BodyFrame(origin, axes, inside, STEP_MM, *ends)


def _first_front(points, origin, up) -> Float64[np.ndarray, " 3"]:
  """From the centre of mass of the whole bone to its body, across `up`."""
  ahead = _across(np.array([0.0, 1.0, 0.0]), up)
  front = origin - points.mean(axis=0)
  front = front - (front @ up) * up
  length = np.linalg.norm(front)
  # A body without an arch has no such direction; the patient has one.
  if length < 3.0 or (front / length) @ ahead < _MOST_TURN:
    return ahead
  return front / length


def _across(front, up) -> Float64[np.ndarray, " 3"]:
  """The part of a direction across `up`, as a unit vector."""
  front = front - (front @ up) * up
  return front / max(np.linalg.norm(front), 1e-6)


def _axes(front, up) -> Float64[np.ndarray, "3 3"]:
  front = _across(front, up)
  return np.stack([np.cross(front, up), front, up])


def _symmetric_front(points, origin, axes) -> Float64[np.ndarray, " 3"]:
  """The front turned about `up` to where the bone is most symmetric."""
  some = points[:: max(1, len(points) // _MOST_POINTS)]
  flat = (some - origin) @ axes[:2].T
  shares = []
  for angle in _TURNS:
    cos, sin = np.cos(angle), np.sin(angle)
    # Turning the front by the angle towards the right.
    along = cos * flat[:, 1] + sin * flat[:, 0]
    across = cos * flat[:, 0] - sin * flat[:, 1]
    shares.append(_symmetry(across - across.mean(), along))
  best = int(np.argmax(shares))
  angle = _TURNS[best]
  if 0 < best < len(_TURNS) - 1:
    low, top, high = shares[best - 1 : best + 2]
    bend = low - 2 * top + high
    if bend < 0:
      angle += 0.5 * (low - high) / bend * (_TURNS[1] - _TURNS[0])
  front = np.cos(angle) * axes[1] + np.sin(angle) * axes[0]
  return front / np.linalg.norm(front)


def _symmetry(across, along) -> float:
  """Share of points that have a mirror image, on cells of 3 mm."""
  edges = (np.arange(-16.5, 17) * 3.0, np.arange(-25.5, 15) * 3.0)
  counts, *_ = np.histogram2d(across, along, edges)
  return float(np.minimum(counts, counts[::-1]).sum() / len(across))


def _sample(
  padded, grid: Grid, origin, axes, step
) -> Float32[np.ndarray, "right front up"]:
  """The mask, padded by one voxel, on nodes around the origin."""
  counts = [2 * int(reach / step) + 1 for reach in _REACH_MM]
  lines = [step * (np.arange(n) - n // 2) for n in counts]
  # Voxel positions are affine in the nodes: three outer sums, no big matrix.
  start = grid.to_voxel(origin[None])[0] + 1.0
  steps = np.linalg.solve(grid.affine[:3, :3], axes.T)
  where = [
    start[i]
    + steps[i, 0] * lines[0][:, None, None]
    + steps[i, 1] * lines[1][None, :, None]
    + steps[i, 2] * lines[2][None, None, :]
    for i in range(3)
  ]
  return ndimage.map_coordinates(padded, where, np.float32, order=1)


def solidify(
  inside: Float32[np.ndarray, "right front up"],
) -> Bool[np.ndarray, "right front up"]:
  """The bone with the holes filled that it encloses.

  Args:
    inside: share of bone at each node.

  Returns:
    Whether each node is bone or in a hole of it.
  """
  empty, count = ndimage.label(inside <= 0.5)
  if count < 2:
    return inside > 0.5
  return empty != np.bincount(empty[empty > 0]).argmax()


def _thick_centre(inside, step) -> Float64[np.ndarray, " 3"] | None:
  """Way from the origin to the middle of the thick bone around it, mm."""
  depth = ndimage.distance_transform_edt(inside > 0.5) * step
  places = np.argwhere(depth > 0)
  if not len(places):
    return None
  weights = depth[tuple(places.T)] ** 2
  places = (places - np.array(inside.shape) // 2) * step
  centre = np.zeros(3)
  for _ in range(10):
    near = np.linalg.norm(places - centre, axis=1) <= 12.0
    if not near.any():
      return None
    moved = np.average(places[near], axis=0, weights=weights[near])
    if np.linalg.norm(moved - centre) < 0.05:
      break
    centre = moved
  return centre


def _wall_and_front(inside, step) -> tuple[float, float] | None:
  """Where the bone around the origin ends, backwards and forwards, mm.

  Medians over the lines near the midline at the middle heights: the hole of
  the basivertebral vein and an osteophyte do not move them.
  """
  middle = np.array(inside.shape) // 2
  solid = solidify(inside)
  half = int(_MIDLINE_MM / step)
  column = solid[middle[0], middle[1]]
  up = int(np.argmin(np.append(column[middle[2] :], False)))
  down = int(np.argmin(np.append(column[middle[2] :: -1], False)))
  if not (up and down):
    return None
  block = inside[
    middle[0] - half : middle[0] + half + 1,
    :,
    middle[2] - int(0.7 * down) : middle[2] + int(0.7 * up) + 1,
  ]
  lines = block.transpose(0, 2, 1).reshape(-1, block.shape[1])
  forth = _exits(lines[:, middle[1] :], step)
  back = _exits(lines[:, middle[1] :: -1], step)
  if not (np.isfinite(forth).mean() > 0.5 and np.isfinite(back).mean() > 0.5):
    return None
  return -float(np.nanmedian(back)), float(np.nanmedian(forth))


def _exits(lines, step) -> Float[np.ndarray, " lines"]:
  """Distance at which each line leaves the bone; NaN if it never does.

  A gap that ends within 3 mm is a hole of the mask, not its end.
  """
  width = max(1, round(3.0 / step))
  solid = ndimage.binary_closing(
    np.pad(lines > 0.5, ((0, 0), (width, 0)), mode="edge"),
    np.ones((1, width + 1)),
  )[:, width:]
  index = np.argmin(solid, axis=1)
  rows = np.arange(len(lines))
  last = lines[rows, np.maximum(index - 1, 0)]
  first = lines[rows, index]
  gap = np.where(last > first, last - first, 1.0)
  part = np.clip((last - 0.5) / gap, 0.0, 1.0)
  out = solid[:, 0] & ~solid[rows, index]
  return np.where(out, (index - 1 + part) * step, np.nan)


def plates(
  frame: BodyFrame, body: Bool[np.ndarray, "right front up"]
) -> tuple[Float[np.ndarray, "right front"], Float[np.ndarray, "right front"]]:
  """Heights of the lower and the upper end plate over the body.

  Args:
    frame: the vertebra.
    body: its body, of `frame.body()`.

  Returns:
    Lower and upper surface along the up axis, NaN beside the body.

  Units:
    mm in the frame.
  """
  count = body.shape[2]
  seen = body.any(axis=2)
  top = count - 1 - np.argmax(body[:, :, ::-1], axis=2)
  low = np.argmax(body, axis=2)
  grid = tuple(np.indices(seen.shape))
  surfaces = []
  for place, away in ((low, -1), (top, 1)):
    beyond = np.clip(place + away, 0, count - 1)
    here, there = frame.inside[(*grid, place)], frame.inside[(*grid, beyond)]
    gap = np.where(here > there, here - there, 1.0)
    part = np.clip((here - 0.5) / gap, 0.0, 1.0)
    at = (place + away * part - count // 2) * frame.step_mm
    surfaces.append(np.where(seen, at, np.nan))
  return surfaces[0], surfaces[1]


def _plate_normal(frame: BodyFrame) -> Float64[np.ndarray, " 3"] | None:
  """Mean normal of the end plates, in the frame; None if there are none."""
  lower, upper = plates(frame, frame.body())
  right, front = np.meshgrid(
    frame.nodes_mm(0), frame.nodes_mm(1), indexing="ij"
  )
  depth = frame.depth_mm
  central = (
    (np.abs(right) <= 0.4 * depth)
    & (front >= frame.wall_mm + 0.15 * depth)
    & (front <= frame.front_mm - 0.15 * depth)
  )
  normals = []
  for surface in (lower, upper):
    use = central & np.isfinite(surface)
    if use.sum() < 12:
      return None
    design = np.stack([right[use], front[use], np.ones(use.sum())], axis=1)
    heights = surface[use]
    for _ in range(2):
      fit, *_ = np.linalg.lstsq(design, heights, rcond=None)
      error = np.abs(heights - design @ fit)
      keep = error <= max(2.0 * float(np.median(error)), 0.5)
      design, heights = design[keep], heights[keep]
    normal = np.array([-fit[0], -fit[1], 1.0])
    normals.append(normal / np.linalg.norm(normal))
  mean = normals[0] + normals[1]
  return mean / np.linalg.norm(mean)
