# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import os

import pytest
from page_test import Page

from vf_jax.errors import InputError
from vf_jax.infer.result import Lesion
from vf_jax.infer.summary import FAILURES
from vf_jax.io.lesions import write_lesions
from vf_jax.io.vertebrae import write_vertebrae_json
from vf_jax.report import index
from vf_jax.report.index import write_index
from vf_jax.report.page import write_report


def write_case(folder, make_case, name, warnings=(), pages=True, **more):
  place = folder / name
  place.mkdir(parents=True)
  ct, result = make_case(case=name, warnings=warnings, **more)
  if pages:
    write_report(place / f"{name}_report.html", ct, result)
  write_vertebrae_json(place / f"{name}_vertebrae.json", result.vertebrae)
  write_lesions(place / f"{name}_lesions.json", result.lesions)
  run = {"state": "done", "warnings": list(warnings)}
  (place / "run.json").write_text(json.dumps(run))


def test_cases_with_most_warnings_come_first(make_case, tmp_path):
  write_case(tmp_path, make_case, "good", pages=False)
  write_case(tmp_path, make_case, "b&d <1>", ["slices", "<i>tilt</i>"])
  write_case(tmp_path, make_case, "none", ["empty"], pages=False, levels=0)
  (tmp_path / ".half.part").mkdir()
  (tmp_path / ".half.part" / "run.json").write_text("{}")
  (tmp_path / "notes").mkdir()
  assert write_index(tmp_path) == tmp_path / "index.html"
  assert not list(tmp_path.glob(".vf-*"))
  page = Page((tmp_path / "index.html").read_text())
  names = [
    attrs["data-value"] for attrs in page.all("th") if "data-value" in attrs
  ]
  assert names == ["b&d <1>", "none", "good"]
  assert [a["href"] for a in page.all("a")] == [
    "b%26d%20%3C1%3E/b%26d%20%3C1%3E_report.html"
  ]
  (picture,) = page.all("img")
  assert picture["src"] == "b%26d%20%3C1%3E/b%26d%20%3C1%3E_overview.png"
  assert "<i>tilt</i>" in page.texts
  assert "3 cases" in page.texts
  assert page.texts.count("L1\N{EN DASH}L5") == 2
  assert "90.0\N{NO-BREAK SPACE}%" in page.texts


def test_names_that_are_no_text_are_linked_by_their_bytes(make_case, tmp_path):
  write_case(tmp_path, make_case, os.fsdecode(b"b\xff"))
  (tmp_path / FAILURES).mkdir()
  record = json.dumps({"case": "\ud800", "fault": "is empty."})
  (tmp_path / FAILURES / "x.json").write_text(record)
  page = Page(write_index(tmp_path).read_text("utf-8"))
  (link,), (picture,) = page.all("a"), page.all("img")
  assert link["href"] == "b%FF/b%FF_report.html"
  assert picture["src"] == "b%FF/b%FF_overview.png"


def test_facts_are_the_lowest_of_what_is_whole(make_case, tmp_path):
  _, result = make_case(levels=2)
  low = dataclasses.replace(
    result.vertebrae[0],
    height_anterior_mm=10.0,
    height_posterior_mm=20.0,
    partial={"wedge_ratio": "cut"},
  )
  other = dataclasses.replace(
    result.vertebrae[1], height_middle_mm=18.0, height_posterior_mm=20.0
  )
  lesions = [Lesion((0.0, 0.0, 0.0), (9.0, 9.0, 9.0), 0.5, None)]
  write_case(
    tmp_path,
    make_case,
    "a",
    vertebrae=(low, other),
    lesions=lesions,
    pages=False,
  )
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert "0.90" in page.texts
  assert "0.50" not in page.texts


def test_a_damaged_file_is_said_and_stops_nothing(make_case, tmp_path):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "a" / "a_vertebrae.json").write_text("{")
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert "a_vertebrae.json is missing or damaged." in page.texts


@pytest.mark.parametrize("file", ["vertebrae", "lesions"])
@pytest.mark.parametrize("content", ["null", "3", '"L1"', '{"L1": 1}'])
def test_no_list_where_one_belongs_is_said(make_case, tmp_path, file, content):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "a" / f"a_{file}.json").write_text(f'{{"{file}": {content}}}')
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert f"a_{file}.json is missing or damaged." in page.texts


@pytest.mark.parametrize("content", ["null", "3", '["wedge_ratio"]', "true"])
def test_a_damaged_vertebra_is_said_and_left_out(make_case, tmp_path, content):
  write_case(tmp_path, make_case, "a", pages=False)
  path = tmp_path / "a" / "a_vertebrae.json"
  content = f'{{"level": "L1", "confidence": 0.1, "partial": {content}}}'
  whole = '{"level": "L2", "confidence": 0.8, "partial": {}}'
  path.write_text(f'{{"vertebrae": [{content}, null, {whole}]}}')
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert (
    "a_vertebrae.json is damaged: 2 of 3 vertebrae cannot be read."
    in page.texts
  )
  assert "80.0\N{NO-BREAK SPACE}%" in page.texts


