"""What cannot be made is refused before a folder is there."""

from __future__ import annotations

import pytest

from vf_jax.errors import ConfigError
from vf_jax.multispine.phantom.make import make_phantoms
from vf_jax.multispine.phantom.settings import (
  check_settings,
  check_variants,
  checked_spans,
)

_NAN = float("nan")


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"cases": 0}, "0 cases from number 0 with seed 0"),
    ({"seed": -1}, "with seed -1"),
    ({"first": -1}, "from number -1"),
    ({"sources": ()}, "sources .none."),
    ({"sources": ("mars",)}, "sources mars"),
    ({"sources": ("verse", "verse")}, "each once"),
    ({"spans": (("L1", "T2"),)}, "no span from L1 to T2"),
    ({"spans": (("sacrum", "sacrum"),)}, "no span from sacrum"),
    ({"spans": (("L1", "Q9"),)}, "span L1-Q9"),
    ({"spans": (("T13", "T13"),)}, "not every patient has T13"),
    ({"spans": (("L6", "L6"),)}, "not every patient has L6"),
    ({"spans": (("C1", "T3"), ("l6", "sacrum"))}, "span L6-sacrum"),
    ({"variants": {"T14": 0.1}}, "shares of variants: T14 0.1"),
    ({"variants": {"T13": -0.1}}, "shares of variants: T13 -0.1"),
    ({"variants": {"T13": 0.6, "L6": 0.6}}, "from 0 to 1 in all"),
    ({"variants": {"T13": _NAN}}, "shares of variants: T13 nan"),
    ({"variants": {"L6": 0.5, "T13": _NAN}}, "shares of variants: L6 0.5"),
    ({"variants": {"T13": 1.0}}, "the codes of ctspine1k have no T13"),
    ({"variants": {"T13": 0.9995}}, "the codes of ctspine1k"),
    (
      {
        "sources": ("verse", "totalsegmentator"),
        "variants": {"T13": 0.7, "L6": 0.3},
      },
      "the codes of totalsegmentator have no T13 or L6",
    ),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_there(
  options, words, tmp_path
):
  options = {"cases": 1, "workers": 0} | options
  with pytest.raises(ConfigError, match=words):
    make_phantoms(tmp_path / "bad", **options)
  assert list(tmp_path.iterdir()) == []


def test_a_size_that_there_is_not_is_refused():
  with pytest.raises(ConfigError, match="size 'medium'"):
    check_settings(1, 0, 0, ("verse",), "medium")


def test_what_can_be_passes():
  check_settings(1, 0, 0, ("verse",), "full")
  check_variants({}, ("ctspine1k",))
  check_variants({"T13": 1.0}, ("verse", "cohort"))
  check_variants({"L6": 0.8, "T13": 0.2}, ("ctspine1k",))
  check_variants({"absent T12": 1.0}, ("totalsegmentator",))


@pytest.mark.parametrize(
  "span",
  [("T12", "T12"), ("T12", "T13"), ("T13", "L1"), ("L5", "L6"), ("C1", "C1")],
)
def test_spans_with_a_level_of_usual_patients_pass(span):
  assert checked_spans((span,), {}) == (span,)


def test_a_level_that_all_patients_are_given_can_be_scanned():
  span = ("L6", "sacrum")
  assert checked_spans((span,), {"L6": 1.0}) == (span,)
  with pytest.raises(ConfigError, match="not every patient has L6"):
    checked_spans((span,), {"L6": 0.9})
