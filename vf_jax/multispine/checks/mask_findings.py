# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the shapes of a mask, and its points, say against its labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from jaxtyping import Float64, UInt8

from vf_jax.labels import BY_CODE, SACRUM, Level
from vf_jax.multispine.checks.findings import Finding, in_words, names_of
from vf_jax.multispine.neighbours import skipped
from vf_jax.multispine.shapes import Shape, Shapes
from vf_jax.volume import Grid, Volume

Triple = tuple[float, float, float]

_SEPARATE_ML, _SEPARATE_MM, _SPECK_ML = 1.0, 5.0, 0.05
_TWICE_SHARE, _TWICE_MM = 0.4, 10.0
# Volume over the geometric mean of both neighbours', or over the only one's.
_BETWEEN, _BESIDE = (0.55, 1.8), (0.4, 2.5)
_NECK = frozenset(BY_CODE[c].code for c in (1, 2, 3))
_NECK_WIDER = 1.4  # C2 is larger than both its neighbours
_VOLUMES_ML = (3.0, 150.0)
# Area shared by two levels over (volume of the smaller)^(2/3). Annotated
# facet joints reach 0.7, cut vertebrae of networks 1.1, a mixed pair 4.
_USUAL_MOST, _MIXED, _TORN = 1.1, 1.5, 2.5
_MIXED_MM2 = 400.0
_OUT_MM, _POINT_MM, _BODY_MM, _CENTRE_MM = 3.0, 25.0, 4.0, 6.0


def check_pieces(shapes: Mapping[int, Shape]) -> Iterator[Finding]:
  """Finds voxels that float apart from their vertebra.

  Args:
    shapes: VerSe code -> shape.

  Yields:
    Findings, one a level; single stray voxels of all levels together.
  """
  stray = {}
  for code, shape in shapes.items():
    name = BY_CODE[code].name
    pieces = shape.pieces
    if not pieces:
      continue
    loose = sum(piece.volume_ml for piece in pieces)
    main = shape.volume_ml - loose
    first = pieces[0]
    far = max(piece.apart_mm for piece in pieces)
    text = (
      f"{name} is in {len(pieces) + 1} pieces: {loose:.2g} of"
      f" {shape.volume_ml:.0f} ml lie up to {far:.0f} mm apart from the rest."
    )
    if shape.cut:
      if loose > _SPECK_ML:
        text += " The field of view cuts it, so that may be so."
        yield Finding("note", "pieces", text, (name,))
    elif first.volume_ml >= _TWICE_SHARE * main and first.apart_mm >= _TWICE_MM:
      text = (
        f"{name} is there twice: {main:.0f} and {first.volume_ml:.0f} ml,"
        f" {first.apart_mm:.0f} mm apart."
      )
      yield Finding("error", "twice", text, (name,))
    elif loose <= _SPECK_ML:
      if far >= _SEPARATE_MM:
        stray[code] = far
    elif any(
      piece.volume_ml >= _SEPARATE_ML or piece.apart_mm >= _SEPARATE_MM
      for piece in pieces
    ):
      yield Finding("warning", "pieces", text, (name,))
    else:
      yield Finding("note", "pieces", text, (name,))
  if stray:
    text = (
      f"single stray voxels of {in_words(stray)}, up to"
      f" {max(stray.values()):.0f} mm from the vertebra."
    )
    yield Finding("warning", "stray", text, names_of(stray))


def check_contacts(shapes: Shapes) -> Iterator[Finding]:
  """Finds pairs of levels whose voxels are mixed.

  Args:
    shapes: of a mask.

  Yields:
    Findings, one a pair.
  """
  for (one, two), area in shapes.contacts.items():
    small = min(shapes.levels[c].volume_ml for c in (one, two))
    share = area / (1000 * small) ** (2 / 3)
    if SACRUM.code in (one, two) or area < _MIXED_MM2 or share < _MIXED:
      continue
    names = names_of((one, two))
    yield Finding(
      "error" if share >= _TORN else "warning",
      "mixed",
      f"{names[0]} and {names[1]} touch on {area / 100:.0f} cm2, where"
      f" {_USUAL_MOST * area / share / 100:.0f} is the most for their size:"
      " their voxels are mixed"
      + ("." if share >= _TORN else ", or the vertebrae are fused."),
      names,
    )


