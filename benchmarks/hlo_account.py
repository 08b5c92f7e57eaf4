# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read from its text, with loops run through.

XLA's own account counts the body of a loop once, however often it runs. The
text of the program says how often, so both accounts are made here by the same
rules: once, which must agree with the compiler's own, and looped.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

import numpy as np
from hlo_text import (
  Computation,
  Instruction,
  all_called,
  called,
  dimensions,
  parse,
  parts_of,
  shape_bytes,
  trip_count,
)

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
# They name or wait for what another instruction has paid for.
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
  "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather"}
_TILE = 4 * 8 * 128  # bytes; what moves less is a few numbers


@dataclasses.dataclass
class Account:
  """What is done, per chip.

  Attributes:
    flops: of matrix products and convolutions.
    bytes: read and written by every instruction that is run by itself, in
      whatever memory.
    hbm_bytes: those of them that do not lie in the chip's own memory.
    cycles: as the compiler estimates them for its schedule; 0 if it does not.
    untimed: runs of instructions that it gives none although they move arrays
      (gathers, scatters, some reshapes). Kernels, collectives and moves beside
      other work, which never have any, do not count.
    collectives: kind -> bytes that a chip hands over (its operands).
    wire: bytes that a chip sends over its links with ring algorithms.
    loops: body of each loop -> how often it runs; 0 = the text does not say,
      counted once.
  """

  flops: float = 0.0
  bytes: float = 0.0
  hbm_bytes: float = 0.0
  cycles: float = 0.0
  untimed: int = 0
  collectives: dict[str, float] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(float)
  )
  wire: float = 0.0
  loops: dict[str, int] = dataclasses.field(default_factory=dict)


def account(text: str, looped: bool = True) -> Account:
  """Adds up what a compiled program does.

  Args:
    text: `compiled.as_text()`.
    looped: whether loops count as often as they run; False counts each body
      once, as XLA's cost analysis does.

  Returns:
    The account of the entry computation.
  """
  module, entry = parse(text)
  found = Account()
  _walk(module, module[entry], 1, looped, found)
  return found


def _walk(module, computation, times, looped, total):
  for one in computation.values():
    if one.opcode == "while":
      count = trip_count(one, module)
      body = called(one, "body")
      total.loops[body] = count
      inner = times * max(count, 1) if looped else times
      for name in (body, called(one, "condition")):
        _walk(module, module[name], inner, looped, total)
    elif one.opcode in ("call", "conditional", "async-start"):
      for name in all_called(one):
        _walk(module, module[name], times, looped, total)
    else:
      moved = _bytes(module, computation, one, False)
      total.bytes += times * moved
      total.hbm_bytes += times * _bytes(module, computation, one, True)
      cycles = re.search(r'estimated_cycles":"(\d+)', one.attributes)
      if cycles:
        total.cycles += times * int(cycles[1])
      elif moved > _TILE and not _has_own_time(one):
        total.untimed += times
      _add_work(module, computation, one, times, total)


def _has_own_time(one: Instruction) -> bool:
  """Whether it is a kernel, a collective or a move beside other work."""
  return one.opcode in ("custom-call", *COLLECTIVES) or one.opcode.endswith(
    "-start"
  )


def _add_work(module, computation, one, times, total):
  """Operations and collectives of an instruction, inside fusions too."""
  kind = one.opcode.removesuffix("-start")
  if one.opcode == "fusion":
    fused = module[called(one, "calls")]
    for inner in fused.values():
      _add_work(module, fused, inner, times, total)
  elif kind in COLLECTIVES:
    _add_collective(computation, one, kind, times, total)
  else:
    total.flops += times * _flops(computation, one)


def _add_collective(computation, one, kind, times, total):
  size = sum(shape_bytes(computation[o].shape) for o in one.operands)
  n = _group_size(one.attributes)
  share = (n - 1) / n if n else 1.0
  total.collectives[kind] += times * size
  total.wire += (
    times
    * size
    * {
      "all-reduce": 2 * share,
      "all-gather": max(n - 1, 0) if n else 1.0,
      "reduce-scatter": share,
      "all-to-all": share,
      "collective-permute": 1.0,
    }[kind]
  )


def _group_size(attributes: str) -> int:
  """Chips of one group; 0 if the text does not say."""
  named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
  if named:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'([^']+)'", named[2]))
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)
  if iota:
    return int(iota[2])
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
  return len(listed[1].split(",")) if listed else 0


def _bytes(module, computation, one: Instruction, hbm: bool) -> float:
  """Bytes read and written, by the rules of XLA's cost analysis."""
  op = one.opcode
  if op in _FREE or op.endswith(("-done", "-update")):
    return 0.0
  shapes = [computation[o].shape for o in one.operands]
  sizes = [shape_bytes(shape, hbm) for shape in shapes]
  # XLA keeps some values in the chip's own memory: 0 or 1.
  outside = [float(size > 0) for size in sizes]
  if op == "fusion":
    fused = module[called(one, "calls")]
    read = sum(
      min(size, _read(module, fused, number)) * away
      for number, (size, away) in enumerate(zip(sizes, outside))
    )
    return read + _written(fused, _root(fused), one.shape, hbm)
  if op.endswith("-start"):
    return _moved(one, shapes, hbm)
  out = shape_bytes(one.shape, hbm)
  if op in ("slice", "dynamic-slice"):
    return out + outside[0] * shape_bytes(one.shape)
  if op == "gather":
    return out + outside[0] * shape_bytes(one.shape) + sizes[1]
  if op == "dynamic-update-slice":
    return sizes[1] + outside[0] * shape_bytes(shapes[1])
  if op == "scatter":
    return sizes[2] + sizes[1] + outside[0] * shape_bytes(shapes[2])
  if 'custom_call_target="__cu' in one.attributes:
    out = _without_workspace(one.shape, hbm)
  return out + sum(sizes)


