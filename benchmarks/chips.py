# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Chips, what they can do at most, and how long a step takes on one at least.

Sources, read 2026-11-25:
v5e, v5p, v6e: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}. The pages give the
  interconnect in both directions together (v5e 400 GB/s, v5p 1200, v6e 800)
  over 4, 6 and 4 ports, so one port sends 50, 100 and 100 GB/s.
h100: NVIDIA H100 Tensor Core GPU data sheet, SXM: 989.4 TFLOP/s of dense bf16,
  3.35 TB/s, 80 GB, NVLink 900 GB/s in both directions together.

Clocks are derived, for no data sheet gives them: the peak over what the matrix
units do in a cycle, 2 * 128^2 operations each. By the pages above v5e has one
core of four units (1.503 GHz), v5p two of four (1.751 GHz); the size of a unit,
and 1.5 GHz for v5e, are from jax-ml.github.io/scaling-book/tpus. For v6e the
same division gives 3.5 GHz, which is hard to believe, so it has no clock.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak values of one chip.

  Attributes:
    flops: bf16 operations per second.
    hbm: bytes per second of its memory.
    memory: bytes of its memory.
    link: bytes per second that it sends over one port of a TPU, or over all
      of a GPU's together.
    ports: that it has.
    clock: cycles per second, to turn the compiler's cycles into time; 0 if
      unknown, or if the compiler gives no cycles.
  """

  flops: float
  hbm: float
  memory: float
  link: float
  ports: int
  clock: float = 0.0


CHIPS = {
  "v5e": Chip(197e12, 819e9, 16 * 2**30, 50e9, 4, 1.5e9),
  "v5p": Chip(459e12, 2765e9, 95 * 2**30, 100e9, 6, 1.75e9),
  "v6e": Chip(918e12, 1638e9, 32 * 2**30, 100e9, 4),
  "h100": Chip(989.4e12, 3350e9, 80e9, 450e9, 1),
}


def links(name: str, topology: tuple[int, ...]) -> int:
  """Ports that a chip can send over in a slice of this shape.

  Args:
    name: of the chip.
    topology: chips along each axis of the slice; of a GPU any.

  Returns:
    One for each axis longer than one: only whole pods close their rings, and
    the slowest step of an open one goes one way.
  """
  if CHIPS[name].ports == 1:
    return 1
  return max(1, sum(n > 1 for n in topology))


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The least time that a step takes, by what limits it; seconds.

  Attributes:
    compute: operations over the peak.
    memory: bytes over the memory's bandwidth.
    network: bytes sent over the links' bandwidth.
  """

  compute: float
  memory: float
  network: float

  @property
  def seconds(self) -> float:
    """The longest of the three, as if they overlapped perfectly."""
    return max(self.compute, self.memory, self.network)

  @property
  def limit(self) -> str:
    """Which of the three that is."""
    return max(
      ("compute", "memory", "network"), key=lambda name: getattr(self, name)
    )

  def mfu(self, chip: Chip, model_flops: float) -> float:
    """Share of the peak that goes into the model.

    Args:
      chip: that it runs on.
      model_flops: operations of one forward and backward pass on one chip,
        nothing counted twice that is computed twice.

    Returns:
      0..1, at most: a real step takes longer.
    """
    return model_flops / (self.seconds * chip.flops)


def roofline(
  chip: Chip, ports: int, flops: float, moved: float, sent: float
) -> Roofline:
  """Divides what a step does by what a chip can do.

  Args:
    chip: that it runs on.
    ports: that the chip can send over.
    flops: operations on one chip, those computed twice counted twice.
    moved: bytes between the chip and its memory.
    sent: bytes that one chip sends to others.

  Returns:
    The least time.
  """
  return Roofline(
    flops / chip.flops, moved / chip.hbm, sent / (ports * chip.link)
  )
