# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from vf_jax.errors import InputError
from vf_jax.multispine.identity import Group
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


def test_a_split_comes_back_and_has_the_same_bytes(path, tmp_path):
  assert read_split(path, "abcdef") == _SPLIT
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


def test_cases_that_are_not_in_the_store_are_refused(path):
  with pytest.raises(InputError, match=r"not in the store: d, e\."):
    read_split(path, ["a", "b", "c"])


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
