# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Types of options that several commands have, for argparse."""

from __future__ import annotations

import argparse
import re


def not_negative(text: str) -> int:
  """Reads a whole number.

  Args:
    text: of an option.

  Returns:
    The number, 0 or more.

  Raises:
    ArgumentTypeError: on anything else.
  """
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
  return int(text)


def one_of_several(text: str) -> tuple[int, int]:
  """Reads `I/N`.

  Args:
    text: of an option.

  Returns:
    (I, N), from 1 on.

  Raises:
    ArgumentTypeError: on anything else.
  """
  match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
  if match is None or not 1 <= int(match[1]) <= int(match[2]):
    raise argparse.ArgumentTypeError(
      f"{text!r} is not I/N with 1 <= I <= N, as 1/4"
    )
  return int(match[1]), int(match[2])
