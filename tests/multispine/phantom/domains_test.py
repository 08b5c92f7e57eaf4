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
    draws = [draw_protocol(domain, rng) for _ in range(40)]
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
