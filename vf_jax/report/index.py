# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The page of a folder of cases: `index.html`, one row a case.

It is made from the JSON files that every case leaves behind, so it also shows
cases of earlier runs, and can be made again at any time. A case that the last
run did not do says so, and why, beside what an earlier run made of it.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from vf_jax.infer.summary import FAILURES, until_settled
from vf_jax.io.atomic import write_text
from vf_jax.io.results import DAMAGED, RUN
from vf_jax.report.script import SCRIPT, script_policy
from vf_jax.report.style import INDEX_STYLE, STYLE
from vf_jax.report.tables import level_key, percent

_NONE = "\N{EN DASH}"
_MARK = '<meta name="generator" content="vf-jax index">'
# What the run.json of a case says, of whatever version, and of training not.
_WORDS = {"request", "state", "warnings"}


def write_index(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Writes the index of a folder of cases; an older one is replaced whole.

  Args:
    folder: of all cases, as given to `--out`; each case is a sub-folder with
      its `run.json`, or was not done and has a file in `.failures/`. Other
      folders, as those of training runs, and hidden ones are left out.

  Returns:
    Path of the page: `index.html`, or `vf_jax_index.html` where an
    `index.html` lies that this function did not write.

  Raises:
    InputError: the page cannot be written.
  """
  root = pathlib.Path(folder)
  page = root / "index.html"
  if page.exists() and not _is_ours(page):
    page = root / "vf_jax_index.html"
  until_settled(root, lambda: write_text(page, _page(root)))
  return page


def _is_ours(page: pathlib.Path) -> bool:
  try:
    with open(page, "rb") as file:
      return _MARK.encode() in file.read(2000)
  except OSError:  # a folder, or somebody else's
    return False


def _page(root: pathlib.Path) -> str:
  names = {path.parent.name for path in root.glob(f"*/{RUN}")}
  names = {
    name
    for name in names
    if not name.startswith(".") and not _is_foreign(root / name)
  }
  faults = _last_faults(root / FAILURES)
  cases = [
    _read_case(root / name, faults.get(name, ""))
    for name in sorted(names | set(faults))
  ]
  return _render(sorted(cases, key=lambda c: -len(c["warnings"])))


def _is_foreign(folder: pathlib.Path) -> bool:
  """Whether its run.json is whole, but of no case: training writes one too."""
  try:
    run = json.loads((folder / RUN).read_text("utf-8"))
    if not isinstance(run, dict) or _WORDS & run.keys():
      return False
    begin = f"{folder.name}_"
    return not any(name.startswith(begin) for name in os.listdir(folder))
  except DAMAGED:
    return False


def _read_case(folder: pathlib.Path, fault: str) -> dict[str, Any]:
  """What the row of a case needs; a damaged file is a warning in its row."""
  name = folder.name
  warnings: list[str] = []

  def read(file: str, key: str) -> list[Any]:
    try:
      found = json.loads((folder / file).read_text("utf-8"))[key]
    except DAMAGED:
      found = None
    if isinstance(found, list):
      return found
    warnings.append(f"{file} is missing or damaged.")
    return []

  # Unlike the method, it takes a name that no disk can hold.
  if fault and (not os.path.isfile(folder / RUN) or _is_foreign(folder)):
    return {
      "name": name,
      "made": False,
      "warnings": [fault],
      "vertebrae": [],
      "lesions": 0,
      "picture": False,
      "report": False,
    }
  if fault:
    warnings.append(f"{fault} What is shown is older.")
  noted = read(RUN, "warnings")
  vertebrae = read(f"{name}_vertebrae.json", "vertebrae")
  sound = [v for v in vertebrae if _is_sound(v)]
  if len(sound) < len(vertebrae):
    warnings.append(
      f"{name}_vertebrae.json is damaged: {len(vertebrae) - len(sound)} of "
      f"{len(vertebrae)} vertebrae cannot be read."
    )
  lesions = read(f"{name}_lesions.json", "lesions")
  return {
    "name": name,
    "made": True,
    "warnings": [*noted, *warnings],
    "vertebrae": sound,
    "lesions": len(lesions),
    "picture": (folder / f"{name}_overview.png").is_file(),
    "report": (folder / f"{name}_report.html").is_file(),
  }


def _last_faults(folder: pathlib.Path) -> dict[str, str]:
  """Case -> why the last run did not do it."""
  faults = {}
  for path in sorted(folder.glob("*.json")):
    try:
      record = json.loads(path.read_text("utf-8"))
      case, fault = str(record["case"]), str(record["fault"])
    except FileNotFoundError:
      continue
    except DAMAGED:
      case, fault = path.stem, f"{FAILURES}/{path.name} is missing or damaged"
    faults[case] = f"The last run did not do this case: {fault.rstrip('.')}."
  return faults


def _is_sound(vertebra: Any) -> bool:
  return isinstance(vertebra, dict) and isinstance(
    vertebra.get("partial", {}), dict
  )


def _render(cases: Sequence[Mapping[str, Any]]) -> str:
  rows = "\n".join(_row(case) for case in cases)
  count = len(cases)
  checked = sum(bool(case["warnings"]) for case in cases)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{_MARK}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src 'self' file:; style-src 'unsafe-inline'; script-src {script_policy()}">
<title>{count} cases {_NONE} spine reports</title>
<style>{STYLE}{INDEX_STYLE}</style>
</head>
<body class="index">
<header>
<h1>{count} {"case" if count == 1 else "cases"}</h1>
<p>{checked} with warnings. <strong class="not">Not for clinical use.</strong>\
</p>
</header>
<div class="wide" tabindex="0" role="region" aria-label="Cases">
<table class="sortable">
<thead><tr><th scope="col">Case</th><th scope="col" class="n">Warnings</th>\
<th scope="col">Levels</th><th scope="col" class="n">Least sure</th>\
<th scope="col" class="n">Cut</th><th scope="col" class="n">Lowest ratio</th>\
<th scope="col" class="n">Lesions</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p class="note">Least sure: the lowest confidence of a level. Lowest ratio: of \
heights of a body that is whole, with its level.</p>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _row(case: Mapping[str, Any]) -> str:
  name = case["name"]
  # By its bytes on the disk; a name that no disk can hold has nothing there.
  folder = quote(os.fsencode(name)) if case["made"] else ""
  base = f"{folder}/{folder}"
  title = escape(name)
  if case["picture"]:
    picture = (
      f'<img src="{base}_overview.png" loading="lazy" alt="Spine of {title}">'
    )
    title = f"{picture}<span>{title}</span>"
  if case["report"]:
    title = f'<a href="{base}_report.html">{title}</a>'
  notes = "".join(f"<li>{escape(str(text))}</li>" for text in case["warnings"])
  notes = f"<ul>{notes}</ul>" if notes else ""
  vertebrae = case["vertebrae"]
  levels = [str(v.get("level")) for v in vertebrae]
  first = level_key(levels[0] if levels else None)
  ends = list(dict.fromkeys((levels[0], levels[-1]))) if levels else ["none"]
  sure = min(_numbers(vertebrae, "confidence"), default=(math.nan, ""))
  ratio = min(
    (
      pair
      for key in ("wedge_ratio", "biconcave_ratio", "crush_ratio")
      for pair in _numbers(vertebrae, key)
    ),
    default=(math.nan, ""),
  )
  cut: int | str = sum(v.get("complete") is False for v in vertebrae)
  lesions = case["lesions"]
  found = f"<b>{escape(_NONE.join(ends))}</b> ({len(levels)})"
  if not case["made"]:
    cut, lesions, found = _NONE, _NONE, "<b>not done</b>"
  return (
    f'<tr><th scope="row" data-value="{escape(name)}">{title}</th>'
    f'<td class="n" data-value="{len(case["warnings"])}">'
    f"{len(case['warnings'])}</td>"
    f'<td class="levels" data-value="{first}">'
    f"{found}{notes}</td>"
    + _pair(sure, percent)
    + f'<td class="n">{cut}</td>'
    + _pair(ratio, "{:.2f}".format)
    + f'<td class="n">{lesions}</td></tr>'
  )


def _numbers(
  vertebrae: Sequence[Mapping[str, Any]], key: str
) -> list[tuple[float, str]]:
  """The numbers of a column with their levels, without partial ones."""
  return [
    (float(v[key]), str(v.get("level")))
    for v in vertebrae
    if isinstance(v.get(key), int | float) and key not in v.get("partial", {})
  ]


def _pair(pair: tuple[float, str], write: Callable[[float], str]) -> str:
  value, level = pair
  if math.isnan(value):
    return f'<td class="n" data-value="">{_NONE}</td>'
  return (
    f'<td class="n" data-value="{value:.6g}">{write(value)}'
    f" <small>{escape(level)}</small></td>"
  )
