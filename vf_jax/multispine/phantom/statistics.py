# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How spines differ: a factor model of spacing, curvature and pedicles.

Every interval between neighbouring bodies has three features (log length,
sagittal and coronal angle), every level five of its pedicles. Scans show parts
of a spine, so the model is a factor analysis of incomplete rows: a few factors
(size, kyphosis, lordosis, scoliosis ...) move all features together, which is
what keeps a drawn curve smooth. What is left over per feature is mostly the
rounding of the annotations to voxels, and is drawn only in part.

The committed parameters come from

    python -m vf_jax.multispine.phantom.statistics OUT vid_training.tar.xz \
      verse2019_landmarks.csv verse2020_landmarks.csv

Source:
  VID (Buergin, Prevost, Stollenga 2023), and the centroids of the VerSe
  training scans as Payer et al. publish them; see vf_jax/assets/phantom.
  Expectation maximisation: Rubin and Thayer 1982, Psychometrika 47.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

import numpy as np
from jaxtyping import Float, Float64

from vf_jax.errors import InputError
from vf_jax.io.atomic import write_bytes
from vf_jax.io.keypoints import is_held_back_by_verse
from vf_jax.labels import VERTEBRAE

SLOTS = tuple(v.name for v in VERTEBRAE if v.name != "T13")
"""Levels with statistics of their own; T13 is drawn like T12."""

INTERVAL = ("log_length", "sagittal", "coronal")
PEDICLE = ("log_half_width", "back", "up", "yaw", "roll")
_INTERVALS = len(SLOTS) - 1
_SIZE = _INTERVALS * len(INTERVAL) + len(SLOTS) * len(PEDICLE)
_FACTORS = 12
_ROUNDS = 150
_RIDGE = 2.0  # as if two scans spoke for no link between feature and factor
_UNIQUE = 0.35  # share of a feature's own deviation that is anatomy
_STEP = 4.0  # features further off than this many deviations are mistakes
_FACTOR_CLIP, _UNIQUE_CLIP = 2.5, 2.0

Points = Mapping[str, Float[np.ndarray, " 3"]]


@dataclasses.dataclass(frozen=True, eq=False)
class SpineFeatures:
  """One drawn spine, by levels of `SLOTS`.

  Attributes:
    intervals: rows of `INTERVAL`, from each level to the next below; mm in the
      log, angles of the way down from straight down towards front and right,
      radians.
    pedicles: rows of `PEDICLE`; mm (half width in the log) behind and above
      the body centre in its own frame, and turns of the line between them,
      radians.
  """

  intervals: Float64[np.ndarray, "intervals 3"]
  pedicles: Float64[np.ndarray, "levels 5"]


@dataclasses.dataclass(frozen=True, eq=False)
class SpineStatistics:
  """The factor model: feature = mean + loading @ factors + own part.

  Attributes:
    mean: of every feature.
    loading: change of every feature with every factor.
    own: standard deviation that the factors leave over.
    counts: scans that show the feature.

  Units:
    Of the features: mm, the logarithm of mm, radians.
  """

  mean: Float64[np.ndarray, " features"]
  loading: Float64[np.ndarray, "features factors"]
  own: Float64[np.ndarray, " features"]
  counts: Float64[np.ndarray, " features"]

  @property
  def pedicle_mean(self) -> Float64[np.ndarray, "levels 5"]:
    """Rows of `PEDICLE` by levels of `SLOTS`; mm (log half width), radians."""
    cut = _INTERVALS * len(INTERVAL)
    return self.mean[cut:].reshape(len(SLOTS), len(PEDICLE))

  def sample(self, rng: np.random.Generator) -> SpineFeatures:
    """Draws a spine.

    Args:
      rng: the draw; tails are clipped, so that no spine folds up.

    Returns:
      Features of every level.
    """
    factors = rng.standard_normal(self.loading.shape[1])
    own = rng.standard_normal(self.own.shape)
    row = (
      self.mean
      + self.loading @ np.clip(factors, -_FACTOR_CLIP, _FACTOR_CLIP)
      + _UNIQUE * self.own * np.clip(own, -_UNIQUE_CLIP, _UNIQUE_CLIP)
    )
    cut = _INTERVALS * len(INTERVAL)
    intervals = row[:cut].reshape(_INTERVALS, len(INTERVAL))
    usual = self.mean[:cut].reshape(_INTERVALS, len(INTERVAL))
    # Scans of the cervical, thoracic and lumbar spine are other people's: what
    # no scan shows together is joined by neighbours' alikeness.
    bend = (intervals - usual)[:, 1:]
    bend[-1] += bend[-2] / 2  # too few scans show L6 to tell
    padded = np.pad(bend[:-1], ((1, 1), (0, 0)), mode="edge")
    bend[:-1] = padded[:-2] / 4 + bend[:-1] / 2 + padded[2:] / 4
    intervals[:, 1:] = usual[:, 1:] + bend
    return SpineFeatures(
      intervals,
      row[cut:].reshape(len(SLOTS), len(PEDICLE)),
    )


