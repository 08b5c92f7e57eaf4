# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which lesions grown into training crops do weights find?

    python benchmarks/grown_lesions.py --store STORE --weights NAME=DIR \
      [--weights ...] --out benchmarks/results

Real lesions with boxes are few. Every crop here is drawn and augmented as
configs/default.py does it, from a seed of its own: its lesions are new, its
spine is not. All weights judge the same crops; those without a vertebra of a
known place, and real patches, are left out.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import runpy
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import lesions
import measuring
import numpy as np

from vf_jax.config import from_config_dict
from vf_jax.data.augment.augmentation import augment
from vf_jax.data.augment.patches import Patches
from vf_jax.data.pipeline import make_batches
from vf_jax.errors import InputError
from vf_jax.evaluate.metrics import detection
from vf_jax.infer.predictor import load
from vf_jax.losses import Batch
from vf_jax.multispine.store import Store
from vf_jax.volume import Volume, from_network

_CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "default.py"
_SEED = 4096  # far from those of trainings
_SCORES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SIZES_MM = (0, 12, 18, 24, np.inf)


def main() -> None:
  """Judges all weights and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--store", metavar="DIR", required=True)
  parser.add_argument(
    "--weights", metavar="NAME=DIR", action="append", required=True
  )
  parser.add_argument(
    "--crops", type=int, default=120, help="drawn; a few are refused as no CT"
  )
  parser.add_argument("--chance", type=float, default=0.6, help="of lesions")
  parser.add_argument("--seed", type=int, default=_SEED)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # of scans; what counts is measured
  predictors = {}
  for word in options.weights:
    name, _, place = word.partition("=")
    predictors[name] = load(place or None)
  rows: dict[str, list[dict[str, Any]]] = {name: [] for name in predictors}
  crops = _crops(options.store, options.crops, options.chance, options.seed)
  for volume, true in crops:
    try:
      results = {n: p(volume, "crop") for n, p in predictors.items()}
    except InputError:  # without air, fat or marrow it seems to be no CT
      continue
    for name, found in results.items():
      seen = lesions.by_score(found)
      rows[name].append(
        {
          "scores": [v.score for v in seen],
          "found": lesions.corners([(v.centre_mm, v.size_mm) for v in seen]),
          "in_vertebra": [v.level is not None for v in seen],
          "true": true,
        }
      )
  result = {
    "facts": measuring.facts(),
    "weights": {name: p.digest[:12] for name, p in predictors.items()},
    "rows": rows,
  }
  print(render(result))
  if options.out:
    measuring.write(options.out, "grown_lesions", result, render(result))


def _crops(
  folder: str, count: int, chance: float, seed: int
) -> Iterator[tuple[Volume, list[Any]]]:
  """Crops with vertebrae, and the boxes of their lesions, mm."""
  values = runpy.run_path(str(_CONFIG))["get_config"]()
  values.data.store = folder
  values.data.batch = 1
  values.data.augment.lesion = chance
  values.train.seed = seed
  config = from_config_dict(values)
  edge_mm = config.model.spacing_mm
  affine = np.diag([edge_mm, edge_mm, edge_mm, 1.0])
  change = jax.jit(lambda p: augment(p, config.model, config.data.augment))
  batches = make_batches(Store(folder), config)
  while count:
    batch: Batch = jax.tree.map(
      lambda x: x[0], change(Patches(**next(batches)))
    )
    if not (batch.has_masks & batch.has_centre.any()):
      continue
    count -= 1
    image = np.asarray(batch.image).round().astype(np.int16)
    boxes = np.asarray(batch.boxes, float)[np.asarray(batch.box_mask)]
    # No box can be found whose centre lies outside.
    centres, last = boxes[:, :3], np.array(image.shape) - 1
    boxes = boxes[((centres >= 0) & (centres <= last)).all(axis=1)]
    true = [(box[2::-1] * edge_mm, box[:2:-1]) for box in boxes]
    volume = Volume(np.asfortranarray(from_network(image)), affine)
    yield volume, lesions.corners(true)


def calibration(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
  """How many boxes of each range of scores there are, and are right.

  Args:
    rows: of one set of weights.

  Returns:
    (boxes, right) for each range of `_SCORES`.
  """
  scores, right = [], []
  for row in rows:
    seen, true = _boxes(row, "found"), _boxes(row, "true")
    own = np.array(row["scores"], float)
    near = detection.box_iou(seen, true)
    scores.append(own)
    right.append(detection.match_scan(own, near, detection.AP_IOU))
  bins = np.digitize(np.concatenate(scores), _SCORES[1:-1])
  keep = np.concatenate(scores) >= _SCORES[0]
  hit = np.concatenate(right)
  return [
    (int((keep & (bins == k)).sum()), int((keep & hit & (bins == k)).sum()))
    for k in range(len(_SCORES) - 1)
  ]


def by_size(rows: list[dict[str, Any]], least: float) -> list[tuple[int, int]]:
  """How many lesions of each size there are, and are found.

  Args:
    rows: of one set of weights.
    least: score of the boxes that count.

  Returns:
    (lesions, found) for each range of `_SIZES_MM`, the mean edge of a box.
  """
  out = np.zeros((len(_SIZES_MM) - 1, 2), int)
  for row in rows:
    true = _boxes(row, "true")
    seen = _boxes(row, "found")[np.array(row["scores"], float) >= least]
    near = detection.box_iou(true, seen) >= detection.AP_IOU
    size = (true[:, 1] - true[:, 0]).mean(axis=1)
    for place, hit in zip(np.digitize(size, _SIZES_MM[1:-1]), near.any(axis=1)):
      out[place] += (1, hit)
  return [(int(a), int(b)) for a, b in out]


def _boxes(row: dict[str, Any], key: str) -> np.ndarray:
  return np.array(row[key], float).reshape(-1, 2, 3)


def _in_vertebrae(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The same without boxes that sit in no vertebra."""
  out = []
  for row in rows:
    keep = [k for k, inside in enumerate(row["in_vertebra"]) if inside]
    out.append(
      row | {key: [row[key][k] for k in keep] for key in ("scores", "found")}
    )
  return out


