# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The spinal column at full resolution: vertebrae, sacrum, discs, canal.

All vertebrae share one block of the volume. Where two overlap, the one whose
surface is further away wins; what is left of the joint is a thin dark line
between two labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int16, Integer, UInt8

from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.bone import Density, bone_hu, coverage
from vf_jax.multispine.phantom.canvas import Canvas, smooth_noise
from vf_jax.multispine.phantom.pathology import Lesion
from vf_jax.multispine.phantom.points import Triple, triple
from vf_jax.multispine.phantom.spine import Spine, Vertebra

_OUT = np.float32(-6.0)
_GRAIN_HU = 5.0  # deviation in soft tissue
_JOINT_MM = 0.5  # half the gap between touching bones
_RIMMED = 0.4  # share of large lytic lesions
_RIM_FROM_MM = 6.0  # radius of a large one
_RIM_HU = (80.0, 200.0)  # of their rims, above trabecular bone
_NOISE = 48  # edge of the noise block that lesions and grain are read from


class Column:
  """The block of a volume that holds the spine.

  Attributes:
    start: first voxel of the block in the volume.
    axes: places of its voxels along x, y and z, mm.
    depth: below the surface of the nearest vertebra, mm.
    second: the same for the second nearest.
    labels: VerSe code of the nearest.
    hu: HU of its solid bone.
  """

  def __init__(
    self,
    spine: Spine,
    axes: tuple[
      Float64[np.ndarray, " x"],
      Float64[np.ndarray, " y"],
      Float64[np.ndarray, " z"],
    ],
    spacing_mm: float,
  ):
    """Reserves the block.

    Args:
      spine: must reach into the volume.
      axes: places of the volume's voxels, mm.
      spacing_mm: voxel edge.
    """
    boxes = [bone.box_mm for bone in (*spine.vertebrae, spine.sacrum)]
    inside = [
      (low, high)
      for low, high in boxes
      if low[2] <= axes[2][-1] and high[2] >= axes[2][0]
    ]
    low = np.min([box[0] for box in inside], axis=0)
    high = np.max([box[1] for box in inside], axis=0)
    cuts = [
      slice(int(np.searchsorted(a, b)), int(np.searchsorted(a, c)))
      for a, b, c in zip(axes, low, high)
    ]
    self.start = tuple(cut.start for cut in cuts)
    self.axes = tuple(a[cut].astype(np.float32) for a, cut in zip(axes, cuts))
    self.spacing_mm = spacing_mm
    shape = tuple(a.size for a in self.axes)
    self.depth = np.full(shape, _OUT, np.float32)
    self.second = np.full(shape, _OUT, np.float32)
    self.labels = np.zeros(shape, np.uint8)
    self.hu = np.zeros(shape, np.float32)

  def add(
    self,
    bone: Vertebra,
    density: Density,
    lesions: Sequence[Lesion],
    rng: np.random.Generator,
  ) -> list[tuple[Lesion, Integer[np.ndarray, " voxels"]]]:
    """Puts a bone into the block.

    Args:
      bone: vertebra or sacrum.
      density: of the patient.
      lesions: those in this bone.
      rng: for its density and grain.

    Returns:
      Each lesion with the flat indices in the block that it changed.
    """
    low, high = bone.box_mm
    cuts = tuple(
      slice(int(np.searchsorted(a, b)), int(np.searchsorted(a, c)))
      for a, b, c in zip(self.axes, low, high)
    )
    if any(cut.start >= cut.stop for cut in cuts):
      return []
    depth = bone.depth(*(a[cut] for a, cut in zip(self.axes, cuts)))
    at = np.nonzero(depth > -1.2)
    below = depth[at]
    places = np.stack([a[cut][i] for a, cut, i in zip(self.axes, cuts, at)])
    local = bone.frame.T.astype(np.float32) @ (
      places - bone.centre[:, None].astype(np.float32)
    )
    hu, touched = _matter(bone, local, below, density, lesions, rng)
    at = tuple(i + cut.start for i, cut in zip(at, cuts))
    flat = np.ravel_multi_index(at, self.depth.shape)
    best = self.depth.reshape(-1)[flat]
    self.second.reshape(-1)[flat] = np.maximum(
      self.second.reshape(-1)[flat], np.minimum(below, best)
    )
    wins = below > best
    flat_won = flat[wins]
    self.depth.reshape(-1)[flat_won] = below[wins]
    self.labels.reshape(-1)[flat_won] = bone.code
    self.hu.reshape(-1)[flat_won] = hu[wins]
    return [(lesion, flat[where]) for lesion, where in touched]

  def finish(self) -> None:
    """Settles the joints once all bones are there."""
    half = (self.depth - self.second) / 2
    # Labels meet; the gap is seen in the image only.
    gap = np.float32(_JOINT_MM)
    np.minimum(self.depth, half + np.float32(0.25), out=self.second)
    near = (half < gap) & (self.depth > 0)
    self.hu[near] = np.minimum(self.hu[near], 330.0)
    self.labels[self.depth <= 0] = 0

  def blend(
    self,
    hu: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    tissue: UInt8[np.ndarray, "x y z"],
  ) -> None:
    """Writes the block into the volume.

    Args:
      hu: is changed.
      labels: is changed.
      tissue: is changed.
    """
    cut = tuple(slice(s, s + n) for s, n in zip(self.start, self.depth.shape))
    share = coverage(self.second, self.spacing_mm)
    at = share > 0
    share, solid = share[at], self.hu[at]
    here = hu[cut]
    soft = here[at].astype(np.float32)
    # A shell keeps its brightness where it is thinner than a voxel.
    here[at] = np.rint(soft + (solid - soft) * share).astype(np.int16)
    labels[cut] = np.where(self.labels > 0, self.labels, labels[cut])
    tissue[cut][self.labels > 0] = tissues.BONE.code

  def lesion_box(
    self, lesion: Lesion, flat: Integer[np.ndarray, " voxels"], code: int
  ) -> AnnotatedLesion | None:
    """Tight box around what a lesion changed.

    Args:
      lesion: the lesion.
      flat: indices in the block.
      code: of the bone it lies in.

    Returns:
      The box, None if less than 30 mm^3 of it can be seen.
    """
    flat = flat[self.labels.reshape(-1)[flat] == code]
    if flat.size * self.spacing_mm**3 < 30:
      return None
    spots = np.unravel_index(flat, self.depth.shape)
    ends = [(a[i].min(), a[i].max()) for a, i in zip(self.axes, spots)]
    x, y, z = (float(low + high) / 2 for low, high in ends)
    a, b, c = (float(high - low) + self.spacing_mm for low, high in ends)
    return AnnotatedLesion((x, y, z), (a, b, c), lesion.kind)


