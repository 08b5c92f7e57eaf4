# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The page of one case: a single HTML file that needs nothing but a browser.

Pictures are inside the file and a content policy forbids every request and
every script but the one that sorts the tables, so the page can be mailed,
archived and opened offline.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vf_jax.infer.result import CaseResult
from vf_jax.io.atomic import write_bytes, write_text
from vf_jax.report.frame import head
from vf_jax.report.overlay import (
  level_colour,
  paint_levels,
  place_boxes,
  place_names,
  render_overlay_png,
  text_height,
)
from vf_jax.report.png import encode_png
from vf_jax.report.script import SCRIPT
from vf_jax.report.style import STYLE
from vf_jax.report.tables import (
  confidence_strip,
  css_colour,
  lesion_table,
  vertebra_table,
)
from vf_jax.report.views import View, spine_views
from vf_jax.volume import Volume

# Views taller than this many widths stay side by side on a phone.
_SLENDER = 3.0
_OVERVIEW_MM = 2.0
_NONE = "\N{EN DASH}"


def write_report(
  path: str | os.PathLike[str], volume: Volume, result: CaseResult
) -> None:
  """Writes the page of a case and its picture for the index of a folder.

  The picture is `<case>_overview.png` for a page `<case>_report.html`. Files
  that exist are replaced as a whole.

  Args:
    path: the HTML file to write; its folder must exist.
    volume: the CT, HU.
    result: its prediction, on the same grid.

  Raises:
    InputError: the mask is not on the grid of the CT, or the file cannot be
      written.
  """
  write_text(path, render_page(volume, result))
  place = pathlib.Path(path)
  name = place.stem.removesuffix("_report") + "_overview.png"
  write_bytes(
    place.with_name(name), render_overlay_png(volume, result, _OVERVIEW_MM)
  )


def render_page(volume: Volume, result: CaseResult) -> str:
  """Makes the page of a case.

  Args:
    volume: the CT, HU.
    result: its prediction, on the same grid.

  Returns:
    An HTML5 document. It is a function of its arguments alone.

  Raises:
    InputError: the mask is not on the grid of the CT.
  """
  views = spine_views(volume, result)
  size = text_height(views)
  figures = "\n".join(_figure(view, result, size) for view in views)
  width, height = (sum(v.size_mm[0] for v in views) / 2, views[0].size_mm[1])
  shape = "slender" if height > _SLENDER * width else "broad"
  title = f"{result.case} {_NONE} spine report"
  return f"""{head(title, STYLE, SCRIPT)}<body>
<header>
<h1>{escape(result.case)}</h1>
<p>{_summary(result)} <strong class="not">Not for clinical use.</strong></p>
</header>
{_warnings(result.warnings)}{confidence_strip(result.vertebrae)}<main>
<section class="pictures" aria-label="Views">
<input type="checkbox" id="masks" checked><label for="masks">masks</label>
<input type="checkbox" id="marks" checked><label for="marks">names</label>
<div class="views {shape}">
{figures}
</div>
</section>
<section class="findings" aria-label="Findings">
<h2>Vertebrae</h2>
{vertebra_table(result.vertebrae)}
<h2>Lesions</h2>
{lesion_table(result.lesions)}
<details>
<summary>Technical details</summary>
<dl>
{_details(volume, result)}
</dl>
</details>
</section>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _summary(result: CaseResult) -> str:
  """The case in one sentence."""
  count = len(result.vertebrae)
  if not count:
    return "No vertebra found."
  first, last = result.vertebrae[0].level, result.vertebrae[-1].level
  cut = sum(not v.complete for v in result.vertebrae)
  parts = [_count(count, "vertebra", "vertebrae")]
  parts[0] += f", {escape(first)} to {escape(last)}" if count > 1 else ""
  if cut:
    parts.append(f"{cut} cut by the field of view")
  parts.append(f"{_count(len(result.lesions), 'lesion')} in vertebrae")
  return "; ".join(parts) + "."


def _count(number: int, one: str, many: str | None = None) -> str:
  return f"{number or 'no'} {one if number == 1 else many or one + 's'}"


def _warnings(warnings: Sequence[str]) -> str:
  if not warnings:
    return ""
  items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
  return (
    '<section class="warnings" aria-label="Warnings">'
    f"<h2>Please check</h2><ul>{items}</ul></section>\n"
  )


def _figure(view: View, result: CaseResult, size: float) -> str:
  """A view: CT, mask and marks on top of each other, one scale for all."""
  width, height = view.size_mm
  levels = ", ".join(v.level for v in result.vertebrae) or "no levels"
  left = "anterior" if view.letters[0] == "A" else "patient's right"
  alt = (
    f"{view.name.capitalize()} view of the CT along the spine, head up,"
    f" {left} on the left, with {levels}."
  )
  grey = _data_url(encode_png(view.grey))
  mask = _data_url(encode_png(*paint_levels(view)))
  marks = "".join(_marks(view, result, size))
  return f"""<figure style="--w:{width:.2f};--h:{height:.2f}">
