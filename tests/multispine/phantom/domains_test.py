"""Domains have looks of their own."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.multispine.phantom.domains import DOMAINS, draw_protocol


def test_unknown_domain_is_refused():
  with pytest.raises(InputError, match="no domain 'mars'"):
    draw_protocol("mars", np.random.default_rng(0))


def test_no_two_domains_look_alike():
  """Kernel, noise, field and slices of a domain tell it from all others."""
  rng = np.random.default_rng(0)
  looks = {}
  for domain in DOMAINS:
    draws = [draw_protocol(domain, rng) for _ in range(50)]
    draws = [p for p in draws if not p.narrow]
    looks[domain] = {
      "noise": (min(p.noise_hu for p in draws), max(p.noise_hu for p in draws)),
      "field": (min(p.field_mm for p in draws), max(p.field_mm for p in draws)),
      "slice": (min(p.slice_mm for p in draws), max(p.slice_mm for p in draws)),
    } | {
      "kernels": {p.kernel for p in draws},
      "agent": max(p.contrast_hu for p in draws) > 0,
    }
  main = ("verse", "colonog", "msd-liver", "hnscc", "covid19", "spineweb2",
          "spineweb3", "cohort")  # fmt: skip
  for i, one in enumerate(main):
    for other in main[i + 1 :]:
      a, b = looks[one], looks[other]
      apart = sum(
        a[key][1] < b[key][0] or b[key][1] < a[key][0]
        for key in ("noise", "field", "slice")
      )
      apart += not a["kernels"] & b["kernels"]
      apart += a["agent"] != b["agent"]
      assert apart or {one, other} == {"spineweb2", "spineweb3"}, (one, other)


def test_full_scans_have_clinical_matrices():
  rng = np.random.default_rng(0)
  for domain in ("verse", "colonog", "spineweb2", "cohort"):
    full = draw_protocol(domain, rng, "full")
    small = draw_protocol(domain, rng, "small")
    assert full.matrix == 512 > small.matrix


@pytest.mark.parametrize("domain", ["verse", "msd-liver", "cohort", "nnunet"])
def test_some_clinical_scans_are_narrow_fields_around_the_spine(domain):
  rng = np.random.default_rng(0)
  draws = [draw_protocol(domain, rng) for _ in range(600)]
  narrow = [p for p in draws if p.narrow]
  assert len(narrow) / len(draws) == pytest.approx(0.15, abs=0.04)
  fields = [p.field_mm for p in narrow]
  assert 120 <= min(fields) < 130
  assert 170 < max(fields) <= 180
  assert {p.centred_on for p in narrow} == {"spine"}
  away = [np.hypot(*p.off_mm) for p in narrow]
  assert 20 < max(away) <= 25.1


@pytest.mark.parametrize("domain", ["colonog", "covid19", "hnscc"])
def test_screening_and_planning_scans_show_the_whole_width(domain):
  rng = np.random.default_rng(0)
  assert not any(draw_protocol(domain, rng).narrow for _ in range(200))
