# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser: `pytest tests/report -m slow`.

Needs Chromium on the PATH; without it these tests fail and say so.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
from browser import open_browser
from index_test import write_case

from vf_jax.infer.result import Lesion
from vf_jax.report.index import write_index
from vf_jax.report.page import write_report

pytestmark = pytest.mark.slow

_ROWS = "[...document.querySelectorAll('table tbody')][0].rows"
_LEVELS = f"[...{_ROWS}].map((row) => row.cells[0].textContent)"
_SHOWN = """[...document.images].every(
  (i) => i.complete && i.naturalWidth > 0 && i.clientWidth > 100
)"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
  with open_browser(tmp_path_factory.mktemp("profile")) as found:
    yield found


@pytest.fixture
def page(make_case, tmp_path):
  boxes = [Lesion((20.0, -20.0, 150.0), (10.0, 11.0, 12.0), 0.5, "L2", 0.1)]
  ct, result = make_case(lesions=boxes, warnings=["W" * 60 + " " + "w " * 60])
  heights = (28.0, 24.0, 30.0, 26.0, float("nan"))
  vertebrae = tuple(
    dataclasses.replace(v, height_posterior_mm=height)
    for v, height in zip(result.vertebrae, heights, strict=True)
  )
  result = dataclasses.replace(result, vertebrae=vertebrae)
  write_report(tmp_path / "page.html", ct, result)
  return tmp_path / "page.html"


@pytest.mark.parametrize("width", [375, 768, 1400])
def test_page_is_whole_at_every_width(tab, page, width):
  tab.faults.clear()
  tab.open(page, width)
  assert tab.run(_SHOWN)
  assert tab.run("document.images.length") == 4
  assert tab.run("document.documentElement.scrollWidth") <= width
  assert tab.run("document.querySelectorAll('svg rect.lesion').length") == 2
  assert tab.faults == []


def test_table_is_sorted_by_a_click(tab, page):
  tab.faults.clear()
  tab.open(page, 1400)
  assert tab.run(_LEVELS) == ["L1", "L2", "L3", "L4", "L5"]
  heads = "[...document.querySelectorAll('table thead')][0].rows[1].cells"
  click = (
    f"[...{heads}].find((h) => h.title === 'posterior height')"
    ".querySelector('button').click()"
  )
  tab.run(click)
  assert tab.run(_LEVELS) == ["L2", "L4", "L1", "L3", "L5"]
  tab.run(click)  # the other way; what has no number stays last
  assert tab.run(_LEVELS) == ["L3", "L1", "L4", "L2", "L5"]
  tab.run(f"{heads}[0].querySelector('button').click()")
  assert tab.run(_LEVELS) == ["L1", "L2", "L3", "L4", "L5"]
  assert tab.run(f"{heads}[0].ariaSort") == "ascending"
  assert tab.faults == []


def test_masks_and_names_can_be_hidden(tab, page):
  tab.open(page, 1400)
  shown = "getComputedStyle(document.querySelector('.mask')).display"
  assert tab.run(shown) == "block"
  tab.run("document.getElementById('masks').click()")
  assert tab.run(shown) == "none"


def test_page_can_be_printed(tab, page, tmp_path):
  tab.open(page, 1400)
  tab.print_pdf(tmp_path / "page.pdf")
  data = (tmp_path / "page.pdf").read_bytes()
  assert data.startswith(b"%PDF")
  assert len(data) > 20_000


@pytest.mark.parametrize("width", [375, 1400])
def test_index_shows_links_and_sorts_by_warnings(
  tab, make_case, tmp_path, width
):
  found = (("10", ["x"]), ("2", []), ("1a", ["y", "z" * 99]))
  for name, warnings in found:
    write_case(tmp_path, make_case, name, warnings)
  tab.faults.clear()
  tab.open(write_index(tmp_path), width)
  # Pictures of an index load when they come near the window.
  end = time.monotonic() + 20
  seen = "[...document.images].every((i) => i.naturalWidth > 0)"
  while not tab.run(seen) and time.monotonic() < end:
    tab.run("window.scrollBy(0, 300)")
    time.sleep(0.1)
  assert tab.run(seen)
  assert tab.run("document.documentElement.scrollWidth") <= width
  assert tab.run(_LEVELS) == ["1a", "10", "2"]
  heads = "document.querySelector('table thead').rows[0].cells"
  tab.run(f"{heads}[1].querySelector('button').click()")
  assert tab.run(_LEVELS) == ["2", "10", "1a"]
  tab.run(f"{heads}[0].querySelector('button').click()")
  assert tab.run(_LEVELS) == ["1a", "2", "10"]
  assert tab.faults == []
