# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What is drawn over a view: colours of the levels, names, lesion boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage, optimize

from vf_jax.infer.result import CaseResult, Lesion, Vertebra
from vf_jax.labels import CODES
from vf_jax.report.png import encode_png
from vf_jax.report.views import View, spine_views
from vf_jax.volume import Volume

# Okabe and Ito's hues, a little lighter for a dark ground, in the order in
# which neighbours (then next neighbours) differ most in CIELAB under normal
# sight, full deuteranopia and full protanopia alike.
_HUES = (
  (0x56, 0xB4, 0xE9),
  (0xE6, 0x9F, 0x00),
  (0x2F, 0x7F, 0xD0),
  (0xE8, 0x60, 0x2C),
  (0xE5, 0x8C, 0xC0),
  (0xF0, 0xE4, 0x42),
  (0x00, 0x9E, 0x73),
)
# C1..L5 take turns by VerSe code; the sacrum follows L5 as L1 follows T12. The
# rare levels between them (T13, L6) take a hue unlike both neighbours.
_TURN = {25: 5, 26: 24, 27: 25, 28: 2}
_FILL, _EDGE = 58, 235
_EDGE_MM = 0.8
_NAME_GAP_MM = 4.0


@dataclasses.dataclass(frozen=True)
class Name:
  """Where the name of a level stands in a view, mm from the left and top.

  Attributes:
    text: the level.
    code: its VerSe code.
    centre: of the vertebral body.
    edge: of the vertebra, beside its centre.
    end: of the text; it runs up to here from the left.
  """

  text: str
  code: int
  centre: tuple[float, float]
  edge: tuple[float, float]
  end: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Box:
  """A lesion box in a view, mm from the left and top.

  Attributes:
    number: of the lesion, from 1, as in the table of the page.
    left: of the box.
    top: of the box.
    width: of the box.
    height: of the box.
    cut: whether the view passes through the box or only beside it.
  """

  number: int
  left: float
  top: float
  width: float
  height: float
  cut: bool


def level_colour(code: int, light: bool = False) -> tuple[int, int, int]:
  """The colour of a level in every picture and table.

  Args:
    code: VerSe code, 1..28.
    light: half-way to white, for text on a dark ground.

  Returns:
    Red, green, blue, 0..255.
  """
  red, green, blue = _HUES[_TURN.get(code, code - 1) % len(_HUES)]
  if light:
    return (red + 255) // 2, (green + 255) // 2, (blue + 255) // 2
  return red, green, blue


def paint_levels(
  view: View,
) -> tuple[UInt8[np.ndarray, "rows columns"], UInt8[np.ndarray, "colours 4"]]:
  """Colours the mask of a view, translucent inside, stronger at its border.

  Args:
    view: the view.

  Returns:
    Palette entries and the RGBA palette, as `encode_png` takes them.
  """
  palette = np.zeros((2, CODES, 4), np.uint8)
  for code in range(1, CODES):
    palette[:, code, :3] = level_colour(code)
  palette[0, 1:, 3], palette[1, 1:, 3] = _FILL, _EDGE
  codes = np.where(view.codes < CODES, view.codes, np.uint8(0))
  disc = ndimage.iterate_structure(
    ndimage.generate_binary_structure(2, 1),
    max(1, round(_EDGE_MM / view.step_mm)),
  )
  most = ndimage.maximum_filter(codes, footprint=disc)
  least = ndimage.minimum_filter(codes, footprint=disc)
  at_border = (codes > 0) & (most != least)
  return codes + np.uint8(CODES) * at_border, palette.reshape(-1, 4)


def blend(view: View) -> UInt8[np.ndarray, "rows columns 3"]:
  """The CT of a view with its coloured mask, as one RGB picture.

  Args:
    view: the view.

  Returns:
    RGB, row 0 at the head.
  """
  entries, palette = paint_levels(view)
  over = palette[entries].astype(np.float32)
  share = over[..., 3:] / 255
  mixed = view.grey[..., None] * (1 - share) + over[..., :3] * share
  return np.rint(mixed).astype(np.uint8)