def check_volumes(shapes: Mapping[int, Shape]) -> Iterator[Finding]:
  """Compares volumes with the neighbours'; cut vertebrae are passed over.

  Args:
    shapes: VerSe code -> shape.

  Yields:
    Findings.
  """
  whole = [s for c, s in shapes.items() if not s.cut and c != SACRUM.code]
  whole.sort(key=lambda shape: BY_CODE[shape.code].order)
  for place, shape in enumerate(whole):
    level = BY_CODE[shape.code]
    beside = [
      other
      for other in (*whole[max(place - 1, 0) : place], *whole[place + 1 :][:1])
      if not skipped(*_in_order(level, BY_CODE[other.code]))
    ]
    wider = _NECK_WIDER if level.code in _NECK else 1.0
    low, high = _BETWEEN if len(beside) == 2 else _BESIDE
    usual = np.exp(np.mean([np.log(s.volume_ml) for s in beside] or [np.nan]))
    share = shape.volume_ml / usual
    if share < low / wider or share > high * wider:
      names = " and ".join(names_of(s.code for s in beside))
      text = (
        f"{level.name} has {shape.volume_ml:.1f} ml, {share:.2f} times what"
        f" {names} suggest."
      )
      yield Finding("warning", "volume", text, (level.name,))
    elif not _VOLUMES_ML[0] <= shape.volume_ml <= _VOLUMES_ML[1]:
      text = f"{level.name} has {shape.volume_ml:.1f} ml and is not cut."
      yield Finding("warning", "volume", text, (level.name,))


def _in_order(one: Level, two: Level) -> tuple[Level, Level]:
  return (one, two) if one.order < two.order else (two, one)


def check_names(
  shapes: Mapping[int, Shape], centres: Mapping[int, Triple]
) -> Iterator[Finding]:
  """Compares the levels that have a mask with those that have a point.

  Args:
    shapes: VerSe code -> shape.
    centres: VerSe code -> point, mm RAS+.

  Yields:
    Findings.
  """
  if not centres:
    return
  extra = set(centres) - set(shapes) - {SACRUM.code}
  if extra:
    text = f"{in_words(extra)}: a point but no voxel in the mask."
    yield Finding("warning", "point_without_mask", text, names_of(extra))
  lacking = set(shapes) - set(centres) - {SACRUM.code}
  whole = {code for code in lacking if not shapes[code].cut}
  if whole:
    text = f"{in_words(whole)}: whole in the mask but without a point."
    yield Finding("warning", "mask_without_point", text, names_of(whole))
  if lacking - whole:
    text = f"{in_words(lacking - whole)}: cut, and without a point."
    yield Finding("note", "mask_without_point", text, names_of(lacking - whole))


def check_points(
  labels: Volume,
  shapes: Mapping[int, Shape],
  centres: Mapping[int, Triple],
  kind: str,
) -> Iterator[Finding]:
  """Checks that every point lies where its kind should.

  Args:
    labels: VerSe codes.
    shapes: VerSe code -> shape.
    centres: VerSe code -> point, mm RAS+.
    kind: 'body' or 'mask', what the points are said to be.

  Yields:
    Findings.
  """
  ahead = {}
  wrong: dict[int, str] = {}
  outside: dict[int, float] = {}
  for code, point in centres.items():
    if code == SACRUM.code or code not in shapes:
      continue
    if not shapes[code].cut:
      ahead[code] = np.array(point) - shapes[code].centre_mm
    if kind == "mask":
      continue
    distance, under = _nearest(labels, code, np.array(point))
    if under not in (0, code) and under in BY_CODE:
      wrong[code] = f"{BY_CODE[code].name} in {BY_CODE[under].name}"
    elif distance > _OUT_MM:
      outside[code] = distance
  if wrong:
    text = f"points lie in other vertebrae: {', '.join(wrong.values())}."
    yield Finding("error", "point_in_other", text, names_of(wrong))
  if outside:
    far = max(outside.values())
    text = (
      f"the points of {in_words(outside)} lie outside their masks, by up to"
      f" {f'{far:.0f}' if far < np.inf else f'more than {_POINT_MM:.0f}'} mm."
    )
    yield Finding(
      "error" if far == np.inf else "warning",
      "point_outside",
      text,
      names_of(outside),
    )
  yield from _check_kind(ahead, kind)