def load_statistics() -> SpineStatistics:
  """Reads the committed parameters.

  Returns:
    The model of VID and VerSe training scans.
  """
  path = resources.files("vf_jax") / "assets/phantom/spine_statistics.npz"
  with np.load(io.BytesIO(path.read_bytes())) as stored:
    return SpineStatistics(
      **{key: stored[key].astype(np.float64) for key in stored.files}
    )


def level_frame(
  up: Float[np.ndarray, " 3"],
) -> Float64[np.ndarray, "3 3"]:
  """The frame of a vertebra whose long axis is known.

  Args:
    up: direction towards the head, RAS+.

  Returns:
    Unit columns right, anterior and up; right stays in the world's axial
    direction as far as `up` lets it.
  """
  up = up / np.linalg.norm(up)
  front = np.array([0.0, 1.0, 0.0]) - up[1] * up
  front = front / np.linalg.norm(front)
  return np.stack([np.cross(front, up), front, up], axis=1)


def features(
  bodies: Points, pedicles: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Float64[np.ndarray, " features"]:
  """Describes one annotated scan.

  Args:
    bodies: level name -> body centre, mm RAS+.
    pedicles: level name -> left and right pedicle, mm RAS+.

  Returns:
    All features in the order of the model, NaN where the scan does not show
    them.

  Units:
    Lengths in mm, or the logarithm of mm; angles in radians.
  """
  intervals = np.full((_INTERVALS, len(INTERVAL)), np.nan)
  rows = np.full((len(SLOTS), len(PEDICLE)), np.nan)
  ways = {}
  for i, (upper, lower) in enumerate(itertools.pairwise(SLOTS)):
    if upper in bodies and lower in bodies:
      right, front, rise = way = bodies[lower] - bodies[upper]
      length = np.linalg.norm(way)
      if rise >= 0 or length == 0:
        continue
      ways[i] = -way / length
      intervals[i] = (
        np.log(length), np.arctan2(front, -rise), np.arctan2(right, -rise),
      )  # fmt: skip
  for i, name in enumerate(SLOTS):
    ups = [ways[j] for j in (i - 1, i) if j in ways]
    if name in pedicles and ups:
      left, right = pedicles[name]
      frame = level_frame(np.sum(ups, axis=0))
      middle = ((left + right) / 2 - bodies[name]) @ frame
      line = (right - left) @ frame
      rows[i] = (
        np.log(np.linalg.norm(line) / 2), -middle[1], middle[2],
        np.arctan2(line[1], line[0]), np.arctan2(line[2], line[0]),
      )  # fmt: skip
  return np.concatenate([intervals.ravel(), rows.ravel()])


def fit(paths: Sequence[str | os.PathLike[str]]) -> SpineStatistics:
  """Fits the model to annotation archives.

  Scans of VerSe's validation and test sets are left out, so that nothing of
  them enters what models are trained on.

  Args:
    paths: VID archives (`.tar.xz`) and landmark tables of Payer et al.
      (`.csv`); scans in both are taken from the archive.

  Returns:
    The model.

  Raises:
    InputError: a file is of another kind, or too few scans are in them.
  """
  scans: dict[str, Float64[np.ndarray, " features"]] = {}
  names = [os.fspath(path) for path in paths]
  for path in sorted(names, key=lambda name: name.endswith(".csv")):
    read = _read_table if path.endswith(".csv") else _read_vid
    for name, bodies, pedicles in read(path):
      scans.setdefault(name, features(bodies, pedicles))
  rows = np.array(list(scans.values()))
  if len(rows) < 50:
    raise InputError(
      names[0] if names else "<nothing>",
      f"{len(rows)} scans are too few for the statistics of a spine.",
    )
  return fit_rows(rows)


def fit_rows(
  rows: Float64[np.ndarray, "scans features"],
) -> SpineStatistics:
  """Fits the factor model to rows with gaps, by expectation maximisation.

  Args:
    rows: features, NaN where unknown. Values far from the median of their
      feature are taken for mistakes and left out.

  Returns:
    The model.
  """
  seen = np.isfinite(rows).any(axis=0)
  mean, scale, values, known = _standardise(rows[:, seen])
  loading, own = _factorise(values, known)
  size = rows.shape[1]
  result = SpineStatistics(
    np.zeros(size), np.zeros((size, _FACTORS)), np.zeros(size), np.zeros(size)
  )
  result.mean[seen] = mean
  result.loading[seen] = loading * scale[:, None]
  result.own[seen] = np.sqrt(own) * scale
  result.counts[seen] = known.sum(axis=0)
  return result


def _standardise(rows):
  """Mean and deviation of features; values without them, 0 where unknown."""
  middle = np.nanmedian(rows, axis=0)
  spread = 1.4826 * np.nanmedian(np.abs(rows - middle), axis=0)
  spread = np.maximum(spread, 0.3 * np.nanstd(rows, axis=0) + 1e-6)
  wrong = ~(np.abs(rows - middle) <= _STEP * spread)
  rows = np.where(wrong, np.nan, rows)
  known = np.isfinite(rows)
  mean = np.nanmean(rows, axis=0)
  scale = np.maximum(np.nanstd(rows, axis=0), 1e-6)
  return mean, scale, np.where(known, (rows - mean) / scale, 0.0), known


def _factorise(values, known):
  """Loadings and own variances by expectation maximisation."""
  size = values.shape[1]
  loading = 0.3 * np.random.default_rng(0).standard_normal((size, _FACTORS))
  own = np.full(size, 0.5)
  eye = np.eye(_FACTORS)
  for _ in range(_ROUNDS):
    weight = known / own
    products = np.einsum("dk,dl->dkl", loading, loading).reshape(size, -1)
    spreads = np.linalg.inv(
      eye + (weight @ products).reshape(-1, _FACTORS, _FACTORS)
    )
    factors = np.einsum("nkl,nl->nk", spreads, (weight * values) @ loading)
    squares = spreads + np.einsum("nk,nl->nkl", factors, factors)
    gram = (known.T.astype(float) @ squares.reshape(len(values), -1)).reshape(
      -1, _FACTORS, _FACTORS
    )
    cross = values.T @ factors
    loading = np.linalg.solve(gram + _RIDGE * eye, cross[..., None])[..., 0]
    own = np.sum(values**2, axis=0) - np.sum(loading * cross, axis=1)
    own = np.clip(own / np.maximum(known.sum(axis=0), 1), 0.02, 1.0)
    # Factors keep unit variance; without this their scale converges slowly
    # (Liu, Rubin and Wu 1998, Biometrika 85).
    loading = loading @ np.linalg.cholesky(squares.mean(axis=0))
  return loading, own


def _read_vid(path) -> Iterable[tuple[str, dict, dict]]:
  """Scans of a VID archive: name, bodies and pedicles in mm RAS+."""
  try:
    with tarfile.open(path) as archive:
      texts = {
        member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
        for member in archive.getmembers()
        if "GroundTruth" in member.name or "mapping" in member.name
        if member.isfile()
      }
  except (OSError, tarfile.TarError) as error:
    raise InputError(path, f"is no VID archive: {error}.") from error
  origin: dict[str, str] = {}
  for name, text in texts.items():
    if "mapping" in name:
      rows = csv.reader(text.decode().splitlines(), skipinitialspace=True)
      origin |= {row[0]: row[1] for row in rows if len(row) == 2}
  for name in sorted(texts):
    scan = os.path.basename(name).removesuffix(".json")
    if not name.endswith(".json") or is_held_back_by_verse(
      origin.get(scan, "")
    ):
      continue
    bodies: dict[str, np.ndarray] = {}
    sides: dict[str, list[np.ndarray]] = {"left": [], "right": []}
    for point in json.loads(texts[name]):
      place = np.array(point["coordinates"]["world_space"])
      place = place * (-1, -1, 1)  # LPS to RAS
      kind = point["type"]["keypoint_type"]
      if kind == "body":
        bodies[point["type"]["spine_level"]] = place
      else:
        sides[kind].append(place)
    yield _subject(origin.get(scan, scan)), bodies, _pair(bodies, sides)


def _subject(origin: str) -> str:
  """'.../sub-verse004/sub-verse004_dir-iso_ct.mha' -> 'verse004'."""
  name = os.path.basename(origin)
  return name[4:].split("_")[0] if name.startswith("sub-") else name


def _pair(bodies, sides) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Gives every body the nearest point of each side, where it has both."""
  pairs = {}
  for name, body in bodies.items():
    near = []
    for side, sign in (("left", -1), ("right", 1)):
      apart = [p - body for p in sides[side]]
      fits = [a for a in apart if np.linalg.norm(a) < 55 and sign * a[0] > 2]
      if fits:
        near.append(body + min(fits, key=np.linalg.norm))
    if len(near) == 2:
      pairs[name] = (near[0], near[1])
  return pairs


def _read_table(path) -> Iterable[tuple[str, dict, dict]]:
  """Scans of a landmark table: name, bodies in mm RAS+, no pedicles."""
  names = [v.name for v in VERTEBRAE if v.name != "T13"] + ["T13"]
  with open(path, encoding="utf-8", newline="") as file:
    for line, row in enumerate(csv.reader(file), start=1):
      try:
        values = np.array([float(cell) for cell in row[1:]]).reshape(-1, 3)
      except ValueError as error:
        raise InputError(path, f"line {line}: {error}.") from error
      if len(values) not in (len(names), len(names) - 1):
        raise InputError(path, f"line {line}: {len(values)} landmarks.")
      values = values * (-1, -1, 1)  # LPS to RAS
      bodies = {n: v for n, v in zip(names, values) if np.isfinite(v).all()}
      yield row[0].split("_")[0], bodies, {}


def main(arguments: Sequence[str]) -> None:
  """Fits the archives named and writes the parameters.

  Args:
    arguments: the file to write, then archives and tables.
  """
  model = fit(arguments[1:])
  data = io.BytesIO()
  np.savez_compressed(
    data,
    **{k: v.astype(np.float32) for k, v in dataclasses.asdict(model).items()},
  )
  write_bytes(arguments[0], data.getvalue())
  print(f"{len(data.getvalue())} bytes, {_SIZE} features, {_FACTORS} factors")


if __name__ == "__main__":
  main(sys.argv[1:])
