# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The page of a data set: every case with its picture and what is odd in it.

One HTML file without any request. Entries are made case by case where the
voxels are, and hold a small picture only; the page is written as they come,
so thousands of cases need no more memory than one. A short script sorts and
filters; without it the page is a list in the order of the cases.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8

from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.result import CaseResult, Lesion, Vertebra
from vf_jax.io.atomic import atomic_write
from vf_jax.labels import BY_CODE, CODES, SACRUM
from vf_jax.multispine.checks.alignment import rounding_mm
from vf_jax.multispine.checks.check import Finding
from vf_jax.multispine.checks.findings import SEVERITIES, in_words
from vf_jax.multispine.checks.mask_findings import cut_codes
from vf_jax.multispine.load import Loaded
from vf_jax.multispine.shapes import Shape, measure_shapes
from vf_jax.report.frame import head
from vf_jax.report.overlay import level_colour, paint_levels
from vf_jax.report.png import encode_png
from vf_jax.report.quality_style import QUALITY_STYLE, SCRIPT
from vf_jax.report.style import STYLE
from vf_jax.report.views import View, spine_views
from vf_jax.volume import Volume, resample

_NONE = "\N{EN DASH}"
_ROWS = 280  # pixels of a picture
_STEPS_MM = (0.7, 3.0)
# Palette of a picture: the greys, plain and below each hue, then the hues as
# they are for borders, then the colour of centres.
_GREYS = 31
_FILL = 0.28
_HUES = tuple(dict.fromkeys(level_colour(code) for code in range(1, CODES)))
_MARK = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class QualityEntry:
  """One case of the page.

  Attributes:
    name: of the case.
    domain: of the case.
    facts: name -> value, in the order of the page.
    findings: the worst first.
    levels: number of vertebrae.
    png: sagittal and coronal view side by side; None if none can be drawn.
    width: of the picture, pixels.
    height: of the picture, pixels.
  """

  name: str
  domain: str
  facts: Mapping[str, str]
  findings: tuple[Finding, ...]
  levels: int
  png: bytes | None
  width: int = 0
  height: int = 0

  @property
  def worst(self) -> str:
    """The worst severity of its findings; 'none' without any."""
    found = {finding.severity for finding in self.findings}
    return next((s for s in SEVERITIES if s in found), "none")


def make_entry(loaded: Loaded, findings: Sequence[Finding]) -> QualityEntry:
  """Draws a case and gathers what is known of it.

  Args:
    loaded: the case.
    findings: of `multispine.check`.

  Returns:
    The entry, some ten kilobytes.
  """
  shapes: Mapping[int, Shape] = {}
  if loaded.labels is not None:
    shapes = measure_shapes(loaded.labels).levels
  picture = _draw(loaded, shapes)
  known = (set(shapes) or set(loaded.centres)) - {SACRUM.code}
  height, width = (0, 0) if picture is None else picture[0].shape
  return QualityEntry(
    name=loaded.case.name,
    domain=loaded.case.domain,
    facts=_facts(loaded, shapes),
    findings=tuple(findings),
    levels=len(known),
    png=None if picture is None else encode_png(*picture),
    width=width,
    height=height,
  )


def write_quality_page(
  path: str | os.PathLike[str], entries: Iterable[QualityEntry]
) -> None:
  """Writes the page; one that exists is replaced as a whole.

  Args:
    path: the HTML file; its folder must exist.
    entries: in the order of the page, read one after the other.

  Raises:
    InputError: the file cannot be written.
  """
  counts: collections.Counter[str] = collections.Counter()
  domains: set[str] = set()
  with atomic_write(path) as file:

    def put(text: str) -> None:
      file.write(text.encode("utf-8", errors="replace"))

    put(_head())
    for entry in entries:
      counts[entry.worst] += 1
      domains.add(entry.domain)
      put(_row(entry))
    put(_foot(counts, sorted(domains)))


