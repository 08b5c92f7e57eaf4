# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which shape stands for a level, and how wide and deep a patient's is."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from vf_jax.multispine.phantom import cervical
from vf_jax.multispine.phantom.templates import Template, load_templates

_STAND_IN = {"C7": "T1", "L1": "L2", "T13": "T12", "L6": "L5"}
"""Levels without a template of their own, and whose shape they borrow."""

_PROPORTIONS: Mapping[str, tuple[float, float]] = {
  "C3": (1.1, 1.0), "C4": (1.1, 1.0), "C5": (1.1, 1.0), "C6": (1.1, 1.0),
  "C7": (0.87, 0.91), "T2": (0.97, 1.0), "T3": (1.05, 1.0), "T13": (1.02, 1.0),
  "L1": (1.0, 1.04), "L2": (1.02, 1.05), "L6": (1.03, 1.0),
}  # fmt: skip
"""Width and depth of a body over those of the shape that stands for it.

The models of C3 to C6 are slim; both subjects with an L2 have it smaller than
their T12 and L3 let expect, and T2 and T3 lie a step apart. C7, T2, T3, L1 and
L2 follow the endplates of Panjabi et al. (1991 and 1992, Spine 16 and 17), T13
and L6 are our guess between or beyond their neighbours.
"""

_ROUGH = (*cervical.NAMES, "C7", "T1")
"""Where few scans annotate pedicles, and roughly."""

_BROAD = 0.12
"""Clip of the log of a level's own breadth: annotations have outliers."""


def pick_shapes(
  rng: np.random.Generator, names: Sequence[str]
) -> dict[str, Template]:
  """Prefers one subject for all levels, so that neighbours fit.

  Args:
    rng: the draw.
    names: of the levels.

  Returns:
    Level name -> its shape, before `cross_section`.
  """
  templates = load_templates()
  sources = sorted(
    {t.source for several in templates.values() for t in several}
  )
  rank = {s: i for i, s in enumerate(rng.permutation(sources).tolist())}
  shapes = {}
  for name in names:
    if name in cervical.NAMES:
      shapes[name] = cervical.cervical_model(name)
    else:
      several = templates.get(name) or templates[_STAND_IN[name]]
      shapes[name] = min(several, key=lambda t: rank[t.source])
  return shapes


def cross_section(
  name: str, source: str, breadth: float, depth: float, size: float
) -> tuple[float, float]:
  """How wide and deep a patient's vertebra is.

  Args:
    name: of the level.
    source: subject of its shape.
    breadth: deviation of the pedicles' log half width from the level's mean.
    depth: factor of this vertebra's own.
    size: of the patient.

  Returns:
    Patient mm per mm of the shape, right and anterior.
  """
  wide, deep = _PROPORTIONS.get(name, (1.0, 1.0))
  whole = size * _subject_factors().get(source, 1.0)
  return wide * (whole * _broad(name, breadth, size)), deep * (whole * depth)


def _broad(name: str, deviation: float, size: float) -> float:
  """How much wider this patient's level is than its size alone says.

  Where a pedicle's point lies is another thing at every level and in every
  template, so only deviations from the level's own mean are of use.

  Args:
    name: of the level.
    deviation: of the pedicles' log half width from its mean.
    size: of the patient.

  Returns:
    Factor around 1.
  """
  trust = 0.4 if name in _ROUGH else 1.0
  local = trust * (deviation - np.log(size))
  return float(np.exp(np.clip(local, -_BROAD, _BROAD)))


@functools.cache
def _subject_factors() -> Mapping[str, float]:
  """What brings the templates of a subject to the size of the mean subject.

  Returns:
    Source -> factor; subjects are compared by the cross-sections of the
    bodies that they share with others.
  """
  found: dict[str, list[float]] = {}
  for several in load_templates().values():
    logs = np.log([t.half_mm for t in several]).mean(axis=1)
    if len(several) > 1:
      for template, value in zip(several, logs):
        found.setdefault(template.source, []).append(logs.mean() - value)
  return {s: float(np.exp(np.mean(v))) for s, v in found.items()}