def render_overlay_png(
  volume: Volume, result: CaseResult, step_mm: float | None = None
) -> bytes:
  """Draws the sagittal (left) and coronal view with their masks as one PNG.

  It carries no text, so the names of the levels are left to the page.

  Args:
    volume: the CT, HU.
    result: its prediction, on the same grid.
    step_mm: edge of a pixel, see `spine_views`.

  Returns:
    The bytes of an RGB PNG.

  Raises:
    InputError: see `spine_views`.
  """
  sagittal, coronal = spine_views(volume, result, step_mm)
  gap = np.zeros((len(sagittal.grey), 4, 3), np.uint8)
  return encode_png(
    np.concatenate([blend(sagittal), gap, blend(coronal)], axis=1)
  )


def text_height(views: Sequence[View]) -> float:
  """Height of text that looks the same on the page for long and short spines.

  Args:
    views: the views that stand side by side.

  Returns:
    Font size.

  Units:
    mm.
  """
  reach = max(max(v.size_mm[1], 1.6 * v.size_mm[0]) for v in views)
  return max(5.0, reach / 50)


def place_names(
  view: View, vertebrae: Sequence[Vertebra], size: float
) -> list[Name]:
  """Puts the level names to the left of the bodies, none over another.

  Args:
    view: the view.
    vertebrae: of the case; those without a finite centre get no name.
    size: font size, mm.

  Returns:
    The names from head to foot.
  """
  seen = [v for v in vertebrae if np.isfinite(v.centre_mm).all()]
  seen.sort(key=lambda v: -v.centre_mm[2])
  if not seen:
    return []
  # The least movement that keeps all names apart is an isotonic regression of
  # the heights once the room each name needs is taken out.
  room = 1.05 * size * np.arange(len(seen))
  wanted = np.array([view.place(v.centre_mm)[1] for v in seen])
  floor = view.size_mm[1] - size / 2 - room[-1]
  moved = np.array(optimize.isotonic_regression(wanted - room).x)
  heights = np.clip(moved, size / 2, max(size / 2, floor)) + room
  names = []
  for vertebra, y in zip(seen, heights.tolist(), strict=True):
    centre = view.place(vertebra.centre_mm)
    edge = _left_edge(view, vertebra.code, centre)
    width = 0.72 * size * len(vertebra.level)
    end = max(edge - _NAME_GAP_MM, width + 1.0)
    names.append(
      Name(vertebra.level, vertebra.code, centre, (edge, centre[1]), (end, y))
    )
  return names


def place_boxes(view: View, lesions: Sequence[Lesion]) -> list[Box]:
  """Projects the lesion boxes into a view.

  Args:
    view: the view.
    lesions: of the case; those without finite numbers get no box.

  Returns:
    The boxes in the order of their lesions.
  """
  boxes = []
  for number, lesion in enumerate(lesions, start=1):
    if not np.isfinite([*lesion.centre_mm, *lesion.size_mm]).all():
      continue
    x, y = view.place(lesion.centre_mm)
    width, height = lesion.size_mm[view.axis], lesion.size_mm[2]
    boxes.append(
      Box(
        number=number,
        left=x - width / 2,
        top=y - height / 2,
        width=width,
        height=height,
        cut=view.cuts(lesion),
      )
    )
  return boxes


def _left_edge(view: View, code: int, centre: tuple[float, float]) -> float:
  """Left end of a vertebra within 2 mm of the height of its centre, mm."""
  step = view.step_mm
  first = max(0, int((centre[1] - 2.0) / step))
  band = view.codes[first : int((centre[1] + 2.0) / step) + 1]
  columns = np.flatnonzero((band == code).any(axis=0))
  return float(columns[0]) * step if len(columns) else centre[0] - 15.0
