# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import dataclasses
import hashlib
import pathlib
import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vf_jax.io.lesions import AnnotatedLesion
from vf_jax.multispine.case import Case
from vf_jax.multispine.checks.findings import Finding
from vf_jax.multispine.load import Loaded
from vf_jax.report.overlay import level_colour
from vf_jax.report.quality import make_entry, write_quality_page
from vf_jax.volume import Volume

_VOID = {"meta", "input", "img"}
_FOUND = (
  Finding("error", "gap", "L2 <is> gone.", ("L1", "L3")),
  Finding("note", "cut", "cut."),
)


class Page(HTMLParser):
  """Elements; fails on tags that do not match."""

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

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if data.strip() and self.open[-1] not in ("style", "script"):
      self.texts.append(data.strip())

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def loaded(make_case):
  ct, result = make_case("PIR")
  return Loaded(
    case=Case(
      name="sub-1",
      source="verse",
      domain="verse <19>",
      subject="sub-1",
      series="1",
      licence="CC BY-SA 4.0",
      image=pathlib.Path("ct.nii.gz"),
      annotates=frozenset({"masks", "cut_vertebrae"}),
      mask_kind="expert",
    ),
    image=ct,
    labels=Volume(result.mask, result.grid.affine),
    stored_mask=None,
    centres={v.code: v.centre_mm for v in result.vertebrae},
    centre_kind="body",
    boxes=(),
    digests={},
    warnings=(),
  )


def _colours(entry, decode_png):
  pixels, _, chunks = decode_png(entry.png)
  palette = np.frombuffer(chunks["PLTE"], np.uint8).reshape(-1, 3)
  return palette[pixels]


def test_entry_knows_the_case(loaded):
  entry = make_entry(loaded, _FOUND)
  assert (entry.name, entry.levels, entry.worst) == ("sub-1", 5, "error")
  assert entry.facts["levels"] == "L1-L5"
  assert entry.facts["points"] == "L1-L5, of bodies"
  assert entry.facts["spacing"] == "2 \xd7 2 \xd7 2 mm"
  assert entry.facts["annotated"] == "cut vertebrae, masks"
  assert entry.facts["licence"] == "CC BY-SA 4.0"
  assert "official part" not in entry.facts
  assert pickle.loads(pickle.dumps(entry)) == entry
  assert make_entry(loaded, ()).worst == "none"


def test_picture_shows_image_levels_centres_and_lesions(loaded, decode_png):
  entry = make_entry(loaded, ())
  colours = _colours(entry, decode_png)
  assert colours.shape == (entry.height, entry.width, 3)
  for code in range(20, 25):
    edge = (colours == level_colour(code)).all(axis=2)
    assert edge.sum() > 20
  white = (colours == 255).all(axis=2)
  assert white.sum() >= 10  # five dots in each of two views
  box = AnnotatedLesion(loaded.centres[21], (30.0, 30.0, 20.0), "osteoma")
  more = make_entry(dataclasses.replace(loaded, boxes=(box,)), ())
  assert (_colours(more, decode_png) == 255).all(
    axis=2
  ).sum() > white.sum() + 60
  assert more.facts["lesions"] == "1"


@pytest.mark.parametrize("away", [(80, 0, 0), (0, 90, 0), (0, 0, 300)])
def test_a_centre_beside_the_views_paints_nothing(loaded, decode_png, away):
  centres = loaded.centres | {
    20: tuple(float(a + b) for a, b in zip(loaded.centres[20], away))
  }
  entry = make_entry(dataclasses.replace(loaded, centres=centres), ())
  white = (_colours(entry, decode_png) == 255).all(axis=2)
  assert 0 < white.sum() <= 10 * 4  # dots of 2 x 2 pixels


def test_a_mask_alone_an_image_alone_and_nothing_to_follow(loaded, decode_png):
  alone = make_entry(dataclasses.replace(loaded, image=None), ())
  assert alone.facts["image"] == "none, mask alone"
  assert (_colours(alone, decode_png) == level_colour(22)).all(axis=2).any()
  bare = dataclasses.replace(
    loaded, labels=None, centres={}, centre_kind="none"
  )
  entry = make_entry(bare, ())
  colours = _colours(entry, decode_png)
  assert entry.levels == 0
  assert (colours[..., 0] == colours[..., 1]).all()  # grey only
  assert len(np.unique(colours)) > 1


def test_a_mask_on_another_grid_is_drawn_where_its_header_puts_it(
  loaded, decode_png
):
  affine = loaded.labels.affine.copy()
  affine[1, 3] += 6.0
  moved = Volume(loaded.labels.voxels, affine)
  one = make_entry(loaded, ())
  two = make_entry(dataclasses.replace(loaded, labels=moved), ())
  assert (one.width, one.height) == (two.width, two.height)
  assert one.png != two.png
  assert (_colours(two, decode_png) == level_colour(22)).all(axis=2).any()


def test_page_is_one_file_that_asks_for_nothing(loaded, tmp_path):
  entries = [
    make_entry(loaded, _FOUND),
    dataclasses.replace(make_entry(loaded, ()), name="a & b", png=None),
  ]
  path = tmp_path / "page.html"
  write_quality_page(path, iter(entries))
  text = path.read_text("utf-8")
  page = Page(text)
  assert "http" not in re.sub(r'http-equiv="', "", text)
  (image,) = page.all("img")
  assert image["src"].startswith("data:image/png;base64,")
  assert image["alt"]
  articles = page.all("article")
  assert [a["data-rank"] for a in articles] == ["0", "3"]
  assert articles[1]["data-name"] == "a & b"
  assert articles[0]["data-domain"] == "verse <19>"
  assert "L2 <is> gone." in page.texts
  (summary,) = [t for t in page.texts if t.startswith("2 cases")]
  assert "1 with errors, 1 with nothing to say" in summary


def test_only_the_script_of_the_page_may_run(loaded, tmp_path):
  path = tmp_path / "page.html"
  write_quality_page(path, [make_entry(loaded, ())])
  text = path.read_text("utf-8")
  (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = next(
    m["content"]
    for m in Page(text).all("meta")
    if m.get("http-equiv") == "Content-Security-Policy"
  )
  assert f"script-src 'sha256-{digest}'" in policy
  assert "default-src 'none'" in policy
  # Without the script there is no dead control.
  assert "hidden" in Page(text).all("form")[0]
  for name in re.findall(r'by\("(\w+)"\)', script):
    assert any(attrs.get("id") == name for _, attrs in Page(text).tags)


def test_the_page_is_written_while_entries_come_and_appears_when_whole(
  loaded, tmp_path
):
  path = tmp_path / "page.html"
  entry = make_entry(loaded, ())

  def entries():
    yield entry
    assert not path.exists()
    raise RuntimeError("the source broke")

  with pytest.raises(RuntimeError):
    write_quality_page(path, entries())
  assert list(tmp_path.iterdir()) == []
  write_quality_page(path, [])
  assert "0 cases" in path.read_text("utf-8")
