# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json

import pytest

from vf_jax.errors import InputError
from vf_jax.multispine.identity import Group, case_digests
from vf_jax.multispine.split_file import (
  Leak,
  Split,
  _checksum,
  read_split,
  write_split,
)

_SPLIT = Split(
  name="first",
  seed=3,
  rule="by hand, für den Test",
  parts={
    "train": ("a", "b"),
    "validation": ("c",),
    "test": ("d",),
    "excluded": ("e",),
  },
  groups=(Group(("a", "b", "e"), ("subject verse/1",)),),
  leaks=(Leak({"a": "train", "e": "test"}, ("same voxels 12",), "excluded"),),
  domains={"verse": {"train": 2, "validation": 1, "test": 1, "excluded": 1}},
)


@pytest.fixture
def records(make_case):
  """Cases of these names."""

  def make(names, **more):
    return [
      make_case(name, **({"subject": name} | more)).record for name in names
    ]

  return make


@pytest.fixture
def path(tmp_path):
  write_split(tmp_path / "s.json", _SPLIT)
  return tmp_path / "s.json"


def _forge(path, change):
  """Changes the content and mends the checksum, as a careful forger would."""
  content = json.loads(path.read_text("utf-8"))
  del content["sha256"]
  change(content)
  content["sha256"] = _checksum(content)
  path.write_text(json.dumps(content), "utf-8")


def test_a_split_comes_back_and_has_the_same_bytes(path, records, tmp_path):
  assert read_split(path, records("abcdef")) == _SPLIT
  write_split(tmp_path / "t.json", read_split(path))
  assert (tmp_path / "t.json").read_bytes() == path.read_bytes()


def test_part_of():
  assert _SPLIT.part_of("c") == "validation"
  assert _SPLIT.part_of("z") is None


def test_a_file_that_was_edited_is_refused(path):
  text = path.read_text("utf-8").replace('"c"', '"x"')
  path.write_text(text, "utf-8")
  with pytest.raises(InputError, match="checksum"):
    read_split(path)


def test_layout_of_the_text_does_not_matter(path):
  path.write_text(json.dumps(json.loads(path.read_text("utf-8"))), "utf-8")
  assert read_split(path) == _SPLIT


def test_cases_that_are_not_in_the_store_are_refused(path, records):
  with pytest.raises(InputError, match=r"not in the store: d, e\."):
    read_split(path, records("abc"))


def test_names_that_mean_other_cases_are_refused(tmp_path, records):
  path = tmp_path / "s.json"
  made = [*records("abc"), *records("def", voxels="")]
  digests = {record.case: case_digests(record) for record in made}
  write_split(path, dataclasses.replace(_SPLIT, digests=digests))
  assert read_split(path, made).digests == digests
  # An image that was mended, a domain that was renamed, and a new case.
  read_split(path, [*records("abc", voxels="22"), *made[3:]])
  read_split(path, [*records("abc", domain="x"), *made[3:], *records("g")])
  for changed in (
    [*records("ab", domain="x", voxels="22"), *made[2:]],
    [*records("ab", subject="p9", voxels="22"), *made[2:]],
  ):
    with pytest.raises(InputError, match=r"other scans .* names: a, b\."):
      read_split(path, changed)
  with pytest.raises(InputError, match=r"other scans .* names: d\."):
    read_split(path, [*made[:3], *records("d", domain="x"), *made[4:]])


def test_an_older_file_without_digests_is_read(path, records):
  _forge(path, lambda content: content.pop("digests"))
  assert read_split(path, records("abcdef", domain="x", voxels="22")) == _SPLIT


def test_a_case_that_is_there_twice_is_refused(path):
  _forge(path, lambda c: c["parts"]["test"].append("a"))
  with pytest.raises(InputError, match="a is in train and in test"):
    read_split(path)


def test_a_group_across_parts_is_refused(path):
  def move(content):
    content["parts"]["train"].remove("b")
    content["parts"]["test"].append("b")

  _forge(path, move)
  with pytest.raises(InputError, match="subject verse/1"):
    read_split(path)


@pytest.mark.parametrize(
  ("change", "fault"),
  [
    (lambda c: c.update(schema=99), "schema 99"),
    (lambda c: c.update(format="other"), "no split of vf_jax"),
    (lambda c: c.pop("rule"), "malformed"),
    (lambda c: c["parts"].pop("test"), "malformed"),
    (lambda c: c.update(groups=[3]), "malformed"),
  ],
)
def test_other_files_are_refused(path, change, fault):
  _forge(path, change)
  with pytest.raises(InputError, match=fault):
    read_split(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[[" * 100_000])
def test_what_is_no_json_object_is_refused(path, text):
  path.write_text(text, "utf-8")
  with pytest.raises(InputError):
    read_split(path)
