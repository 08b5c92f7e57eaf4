# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the thorax ends, decided by methods that are no network.

They see the detections and are told which candidates are true bodies, so one
question is left: is the first body that the detector calls lumbar L1, or is the
border one body higher or lower? What they get wrong shifts a whole scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from vf_jax.labels import VERTEBRAE

_L1 = next(i for i, level in enumerate(VERTEBRAE) if level.name == "L1")
_OFFSETS = (-1, 0, 1)  # of the detector's border, in bodies towards the feet
_PENALTY = 3e-3
_STEPS = 80
_TREES = 150


@dataclasses.dataclass(frozen=True, eq=False)
class Borders:
  """Scans that show thoracic and lumbar bodies.

  Attributes:
    scans: index of each in the list it was made from.
    bodies: true bodies that have a candidate.
    features: what is known of the surroundings, NaN where nothing is.
    offsets: bodies from the true border to the detector's.
  """

  scans: np.ndarray
  bodies: np.ndarray
  features: np.ndarray
  offsets: np.ndarray


def borders(prepared: Sequence[Any]) -> Borders:
  """Finds the detector's thoracolumbar junction in every scan.

  Args:
    prepared: from `vf_jax.train.numbering.prepare`.

  Returns:
    The scans that have one, by the detector or by the truth.
  """
  rows = []
  for index, scan in enumerate(prepared):
    true = np.flatnonzero(scan.targets >= 0)
    levels = scan.targets[true]
    bodies = scan.candidates.take(true)
    if len(true) < 2:
      continue
    lumbar = bodies.scores[:, 2] - bodies.scores[:, 1]
    # Bodies from `border` on are lumbar: the cut that agrees best with all.
    border = int(np.argmin(np.r_[0.0, np.cumsum(lumbar)]))
    above = int((levels < _L1).sum())
    if border in (0, len(true)) and above in (0, len(true)):
      continue
    spare = scan.candidates.take(np.flatnonzero(scan.targets < 0))
    features = _features(bodies, border, spare)
    rows.append((index, len(true), features, border - above))
  scans, counts, features, offsets = zip(*rows)
  return Borders(
    np.array(scans), np.array(counts), np.array(features), np.array(offsets)
  )


def _features(bodies, border: int, spare) -> np.ndarray:
  """Scores and shape near the border and at the lower end."""
  count = len(bodies)
  both = bodies.paired.all(axis=1)
  width = bodies.pedicles[:, 0, 0] - bodies.pedicles[:, 1, 0]
  width = np.where(both, width, np.nan)
  sides = np.maximum(bodies.paired.sum(axis=1), 1)[:, None]
  pedicle = bodies.pedicles.sum(axis=1) / sides
  pedicle[~bodies.paired.any(axis=1)] = np.nan
  step = np.diff(bodies.points, axis=0)
  gap = np.linalg.norm(step, axis=1)
  lean = np.arctan2(step[:, 1], -step[:, 2])

  def at(values, place):
    return values[place] if 0 <= place < len(values) else np.nan

  out = [count, count - border, border, gap.mean(), at(bodies.scores[:, 0], 0)]
  for place in range(border - 2, border + 3):
    out += [at(bodies.scores[:, k], place) for k in (1, 2)]
  for place in range(border - 3, border + 4):
    out += [at(v, place) for v in (gap, width, *pedicle.T[1:])]
  for place in range(count - 4, count):
    out += [at(v, place - 1) for v in (gap, lean)]
    out += [at(v, place) for v in (width, bodies.scores[:, 2], *pedicle.T[1:])]
  below = spare.points[:, 2] < bodies.points[-1, 2]
  out += [below.sum(), spare.scores[below, 2].max(initial=0.0)]
  return np.array(out, np.float64)


def logistic(
  features: np.ndarray, offsets: np.ndarray, others: np.ndarray
) -> np.ndarray:
  """Multinomial logistic regression on features and their squares.

  Args:
    features: learned from.
    offsets: their answers.
    others: features of the scans to be decided.

  Returns:
    Probabilities of the offsets -1, 0, 1.
  """
  mean, spread = np.nanmean(features, axis=0), np.nanstd(features, axis=0)

  def plain(rows):
    scaled = np.clip((rows - mean) / np.maximum(spread, 1e-6), -4.0, 4.0)
    known = np.isfinite(scaled)
    scaled = np.where(known, scaled, 0.0)
    ones = np.ones((len(rows), 1))
    return np.concatenate([scaled, scaled**2 - known, ~known, ones], axis=1)

  inputs = plain(features)
  answers = np.eye(len(_OFFSETS))[np.clip(offsets, -1, 1) + 1]
  shape = (inputs.shape[1], len(_OFFSETS))

  def loss(flat):
    weights = flat.reshape(shape)
    scores = inputs @ weights
    miss = softmax(scores, axis=1) - answers
    value = -(log_softmax(scores, axis=1) * answers).sum() / len(inputs)
    slope = inputs.T @ miss / len(inputs) + _PENALTY * weights
    return value + _PENALTY * (flat**2).sum() / 2, slope.ravel()

  start = np.zeros(shape[0] * shape[1])
  found = minimize(
    loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}
  )
  return softmax(plain(others) @ found.x.reshape(shape), axis=1)


def trees(
  features: np.ndarray, offsets: np.ndarray, others: np.ndarray
) -> np.ndarray:
  """Extremely randomised trees of scikit-learn; arguments as `logistic`.

  Raises:
    ImportError: scikit-learn is not installed.
  """
  from sklearn.ensemble import ExtraTreesClassifier

  model = ExtraTreesClassifier(
    _TREES, min_samples_leaf=2, max_features=0.4, random_state=0
  )
  model.fit(np.nan_to_num(features, nan=-50.0), np.clip(offsets, -1, 1))
  found = model.predict_proba(np.nan_to_num(others, nan=-50.0))
  out = np.zeros((len(others), len(_OFFSETS)))
  out[:, model.classes_ + 1] = found
  return out


def held_back(method, data: Borders, fold: np.ndarray) -> np.ndarray:
  """Decides every scan by what the other folds taught.

  Args:
    method: `logistic` or `trees`.
    data: the scans.
    fold: part of each of them.

  Returns:
    Probabilities of the offsets.
  """
  out = np.zeros((len(fold), len(_OFFSETS)))
  for part in np.unique(fold):
    own = fold == part
    out[own] = method(
      data.features[~own], data.offsets[~own], data.features[own]
    )
  return out
