# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from vf_jax.errors import ConfigError, InputError
from vf_jax.multispine.split_file import Split
from vf_jax.multispine.splits import (
  cross_validation_fold,
  find_leaks,
  leave_one_domain_out,
  make_split,
)

_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Row:
  case: str
  source: str
  domain: str
  subject: str
  series: str = ""
  split: str | None = None
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  centres: Mapping = dataclasses.field(default_factory=dict)
  mask_kind: str = "expert"
  origin: str = "drawn"
  voxels: str = ""


def rows(count, domain="a", **more):
  return [
    Row(f"{domain}{n:04d}", domain, domain, f"p{n}", **more)
    for n in range(count)
  ]


def _all(split):
  return sorted(case for cases in split.parts.values() for case in cases)


def test_every_case_is_in_one_part_and_shares_are_kept():
  records = rows(1000) + rows(300, "b")
  split = make_split(records, "s", 0, _SHARES)
  assert _all(split) == sorted(r.case for r in records)
  for domain, size in (("a", 1000), ("b", 300)):
    for part, share in _SHARES.items():
      # Three standard deviations of a binomial draw.
      room = 3 * (size * share * (1 - share)) ** 0.5
      assert abs(split.domains[domain][part] - size * share) < room
  assert split.leaks == ()


def test_seed_and_order_of_the_records():
  records = rows(100)
  split = make_split(records, "s", 0, _SHARES)
  assert make_split(records[::-1], "s", 0, _SHARES) == split
  assert make_split(records, "s", 1, _SHARES).parts != split.parts


def test_a_new_case_moves_no_other():
  records = rows(200)
  before = make_split(records, "s", 0, _SHARES)
  more = [
    *records,
    Row("new", "a", "a", "p-new"),
    Row("a0007-second", "a", "a", "p7"),
    *rows(50, "c"),
  ]
  after = make_split(more, "s", 0, _SHARES)
  for record in records:
    assert after.part_of(record.case) == before.part_of(record.case)
  assert after.part_of("a0007-second") == before.part_of("a0007")
  (group,) = after.groups
  assert group.cases == ("a0007", "a0007-second")


def test_the_new_cases_that_can_move_others():
  """As docs/data.md says: a second name of a patient, an official part."""
  records = rows(200, split="train")
  before = make_split(records, "s", 0, _SHARES)
  carved = before.parts["validation"]
  assert len(carved) > 5
  more = [*records, Row("v", "a", "a", "p-v", split="validation")]
  assert make_split(more, "s", 0, _SHARES).parts["validation"] == ("v",)

  records = [
    dataclasses.replace(r, voxels=f"{n:064d}")
    for n, r in enumerate(rows(200, "b"))
  ]
  before = make_split(records, "s", 0, _SHARES)
  for source, moves in (("a", True), ("c", False)):  # sorts before b or not
    again = [
      dataclasses.replace(r, case=f"{r.case}-2", source=source) for r in records
    ]
    after = make_split([*records, *again], "s", 0, _SHARES)
    moved = [
      r.case for r in records if after.part_of(r.case) != before.part_of(r.case)
    ]
    assert bool(moved) == moves


def test_a_patient_never_crosses_parts():
  records = [
    Row(f"{n}-{series}", "a", "a", f"p{n}")
    for n in range(80)
    for series in "xyz"
  ]
  split = make_split(records, "s", 0, _SHARES)
  assert find_leaks(split, records) == ()
  for n in range(80):
    assert len({split.part_of(f"{n}-{series}") for series in "xyz"}) == 1


def test_official_parts_are_kept():
  names = ["train", "validation", "test", "test_public", "test_private"]
  records = [
    dataclasses.replace(r, split=names[i % 5]) for i, r in enumerate(rows(50))
  ]
  split = make_split(records, "s", 0, _SHARES)
  for record in records:
    assert split.part_of(record.case) == record.split.split("_")[0]
  free = make_split(records, "s", 0, _SHARES, honour_official=False)
  assert free.parts != split.parts


def test_validation_is_carved_from_an_official_training_part():
  train = rows(400, split="train")
  test = [dataclasses.replace(r, split="test_public") for r in rows(80, "t")]
  test = [
    dataclasses.replace(r, source="a", subject=f"t{r.subject}") for r in test
  ]
  split = make_split([*train, *test], "s", 0, _SHARES)
  # 0.1 of 0.8; three standard deviations.
  assert abs(len(split.parts["validation"]) - 50) < 20
  assert split.parts["test"] == tuple(r.case for r in test)


def test_a_leak_between_official_parts_moves_to_the_strictest():
  records = [
    Row("x1", "a", "a", "p1", split="train", voxels="1" * 64),
    Row("x2", "b", "b", "p2", split="test", voxels="1" * 64),
    Row("x3", "b", "b", "p2"),
    *rows(20, "c"),
  ]
  split = make_split(records, "s", 0, _SHARES)
  assert {"x1", "x2", "x3"} <= set(split.parts["test"])
  (leak,) = split.leaks
  assert leak.cases == {"x1": "train", "x2": "test"}
  assert leak.moved_to == "test"
  assert any("voxels" in reason for reason in leak.reasons)


