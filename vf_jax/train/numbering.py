# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Training of the numbering by points, and its cross-validation.

Several small networks that differ by their seed are trained on all scans.
Cross-validation holds every patient back once and trains the others in just
the same way; everything that is reported comes from there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int64

from vf_jax.data.candidates import (
  MAX_CANDIDATES,
  Candidates,
  find_candidates,
  match,
  pad,
)
from vf_jax.errors import ConfigError, InputError, NonFiniteLossError
from vf_jax.io.keypoints import Scan
from vf_jax.models.decoders.keypoint_numbering import (
  KeypointBatch,
  KeypointNumbering,
  number,
)
from vf_jax.train.numbering_augment import augment
from vf_jax.train.numbering_config import NumberingConfig
from vf_jax.train.numbering_scores import ScanScore, score_scan

_SHORT = 12  # candidates of nine scans in ten
_LONG_SHARE = 3 / 8  # scans of a batch of long ones, which cost as much
_CHUNK = 64  # scans numbered at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A scan as training sees it.

  Attributes:
    scan: points and truth.
    candidates: its possible bodies.
    targets: their levels.
  """

  scan: Scan
  candidates: Candidates
  targets: Int64[np.ndarray, " points"]


def prepare(scans: Sequence[Scan]) -> list[Prepared]:
  """Finds the candidates of scans and their true levels.

  Args:
    scans: of an archive.

  Returns:
    The same scans, in the same order.
  """
  out = []
  for scan in scans:
    candidates = find_candidates(scan.detected)
    targets = match(candidates, scan.levels, scan.bodies)
    out.append(Prepared(scan, candidates, targets))
  return out


def train_members(
  prepared: Sequence[Prepared],
  config: NumberingConfig,
  report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Trains the networks that vote.

  Args:
    prepared: what they learn from.
    config: the experiment.
    report: told of the loss now and then.

  Returns:
    Their averaged parameters, stacked along a first axis, float16: as they
    are shipped, so that what is measured is what is shipped.

  Raises:
    InputError: there is no scan with a candidate.
    NonFiniteLossError: training diverged.
  """
  buckets = _buckets(prepared)
  members = []
  for member in range(config.members):
    params = _train(buckets, config, config.seed + 1000 * member, report)
    members.append(params)
  return jax.tree.map(lambda *x: np.stack(x).astype(np.float16), *members)