<div class="view">
<img src="{grey}" alt="{escape(alt)}">
<img class="mask" src="{mask}" alt="">
<svg viewBox="0 0 {width:.2f} {height:.2f}" aria-hidden="true" \
font-size="{size:.2f}">{marks}</svg>
</div>
<figcaption>{view.name.capitalize()}, along the spine</figcaption>
</figure>"""


def _marks(view: View, result: CaseResult, size: float) -> Iterator[str]:
  """SVG of the names, boxes, letters and scale of a view; units are mm."""
  width, height = view.size_mm
  yield '<g class="marks">'
  for name in place_names(view, result.vertebrae, size):
    colour = css_colour(level_colour(name.code))
    light = css_colour(level_colour(name.code, light=True))
    (x0, y0), (x1, y1), (x2, y2) = name.centre, name.edge, name.end
    yield (
      f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="1.2" fill="{colour}"/>'
      f'<path d="M{x1 - 0.8:.1f} {y1:.1f}L{x2 + 0.8:.1f} {y2:.1f}"'
      f' stroke="{colour}"/>'
      f'<text x="{x2:.1f}" y="{y2:.1f}" fill="{light}" class="name"'
      f">{escape(name.text)}</text>"
    )
  for box in place_boxes(view, result.lesions):
    place = (
      f'x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}"'
      f' height="{box.height:.1f}"'
    )
    beside = "" if box.cut else " beside"
    yield (
      f'<rect {place} class="halo"/><rect {place} class="lesion{beside}"/>'
      f'<text x="{box.left + box.width + 1.5:.1f}" y="{box.top:.1f}"'
      f' class="number">{box.number}</text>'
    )
  yield "</g>"
  for letter, x, anchor in zip(
    view.letters, (2.0, width - 2.0), ("start", "end"), strict=True
  ):
    yield (
      f'<text x="{x:.1f}" y="{height / 2:.1f}" text-anchor="{anchor}"'
      f' class="side">{letter}</text>'
    )
  if height > 80:
    x, y = width - 3.0, height - 54.0
    yield (
      f'<path class="scale" d="M{x - 2:.1f} {y:.1f}h2v50h-2"/>'
      f'<text x="{x - 2:.1f}" y="{y + 25:.1f}" class="length">5 cm</text>'
    )


def _details(volume: Volume, result: CaseResult) -> str:
  grid = volume.grid
  facts: dict[str, Any] = {
    "grid": " \N{MULTIPLICATION SIGN} ".join(map(str, grid.shape)) + " voxels",
    "spacing": ", ".join(f"{s:.3g}" for s in grid.spacing) + " mm",
    "array axes run to": "".join(grid.axis_codes),
  }
  facts |= dict(_flatten(result.run))
  return "\n".join(
    f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
    for name, value in facts.items()
  )


def _flatten(run: Mapping[str, Any], prefix: str = "") -> Iterator[Any]:
  """Facts as `name, text`; nested names are joined by dots."""
  for name, value in run.items():
    if isinstance(value, Mapping) and value:
      yield from _flatten(value, f"{prefix}{name}.")
    elif isinstance(value, str):
      yield f"{prefix}{name}", value
    else:
      yield (
        f"{prefix}{name}",
        json.dumps(value, ensure_ascii=False, default=str),
      )


def _data_url(png: bytes) -> str:
  return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