def _matter(bone, local, below, density, lesions, rng):
  """HU of the solid bone at points of its own frame, mm."""
  _, deep, tall = bone.half_mm.astype(np.float32)
  offset = np.float32(rng.normal(0, 10))
  if bone.name == "sacrum":
    compact = 0.1
  else:
    compact = np.clip((-local[1] - deep - 1) / 4, 0, 1)
  hu = bone_hu(below, compact, density)
  grain = _noise_at(local, 2.2, rng) * np.float32(density.grain_hu)
  grain += _noise_at(local, 6.0, rng) * np.float32(density.grain_hu * 0.6)
  hu += grain * np.clip(below / 2, 0, 1)
  if bone.name != "sacrum":
    # The basivertebral vein enters behind, in the middle.
    vein = (local[0] / 6) ** 2 + ((local[1] + deep) / (deep * 0.9)) ** 2
    vein += (local[2] / (tall * 0.22)) ** 2
    hu -= np.float32(70) * (np.maximum(1 - vein, 0) * (below > 0))
  if bone.fracture is not None:
    _compact_band(bone, local, below, hu)
  owner = np.full(below.shape, -1)
  for number, lesion in enumerate(lesions):
    where = _apply_lesion(lesion, bone, local, density.trabecular_hu, hu)
    owner[where & (below > 0)] = number
  # Lesions go with the bone, so that their contrast stays.
  hu += offset
  # One that a later lesion lies upon keeps what can still be seen of it.
  touched = [(x, np.flatnonzero(owner == i)) for i, x in enumerate(lesions)]
  return hu, touched


def _compact_band(bone, local, below, hu) -> None:
  """Fresh fractures have a dense band under the endplates that gave way."""
  fracture = bone.fracture
  _, deep, tall = bone.half_mm
  edge = tall * (1 - fracture.mean_loss)
  band = np.exp(-(((np.abs(local[2]) - 0.6 * edge) / 2.5) ** 2))
  band *= (local[1] > -deep) & (below > 0)
  hu += np.float32(60 + 160 * fracture.fresh) * band.astype(np.float32)


def _apply_lesion(lesion, bone, local, trabecular_hu, hu) -> np.ndarray:
  """Changes the matter in a bumpy ellipsoid; where it did."""
  centre = lesion.place * bone.half_mm
  rng = np.random.default_rng(lesion.seed)
  away = (local - centre[:, None].astype(np.float32)) / np.array(
    lesion.radii_mm, np.float32
  )[:, None]
  radius = np.sqrt((away**2).sum(axis=0)) + 0.18 * _noise_at(local, 5.0, rng)
  inside = radius < 1
  bumps = _noise_at(local[:, inside], 3.0, rng)
  if lesion.kind == "lytic":
    rim = inside & (radius > 0.88)
    shell = hu[rim]
    hu[inside] = lesion.hu + 12 * bumps
    # What grows slowly has a rim denser than the bone around it. In the CT of
    # a small lesion the rim would make up for what the core lacks.
    if rng.random() < _RIMMED and min(lesion.radii_mm) > _RIM_FROM_MM:
      hu[rim] = np.maximum(shell, trabecular_hu + rng.uniform(*_RIM_HU))
  else:
    share = np.clip((1 - radius[inside]) / 0.25, 0.35, 1)
    more = lesion.hu * (1 + 0.12 * bumps) - hu[inside]
    hu[inside] += share * np.maximum(more, 0)
  return inside