def _facts(loaded: Loaded, shapes: Mapping[int, Shape]) -> dict[str, str]:
  case, grid = loaded.case, loaded.grid
  cross = " \N{MULTIPLICATION SIGN} "
  cut = cut_codes(shapes)
  kinds = {
    "body": "of bodies",
    "mask": "of whole vertebrae",
    "subregions": "of bodies, from the mask of sub-regions",
  }
  facts = {
    "source": case.source,
    "domain": case.domain,
    "subject": case.subject,
    "series": case.series,
    "official part": case.split or "",
    "levels": in_words(set(shapes) - {SACRUM.code}),
    "cut": in_words(cut),
    "points": in_words(loaded.centres)
    and f"{in_words(loaded.centres)}, {kinds.get(loaded.centre_kind, '')}",
    "lesions": str(len(loaded.boxes) or ""),
    "grid": f"{cross.join(map(str, grid.shape))}, {''.join(grid.axis_codes)}",
    "spacing": f"{cross.join(f'{v:.3g}' for v in grid.spacing)} mm",
    "image": "" if loaded.image is not None else "none, mask alone",
    "annotated": ", ".join(sorted(case.annotates)).replace("_", " ")
    or "nothing",
    "masks by": "" if case.mask_kind == "none" else case.mask_kind,
    "licence": case.licence,
    "origin": case.origin,
  }
  return {name: text for name, text in facts.items() if text}


def _draw(
  loaded: Loaded, shapes: Mapping[int, Shape]
) -> (
  tuple[UInt8[np.ndarray, "rows columns"], UInt8[np.ndarray, "colours 3"]]
  | None
):
  """The two views as one palette picture."""
  grid = loaded.grid
  if min(grid.shape) == 0:
    return None
  result = CaseResult(
    case=loaded.case.name,
    grid=grid,
    mask=_mask_on_grid(loaded),
    vertebrae=_vertebrae(loaded, shapes),
    lesions=tuple(
      Lesion(box.centre_mm, box.size_mm, 1.0, None) for box in loaded.boxes
    ),
    warnings=(),
    run={},
  )
  image = loaded.image
  if image is None:
    # NOTE: one number seen as a whole volume; no memory is behind it.
    air = np.broadcast_to(np.int16(AIR_HU), grid.shape)
    image = Volume(air, grid.affine)
  rough = spine_views(image, result, 8.0)
  tall = max(view.size_mm[1] for view in rough)
  step = float(np.clip(tall / _ROWS, *_STEPS_MM))
  views = spine_views(image, result, step)
  points = [v.centre_mm for v in result.vertebrae] if loaded.centres else []
  parts = [_paint(view, points, result.lesions) for view in views]
  gap = np.zeros((len(parts[0]), 3), np.uint8)
  return np.concatenate([parts[0], gap, parts[1]], axis=1), _palette()


def _mask_on_grid(loaded: Loaded) -> UInt8[np.ndarray, "x y z"]:
  grid, labels = loaded.grid, loaded.labels
  if labels is None:
    return np.broadcast_to(np.uint8(0), grid.shape)
  if labels.grid.same_as(grid, rounding_mm(grid)):
    return labels.voxels
  return resample(labels.voxels, labels.grid, grid, order=0, fill=0)


def _vertebrae(
  loaded: Loaded, shapes: Mapping[int, Shape]
) -> tuple[Vertebra, ...]:
  """Points that the views follow: the annotated ones, else of the mask."""
  points = dict(loaded.centres)
  if not points:
    points = {
      # A view through the bodies: they lie in front of the centres of mass.
      code: (s.centre_mm[0], s.centre_mm[1] + 10.0, s.centre_mm[2])
      for code, s in shapes.items()
    }
  return tuple(
    Vertebra(BY_CODE[c].name, c, point, 1.0, True, 0.0, 0.0)
    for c, point in points.items()
    if c != SACRUM.code
  )


def _palette() -> UInt8[np.ndarray, "colours 3"]:
  greys = np.repeat(np.linspace(0, 255, _GREYS)[:, None], 3, axis=1)
  layers = [greys]
  for hue in _HUES:
    layers.append((1 - _FILL) * greys + _FILL * np.array(hue))
  layers += [np.array(_HUES), np.array([_MARK])]
  return np.rint(np.concatenate(layers)).astype(np.uint8)


def _paint(
  view: View,
  points: Sequence[tuple[float, float, float]],
  lesions: Sequence[Lesion],
) -> UInt8[np.ndarray, "rows columns"]:
  """Palette entries of one view."""
  hue_of = np.zeros(CODES, np.int64)
  for code in range(1, CODES):
    hue_of[code] = 1 + _HUES.index(level_colour(code))
  entries, _ = paint_levels(view)
  hue = hue_of[entries % CODES]
  grey = np.rint(view.grey * ((_GREYS - 1) / 255)).astype(np.int64)
  picture = hue * _GREYS + grey
  border = entries >= CODES
  first = (1 + len(_HUES)) * _GREYS
  picture[border] = first + hue[border] - 1
  mark = first + len(_HUES)
  for point in points:
    x, y = (int(v / view.step_mm) for v in view.place(point))
    # Beside the view nothing is painted: a negative end would count from the
    # other edge.
    rows, columns = (slice(max(0, v - 1), max(0, v + 1)) for v in (y, x))
    picture[rows, columns] = mark
  for lesion in lesions:
    _frame(picture, view, lesion, mark)
  return picture.astype(np.uint8)


