# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Reads the text of a compiled XLA program: computations and instructions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

_BITS = {
  "pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64,
  "c128": 128, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
  "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program.

  Attributes:
    name: of the value.
    shape: text of its type.
    opcode: what is done.
    operands: names of values.
    inside: text between the brackets, a literal or a number for some.
    attributes: text after them.
    root: whether it is what its computation returns.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  inside: str
  attributes: str
  root: bool


Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """Reads all computations of a program.

  Args:
    text: `compiled.as_text()`.

  Returns:
    Computations by name, and the name of the entry.

  Raises:
    ValueError: if there is no entry.
  """
  module: dict[str, Computation] = {}
  current, entry = None, ""
  for line in text.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      current = module.setdefault(start.group(2), {})
      entry = start.group(2) if start.group(1) else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      current[found.group(2)] = _instruction(line, found)
  if not entry:
    raise ValueError("no ENTRY computation: is this the text of a program?")
  return module, entry


def shape_bytes(shape: str, hbm: bool = False) -> float:
  """Size of a type, of a tuple with all its parts.

  Args:
    shape: as `f32[8,128]{1,0}` or `(bf16[2], s32[])`.
    hbm: leaves out what the layout places in the chip's own memory, as
      `f32[8,128]{1,0:S(1)}`.

  Returns:
    Bytes; types that hold no data count nothing.
  """
  return sum(
    _BITS.get(kind, 0) / 8 * math.prod(int(n) for n in dims.split(",") if n)
    for kind, dims, layout in _ARRAY.findall(shape)
    if not (hbm and "S(" in layout)
  )


def dimensions(shape: str) -> tuple[int, ...]:
  """Dimensions of an array's type."""
  return tuple(int(n) for n in _ARRAY.search(shape)[2].split(",") if n)


def _instruction(line, found) -> Instruction:
  rest = line[found.end() :]
  if rest.startswith("("):
    end = _closing(rest, 0) + 1
  else:
    end = rest.index(" ")
  shape, rest = rest[:end], rest[end:].lstrip()
  start = rest.index("(")
  end = _closing(rest, start)
  inside = rest[start + 1 : end]
  return Instruction(
    name=found.group(2),
    shape=shape,
    opcode=rest[:start],
    operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
    inside=inside,
    attributes=rest[end + 1 :],
    root=bool(found.group(1)),
  )


def _closing(text, start):
  """Index of the bracket that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[place], 0)
    if not depth:
      return place
  raise ValueError(f"bracket never closed: {text[:80]}")


def parts_of(shape: str) -> list[str]:
  """The parts of a tuple's type, which may be tuples themselves."""
  parts, depth, start = [], 0, 1
  for place, letter in enumerate(shape):
    depth += (letter in "([{") - (letter in ")]}")
    if depth == 0 or (depth == 1 and letter == ","):
      parts.append(shape[start:place])
      start = place + 1
  return parts


def trip_count(loop: Instruction, module: Mapping[str, Computation]) -> int:
  """How often a loop runs.

  Args:
    loop: a `while`.
    module: all computations.

  Returns:
    What the compiler noted, else the constant that the condition compares
    with; 0 if there is neither.
  """
  known = re.search(r'known_trip_count"?[:=]\{"n":"?(\d+)', loop.attributes)
  if known:
    return int(known.group(1))
  condition = module[called(loop, "condition")].values()
  limits = [one.inside for one in condition if one.opcode == "constant"]
  # The condition of a scan compares its counter, from 0 up, with one number.
  return int(limits[0]) if len(limits) == 1 and limits[0].isdigit() else 0


def called(one: Instruction, key: str) -> str:
  """Name of the computation that an instruction calls as `key`."""
  found = re.search(rf"\b{key}=%?([\w.\-]+)", one.attributes)
  if not found:
    raise ValueError(f"{one.opcode} {one.name} names no {key}")
  return found.group(1)


def all_called(one: Instruction) -> list[str]:
  """Names of all computations that an instruction calls once."""
  found = re.findall(
    r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)",
    one.attributes,
  )
  branches = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
  if branches:
    found += [name.strip().lstrip("%") for name in branches[1].split(",")]
  return found
