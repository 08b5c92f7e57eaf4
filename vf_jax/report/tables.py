# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The findings of a case as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from vf_jax.infer.result import Lesion, Vertebra
from vf_jax.report.overlay import level_colour

_NONE = "\N{EN DASH}"


def vertebra_table(vertebrae: Sequence[Vertebra]) -> str:
  """The table of vertebrae.

  Args:
    vertebrae: of the case, in the order of the rows.

  Returns:
    HTML.
  """
  if not vertebrae:
    return "<p>none found</p>"
  rows = "\n".join(
    f'<tr><th scope="row">{_swatch(v.code)}{escape(v.level)}</th>'
    f"<td>{_share(v.confidence)}</td>"
    f"<td>{'yes' if v.complete else '<strong>no</strong>'}</td>"
    f'<td class="n">{_number(v.volume_ml, 1)}</td>'
    f'<td class="n">{_number(v.mean_hu, 0)}</td>'
    f'<td class="n">{_point(v.centre_mm)}</td></tr>'
    for v in vertebrae
  )
  return f"""<div class="wide"><table>
<thead><tr><th scope="col">Level</th><th scope="col">Confidence</th>\
<th scope="col">Complete</th><th scope="col" class="n">Volume <small>ml\
</small></th><th scope="col" class="n">Mean <small>HU</small></th>\
<th scope="col" class="n">Centre R, A, S <small>mm</small></th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def lesion_table(lesions: Sequence[Lesion]) -> str:
  """The table of lesions; its numbers are those of the boxes in the views.

  Args:
    lesions: of the case, in the order of the rows.

  Returns:
    HTML.
  """
  if not lesions:
    return "<p>none found</p>"
  rows = "\n".join(
    f'<tr><th scope="row">{number}</th><td>{_share(lesion.score)}</td>'
    f"<td>{escape(lesion.level or 'outside the spine')}</td>"
    f'<td class="n">{_point(lesion.size_mm)}</td>'
    f'<td class="n">{_point(lesion.centre_mm)}</td></tr>'
    for number, lesion in enumerate(lesions, start=1)
  )
  return f"""<div class="wide"><table>
<thead><tr><th scope="col">Box</th><th scope="col">Score</th>\
<th scope="col">Level</th><th scope="col" class="n">Size R, A, S <small>mm\
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


def _share(share: float) -> str:
  """A probability as a bar and a percentage that is never rounded to 100."""
  if not math.isfinite(share):
    return _NONE
  percent = 100 * min(max(share, 0.0), 1.0)
  text = ">99.9" if 99.95 <= percent < 100 else f"{percent:.1f}"
  return (
    f'<span class="bar"><i style="width:{percent:.0f}%"></i></span>'
    f'<span class="percent">{escape(text)}\N{NO-BREAK SPACE}%</span>'
  )


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
