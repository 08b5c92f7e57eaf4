# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Several stores become one, case by case as they were."""

from __future__ import annotations

import pytest

from vf_jax.cli import REFUSED, main
from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.multispine.merge import merge
from vf_jax.multispine.store import Store
from vf_jax.multispine.store_writer import finish, write_case


def _store(path, spacing_mm, *cases):
  for case in cases:
    write_case(path, case)
  finish(path, [case.record.case for case in cases], spacing_mm)
  return path


@pytest.fixture
def two(tmp_path, make_case):
  return (
    _store(tmp_path / "one", 2.0, make_case("a")),
    _store(tmp_path / "two", 2.0, make_case("b", seed=1), make_case("c")),
  )


def test_cases_are_copied_and_domains_called_apart(tmp_path, two, capsys):
  out = tmp_path / "all"
  for _ in range(2):  # the second run replaces what is there
    assert main(["merge", str(two[0]), f"x={two[1]}", "--out", str(out)]) == 0
  assert "3 cases" in capsys.readouterr().out
  store = Store(out)
  assert store.names == ("a", "b", "c")
  assert not store.verify()
  own = Store(two[0]).domains[0]
  assert [r.domain for r in store.records] == [own, f"x-{own}", f"x-{own}"]
  want = Store(two[1]).case(0)
  got = store.case(1)
  for name in want.arrays:
    whole = (name, (0, 0, 0), want.shape, AIR_HU if name == "image" else 0)
    assert (got.read(*whole) == want.read(*whole)).all()


def test_what_does_not_mix_is_refused(tmp_path, two, make_case):
  other = _store(tmp_path / "fine", 1.0, make_case("d"))
  with pytest.raises(InputError, match="--spacing"):
    merge([("", two[0]), ("", other)], tmp_path / "all")
  with pytest.raises(InputError, match="holds the case 'a'"):
    merge([("", two[0]), ("y", two[0])], tmp_path / "all")
  with pytest.raises(InputError, match="one of the stores"):
    merge([("", two[0])], two[0])
  assert not (tmp_path / "all").exists()


def test_other_cases_are_removed_only_when_asked(
  tmp_path, two, make_case, capsys
):
  out = _store(tmp_path / "all", 2.0, make_case("z"), make_case("a", seed=9))
  before = Store(out).case(0).path / "case.json"
  command = ["merge", str(two[0]), str(two[1]), "--out", str(out)]
  held = before.read_bytes()
  assert main(command) == REFUSED
  said = capsys.readouterr().err
  assert "holds 1 case that the stores given do not have" in said
  assert "'z'" in said
  assert "--prune" in said
  assert Store(out).names == ("a", "z")
  assert before.read_bytes() == held
  assert main([*command, "--prune"]) == 0
  assert Store(out).names == ("a", "b", "c")
  assert not (out / "cases" / "z").exists()