def test_find_leaks_of_a_split_made_elsewhere():
  records = [Row("x", "a", "a", "p1"), Row("y", "a", "a", "p1"), *rows(3)]
  parts = {"train": ("x", "a0000"), "test": ("y",), "validation": ()}
  split = Split("s", 0, "by hand", parts | {"excluded": ()}, (), (), {})
  (leak,) = find_leaks(split, records)
  assert leak.cases == {"x": "train", "y": "test"}
  assert leak.moved_to is None
  apart = dataclasses.replace(
    split, parts=parts | {"excluded": ("y",), "test": ()}
  )
  assert find_leaks(apart, records) == ()


def test_leave_one_domain_out():
  records = [
    *rows(200, "verse", split="train"),
    *[dataclasses.replace(r, case=f"t{r.case}", subject=f"t{r.subject}",
      split="test") for r in rows(20, "verse")],
    *rows(100, "lidc"),
    *rows(30, "covid 19"),
  ]  # fmt: skip
  split = leave_one_domain_out(records, "covid 19", 0, validation=0.2)
  assert split.name == "lodo-covid-19"
  assert split.domains["covid 19"] == {"test": 30}
  assert split.domains["lidc"].keys() == {"train", "validation"}
  # Official tests of the others are put aside.
  assert split.domains["verse"]["excluded"] == 20
  assert "test" not in split.domains["verse"]
  assert abs(len(split.parts["validation"]) - 60) < 25
  every = leave_one_domain_out(records, "lidc", 0, honour_official=False)
  assert every.parts["excluded"] == ()


def test_folds_test_every_patient_once_and_are_even_in_each_domain():
  records = [
    *rows(6, "blds"),
    *rows(31, "lidc"),
    Row("x", "a", "a", "p1", voxels="1" * 64),
    Row("y", "b", "b", "q1", voxels="1" * 64),
    *[dataclasses.replace(r, case=f"t{r.case}", subject=f"t{r.subject}",
      split="test") for r in rows(5, "verse")],
  ]  # fmt: skip
  folds = [cross_validation_fold(records, (i, 3), 0) for i in (1, 2, 3)]
  assert [fold.name for fold in folds] == [f"fold-{i}-of-3" for i in (1, 2, 3)]
  tested = sorted(case for fold in folds for case in fold.parts["test"])
  assert tested == sorted(r.case for r in records if r.domain != "verse")
  for fold in folds:
    assert fold.domains["blds"] == {"train": 4, "test": 2}
    assert fold.domains["lidc"]["test"] in (10, 11)
    assert fold.domains["verse"] == {"excluded": 5}
    assert fold.part_of("x") == fold.part_of("y")
    assert find_leaks(fold, records) == ()
  again = cross_validation_fold(records[::-1], (1, 3), 0)
  assert again == folds[0]
  other = cross_validation_fold(records, (1, 3), 1)
  assert other.parts["test"] != folds[0].parts["test"]


def test_a_patient_of_the_left_out_domain_is_not_trained_on():
  records = [
    Row("x", "a", "a", "p1", voxels="1" * 64),
    Row("y", "b", "b", "q1", voxels="1" * 64),
    *rows(10, "b"),
  ]
  split = leave_one_domain_out(records, "a", 0)
  assert split.parts["test"] == ("x",)
  assert split.parts["excluded"] == ("y",)
  (leak,) = split.leaks
  assert leak.moved_to == "excluded"
  assert find_leaks(split, records) == ()


@pytest.mark.parametrize(
  "call",
  [
    lambda: make_split([], "s", 0, _SHARES),
    lambda: make_split(rows(2) + rows(1), "s", 0, _SHARES),
    lambda: make_split(rows(1, split="dev"), "s", 0, _SHARES),
  ],
)
def test_cases_that_cannot_be_split_are_refused(call):
  with pytest.raises(InputError):
    call()


@pytest.mark.parametrize(
  "call",
  [
    lambda: make_split(rows(2), "a/b", 0, _SHARES),
    lambda: make_split(rows(2), "s", 0, {"train": 0.5, "test": 0.4}),
    lambda: make_split(rows(2), "s", 0, {"train": 0.5, "tests": 0.5}),
    lambda: cross_validation_fold(rows(4), (0, 2), 0),
    lambda: cross_validation_fold(rows(4), (1, 5), 0),
    lambda: cross_validation_fold(rows(4), (1, 1), 0),
    lambda: leave_one_domain_out(rows(4), "a", 0),
    lambda: leave_one_domain_out(rows(4) + rows(4, "b"), "c", 0),
  ],
)
def test_options_that_make_no_split_are_refused(call):
  with pytest.raises(ConfigError):
    call()
