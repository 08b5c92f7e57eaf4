# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Vertebra centroids in VerSe's `ctd.json` files, read to and from mm RAS+.

Three frames exist. All hold zero-based positions of voxel *centres*, and all
need the image's grid to become millimetres:

  voxel: the subject-based trees (`*_seg-subreg_ctd.json`, `*_seg-vb_ctd.json`).
    X, Y, Z are voxels along the array axes; the first item names the axes'
    directions. The points lie in the vertebral body.
  iso: the MICCAI'20 challenge tree (`*_iso-ctd.json`). X, Y, Z are mm along
    A->P, S->I, L->R (axes PIR) from the first voxel of the image so turned;
    no direction item. The points are centres of mass of the whole-vertebra
    masks.
  iso19: the MICCAI'19 challenge tree (`verse000_ctd.json`). As `iso`, but along
    S->I, A->P, R->L (axes IPL), whole numbers, in the vertebral body.

Source: voxel, README of anjany/verse and osf.io/4skx2/wiki. iso,
osf.io/b2wxj/wiki ("1mm resolution with coordinate origin at X anterior, Y
superior, Z left"). iso19, verse2020.grand-challenge.org/VerSe_at_MICCAI19
("X corresponds to S -> I, Y to A -> P, Z to R -> L"). The two agree with
`preprocess_landmarks.py` of christianpayer/MedicalDataAugmentationTool-VerSe,
whose landmarks of verse004 equal, in the iso frame as read here, the mask's
centres of mass to 0.3 mm, while its 2019 landmarks lie 1-4 mm from the body
points of the subject-based tree.
For images that had to be resampled to 1 mm the origin may be off by up to half
a millimetre, because nibabel's `rescale_affine` keeps a middle voxel in place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError, warn_input
from vf_jax.io.atomic import write_text
from vf_jax.io.text import read_text
from vf_jax.labels import BY_CODE, SCHEMES, Level, level
from vf_jax.volume import Grid, Reorientation

Frame = Literal["voxel", "iso", "iso19"]
Kind = Literal["body", "mask"]

_ISO_AXES = {"iso": ("P", "I", "R"), "iso19": ("I", "P", "L")}
_KINDS: dict[str, Kind] = {"voxel": "body", "iso": "mask", "iso19": "body"}
_MAX_BYTES = 1 << 20
_OUTSIDE_MM = 2.0  # what rounding and cut vertebrae explain
_NEVER_MM = 5.0  # no body centre lies further out of its own image
_DECIMALS = 4


@dataclasses.dataclass(frozen=True)
class Centroids:
  """One point per vertebra of a scan.

  Attributes:
    positions: level -> point; kept in order from head to foot.
    kind: `body`, a point in the vertebral body, or `mask`, the centre of mass
      of the whole vertebra, about 1 cm behind it. Never mix the two.
    warnings: what was found amiss when reading, in words.

  Raises:
    InputError: if a point is not finite.

  Units:
    mm RAS+.
  """

  positions: Mapping[Level, tuple[float, float, float]]
  kind: Kind = "body"
  warnings: tuple[str, ...] = ()

  def __post_init__(self):
    ordered = {}
    for key in sorted(self.positions, key=lambda v: v.order):
      x, y, z = (float(value) for value in self.positions[key])
      if not all(math.isfinite(value) for value in (x, y, z)):
        raise InputError("centroids", f"{key.name} is at {(x, y, z)}.")
      ordered[key] = (x, y, z)
    object.__setattr__(self, "positions", MappingProxyType(ordered))

  @property
  def levels(self) -> tuple[Level, ...]:
    """The levels that have a point, from head to foot."""
    return tuple(self.positions)

  @property
  def points_mm(self) -> Float64[np.ndarray, "points 3"]:
    """The points in the order of `levels`, mm RAS+."""
    return np.array(list(self.positions.values()), np.float64).reshape(-1, 3)


def read_centroids(
  path: str | os.PathLike[str],
  grid: Grid,
  *,
  frame: Frame = "voxel",
  kind: Kind | None = None,
) -> Centroids:
  """Reads a VerSe centroid file.

  Args:
    path: the JSON file.
    grid: grid of the image the points belong to, as stored.
    frame: see the module; the challenge trees say nothing in the file itself.
    kind: what the points are; None for what this frame has in VerSe.

  Returns:
    The centroids, mm RAS+. Skipped entries and other faults that were mended
    are in `warnings`, and each is issued as an `InputWarning` as well.

  Raises:
    InputError: if the file is no centroid file, an entry is malformed, a level
      is unknown or there twice, or most points lie outside the image.
  """
  items = _load(path)
  header, entries = _split(path, items)
  notes: list[str] = []
  codes, found = _frame_axes(path, header, frame)
  turned = Reorientation.between(grid.axis_codes, codes).apply_grid(grid)
  if found and codes != grid.axis_codes:
    notes.append(
      f"the direction {''.join(codes)} is unlike the image's "
      f"{''.join(grid.axis_codes)}; the points were turned into it."
    )
  _check_shape(path, header, turned)
  positions = _parse_entries(path, entries, notes)
  points = np.array(list(positions.values()), np.float64).reshape(-1, 3)
  if frame != "voxel":
    points = points / turned.spacing
  _check_inside(path, list(positions), points, turned, frame, notes)
  world = turned.to_world(points)
  _check_order(list(positions), world, notes)
  for note in notes:
    warn_input(path, note)
  stated = header.get("kind")
  if kind is None:
    kind = stated if stated in ("body", "mask") else _KINDS[frame]
  rows = (tuple(row) for row in world.tolist())
  return Centroids(
    dict(zip(positions, rows, strict=True)),  # type: ignore[arg-type]
    kind,
    tuple(notes),
  )


def write_centroids(
  path: str | os.PathLike[str], centroids: Centroids, grid: Grid
) -> None:
  """Writes centroids in VerSe's subject-tree format (frame `voxel`).

  The file appears whole or not at all. Positions keep four decimals of a
  voxel. Centroids of kind `mask` say so in the direction item, where VerSe's
  and TPTBox's readers pass over it.

  Args:
    path: the JSON file to write.
    centroids: the points.
    grid: grid of the image they belong to, as stored.
  """
  header: dict[str, Any] = {"direction": list(grid.axis_codes)}
  if centroids.kind != "body":
    header["kind"] = centroids.kind
  items = [header]
  points = np.round(grid.to_voxel(centroids.points_mm), _DECIMALS)
  for key, (x, y, z) in zip(centroids.levels, points.tolist(), strict=True):
    items.append({"label": key.code, "X": x, "Y": y, "Z": z})
  text = json.dumps(items, allow_nan=False)
  write_text(path, text + "\n")


def _load(path: str | os.PathLike[str]) -> list[Any]:
  fix = "give a VerSe centroid file (*_ctd.json)."
  text = read_text(path, "centroid file", _MAX_BYTES, fix)
  try:
    items = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(path, f"is not JSON: {error}.", fix) from error
  if isinstance(items, dict):
    fault = "holds one JSON object, not VerSe's list; markups and some TPTBox"
    fault += " points look like this."
    raise InputError(path, fault, _TPTBOX_FIX)
  if not isinstance(items, list) or not items:
    fault = "holds an empty list" if items == [] else "holds no JSON list"
    fix = 'the least is [{"direction": ["P", "I", "R"]}].'
    raise InputError(path, f"{fault}: not even a direction.", fix)
  return items


_TPTBOX_FIX = (
  "save it from TPTBox for sub-region 50 (the body) as list of label, X, Y, Z "
  "with labels below 256."
)


def _split(
  path: str | os.PathLike[str], items: list[Any]
) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
  """The direction item (empty if there is none), and the numbered points."""
  for number, item in enumerate(items):
    if not isinstance(item, dict):
      raise InputError(
        path,
        f"item {number} is {_shown(item)}, not an object.",
        "every item holds label, X, Y, Z; the first one direction.",
      )
    nested = any(isinstance(value, dict) for value in item.values())
    poi = item.get("format") in ("POI", "POI_GLOBAL", "POINT_LIST", "guber")
    marks = "vert_label" in item or "coordinate_system" in item
    if poi or marks or (nested and "label" not in item and number > 0):
      raise InputError(path, "is a TPTBox point file.", _TPTBOX_FIX)
  numbered = list(enumerate(items))
  header: dict[str, Any] = {}
  if not items[0].keys() & {"label", "X", "Y", "Z"}:
    header, numbered = items[0], numbered[1:]
  if any("direction" in item for _, item in numbered):
    raise InputError(
      path, "names a direction after the first item.", "split the file."
    )
  return header, numbered


def _frame_axes(
  path: str | os.PathLike[str],
  header: Mapping[str, Any],
  frame: str,
) -> tuple[tuple[str, ...], bool]:
  """Axis codes of the file's frame, and whether an item said them."""
  if frame not in _KINDS:
    known = ", ".join(_KINDS)
    raise InputError(path, f"no frame {frame!r}.", f"use one of {known}.")
  stated = header.get("direction")
  if stated is not None:
    codes = _parse_direction(path, stated)
    if frame != "voxel" and codes != _ISO_AXES[frame]:
      fault = f"says direction {''.join(codes)}, which frame {frame!r} is not."
      fix = "write `centroid_format: voxel` in a cohort file."
      raise InputError(path, fault, fix)
    return codes, frame == "voxel"
  if frame != "voxel":
    return _ISO_AXES[frame], False
  raise InputError(
    path,
    "has no direction item, so its axes are unknown.",
    'make it the first, {"direction": ["P", "I", "R"]} for an image of these '
    "axes; for a file of a challenge tree write `centroid_format: iso` "
    "(MICCAI'20, *_iso-ctd.json) or iso19 (MICCAI'19) in a cohort file.",
  )


def _parse_direction(
  path: str | os.PathLike[str], stated: Any
) -> tuple[str, ...]:
  pairs = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
  codes = tuple(stated) if isinstance(stated, list) else ()
  axes = {pairs.get(code) for code in codes if isinstance(code, str)}
  if len(codes) != 3 or axes != {0, 1, 2}:
    raise InputError(
      path,
      f"direction {_shown(stated)} does not name three different axes.",
      "use one of R/L, one of A/P and one of S/I, as ['P', 'I', 'R'].",
    )
  return codes


def _check_shape(
  path: str | os.PathLike[str], header: Mapping[str, Any], turned: Grid
) -> None:
  """TPTBox notes the image's shape beside the direction."""
  shape = header.get("shape")
  if isinstance(shape, list) and shape != list(turned.shape):
    raise InputError(
      path,
      f"belongs to an image of shape {_shown(shape)}, not {turned.shape}.",
      "give it with the image it was made on.",
    )


def _parse_entries(
  path: str | os.PathLike[str],
  entries: Sequence[tuple[int, dict[str, Any]]],
  notes: list[str],
) -> dict[Level, tuple[float, float, float]]:
  positions: dict[Level, tuple[float, float, float]] = {}
  for number, item in entries:
    missing = [key for key in ("label", "X", "Y", "Z") if key not in item]
    if missing:
      fault = f"item {number} lacks {', '.join(missing)}."
      raise InputError(path, fault, "every item holds label, X, Y, Z.")
    code, x, y, z = (
      _number(path, number, key, item[key]) for key in ("label", "X", "Y", "Z")
    )
    if not all(math.isfinite(value) for value in (code, x, y, z)):
      name = _name(code)
      notes.append(f"item {number} ({name}) holds NaN or infinity; skipped.")
      continue
    if code in SCHEMES["verse"].others:
      notes.append(f"item {number} is {_name(code)}, no vertebra; skipped.")
      continue
    if code > 255:
      fault = f"item {number} has label {_shown(item['label'])}, a TPTBox"
      fault += " sub-region point (256 * sub-region + vertebra)."
      raise InputError(path, fault, _TPTBOX_FIX)
    if code not in BY_CODE:
      fault = f"item {number} has label {_shown(item['label'])}, no VerSe level"
      fix = "labels are 1-26 and 28 (T13); 27 (coccyx) is skipped."
      raise InputError(path, f"{fault}.", fix)
    key = level(int(code), path)
    if key in positions:
      fault = f"item {number} is a second point of {key.name}."
      raise InputError(path, fault, "keep one point per level.")
    positions[key] = (x, y, z)
  return positions


def _number(
  path: str | os.PathLike[str], number: int, key: str, value: Any
) -> float:
  """A JSON number; null and the text 'nan', which occur, count as NaN."""
  if value is None or (isinstance(value, str) and value.lower() == "nan"):
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float):
    fault = f"item {number}: {key} is {_shown(value)}, not a number."
    raise InputError(path, fault, "write it as a plain JSON number.")
  try:
    return float(value)
  except OverflowError:
    return math.inf


