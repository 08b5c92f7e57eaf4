# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vf_jax.infer.result import Lesion
from vf_jax.labels import BY_NAME
from vf_jax.report.overlay import level_colour
from vf_jax.report.page import render_page, write_report
from vf_jax.report.tables import lesion_table
from vf_jax.report.views import spine_views

_VOID = {"meta", "input", "img", "circle", "path", "rect"}


class Page(HTMLParser):
  """Elements and text; fails on tags that do not match."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if data.strip() and self.open[-1] not in ("style", "script"):
      self.texts.append(data.strip())

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def lesion(**more):
  facts = {
    "centre_mm": (20.0, -20.0, 150.0),
    "size_mm": (10.0, 11.0, 12.0),
    "score": 0.5,
    "level": "L2",
  }
  return Lesion(**(facts | more))


def test_page_is_one_file_that_asks_for_nothing(make_case):
  text = render_page(*make_case(lesions=[lesion()]))
  page = Page(text)
  assert text.startswith("<!DOCTYPE html>")
  assert page.all("html") == [{"lang": "en"}]
  plain = re.sub(r"base64,[^\"]*|sha256-[^']*", "", text)
  assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch|eval", plain)
  assert {tag for tag, _ in page.tags}.isdisjoint(
    {"link", "iframe", "object", "embed", "a", "form"}
  )
  assert page.all("script") == [{}]  # inline, allowed by its hash alone
  for tag, attrs in page.tags:
    assert not any(name.startswith("on") for name in attrs), tag
    assert attrs.get("src", "data:").startswith("data:image/png;base64,") or (
      "src" not in attrs
    )
  policy = [m for m in page.all("meta") if "http-equiv" in m]
  assert policy[0]["content"].startswith("default-src 'none'")
  script = text.partition("<script>")[2].partition("</script>")[0]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"script-src 'sha256-{digest}'" in policy[0]["content"]


def test_pictures_are_the_views(make_case, decode_png):
  ct, result = make_case("LPS")
  page = Page(render_page(ct, result))
  images = page.all("img")
  assert ["alt" in image for image in images] == [True] * 4
  for view, image in zip(spine_views(ct, result), images[::2], strict=True):
    data = base64.b64decode(image["src"].partition(",")[2])
    np.testing.assert_array_equal(decode_png(data)[0], view.grey)
    assert view.name in image["alt"].lower()
    assert "L1, L2, L3, L4, L5" in image["alt"]
  boxes = [s["viewbox"].split() for s in page.all("svg")]
  for view, box in zip(spine_views(ct, result), boxes, strict=True):
    np.testing.assert_allclose(
      [float(x) for x in box[2:]], view.size_mm, atol=0.01
    )


def test_table_says_what_was_found(make_case):
  ct, result = make_case()
  page = Page(render_page(ct, result))
  for level in ("L1", "L5"):
    assert page.texts.count(level) == 4  # strip, two views, table
  assert "94.0\N{NO-BREAK SPACE}%" in page.texts
  assert "8.7" in page.texts
  summary = "5 vertebrae, L1 to L5; 1 cut by the field of view; no lesions in"
  assert f"{summary} vertebrae." in page.texts
  assert page.texts.count("yes") == 4
  assert "candidates" in page.texts  # boxes elsewhere are not hidden
  swatches = [i["style"] for i in page.all("i") if i.get("class") == "swatch"]
  assert swatches == [
    f"background:#{bytes(level_colour(v.code)).hex()}" for v in result.vertebrae
  ]
  assert page.texts.count("Not for clinical use.") == 1
  assert {"A", "P", "R", "L"} <= set(page.texts)
  assert "seconds.read" in page.texts


def test_lesions_are_listed_and_drawn_in_both_views(make_case):
  ct, result = make_case(lesions=[lesion(), lesion(level=None, score=1.0)])
  page = Page(render_page(ct, result))
  assert page.texts.count("2") == 3
  assert "outside the spine" in page.texts
  assert "10, 11, 12" in page.texts
  drawn = [r for r in page.all("rect") if r["class"].startswith("lesion")]
  assert len(drawn) == 4


def test_nothing_found_is_said(make_case):
  page = Page(render_page(*make_case(levels=0)))
  assert page.texts.count("none found") == 1
  assert "No vertebra found." in page.texts


def test_warnings_come_first_and_only_if_any(make_case):
  assert "Please check" not in Page(render_page(*make_case())).texts
  page = Page(render_page(*make_case(warnings=["slices are thick"])))
  assert page.texts.index("slices are thick") < page.texts.index("Vertebrae")


def test_text_of_files_is_escaped(make_case):
  evil = "<script>alert(1)</script>\"'&"
  ct, result = make_case(
    case=evil, warnings=[evil], run={evil: evil, "list": [evil]}
  )
  vertebra = dataclasses.replace(result.vertebrae[0], level=evil)
  result = dataclasses.replace(
    result, vertebrae=(vertebra,), lesions=(lesion(level=evil),)
  )
  text = render_page(ct, result)
  page = Page(text)
  assert text.count("<script") == 1
  assert page.texts.count(evil) >= 6


@pytest.mark.parametrize(
  ("share", "text"),
  [(1.0, "100.0"), (0.9999, ">99.9"), (0.0, "0.0"), (0.615, "61.5")],
)
def test_only_certainty_is_a_hundred_percent(make_case, share, text):
  ct, result = make_case(levels=1)
  vertebra = dataclasses.replace(result.vertebrae[0], confidence=share)
  result = dataclasses.replace(result, vertebrae=(vertebra,))
  assert f"{text}\N{NO-BREAK SPACE}%" in Page(render_page(ct, result)).texts


def test_missing_numbers_are_dashes(make_case):
  ct, result = make_case(levels=1)
  nan = float("nan")
  vertebra = dataclasses.replace(
    result.vertebrae[0], confidence=nan, volume_ml=nan, mean_hu=nan
  )
  text = render_page(ct, dataclasses.replace(result, vertebrae=(vertebra,)))
  page = Page(text)
  # Confidence (strip and table), volume, core, heights and ratios.
  assert page.texts.count("\N{EN DASH}") == 11
  assert "nan" not in " ".join(page.texts)


def test_equal_results_make_equal_pages(make_case):
  assert render_page(*make_case("LAS")) == render_page(*make_case("LAS"))


def test_report_is_written_whole(make_case, tmp_path):
  path = tmp_path / "case_report.html"
  path.write_text("old")
  ct, result = make_case(case="bad\udcff name")
  write_report(path, ct, result)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "case_overview.png",
    "case_report.html",
  ]
  Page(path.read_text("utf-8"))
  assert r"bad\udcff name" in path.read_text("utf-8")


def test_partial_numbers_are_marked_and_explained(make_case):
  ct, result = make_case(levels=2)
  whole, cut = result.vertebrae
  cut = dataclasses.replace(
    cut,
    height_middle_mm=11.25,
    core_mean_hu=123.4,
    partial={"height_middle_mm": "the scan ends", "mean_hu": "not shown here"},
  )
  page = Page(
    render_page(ct, dataclasses.replace(result, vertebrae=(whole, cut)))
  )
  assert "11.2*" in page.texts
  assert "123" in page.texts
  assert "L2: the scan ends." in page.texts
  assert not any("not shown here" in text for text in page.texts)


def test_the_strip_shows_every_confidence(make_case):
  ct, result = make_case(levels=2)
  unsure = dataclasses.replace(result.vertebrae[1], confidence=0.31)
  result = dataclasses.replace(result, vertebrae=(result.vertebrae[0], unsure))
  page = Page(render_page(ct, result))
  cells = [attrs["class"] for attrs in page.all("li") if "class" in attrs]
  assert cells == ["high", "low"]
  assert page.texts.count("31.0\N{NO-BREAK SPACE}%") == 2


def test_a_lesion_says_its_part_of_the_vertebra(make_case):
  page = Page(render_page(*make_case(lesions=[lesion(share=0.126)])))
  assert "13\N{NO-BREAK SPACE}%" in page.texts


def test_columns_are_sorted_by_numbers_not_by_their_text(make_case):
  page = Page(render_page(*make_case()))
  keys = [c["data-value"] for c in page.all("td") if "data-value" in c]
  assert keys[:2] == ["0.9", "8.7"]
  assert {"class": "sortable"} in page.all("table")
  boxes = [lesion(size_mm=(9.0, 9.0, 9.0)), lesion(size_mm=(40.0, 2.0, 8.0))]
  cells = [c["data-value"] for c in Page(lesion_table(boxes)).all("td")]
  assert cells[1] == str(BY_NAME["L2"].order)
  assert [float(cells[i]) for i in (3, 4, 8)] == [729, 150, 640]
