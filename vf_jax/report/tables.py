# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The findings of a case as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from vf_jax.infer.result import Lesion, Vertebra
from vf_jax.labels import BY_NAME
from vf_jax.report.overlay import level_colour

_NONE = "\N{EN DASH}"


# Group of columns, and of each its attribute, heading, meaning and digits.
_GROUPS = (
  ("Volume", "ml", (("volume_ml", "bone", "volume of the mask", 1),)),
  (
    "Core",
    "HU",
    (
      ("core_mean_hu", "mean", "mean inside the body", 0),
      ("core_median_hu", "median", "median inside the body", 0),
    ),
  ),
  (
    "Height of the body",
    "mm",
    (
      ("height_anterior_mm", "front", "anterior height", 1),
      ("height_middle_mm", "middle", "middle height", 1),
      ("height_posterior_mm", "back", "posterior height", 1),
    ),
  ),
  (
    "Ratio of heights",
    "",
    (
      ("wedge_ratio", "f/b", "wedge ratio: front over back", 2),
      ("biconcave_ratio", "m/b", "biconcave ratio: middle over back", 2),
      (
        "crush_ratio",
        "b/next",
        "crush ratio: back over the neighbours' back",
        2,
      ),
    ),
  ),
)
_FACTS = tuple(fact for _, _, facts in _GROUPS for fact in facts)


def vertebra_table(vertebrae: Sequence[Vertebra]) -> str:
  """The table of vertebrae.

  Args:
    vertebrae: of the case, in the order of the rows.

  Returns:
    HTML; with the script of the page its columns can be sorted.
  """
  if not vertebrae:
    return "<p>none found</p>"
  rows = "\n".join(
    f'<tr><th scope="row" data-value="{number}">'
    f"{_swatch(v.code)}{escape(v.level)}</th>"
    f'<td class="n" data-value="{_key(v.confidence)}">'
    f"{percent(v.confidence) if math.isfinite(v.confidence) else _NONE}</td>"
    f"<td>{'yes' if v.complete else '<strong>no</strong>'}</td>"
    + "".join(_fact(v, name, digits) for name, _, _, digits in _FACTS)
    + "</tr>"
    for number, v in enumerate(vertebrae)
  )
  groups = "".join(
    f'<th scope="colgroup" colspan="{len(facts)}" class="g">{name}'
    + (f" <small>{unit}</small>" if unit else "")
    + "</th>"
    for name, unit, facts in _GROUPS
  )
  heads = "".join(
    f'<th scope="col" class="n" title="{meaning}">{heading}</th>'
    for _, heading, meaning, _ in _FACTS
  )
  return f"""<div class="wide" tabindex="0" role="region" \
aria-label="Table of vertebrae"><table class="sortable">
<thead><tr><td></td><td></td><td></td>{groups}</tr>
<tr><th scope="col">Level</th><th scope="col" class="n">Confidence</th>\
<th scope="col">Whole</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
{_partial_notes(vertebrae)}<p class="note">Core: the inside of the body, \
without cortex and arch. f/b, m/b: front and middle over back height; b/next: \
back height over the mean of the neighbours'. They show deformity only as well \
as the mask follows the end plates.</p>"""


def confidence_strip(vertebrae: Sequence[Vertebra]) -> str:
  """The confidences from head to foot as a row of bars.

  Args:
    vertebrae: of the case, from head to foot.

  Returns:
    HTML; empty without a vertebra.
  """
  if not vertebrae:
    return ""
  cells = "".join(
    f'<li class="{_grade(v.confidence)}"><span><i style="height:'
    f"{100 * min(max(v.confidence, 0.0), 1.0):.0f}%;"
    f'background:{css_colour(level_colour(v.code))}"></i></span>'
    f"<b>{escape(v.level)}</b><small>{percent(v.confidence)}</small></li>"
    if math.isfinite(v.confidence)
    else f"<li><span></span><b>{escape(v.level)}</b><small>{_NONE}</small></li>"
    for v in vertebrae
  )
  return f"""<section class="sure" aria-label="Confidence of the levels">
<h2>How sure the levels are</h2>
<ol class="strip">{cells}</ol>
</section>
"""


def _grade(share: float) -> str:
  return "low" if share < 0.5 else "high" if share >= 0.9 else "some"


def _fact(vertebra: Vertebra, name: str, digits: int) -> str:
  """A cell; an asterisk marks what the note below the table explains."""
  value = getattr(vertebra, name)
  key = f'data-value="{_key(value)}"'
  reason = vertebra.partial.get(name)
  if reason is None:
    return f'<td class="n" {key}>{_number(value, digits)}</td>'
  return (
    f'<td class="n partial" {key} title="{escape(reason)}">'
    f"{_number(value, digits)}*</td>"
  )


