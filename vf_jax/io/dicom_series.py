# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which slices make one volume, in what order, and where it is.

Slices are ordered by their position along the normal of their planes, never
by file name or instance number. The affine comes from the true positions, so
a tilted gantry gives a sheared volume, not a wrong one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError
from vf_jax.grid import Grid
from vf_jax.io.dicom_headers import Frame, Header
from vf_jax.io.lps import lps_grid
from vf_jax.io.nifti_header import MIN_SLICES

# A slice may be off its place in an even stack by this much of the gap, or by
# what rounding the position to one decimal explains.
_OFF_FRACTION, _OFF_MM = 0.05, 0.1
_SAME_PLACE_MM = 0.01
_VOLUME_SLICES = 10
_AXES = 1e-3

Slice = tuple[Header, Frame]


@dataclasses.dataclass(frozen=True)
class SeriesInfo:
  """One stack of parallel slices that could be read.

  Attributes:
    uid: what to give as `series`; series instance UID, with `#2` and so on
      where a series holds several stacks.
    description: as the scanner's operator named it.
    slices: number of different positions.
    spacing: between columns, rows and slices (the median); mm.
    shape: columns, rows and slices.
    fault: why it cannot be read; empty if it can.
  """

  uid: str
  description: str
  slices: int
  spacing: tuple[float, float, float]
  shape: tuple[int, int, int]
  fault: str

  def __str__(self) -> str:
    sizes = " x ".join(f"{size:.4g}" for size in self.spacing)
    words = f" {self.description!r}," if self.description else ""
    return f"{self.uid}:{words} {self.slices} slices of {sizes} mm"


@dataclasses.dataclass(frozen=True)
class Stack:
  """Slices of one series in parallel planes, of one size, in any order.

  Attributes:
    uid: see `SeriesInfo`.
    slices: header and frame of each.
  """

  uid: str
  slices: tuple[Slice, ...]

  @property
  def normal(self) -> Float64[np.ndarray, " 3"]:
    """Unit vector across the planes, LPS, right-handed to row and column."""
    row, column = _directions(self.slices[0][1])
    return np.cross(row, column)

  @property
  def depths(self) -> Float64[np.ndarray, " slices"]:
    """Position of each slice along the normal, mm."""
    points = np.array([frame.position for _, frame in self.slices])
    return points @ self.normal

  @property
  def places(self) -> int:
    """How many different positions there are."""
    return 1 + int((np.diff(np.sort(self.depths)) > _SAME_PLACE_MM).sum())


def stacks_of(headers: Iterable[Header]) -> list[Stack]:
  """Sorts slices into stacks.

  Args:
    headers: of all files.

  Returns:
    Stacks by number of places, most first.
  """
  series: dict[str, list[list[Slice]]] = {}
  for header in headers:
    groups = series.setdefault(header.series, [])
    for frame in header.frames:
      one = (header, frame)
      group = next((g for g in groups if _alike(g[0], one)), None)
      if group is None:
        groups.append([one])
      else:
        group.append(one)
  stacks = []
  for uid, groups in series.items():
    groups.sort(key=lambda group: -len(group))
    for number, group in enumerate(groups, 1):
      key = uid if number == 1 else f"{uid}#{number}"
      stacks.append(Stack(key, tuple(group)))
  return sorted(stacks, key=lambda stack: (-stack.places, stack.uid))


def _alike(a: Slice, b: Slice) -> bool:
  """Whether two slices can lie in one volume."""
  (header, frame), (other, second) = a, b
  return (
    (header.rows, header.columns) == (other.rows, other.columns)
    and np.allclose(frame.orientation, second.orientation, rtol=0, atol=_AXES)
    and np.allclose(frame.spacing, second.spacing, rtol=_AXES, atol=0)
  )


