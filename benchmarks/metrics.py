# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How long do surface metrics and intervals take, beside the packages?

Surfaces: HD95 and the surface Dice at 1 and 2 mm of one vertebra, masks and
sub-voxel surfaces the same, with surface-distance and MONAI. Intervals: BCa of
a lesion AP over patients, 10,000 replicates, with `scipy.stats.bootstrap`
over an AP that is recomputed from the resampled scans. Everything takes turns
in one process and on one thread; processor time counts, so that a busy machine
changes little. Needs surface-distance, and the extra `peers` for MONAI.

    python benchmarks/metrics.py --out benchmarks/results
"""

from __future__ import annotations

import os

# Before the libraries start their threads.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import importlib.metadata
import json
import pathlib
import time
import warnings

import measuring
import numpy as np

PEERS = ("surface-distance", "monai", "scipy")


def main() -> None:
  """Measures in turn, checks that the answers agree, writes the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--peers",
    type=lambda text: text.split(","),
    default=PEERS,
    metavar="NAME,...",
  )
  parser.add_argument("--patients", type=int, default=60)
  parser.add_argument("--replicates", type=int, default=10_000)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")
  results = {}
  for spacing in (1.0, 0.5):
    name = f"one vertebra, {spacing:g} mm voxels"
    results[name] = measure(surfaces(spacing, options.peers), options.rounds)
  name = f"AP of {options.patients} patients, {options.replicates:,} replicates"
  results[name] = measure(intervals(options.patients, options.replicates), 2)
  report(results, options)


def measure(jobs, rounds: int) -> dict:
  """Runs jobs in turn; seconds of each round, and what they found."""
  found = {name: job() for name, job in jobs.items()}
  seconds: dict[str, list[float]] = {name: [] for name in jobs}
  for _ in range(rounds):
    for name, job in jobs.items():
      began = time.process_time()
      job()
      seconds[name].append(time.process_time() - began)
  return {"seconds": seconds, "found": found}


def surfaces(spacing: float, peers) -> dict:
  """One vertebra of the size of L3, body and arch, and a prediction of it."""
  # surface-distance 0.1 is older than NumPy 2.
  np.NaN, np.Inf = np.nan, np.inf  # noqa: NPY201
  import surface_distance

  from vf_jax.evaluate.metrics.surface import surface_distances

  shape = tuple(int(mm / spacing) for mm in (96, 84, 56))
  x, y, z = (
    np.indices(shape) * spacing - np.array([48, 42, 28])[:, None, None, None]
  )
  bump = np.sin(x / 7) + np.sin(y / 5) + np.sin(z / 6)

  def bone(grown):
    body = (x / 24) ** 2 + ((y - 18) / 17) ** 2 + (z / 15) ** 2
    arch = (np.abs(x) / 40) ** 2 + ((y + 14) / 20) ** 2 + (z / 9) ** 2
    return np.minimum(body, arch) + 0.05 * bump <= 1 + grown

  truth, prediction = bone(0.0), bone(0.06)
  prediction = np.roll(prediction, 1, axis=0)
  steps, triple = np.diag([spacing] * 3), (spacing,) * 3

  def ours():
    found = surface_distances(prediction, truth, steps)
    return [found.hausdorff(95), *map(found.surface_dice, (1, 2))]

  def deepmind():
    found = surface_distance.compute_surface_distances(
      truth, prediction, triple
    )
    return [
      float(surface_distance.compute_robust_hausdorff(found, 95)),
      *(
        float(surface_distance.compute_surface_dice_at_tolerance(found, mm))
        for mm in (1, 2)
      ),
    ]

  jobs = {"vf_jax": ours, "surface-distance": deepmind}
  if "monai" not in peers:
    return jobs
  import torch
  from monai import metrics as monai

  torch.set_num_threads(1)
  batch = [
    torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)
  ]

  def with_monai():
    far = monai.compute_hausdorff_distance(
      *batch, include_background=True, percentile=95, spacing=triple
    )
    near = [
      monai.compute_surface_dice(
        *batch,
        class_thresholds=[mm],
        include_background=True,
        spacing=triple,
        use_subvoxels=True,
      ).item()
      for mm in (1.0, 2.0)
    ]
    return [far.item(), *near]

  return jobs | {"monai": with_monai}


def intervals(patients: int, replicates: int) -> dict:
  """Lesions of patients: some found, some missed, some invented."""
  from scipy import stats

  from vf_jax.evaluate.bootstrap import bootstrap, draw_patients
  from vf_jax.evaluate.metrics.detection import average_precision, pool_scans

  random = np.random.default_rng(0)
  scans = []
  for _ in range(patients):
    scores = -np.sort(-random.random(random.integers(1, 8)))
    right = random.random(len(scores)) < scores
    scans.append((scores, right, int(right.sum() + random.integers(0, 2))))
  pool = pool_scans(scans)

  def ours():
    draws = draw_patients(patients, replicates)
    found = bootstrap(lambda weights: average_precision(pool, weights), draws)
    return [found.low, found.high]

  points = np.linspace(0, 1, 101)

  def ap(index):
    chosen = [scans[i] for i in index]
    scores = np.concatenate([s for s, _, _ in chosen])
    right = np.concatenate([r for _, r, _ in chosen])
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    recall = hits / sum(count for _, _, count in chosen)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, points)
    return np.append(envelope, 0)[place].mean()

  def with_scipy():
    found = stats.bootstrap(
      (np.arange(patients),),
      ap,
      n_resamples=replicates,
      vectorized=False,
      method="BCa",
      rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]

  return {"vf_jax": ours, "scipy": with_scipy}


def report(results: dict, options: argparse.Namespace) -> None:
  """Prints ratios, and writes them if asked to."""
  facts = measuring.facts()
  facts["peers"] = {
    name: importlib.metadata.version(name) for name in options.peers
  }
  rows = []
  for name, result in results.items():
    own = result["seconds"]["vf_jax"]
    for peer, seconds in result["seconds"].items():
      if peer == "vf_jax":
        continue
      ratios = sorted(theirs / ours for theirs, ours in zip(seconds, own))
      values = result["found"]
      apart = np.abs(np.subtract(values["vf_jax"], values[peer])).max()
      rows.append(
        [
          name,
          peer,
          len(ratios),
          f"{measuring.median(ratios):.1f}",
          f"{ratios[0]:.1f} - {ratios[-1]:.1f}",
          f"{apart:.1e}",
        ]
      )
  header = ("job", "peer", "rounds", "times as long", "range",
            "largest difference")  # fmt: skip
  table = measuring.table(header, rows)
  print(table)
  if options.out:
    out = pathlib.Path(options.out)
    content = json.dumps({"facts": facts, "results": results}, indent=1)
    (out / "metrics.json").write_text(content + "\n", encoding="utf-8")
    text = (
      "# Metrics beside the packages\n\n"
      "How many times the processor time of vf_jax the peer takes, one thread "
      "each, in turn in one process: median and range of the rounds' "
      "ratios. The AP has two rounds, whatever `--rounds` says.\n\n"
      f"{table}\n\n{facts['date']}, {facts['machine']}, commit "
      f"{facts['commit']}; "
      + ", ".join(f"{n} {v}" for n, v in facts["peers"].items())
      + f". `{facts['command']}`\n\n"
      "The difference is that of the answers (HD95 in mm, surface Dice, ends "
      "of the interval). MONAI's HD95 takes voxels as surface, where ours lies "
      "between them.\n"
    )
    (out / "metrics.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
  main()