def _partial_notes(vertebrae: Sequence[Vertebra]) -> str:
  """Why numbers have an asterisk, one line a vertebra."""
  shown = {name for name, _, _, _ in _FACTS}
  lines = []
  for v in vertebrae:
    reasons = dict.fromkeys(r for n, r in v.partial.items() if n in shown)
    if reasons:
      lines.append(f"{v.level}: {'; '.join(reasons)}")
  if not lines:
    return ""
  items = "".join(f"<li>{escape(line)}.</li>" for line in lines)
  return f'<div class="note">* incomplete or missing:<ul>{items}</ul></div>\n'


def _key(value: float) -> str:
  """What a cell is sorted by; nothing where there is no number."""
  return f"{value:.6g}" if math.isfinite(value) else ""


def lesion_table(lesions: Sequence[Lesion]) -> str:
  """The table of lesions; its numbers are those of the boxes in the views.

  Args:
    lesions: of the case, in the order of the rows.

  Returns:
    HTML.
  """
  if not lesions:
    return (
      "<p>none found in vertebrae; boxes elsewhere or of low score are the "
      "<code>candidates</code> of the JSON file</p>"
    )
  rows = "\n".join(
    f'<tr><th scope="row">{number}</th>'
    f'<td data-value="{_key(lesion.score)}">{_share(lesion.score)}</td>'
    f'<td data-value="{level_key(lesion.level)}">'
    f"{escape(lesion.level or 'outside the spine')}</td>"
    f'<td class="n" data-value="{_key(_share_of(lesion))}">'
    f"{_vertebra_share(lesion)}</td>"
    f'<td class="n" data-value="{_key(math.prod(lesion.size_mm))}">'
    f"{_point(lesion.size_mm)}</td>"
    f'<td class="n" data-value="{_key(lesion.centre_mm[2])}">'
    f"{_point(lesion.centre_mm)}</td></tr>"
    for number, lesion in enumerate(lesions, start=1)
  )
  return f"""<div class="wide" tabindex="0" role="region" \
aria-label="Table of lesions"><table class="sortable">
<thead><tr><th scope="col">Box</th><th scope="col">Score</th>\
<th scope="col">Level</th><th scope="col" class="n">Of the vertebra</th>\
<th scope="col" class="n">Size R, A, S <small>mm\
</small></th><th scope="col" class="n">Centre R, A, S <small>mm</small></th>\
</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p class="note">A dashed box lies before or behind the picture.</p>"""


def css_colour(colour: tuple[int, int, int]) -> str:
  """A colour as style sheets write it.

  Args:
    colour: red, green, blue, 0..255.

  Returns:
    `#rrggbb`.
  """
  return "#" + bytes(colour).hex()


def level_key(level: str | None) -> str:
  """Writes by what rows are sorted that name a level, from head to foot.

  Args:
    level: its name; None or an unknown one comes last.

  Returns:
    The value of a cell.
  """
  known = BY_NAME.get(level or "")
  return "" if known is None else str(known.order)


def _share_of(lesion: Lesion) -> float:
  return float("nan") if lesion.share is None else lesion.share


def _vertebra_share(lesion: Lesion) -> str:
  if lesion.share is None:
    return _NONE
  return f"{100 * lesion.share:.0f}\N{NO-BREAK SPACE}%"


def _share(share: float) -> str:
  """A probability as a bar and a percentage."""
  if not math.isfinite(share):
    return _NONE
  width = 100 * min(max(share, 0.0), 1.0)
  return (
    f'<span class="bar"><i style="width:{width:.0f}%"></i></span>'
    f'<span class="percent">{percent(share)}</span>'
  )


def percent(share: float) -> str:
  """Writes a share as a percentage that is never rounded to 100.

  Args:
    share: 0..1.

  Returns:
    HTML.
  """
  value = 100 * min(max(share, 0.0), 1.0)
  text = ">99.9" if 99.95 <= value < 100 else f"{value:.1f}"
  return escape(text) + "\N{NO-BREAK SPACE}%"


def _number(value: float, digits: int) -> str:
  if not math.isfinite(value):
    return _NONE
  text = f"{round(value, digits) + 0.0:.{digits}f}"
  return text.replace("-", "\N{MINUS SIGN}")


def _point(values: Sequence[float]) -> str:
  return ", ".join(_number(value, 0) for value in values)


def _swatch(code: int) -> str:
  colour = css_colour(level_colour(code))
  return f'<i class="swatch" style="background:{colour}"></i>'
