# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A training process starts anew with huge pages, once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vf_jax import huge_pages

SCRIPT = """
import os, sys
print(os.getpid(), flush=True)
from vf_jax.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""

pytestmark = pytest.mark.skipif(
  not huge_pages._glibc_has_it(), reason="a setting of glibc from 2.35 on"
)


def run(tunables: str | None) -> list[str]:
  environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  if tunables is not None:
    environment["GLIBC_TUNABLES"] = tunables
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT, "--an", "argument"],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.splitlines()


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (None, "glibc.malloc.hugetlb=1"),
    ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
  ],
)
def test_it_starts_anew_with_its_arguments(given, expected):
  first, second, found = run(given)
  assert first == second, "the process number must stay"
  assert found == f"{expected} ['--an', 'argument']"


def test_what_the_user_chose_stays():
  lines = run("glibc.malloc.hugetlb=0")
  assert lines[1:] == ["glibc.malloc.hugetlb=0 ['--an', 'argument']"]