def _check_kind(
  ahead: Mapping[int, Float64[np.ndarray, " 3"]], kind: str
) -> Iterator[Finding]:
  """Body points lie about 1 cm in front of the centres of mass."""
  trunk = [
    away for code, away in ahead.items() if BY_CODE[code].region != "cervical"
  ]
  if len(trunk) < 2:
    return
  forward = float(np.median([away[1] for away in trunk]))
  apart = float(np.median([np.linalg.norm(away) for away in trunk]))
  if kind == "body" and apart < _BODY_MM:
    text = (
      f"the points are called body centres, but lie {apart:.1f} mm from the"
      " masks' centres of mass, where 9-15 mm are usual: they are mask"
      " centres, or the mask holds bodies only."
    )
    yield Finding("error", "centre_kind", text)
  elif kind == "mask" and apart > _CENTRE_MM:
    text = (
      f"the points are called centres of mass, but lie {apart:.1f} mm from"
      f" them, {forward:.1f} mm to the front: are they body centres, or in"
      " another frame?"
    )
    yield Finding("error", "centre_kind", text)


def _nearest(
  labels: Volume, code: int, point_mm: Float64[np.ndarray, " 3"]
) -> tuple[float, int]:
  """How far a point is from a level, and what lies at the point.

  Returns:
    The distance in mm, infinite above 25 mm, and the code of the voxel that
    the point is in (0 outside the array).
  """
  grid = labels.grid
  centre = grid.to_voxel(point_mm[None])[0]
  index = np.rint(centre).astype(int)
  inside = bool(((index >= 0) & (index < grid.shape)).all())
  under = int(labels.voxels[tuple(index)]) if inside else 0
  if under == code:
    return 0.0, under
  box, start = _box_around(labels.voxels, grid, centre, _POINT_MM)
  places = np.argwhere(box == code)
  if not len(places):
    return np.inf, under
  away = grid.to_world(places + start) - point_mm
  # A voxel is a box: half of it belongs to it in every direction.
  half = min(grid.spacing) / 2
  distance = float(np.linalg.norm(away, axis=1).min()) - half
  return (max(distance, 0.0) if distance <= _POINT_MM else np.inf), under


def _box_around(
  voxels: UInt8[np.ndarray, "x y z"],
  grid: Grid,
  centre: Float64[np.ndarray, " 3"],
  reach_mm: float,
) -> tuple[UInt8[np.ndarray, "u v w"], Float64[np.ndarray, " 3"]]:
  reach = reach_mm / np.array(grid.spacing)
  low = np.clip(np.floor(centre - reach), 0, grid.shape).astype(int)
  high = np.clip(np.ceil(centre + reach) + 1, 0, grid.shape).astype(int)
  high = np.maximum(low, high)
  box = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
  return box, low.astype(np.float64)


def cut_codes(shapes: Mapping[int, Shape]) -> Collection[int]:
  """Codes of the vertebrae that the field of view cuts.

  Args:
    shapes: VerSe code -> shape.

  Returns:
    VerSe codes, without the sacrum.
  """
  return [c for c, s in shapes.items() if s.cut and c != SACRUM.code]