def describe(stack: Stack) -> SeriesInfo:
  """Sums up a stack for people.

  Args:
    stack: any stack.

  Returns:
    Its description, with the fault that `arrange` finds.
  """
  header, frame = stack.slices[0]
  depths = np.sort(stack.depths)
  gaps = np.diff(depths)
  gaps = gaps[gaps > _SAME_PLACE_MM]
  try:
    arrange(stack, stack.uid)
    fault = ""
  except InputError as error:
    fault = error.fault
  return SeriesInfo(
    uid=stack.uid,
    description=header.description,
    slices=stack.places,
    spacing=(*frame.spacing, float(np.median(gaps)) if gaps.size else 0.0),
    shape=(header.columns, header.rows, stack.places),
    fault=fault,
  )


def choose(
  stacks: Sequence[Stack],
  series: str | None,
  name: str | os.PathLike[str],
) -> Stack:
  """Takes the stack asked for, or the only one that is a volume.

  Args:
    stacks: from `stacks_of`.
    series: a UID, or enough of its end to be unique; None to take the only
      stack of `_VOLUME_SLICES` places or more, or else the only one at all.
    name: what is read, for messages.

  Returns:
    The stack.

  Raises:
    InputError: if none or several come into question; lists them.
  """
  if series is not None:
    found = [s for s in stacks if s.uid == series] or [
      s for s in stacks if s.uid.endswith(series)
    ]
    if len(found) == 1:
      return found[0]
    fault = f"holds {len(found) or 'no'} series {series!r}."
    raise InputError(name, fault, f"there are: {_listed(stacks)}.")
  solid = [stack for stack in stacks if stack.places >= MIN_SLICES]
  thick = [stack for stack in solid if stack.places >= _VOLUME_SLICES]
  found = thick or solid
  if len(found) == 1:
    return found[0]
  if not found:
    raise InputError(
      name,
      f"holds a single CT slice: {_listed(stacks)}.",
      "give the folder (or zip) with all slices of the series.",
    )
  raise InputError(
    name,
    f"holds {len(found)} CT series.",
    f"choose one with series=UID (--series): {_listed(stacks)}.",
  )


def passed_over(stacks: Sequence[Stack], chosen: Stack) -> list[str]:
  """Tells what `choose` took for too short to be meant.

  Args:
    stacks: from `stacks_of`.
    chosen: the one taken, when no series was asked for.

  Returns:
    A note if there are other series of several slices, which might be meant
    all the same; those of the chosen series are another matter.
  """
  uid = chosen.uid.split("#")[0]
  others = [
    stack
    for stack in stacks
    if stack.places >= MIN_SLICES and stack.uid.split("#")[0] != uid
  ]
  if not others:
    return []
  return [
    f"{len(others)} other series of fewer than {_VOLUME_SLICES} slices "
    f"{'was' if len(others) == 1 else 'were'} passed over: {_listed(others)}."
  ]


def _listed(stacks: Sequence[Stack], most: int = 12) -> str:
  further = f"; and {len(stacks) - most} more" if len(stacks) > most else ""
  return "; ".join(str(describe(stack)) for stack in stacks[:most]) + further


def arrange(stack: Stack, name: str) -> tuple[list[Slice], Grid, list[str]]:
  """Puts the slices of a stack in order and finds the volume's place.

  Args:
    stack: any stack.
    name: what is read, for messages.

  Returns:
    Slices from the lowest position along the normal to the highest, the grid
    of the volume (axes: along rows, down columns, across slices), and notes
    of what was mended.

  Raises:
    InputError: if a slice is missing, there twice or out of line, or the
      planes are no planes.

  Units:
    mm; the grid is RAS+.
  """
  notes: list[str] = []
  slices = _once(stack, notes)
  if len(slices) < MIN_SLICES:
    fault = f"has {len(slices)} slice; {MIN_SLICES} are needed."
    raise InputError(name, fault, "give all slices of the series.")
  points = np.array([frame.position for _, frame in slices])
  row, column = _directions(slices[0][1])
  if max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1)) > 1e-2:
    raise InputError(name, "its image directions are no unit vectors.", _EXPORT)
  if abs(float(row @ column)) > 1e-2:
    raise InputError(name, "rows and columns are not at right angles.", _EXPORT)
  row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
  normal = np.cross(row, column)
  depths = points @ normal
  gaps = np.diff(depths)
  _check_gaps(gaps, depths, name)
  count = len(slices)
  # The line of least squares through evenly numbered positions.
  numbers = np.arange(count) - (count - 1) / 2
  # Headers are decimal; what lies beyond nanometres is binary rounding.
  step = np.round(numbers @ points / (numbers @ numbers), 9)
  even = points.mean(axis=0) + numbers[:, None] * step
  off = float(np.linalg.norm(points - even, axis=1).max())
  gap = float(step @ normal)
  if off > max(_OFF_MM, _OFF_FRACTION * gap):
    raise InputError(
      name,
      f"slices lie up to {off:.2f} mm off an even row with gaps of {gap:.3f} "
      f"mm (gaps range from {gaps.min():.3f} to {gaps.max():.3f} mm).",
      _EXPORT,
    )
  along_row, down_column = slices[0][1].spacing
  columns = np.stack([row * along_row, column * down_column, step], axis=1)
  header = slices[0][0]
  shape = (header.columns, header.rows, count)
  grid = lps_grid(shape, columns, np.round(even[0], 9), name)
  _note_tilt(header, step, normal, notes)
  return slices, grid, notes