@pytest.mark.parametrize(
  "content", ["null", "[]", '{"warnings": 3}', "[" * 9999]
)
def test_a_damaged_run_is_said(make_case, tmp_path, content):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "a" / "run.json").write_text(content)
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert "run.json is missing or damaged." in page.texts


def test_a_training_run_beside_the_cases_is_no_case(make_case, tmp_path):
  write_case(tmp_path, make_case, "a", pages=False)
  run = tmp_path / "run"
  run.mkdir()
  (run / "run.json").write_text('{"config": {}, "from_step": 0}')
  (run / "metrics.jsonl").touch()
  page = Page(write_index(tmp_path).read_text())
  assert "1 case" in page.texts
  assert "run.json is missing or damaged." not in page.texts
  # A CT of its name was refused: its row says nothing of an older result.
  fail(tmp_path, "run")
  page = Page(write_index(tmp_path).read_text())
  assert "not done" in page.texts
  assert not any("older" in text for text in page.texts)


def test_a_run_without_its_words_beside_files_of_a_case_is_damaged(
  make_case, tmp_path
):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "a" / "run.json").write_text("{}")
  page = Page(write_index(tmp_path).read_text())
  assert "run.json is missing or damaged." in page.texts


def fail(folder, name, text=None):
  record = {"case": name, "fault": "holds <no> image.", "fix": "look."}
  (folder / ".failures").mkdir(exist_ok=True)
  path = folder / ".failures" / f"{name}.json"
  path.write_text(json.dumps(record) if text is None else text)


def test_a_result_older_than_a_refusal_says_so(make_case, tmp_path):
  write_case(tmp_path, make_case, "c.1", pages=False)
  write_case(tmp_path, make_case, "c2", pages=False)
  fail(tmp_path, "c.1")
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert page.texts.count("L1\N{EN DASH}L5") == 2
  (warning,) = (text for text in page.texts if "last run" in text)
  assert warning == (
    "The last run did not do this case: holds <no> image. What is shown is "
    "older."
  )
  assert any(text.startswith("1 with warnings") for text in page.texts)
  (tmp_path / ".failures" / "c.1.json").unlink()
  write_index(tmp_path)
  assert "last run" not in (tmp_path / "index.html").read_text()


def test_a_case_that_was_never_done_has_a_row(make_case, tmp_path):
  write_case(tmp_path, make_case, "a", pages=False)
  fail(tmp_path, "b")
  (tmp_path / "c").mkdir()  # made by somebody else
  fail(tmp_path, "c", text="{")
  write_index(tmp_path)
  page = Page((tmp_path / "index.html").read_text())
  assert "3 cases" in page.texts
  assert page.texts.count("not done") == 2
  assert "The last run did not do this case: holds <no> image." in page.texts
  assert (
    "The last run did not do this case: .failures/c.json is missing or damaged."
    in page.texts
  )
  assert not any("older" in text for text in page.texts)
  names = [
    attrs["data-value"] for attrs in page.all("th") if "data-value" in attrs
  ]
  assert names == ["b", "c", "a"]


def test_a_page_of_somebody_else_is_left_alone(make_case, tmp_path):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "index.html").write_text("mine")
  assert write_index(tmp_path).name == "vf_jax_index.html"
  assert (tmp_path / "index.html").read_text() == "mine"
  (tmp_path / "index.html").unlink()
  assert {write_index(tmp_path).name for _ in range(2)} == {"index.html"}


def test_a_failure_kept_under_another_name_is_told_under_its_own(tmp_path):
  failures = tmp_path / FAILURES
  failures.mkdir()
  record = {"case": "n" * 300, "fault": "its name is too long."}
  (failures / "0123abcd.json").write_text(json.dumps(record))
  text = write_index(tmp_path).read_text()
  assert "n" * 300 in text
  assert "0123abcd" not in text


def test_an_index_that_is_no_file_is_left_alone(make_case, tmp_path):
  write_case(tmp_path, make_case, "a", pages=False)
  (tmp_path / "index.html").mkdir()
  assert write_index(tmp_path) == tmp_path / "vf_jax_index.html"
  (tmp_path / "vf_jax_index.html").unlink()
  (tmp_path / "vf_jax_index.html").mkdir()
  with pytest.raises(InputError, match="is a folder"):
    write_index(tmp_path)


def test_a_case_that_ends_meanwhile_is_on_the_page(
  make_case, tmp_path, monkeypatch
):
  write_case(tmp_path, make_case, "a", pages=False)
  write = index.write_text

  def slow(path, text):
    if not (tmp_path / "b").exists():
      write_case(tmp_path, make_case, "b", pages=False)
    write(path, text)

  monkeypatch.setattr(index, "write_text", slow)
  page = Page(index.write_index(tmp_path).read_text())
  assert "2 cases" in page.texts
