# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Does the trained network listen to its modulation unit?

The embedding of the scan's domain is replaced by one that does not depend on
the scan: the mean of all prototypes, or one prototype for everybody. What that
changes on cases that were not trained on is what the unit is worth there.

    python benchmarks/modulation_use.py --store HELD_OUT \
      --out benchmarks/results
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import warnings
from typing import Any

import default_weights
import measuring
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from vf_jax.infer.predictor import Predictor, load
from vf_jax.multispine.store import Store, StoredCase

OWN, MEAN = "of the scan", "mean of the prototypes"
_RESAMPLES = 2000


def main() -> None:
  """Predicts the cases with every embedding and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--store", required=True)
  parser.add_argument("--checkpoint", help="default: that of the package")
  parser.add_argument("--prototypes", type=int, default=3, metavar="N")
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # of scans; what counts is measured
  predictor = load(options.checkpoint)
  cases = first_of_domains(Store(options.store))
  table = predictor.params["modulation"]["prototypes"]
  step = max(1, len(table) // options.prototypes)
  rows = {MEAN: np.mean(table, axis=0)} | {
    f"prototype {i}": table[i]
    for i in list(range(0, len(table), step))[: options.prototypes]
  }
  found = {OWN: [default_weights.judge(predictor, case) for case in cases]}
  for name, row in rows.items():
    other = with_embedding(predictor, np.asarray(row))
    found[name] = [default_weights.judge(other, case) for case in cases]
    print(name, default_weights.summary(found[name]), flush=True)
  result = {
    "facts": measuring.facts(),
    "weights": predictor.digest,
    "apart": float(_apart(np.asarray(table))),
    "cases": found,
  }
  print(render(result))
  if options.out:
    measuring.write(options.out, "modulation_use", result, render(result))


def first_of_domains(store: Store) -> list[StoredCase]:
  """The first case with a mask of every domain.

  Args:
    store: prepared cases.

  Returns:
    Cases, in the order of the store.
  """
  first: dict[str, int] = {}
  for index, record in enumerate(store.records):
    if "masks" in record.annotates and record.centres:
      first.setdefault(record.domain, index)
  return [store.case(index) for index in first.values()]


def with_embedding(predictor: Predictor, row: np.ndarray) -> Predictor:
  """The same network with one embedding for every scan.

  Args:
    predictor: with prototypes.
    row: the embedding.

  Returns:
    A predictor whose prototypes are all this one.
  """
  unit = dict(predictor.params["modulation"])
  unit["prototypes"] = np.tile(row, (len(unit["prototypes"]), 1))
  params = dict(predictor.params) | {"modulation": unit}
  return dataclasses.replace(predictor, params=params)


def _apart(table: np.ndarray) -> float:
  """Mean distance of the prototypes from their mean, by its length."""
  mean = table.mean(axis=0)
  return np.linalg.norm(table - mean, axis=1).mean() / np.linalg.norm(mean)


def render(result: dict[str, Any]) -> str:
  """Renders the table."""
  facts, rows = result["facts"], []
  own = np.array([case["dice"] for case in result["cases"][OWN]])
  rng = np.random.default_rng(0)
  draws = rng.integers(0, len(own), (_RESAMPLES, len(own)))
  for name, cases in result["cases"].items():
    s = default_weights.summary(cases)
    change = np.array([case["dice"] for case in cases]) - own
    low, high = np.percentile(change[draws].mean(axis=1), [2.5, 97.5])
    told = f"{change.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
    rows.append(
      [
        name,
        f"{s['dice']:.3f}",
        "" if name == OWN else told,
        f"{s['found']} of {s['whole']}",
        f"{s['right']} of {s['bodies']}",
        f"{s['answered']} of {s['scans']}",
      ]
    )  # fmt: skip
  return "\n\n".join(
    [
      "# What the trained network makes of its modulation",
      f"{measuring.origin(facts)}, weights "
      f"{result['weights'][:12]}. Whole scans of the first case of every "
      f"domain ({len(own)}). The embedding that scales, shifts and gates every "
      "block is replaced by one that is the same for all scans. Prototypes lie "
      f"{result['apart']:.2f} of their mean's length from it. Intervals are of "
      "a bootstrap over cases.",
      measuring.table(
        [
          "embedding", "vertebra Dice", "change of Dice", "vertebrae found",
          "levels right", "scans answered",
        ],
        rows,
      ),
    ]
  )  # fmt: skip


if __name__ == "__main__":
  main()
