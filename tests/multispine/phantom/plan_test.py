"""Plans depend on the case's number alone."""

from __future__ import annotations

import pytest

from vf_jax.multispine.phantom.plan import SOURCES, plan_case


@pytest.mark.parametrize("leaks", [False, True])
@pytest.mark.parametrize("sources", [SOURCES[:4], SOURCES, ("cohort",)])
def test_names_are_unique_in_an_archive(sources, leaks):
  plans = [plan_case(i, sources, leaks) for i in range(240)]
  names = [(p.source, name) for p in plans for name in p.names]
  assert len(set(names)) == len(names)
  assert {p.source for p in plans} == set(sources)
  assert {p.part for p in plans} == {"train", "validation", "test"}
  assert all(len(p.tables) == len(p.names) for p in plans)


def test_without_leaks_every_case_is_a_patient_of_its_own():
  plans = [plan_case(i, SOURCES, False) for i in range(60)]
  assert [p.seed_index for p in plans] == list(range(60))
  assert all(len(p.names) == 1 for p in plans)
  assert all(
    p.stated_domain == p.appearance for p in plans if p.source != "nnunet"
  )


def test_leaks_are_second_series_and_copies():
  sources = SOURCES[:4]
  plans = [plan_case(i, sources, True) for i in range(40)]
  series = {p.source for p in plans if len(p.names) == 2}
  assert series == {"verse", "ctspine1k"}
  copies = [p for p in plans if p.seed_index != p.index]
  assert len(copies) == 2
  for copy in copies:
    original = plans[copy.seed_index]
    assert (original.source, copy.source) == ("verse", "ctspine1k")
    assert original.appearance == copy.appearance == "verse"
    # What one archive's codes cannot say, the other's patient must not have.
    assert original.unsaid == copy.unsaid == ("T13",)


def test_no_copy_before_its_original():
  sources = ("ctspine1k", "verse")
  plans = [plan_case(i, sources, True) for i in range(40)]
  assert all(p.seed_index == p.index for p in plans)