def _frame(picture, view, lesion, mark) -> None:
  """Draws the outline of a lesion's box."""
  x, y = view.place(lesion.centre_mm)
  half = lesion.size_mm[view.axis] / 2, lesion.size_mm[2] / 2
  rows, columns = picture.shape

  def pixel(value, count):
    return int(np.clip(value / view.step_mm, 0, count - 1))

  left, right = pixel(x - half[0], columns), pixel(x + half[0], columns)
  top, bottom = pixel(y - half[1], rows), pixel(y + half[1], rows)
  picture[[top, bottom], left : right + 1] = mark
  picture[top : bottom + 1, [left, right]] = mark


def _head() -> str:
  options = "".join(
    f'<option value="{i}">{text}</option>'
    for i, text in enumerate(
      ("all cases", "errors", "errors and warnings", "any finding")
    )
  )
  start = head("Quality of the data", STYLE + QUALITY_STYLE, SCRIPT)
  return f"""{start}<body class="quality">
<form id="tools" hidden>
<label>Find <input type="search" id="find" placeholder="case, finding, fact">\
</label>
<label>Show <select id="show">{options}</select></label>
<label>Domain <select id="domain"><option value="">all</option></select></label>
<label>Sort by <select id="sort">
<option value="order">order of the data</option>
<option value="worst">severity</option>
<option value="name">name</option>
<option value="domain">domain</option>
<option value="levels">number of levels</option>
</select></label>
<output id="shown"></output>
</form>
<main id="cases">
"""


def _row(entry: QualityEntry) -> str:
  rank = ("error", "warning", "note", "none").index(entry.worst)
  facts = " ".join(
    f"<dt>{escape(name)}</dt> <dd>{escape(text)}</dd>"
    for name, text in entry.facts.items()
  )
  found = "".join(_finding(finding) for finding in entry.findings)
  listed = f"<ul>{found}</ul>" if found else "<p>nothing found</p>"
  picture = ""
  if entry.png is not None:
    url = "data:image/png;base64," + base64.b64encode(entry.png).decode("ascii")
    alt = (
      f"Sagittal view, anterior on the left, and coronal view, patient's"
      f" right on the left, of {entry.name}."
    )
    picture = (
      f'<img src="{url}" width="{entry.width}" height="{entry.height}"'
      f' loading="lazy" decoding="async" alt="{escape(alt)}">'
    )
  return f"""<article class="case has-{entry.worst}" data-rank="{rank}" \
data-name="{escape(entry.name)}" data-domain="{escape(entry.domain)}" \
data-levels="{entry.levels}">
<div class="picture">{picture}</div>
<div class="text"><h2>{escape(entry.name)}</h2>
{listed}
<dl>{facts}</dl></div>
</article>
"""


def _finding(finding: Finding) -> str:
  return (
    f'<li class="{finding.severity}"><b>{finding.severity}</b>'
    f" {escape(finding.message)} <small>{escape(finding.code)}</small></li>"
  )


def _foot(counts: Mapping[str, int], domains: Sequence[str]) -> str:
  """What is known only after the last case; the style moves it to the top."""
  total = sum(counts.values())
  words = [
    f"{counts[kind]} with {text}"
    for kind, text in (
      ("error", "errors"),
      ("warning", "warnings"),
      ("note", "notes only"),
      ("none", "nothing to say"),
    )
    if counts[kind]
  ]
  cases = f"{total} case{'' if total == 1 else 's'}"
  names = escape(", ".join(domains)) or _NONE
  return f"""</main>
<header>
<h1>Quality of the data</h1>
<p>{cases}: {", ".join(words) or "none"}. Domains: {names}.</p>
</header>
<footer><p>An error keeps a case out of training; a warning asks for a look.
In the pictures, bodies lie on one bent surface; white dots are annotated
centres, white boxes lesions.</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""
