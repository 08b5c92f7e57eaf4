# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Fits how sure the levels may be, on cases that nothing was trained on.

A chain multiplies what each body of a scan says, as if the bodies were
independent; what misleads one misleads its neighbours, so a wrong scan is surer
than it should be. One number mends that: all scores are divided by a
temperature, which changes no level and makes confidences as large as the share
of right ones.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from scipy import optimize

from vf_jax.data.augment.points import ascends
from vf_jax.data.pipeline import cases_of_part
from vf_jax.errors import ConfigError
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.predictor import Predictor, load
from vf_jax.labels import VERTEBRAE
from vf_jax.models.decoders.level_chain import ChainScores
from vf_jax.multispine.store import Store, StoredCase
from vf_jax.train.checkpoint import write_weights

_RANGE = (0.25, 20.0)
_PLACE = {level.code: index for index, level in enumerate(VERTEBRAE)}


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What was fitted, and what it does.

  Attributes:
    temperature: for `predict.level_temperature`.
    cases: number of scans.
    bodies: their vertebrae.
    right: share of the vertebrae with the right level.
    mean_confidence_before: at temperature 1; equals `right` if true.
    mean_confidence_after: at the temperature.
    nll_before: mean -log p of a scan's levels per vertebra, temperature 1.
    nll_after: the same at the temperature.
  """

  temperature: float
  cases: int
  bodies: int
  right: float
  mean_confidence_before: float
  mean_confidence_after: float
  nll_before: float
  nll_after: float


def calibrate_weights(
  checkpoint: str | os.PathLike[str],
  out: str | os.PathLike[str],
  store: str | os.PathLike[str],
  split: str = "",
  part: str = "validation",
  report: Callable[[str], None] = lambda text: None,
) -> tuple[Calibration, str]:
  """Writes weights that carry the temperature fitted to prepared cases.

  Args:
    checkpoint: exported weights, or the workdir of a run.
    out: folder of the new weights; older ones there are replaced.
    store: see `calibrate`.
    split: see `calibrate`.
    part: see `calibrate`.
    report: see `calibrate`.

  Returns:
    What was fitted, and the digest of the weights.

  Raises:
    InputError: for unreadable weights or an unreadable store.
    ConfigError: if the store does not fit or no case has image and levels.
  """
  predictor = load(checkpoint)
  found = calibrate(predictor, store, split, part, report)
  predict = dataclasses.replace(
    predictor.config.predict, level_temperature=found.temperature
  )
  config = dataclasses.replace(predictor.config, predict=predict)
  return found, write_weights(config, predictor.params, out)


def calibrate(
  predictor: Predictor,
  store: str | os.PathLike[str],
  split: str = "",
  part: str = "validation",
  report: Callable[[str], None] = lambda text: None,
) -> Calibration:
  """Fits the temperature at the true body centres of prepared cases.

  Args:
    predictor: the network.
    store: prepared cases, at the voxel edge of the network.
    split: file of `vf-jax split`; '' has every case.
    part: of the split.
    report: gets a line for every scan.

  Returns:
    The temperature of least negative log-likelihood.

  Raises:
    InputError: for an unreadable store.
    ConfigError: if the store does not fit or no case has image and levels.
  """
  cases = Store(store)
  edge = predictor.config.model.spacing_mm
  if cases.spacing_mm != edge:
    raise ConfigError(
      f"the store {store} was prepared at {cases.spacing_mm} mm, the network "
      f"at {edge}. Fix: prepare it again with --spacing {edge:g}."
    )
  chains, truths = [], []
  for place in cases_of_part(cases, split, part):
    case = cases.case(place)
    if "image" not in case.arrays or "levels" not in case.record.annotates:
      continue
    if not case.record.centres:
      continue
    chain, truth = _score(predictor, case)
    if not bool(ascends(jnp.asarray(truth))):
      report(
        f"{case.record.case}: passed over, its levels have a gap that no chain "
        "explains"
      )
      continue
    _, right, _ = _look(chain, truth, 1.0)
    report(f"{case.record.case}: {right}/{len(truth)} levels right")
    chains.append(chain)
    truths.append(truth)
  if not chains:
    raise ConfigError(
      f"no case of {store} has an image and levels without a gap. Fix: name "
      "another store."
    )
  return fit(chains, truths)


def _score(
  predictor: Predictor, case: StoredCase
) -> tuple[ChainScores, Int[np.ndarray, " points"]]:
  image = case.read_all({"image": AIR_HU}, (0, 0, 0), case.shape)["image"]
  centres = {_PLACE[code]: at for code, at in case.record.centres.items()}
  order = sorted(centres)  # from head to foot
  spacing = np.sort(np.array(case.record.native_spacing_mm, np.float32))
  chain = predictor.network.level_scores(
    image, spacing, np.array([centres[i] for i in order], np.float32)
  )
  return chain, np.array(order)


def _look(
  chain: ChainScores, truth: Int[np.ndarray, " points"], temperature: float
) -> tuple[float, int, float]:
  """Loss, right levels and summed confidence of one scan."""
  target = np.full(chain.mask.shape, -1, np.int32)
  target[0, : len(truth)] = truth
  loss, levels, sure = _look_at_slots(chain, target, jnp.float32(temperature))
  right = (np.asarray(levels)[: len(truth)] == truth).sum()
  return float(loss), int(right), float(sure.sum())


@jax.jit
def _look_at_slots(chain, target, temperature):
  tempered = chain.tempered(temperature)
  levels, sure = tempered.decode()
  return tempered.negative_log_likelihood(target)[0], levels[0], sure[0]


def fit(
  chains: Sequence[ChainScores], truths: Sequence[Int[np.ndarray, " points"]]
) -> Calibration:
  """Fits the temperature to scored chains.

  Args:
    chains: one scan each, not tempered.
    truths: index into `VERTEBRAE` of each of its bodies.

  Returns:
    The temperature and what it does.
  """
  bodies = sum(map(len, truths))

  def measure(temperature: float) -> np.ndarray:
    looks = [_look(c, t, temperature) for c, t in zip(chains, truths)]
    return np.sum(looks, axis=0) / bodies

  found = optimize.minimize_scalar(
    lambda x: float(measure(float(np.exp(x)))[0]),
    bounds=tuple(np.log(_RANGE)),
    method="bounded",
    options={"xatol": 0.01},
  )
  temperature = round(float(np.exp(found.x)), 3)
  before, right, mean_confidence_before = map(float, measure(1.0))
  after, _, mean_confidence_after = map(float, measure(temperature))
  return Calibration(
    temperature=temperature,
    cases=len(chains),
    bodies=bodies,
    right=right,
    mean_confidence_before=mean_confidence_before,
    mean_confidence_after=mean_confidence_after,
    nll_before=before,
    nll_after=after,
  )