def render(result: dict[str, Any]) -> str:
  """Renders the tables.

  Args:
    result: content of grown_lesions.json.

  Returns:
    Markdown.
  """
  facts, recall, bins = result["facts"], [], []
  for name, rows in result["rows"].items():
    for which, own in (("all", rows), ("in vertebrae", _in_vertebrae(rows))):
      s = lesions.summary(own)["iou"]
      sizes = [f"{b} of {a}" for a, b in by_size(own, 0.2)]
      numbers = [f"{value:.2f}" for value in (s["ap"], *s["recall"])]
      recall.append([name, which, *numbers, *sizes])
      bins.append([name, which, *(f"{b}/{a}" for a, b in calibration(own))])
  first = next(iter(result["rows"].values()))
  count = sum(len(row["true"]) for row in first)
  ranges = [f"{a:.2g}-{b:.2g}" for a, b in itertools.pairwise(_SCORES)]
  sizes = [f"{a}-{b} mm" for a, b in itertools.pairwise(_SIZES_MM)]
  weights = ", ".join(f"{n}: {v}" for n, v in result["weights"].items())
  return "\n\n".join(
    [
      "# Lesions grown into training crops",
      f"{measuring.origin(facts)}. {len(first)} crops with {count} "
      f"lesions. Weights {weights}. A box is right if it overlaps a lesion "
      "(IoU 0.1). Recall at so many false boxes a crop; of lesions by size, "
      "from score 0.2 on.",
      measuring.table(
        [
          "weights", "boxes", "AP", "recall at 1", "at 2", "at 4", *sizes
        ],
        recall,
      ),
      "Boxes that are right, of those of each range of scores:",
      measuring.table(["weights", "boxes", *ranges], bins),
    ]
  )  # fmt: skip


if __name__ == "__main__":
  main()