def _name(code: float) -> str:
  if code in BY_CODE:
    return BY_CODE[int(code)].name
  return SCHEMES["verse"].others.get(code, f"label {code}")  # type: ignore


def _check_inside(
  path: str | os.PathLike[str],
  levels: Sequence[Level],
  points: Float64[np.ndarray, "points 3"],
  turned: Grid,
  frame: str,
  notes: list[str],
) -> None:
  """Points outside the image: one may be an edge, most are another frame."""
  depth_mm = turned.outside_mm(points)
  far = int((depth_mm > _OUTSIDE_MM).sum())
  if 2 * far > len(levels) or (depth_mm > _NEVER_MM).any():
    others = " or ".join(name for name in _KINDS if name != frame)
    raise InputError(
      path,
      f"{far} of {len(levels)} points lie outside the image, shape "
      f"{turned.shape} in the file's axes, by up to {depth_mm.max():.0f} mm.",
      "probably another frame, or another image: try `centroid_format` "
      f"{others} in a cohort file.",
    )
  for key, depth in zip(levels, depth_mm.tolist(), strict=True):
    if depth > 0:
      notes.append(f"{key.name} lies {depth:.1f} mm outside the image; kept.")


def _check_order(
  levels: Sequence[Level],
  world: Float64[np.ndarray, "points 3"],
  notes: list[str],
) -> None:
  order = [key.order for key in levels]
  if len(order) < 2:
    return
  top, bottom = int(np.argmin(order)), int(np.argmax(order))
  if world[top, 2] <= world[bottom, 2]:
    notes.append(
      f"{levels[top].name} lies below {levels[bottom].name} in the world: the "
      "image's orientation, the frame or the labels may be wrong."
    )


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + "..."