def _noise_at(local, cell_mm, rng) -> Float32[np.ndarray, " points"]:
  """Smooth unit noise at points, by trilinear look-up in a small block."""
  block = rng.standard_normal((_NOISE, _NOISE, _NOISE), dtype=np.float32)
  at = np.float32(1 / cell_mm) * local + np.float32(_NOISE * 8)
  low = at.astype(np.int32)
  part = at - low
  result = np.zeros(local.shape[1], np.float32)
  index = [(low[i] % _NOISE, (low[i] + 1) % _NOISE) for i in range(3)]
  weight = [(1 - part[i], part[i]) for i in range(3)]
  for i in range(2):
    for j in range(2):
      for k in range(2):
        result += block[index[0][i], index[1][j], index[2][k]] * (
          weight[0][i] * weight[1][j] * weight[2][k]
        )
  return result * np.float32(1.7)


def canal(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
  """Paints epidural fat, fluid, cord and the fat of the foramina.

  Args:
    canvas: is painted.
    spine: the canal runs behind its bodies.
    rng: for where the cord ends.
  """
  bones = spine.vertebrae
  path = [b.to_world(np.array([0.0, b.template.canal_mm, 0.0])) for b in bones]
  path.insert(0, path[0] + bones[0].frame @ np.array([0.0, 4.0, 32.0]))
  path.append(path[-1] + (path[-1] - path[-2]) * 0.9)
  knots = np.array(path)
  steps = np.linspace(0, len(knots) - 1, 8 * len(knots))
  line = np.stack(
    [np.interp(steps, range(len(knots)), row) for row in knots.T], axis=1
  )
  wide = np.interp(steps, [0, 6, 8, 19, 25], [11, 9.0, 8.5, 9.5, 10.5])
  wide *= spine.size
  # Epidural fat ends below the skull, the fluid goes on.
  outer = slice(int(np.searchsorted(steps, 1.0)), None)
  canvas.tube(line[outer], wide[outer] + 1.5, tissues.FAT, -70.0)
  canvas.tube(line, wide - 1.0, tissues.UNKNOWN, 14.0)
  # Bone i is knot i + 1. The conus ends in the lower third of L1 on average,
  # between T12 and the top of L3 (Saifuddin et al. 1998, Spine 23).
  lumbar = 1 + [bone.name for bone in bones].index("L1")
  conus = lumbar + np.clip(rng.normal(0.3, 0.65), -1.0, 1.8)
  end = int(np.searchsorted(steps, conus))
  canvas.tube(line[:end], wide[:end] * 0.55, tissues.UNKNOWN, 42.0)
  for upper, lower in itertools.pairwise(bones[1:]):
    middle = (upper.centre + lower.centre) / 2
    y = (upper.template.canal_mm + lower.template.canal_mm) / 2 + 1
    for side in (-1.0, 1.0):
      x = side * (upper.template.pedicle_mm[0] + 1.0)
      spot = middle + upper.frame @ (upper.scale * np.array([x, y, 2.0]))
      canvas.ellipsoid(spot, (9, 6, 7), tissues.FAT, -85.0)
      spot[1:] += 1
      canvas.ellipsoid(spot, (7, 3, 3), tissues.UNKNOWN, 35.0)


def pedicles(
  bones: Sequence[Vertebra],
) -> dict[int, tuple[Triple, Triple]]:
  """Where the pedicles are.

  Args:
    bones: vertebrae.

  Returns:
    VerSe code -> left and right, mm RAS+.
  """
  found = {}
  for bone in bones:
    place = np.array(bone.template.pedicle_mm)
    left = bone.to_world(place * np.array([-1.0, 1.0, 1.0]))
    found[bone.code] = triple(left), triple(bone.to_world(place))
  return found


def soft_grain(canvas: Canvas, rng: np.random.Generator) -> None:
  """Gives soft tissue its fine differences.

  Args:
    canvas: its HU change inside the body.
    rng: the draw.
  """
  noise = smooth_noise(canvas.shape, 3, rng)
  noise += smooth_noise(canvas.shape, 10, rng)
  noise *= np.float32(_GRAIN_HU / 1.4)
  noise[canvas.tissue == tissues.OUTSIDE.code] = 0
  canvas.hu += noise
