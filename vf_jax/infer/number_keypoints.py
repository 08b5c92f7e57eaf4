# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Levels for the points of a detector, by the weights that come with vf_jax.

No image is needed. Read the limits in docs before using it: levels are those
that annotators of VID and VerSe gave, and where a spine has a variant that the
points do not show, every level of a scan may be one off. `abstained` says when
that is likely.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from vf_jax.data.candidates import MAX_CANDIDATES, find_candidates, pad
from vf_jax.errors import InputError
from vf_jax.io.keypoints import parse_keypoints
from vf_jax.io.named_arrays import read_arrays
from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.keypoint_numbering import (
  KeypointBatch,
  KeypointNumbering,
  number,
  scan_confidence,
)

WEIGHTS = pathlib.Path(__file__).parent.parent / "assets" / "numbering"
WEIGHTS_FILE = "weights.npz"


@dataclasses.dataclass(frozen=True)
class NumberedBody:
  """One vertebra.

  Attributes:
    level: `C1` ... `L6`.
    point: of its body, DICOM world, mm.
    confidence: probability that this is its level.
    detected: False if only its pedicles were detected.
  """

  level: str
  point: tuple[float, float, float]
  confidence: float
  detected: bool


@dataclasses.dataclass(frozen=True)
class NumberedScan:
  """The vertebrae of one scan.

  Attributes:
    bodies: from head to foot.
    rejected: points of detected bodies that are none, mm.
    confidence: lower quartile of the bodies'; 0 if there is none.
    abstained: True if the confidence is so low that a person should decide.
  """

  bodies: tuple[NumberedBody, ...]
  rejected: tuple[tuple[float, float, float], ...]
  confidence: float
  abstained: bool


@dataclasses.dataclass(frozen=True, eq=False)
class KeypointNumberer:
  """Loaded weights, compiled once for every scan.

  Attributes:
    model: the network.
    members: parameters of those that vote, stacked.
    threshold: confidence below which a scan is left to a person.
  """

  model: KeypointNumbering
  members: Any
  threshold: float

  def __call__(self, points: Any, source: str = "<points>") -> NumberedScan:
    """Numbers one scan.

    Args:
      points: its detections, as a VID prediction file holds them.
      source: the file, for the errors.

    Returns:
      Its vertebrae; none, and abstained, if there is no point.

    Raises:
      InputError: see `vf_jax.io.keypoints.parse_keypoints`.
    """
    candidates = find_candidates(parse_keypoints(points, source))
    if not len(candidates):
      return NumberedScan((), (), 0.0, True)
    batch = KeypointBatch(**pad([candidates], MAX_CANDIDATES))
    found = _program(self.model)(self.members, batch)
    levels, shares = (np.asarray(x)[0].tolist() for x in found)
    bodies, rejected = [], []
    for i, place in enumerate(candidates.points.tolist()):
      point = (place[0], place[1], place[2])
      detected = not bool(candidates.made[i])
      if levels[i] >= 0:
        name = VERTEBRAE[levels[i]].name
        bodies.append(NumberedBody(name, point, shares[i], detected))
      elif detected:
        rejected.append(point)
    sure = np.array([body.confidence for body in bodies])
    confidence = scan_confidence(sure)
    return NumberedScan(
      bodies=tuple(bodies),
      rejected=tuple(rejected),
      confidence=confidence,
      abstained=confidence < self.threshold,
    )


def load_numberer(
  folder: str | os.PathLike[str] | None = None,
) -> KeypointNumberer:
  """Loads weights that `vf-jax train-numbering` wrote.

  Args:
    folder: where they are; those of the package if None.

  Returns:
    The numberer.

  Raises:
    InputError: they are missing, damaged, or of another version.
  """
  path = pathlib.Path(folder or WEIGHTS) / WEIGHTS_FILE
  arrays, facts = read_arrays(path)
  try:
    model = KeypointNumbering(**facts["model"])
    threshold = float(facts["abstain_below"])
    levels = facts["levels"]
  except (KeyError, TypeError, ValueError) as error:
    fault = "do not say which network they belong to."
    raise InputError(path, fault, "reinstall vf_jax.") from error
  if levels != [level.name for level in VERTEBRAE]:
    fault = "number other levels than this vf_jax."
    raise InputError(path, fault, "train them again.")
  members: dict[str, Any] = {}
  for name, values in arrays.items():
    *groups, leaf = name.split("/")
    room = members
    for group in groups:
      room = room.setdefault(group, {})
    room[leaf] = np.asarray(values, np.float32)
  return KeypointNumberer(model, members, threshold)


def number_keypoints(
  points: Any,
) -> list[tuple[str, tuple[float, float, float]]]:
  """Numbers the vertebrae of one scan from its detected points.

  Args:
    points: the scan's detections exactly as a VID prediction file holds them:
      the parsed JSON list. Their order does not matter; pedicles and scores
      may be missing.

  Returns:
    Level and body position of every vertebra that is kept, from head to foot.
    Most are detected bodies; one whose body was missed is placed by its
    pedicles.

  Raises:
    InputError: the list holds something that is no detection.

  Units:
    mm, DICOM world, as given.
  """
  scan = _shipped()(points)
  return [(body.level, body.point) for body in scan.bodies]


@functools.cache
def _shipped() -> KeypointNumberer:
  return load_numberer()


@functools.lru_cache(maxsize=4)
def _program(model: KeypointNumbering):
  return jax.jit(functools.partial(number, model))