def predict(
  members: Mapping[str, Any],
  prepared: Sequence[Prepared],
  config: NumberingConfig,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Numbers scans.

  Args:
    members: from `train_members`.
    prepared: the scans; their truth is not used.
    config: the experiment.

  Returns:
    Levels (-1 = no vertebra) and probabilities of the candidates of each.
  """
  run = _number(config.model())
  wide = jax.tree.map(lambda x: np.asarray(x, np.float32), members)
  out = []
  for first in range(0, len(prepared), _CHUNK):
    part = [p.candidates for p in prepared[first : first + _CHUNK]]
    fill = [part[0]] * (_CHUNK - len(part))
    batch = KeypointBatch(**pad(part + fill, MAX_CANDIDATES))
    levels, shares = (np.asarray(x) for x in run(wide, batch))
    for row, candidates in enumerate(part):
      own = slice(0, len(candidates))
      out.append((levels[row, own], shares[row, own]))
  return out


def cross_validate(
  prepared: Sequence[Prepared],
  config: NumberingConfig,
  folds: int,
  report: Callable[[str], None] = lambda text: None,
) -> list[ScanScore]:
  """Holds every patient back once.

  Args:
    prepared: all scans.
    config: the experiment.
    folds: parts of the patients.
    report: told of progress.

  Returns:
    A score for every scan, by networks that never saw its patient.
  """
  fold = patient_folds([p.scan.patient for p in prepared], folds, config.seed)
  scores: list[ScanScore] = []
  for k in range(folds):
    learned = [p for p, f in zip(prepared, fold) if f != k]
    held = [p for p, f in zip(prepared, fold) if f == k]
    seeded = dataclasses.replace(config, seed=config.seed + 10 * k)
    members = train_members(learned, seeded, report)
    own = score_all(held, predict(members, held, config), k)
    hit, true = sum(s.hit for s in own), sum(s.true for s in own)
    report(f"fold {k + 1} of {folds}: {hit} of {true} bodies identified")
    scores += own
  return scores


def score_all(
  prepared: Sequence[Prepared],
  numbered: Sequence[tuple[np.ndarray, np.ndarray]],
  fold: int = 0,
) -> list[ScanScore]:
  """Scores the bodies that were kept.

  Args:
    prepared: scans.
    numbered: from `predict`.
    fold: the part they were held back in.

  Returns:
    A score for every scan.
  """
  out = []
  for p, (levels, shares) in zip(prepared, numbered):
    kept = levels >= 0
    points = p.candidates.points[kept]
    sure = shares[kept].astype(np.float64)
    out.append(
      score_scan(p.scan, levels[kept].astype(np.int64), points, sure, fold)
    )
  return out


def patient_folds(
  patients: Sequence[str], folds: int, seed: int
) -> Int64[np.ndarray, " scans"]:
  """Divides scans into parts that share no patient.

  Args:
    patients: of each scan.
    folds: how many parts.
    seed: of the division.

  Returns:
    The part of each scan.

  Raises:
    ConfigError: fewer patients than parts, or fewer than two parts.
  """
  names = sorted(set(patients))
  if not 2 <= folds <= len(names):
    raise ConfigError(
      f"{folds} folds of {len(names)} patients. Fix: 2 to {len(names)}."
    )
  order = np.random.default_rng(seed).permutation(len(names))
  part = {names[i]: place % folds for place, i in enumerate(order)}
  return np.array([part[name] for name in patients], np.int64)


def _buckets(prepared: Sequence[Prepared]) -> list[KeypointBatch]:
  """Scans of few and of many candidates, each padded to one length."""
  some = [p for p in prepared if len(p.candidates)]
  if not some:
    raise InputError("scans", "none has a point to learn from.")
  out = []
  for length, own in (
    (_SHORT, [p for p in some if len(p.candidates) <= _SHORT]),
    (MAX_CANDIDATES, [p for p in some if len(p.candidates) > _SHORT]),
  ):
    if own:
      targets = [p.targets for p in own]
      fields = pad([p.candidates for p in own], length, targets)
      out.append(KeypointBatch(**fields))
  return out


def _train(
  buckets: list[KeypointBatch],
  config: NumberingConfig,
  seed: int,
  report: Callable[[str], None],
) -> Any:
  """Trains one network and returns its averaged parameters."""
  rng = np.random.default_rng(seed)
  # The seed is no part of the programs; with it every fold would compile anew.
  init, step = _programs(dataclasses.replace(config, seed=0))
  key = jax.random.key(seed, impl="rbg")
  params, state = init(key, jax.tree.map(lambda x: x[:1], buckets[0]))
  average = params
  losses = []
  draws = [_draw(len(b.mask), rng) for b in buckets]
  for n in range(config.steps):
    place = len(buckets) - 1 if n % config.long_every == 0 else 0
    bucket = buckets[place]
    size = config.batch
    if bucket.mask.shape[1] > _SHORT:
      size = max(1, round(size * _LONG_SHARE))
    rows = np.array([next(draws[place]) for _ in range(size)])
    batch = jax.tree.map(lambda x, rows=rows: x[rows], bucket)
    params, average, state, loss = step(
      params, average, state, batch, jax.random.fold_in(key, n + 1)
    )
    losses.append(loss)
    if len(losses) == 100 or n + 1 == config.steps:
      mean = float(np.mean(losses))
      if not np.isfinite(mean):
        raise NonFiniteLossError(f"the loss is {mean} at step {n + 1}.")
      report(f"seed {seed} step {n + 1}: loss {mean:.3f}")
      losses = []
  return jax.tree.map(np.asarray, average)


def _draw(count: int, rng: np.random.Generator):
  """Rows in random order, again and again."""
  while True:
    yield from rng.permutation(count)


@functools.lru_cache(maxsize=4)
def _programs(config: NumberingConfig):
  """Start and step of training; compiled once for all folds and members."""
  model = config.model()
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=max(1, config.steps // 20),
    decay_steps=max(2, config.steps),
    end_value=0.01 * config.learning_rate,
  )
  tx = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(schedule, weight_decay=config.weight_decay),
  )

  @jax.jit
  def init(key, batch):
    params = model.init(key, batch)["params"]
    return params, tx.init(params)

  @jax.jit
  def step(params, average, state, batch, key):
    changes, noise = jax.random.split(key)
    batch = augment(batch, changes, config.augment)

    def mean_loss(params):
      scores = model.apply(
        {"params": params}, batch, True, rngs={"dropout": noise}
      )
      return scores.negative_log_likelihood(batch.targets).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(params)
    change, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, change)
    average = jax.tree.map(
      lambda a, p: config.ema * a + (1 - config.ema) * p, average, params
    )
    return params, average, state, loss

  return init, step


@functools.lru_cache(maxsize=4)
def _number(model: KeypointNumbering):
  return jax.jit(functools.partial(number, model))