_EXPORT = (
  "export the series again from the archive, all slices of one reconstruction; "
  "a converter such as dcm2niix may be able to resample it."
)


def _directions(
  frame: Frame,
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
  """Along a row (columns ascending) and down a column (rows ascending)."""
  vectors = np.array(frame.orientation, np.float64)
  return vectors[:3], vectors[3:]


def _once(stack: Stack, notes: list[str]) -> list[Slice]:
  """Slices by depth; copies of a file are dropped.

  The same UID elsewhere is no copy: some exporters give one UID to several.
  """
  order = np.argsort(stack.depths, kind="stable")
  seen: set[tuple[str, int, tuple[float, ...]]] = set()
  slices: list[Slice] = []
  for place in order.tolist():
    header, frame = stack.slices[place]
    where = tuple(round(value, 2) for value in frame.position)
    key = header.instance, frame.index, where
    if key not in seen:
      slices.append((header, frame))
    seen.add(key)
  copies = len(order) - len(slices)
  if copies:
    notes.append(f"{copies} slices are there twice, as copies; used once.")
  return slices


def _check_gaps(
  gaps: Float64[np.ndarray, " gaps"],
  depths: Float64[np.ndarray, " slices"],
  name: str,
) -> None:
  """Refuses repeated and missing slices, with numbers."""
  twice = int((gaps <= _SAME_PLACE_MM).sum())
  if twice:
    where = float(depths[int(np.argmin(gaps))])
    raise InputError(
      name,
      f"{twice} of {len(depths)} slices lie where another one is, first at "
      f"{where:.2f} mm along the normal.",
      "keep one reconstruction, phase or acquisition of the series.",
    )
  gap = float(np.median(gaps))
  steps = np.rint(gaps / gap)
  tolerance = 2 * max(_OFF_MM, _OFF_FRACTION * gap)
  whole = bool((np.abs(gaps - steps * gap) <= tolerance * steps).all())
  if whole and (steps > 1).any():
    first = int(np.argmax(steps > 1))
    raise InputError(
      name,
      f"{int((steps - 1).sum())} slices are missing: gaps of {gap:.3f} mm, but "
      f"{gaps[first]:.3f} mm between {depths[first]:.2f} and "
      f"{depths[first + 1]:.2f} mm along the normal.",
      "fetch the series again, completely.",
    )


def _note_tilt(
  header: Header,
  step: Float64[np.ndarray, " 3"],
  normal: Float64[np.ndarray, " 3"],
  notes: list[str],
) -> None:
  """Tells of a tilt that the positions do not show."""
  try:
    tilt = abs(float(header.facts.get("gantry_tilt_deg", 0)))
  except ValueError:
    return
  cosine = min(1.0, float(step @ normal) / float(np.linalg.norm(step)))
  shown = float(np.degrees(np.arccos(cosine)))
  if tilt > 0.5 and shown < 0.25:
    notes.append(
      f"names a gantry tilt of {tilt:g} degrees that its slice positions do "
      "not show; taken as corrected already."
    )