def _without_workspace(shape: str, hbm: bool) -> float:
  """Bytes of what a library gives; the last may be room for it to work in."""
  parts = parts_of(shape) if shape.startswith("(") else [shape]
  if len(parts) > 1 and re.match(r"\s*[su]8\[\d+\]", parts[-1]):
    parts = parts[:-1]
  return sum(shape_bytes(part, hbm) for part in parts)


def _moved(one, shapes, hbm):
  """Bytes of a move that runs beside other work."""
  parts = parts_of(one.shape)
  if one.opcode == "copy-start":  # target, source, a flag
    return shape_bytes(parts[0], hbm) + shape_bytes(parts[1], hbm)
  if "slice" in one.opcode:  # sources, target, a flag
    away = float(shape_bytes(parts[0], hbm) > 0)
    return shape_bytes(parts[1], hbm) + away * shape_bytes(parts[1])
  return 2 * sum(shape_bytes(shape, hbm) for shape in shapes)


def _read(module, fused: Computation, number: int) -> float:
  """How much of an operand a fusion reads: less if it only slices it."""
  at = next(
    one.name
    for one in fused.values()
    if one.opcode == "parameter" and int(one.inside) == number
  )
  size, total, waiting = shape_bytes(fused[at].shape), 0.0, [at]
  while waiting:
    at = waiting.pop()
    for use in fused.values():
      if at not in use.operands:
        continue
      if use.opcode == "bitcast":
        waiting.append(use.name)
      elif use.opcode in _SLICES and use.operands[0] == at:
        total += shape_bytes(use.shape)
      elif use.opcode == "fusion":
        inner = module[called(use, "calls")]
        for place, operand in enumerate(use.operands):
          total += _read(module, inner, place) if operand == at else 0.0
      elif use.opcode != "dynamic-update-slice" or use.operands[0] != at:
        return size
  return min(size, total)


def _root(fused: Computation) -> Instruction:
  return next(one for one in fused.values() if one.root)


def _written(fused, root, shape, hbm):
  """What a fusion writes: of an update in place only the update."""
  while root.opcode == "bitcast":
    root = fused[root.operands[0]]
  if root.opcode == "tuple":
    return sum(
      _written(fused, fused[name], part, hbm)
      for name, part in zip(root.operands, parts_of(shape))
    )
  if root.opcode == "dynamic-update-slice" and shape_bytes(shape, hbm):
    return shape_bytes(fused[root.operands[1]].shape)
  return shape_bytes(shape, hbm)


def _flops(computation, one: Instruction) -> float:
  if one.opcode == "dot":
    left = dimensions(computation[one.operands[0]].shape)
    out = dimensions(one.shape)
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    summed = (
      [left[int(a)] for a in axes.group(1).split(",") if a] if axes else []
    )
    return 2.0 * math.prod(out) * math.prod(summed)
  if one.opcode == "convolution":
    return _convolution_flops(computation, one)
  # A kernel says itself what it costs.
  stated = re.search(r'"cost_estimate":\{"flops":"?(\d+)', one.attributes)
  return float(stated[1]) if stated else 0.0


def _convolution_flops(computation, one: Instruction) -> float:
  """Counts only products whose input is not padding, as XLA does."""
  shapes = [dimensions(computation[o].shape) for o in one.operands[:2]]
  shapes.append(dimensions(one.shape))
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
  left, kernel, out = (
    dict(zip(names, shape)) for names, shape in zip(labels.groups(), shapes)
  )
  total = 2.0 * kernel["o"] * kernel["i"] * out["b"]
  groups = re.search(r"batch_group_count=(\d+)", one.attributes)
  if groups:
    total /= int(groups[1])
  window = _window(one.attributes, sum(name.isdigit() for name in kernel))
  for axis, (stride, low, left_step, right_step) in enumerate(window):
    name = str(axis)
    place = (
      np.arange(out[name])[:, None] * stride
      - low
      + np.arange(kernel[name])[None, :] * right_step
    )
    inside = (place >= 0) & (place % left_step == 0)
    total *= int((inside & (place // left_step < left[name])).sum())
  return total


def _window(attributes: str, axes: int) -> list[tuple[int, int, int, int]]:
  """Stride, low padding and dilations of both sides, for each axis."""
  text = re.search(r"window=\{([^}]*)\}", attributes)
  if not text or not axes:  # a matrix product
    return []
  fields = dict(part.split("=") for part in text[1].split())

  def numbers(key, default):
    return fields.get(key, "x".join([default] * axes)).split("x")

  return [
    (int(stride), int(pad.split("_")[0]), int(left), int(right))
    for stride, pad, left, right in zip(
      numbers("stride", "1"),
      numbers("pad", "0_0"),
      numbers("lhs_dilate", "1"),
      numbers("rhs_dilate", "1"),
    )
  ]
