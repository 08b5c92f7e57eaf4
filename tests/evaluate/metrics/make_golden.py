# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes golden.json: what other packages measure on `drawn_pairs`.

By hand, in an environment with monai, torch, surface-distance, medpy and
picai-eval:

    python tests/evaluate/metrics/make_golden.py
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import warnings

import drawn_pairs
import numpy as np

# surface-distance 0.1 is older than NumPy 2.
np.NaN, np.Inf = np.nan, np.inf  # noqa: NPY201

import surface_distance  # noqa: E402
import torch  # noqa: E402
from medpy.metric import binary as medpy  # noqa: E402
from monai import metrics as monai  # noqa: E402
from monai.apps.detection.metrics.coco import COCOMetric  # noqa: E402
from monai.apps.detection.metrics.matching import (  # noqa: E402
  matching_batch,
)
from monai.data.box_utils import box_iou  # noqa: E402
from picai_eval.metrics import Metrics  # noqa: E402
from surface_distance import lookup_tables  # noqa: E402

PACKAGES = ("monai", "surface-distance", "medpy", "picai-eval")


def main() -> None:
  """Measures everything and writes the file beside this one."""
  warnings.simplefilter("ignore")
  content = {
    "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    "surfels": {
      str(spacing): surfel_areas(spacing)
      for spacing in ((1.0, 1.0, 1.0), (0.8, 0.8, 2.0), (0.3, 2.0, 0.7))
    },
    "surfaces": {
      name: surfaces(*pair)
      for name, pair in drawn_pairs.surface_pairs().items()
    },
    "detections": {
      "golden": detections(drawn_pairs.golden_scans()),
      **{
        str(seed): detections(drawn_pairs.random_scans(12, seed))
        for seed in range(4)
      },
    },
  }
  path = pathlib.Path(__file__).with_name("golden.json")
  path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def surfel_areas(spacing) -> list[float]:
  """Areas by our code: their bits stand the other way round."""
  table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
  return [float(table[int(f"{code:08b}"[::-1], 2)]) for code in range(256)]


def surfaces(prediction, truth, spacing) -> dict:
  """Distances by three packages."""
  found = surface_distance.compute_surface_distances(truth, prediction, spacing)
  to_prediction, to_truth = surface_distance.compute_average_surface_distance(
    found
  )
  batch = [
    torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)
  ]

  def hausdorff(percentile):
    return monai.compute_hausdorff_distance(
      *batch, include_background=True, percentile=percentile, spacing=spacing
    )

  def surface_dice(tolerance):
    return monai.compute_surface_dice(
      *batch,
      class_thresholds=[tolerance],
      include_background=True,
      spacing=spacing,
      use_subvoxels=True,
    )

  return {
    "surface-distance": {
      "hd": surface_distance.compute_robust_hausdorff(found, 100),
      "hd95": surface_distance.compute_robust_hausdorff(found, 95),
      "to_truth": float(to_truth),
      "to_prediction": float(to_prediction),
      "nsd1": surface_distance.compute_surface_dice_at_tolerance(found, 1),
      "nsd2": surface_distance.compute_surface_dice_at_tolerance(found, 2),
      "dice": surface_distance.compute_dice_coefficient(truth, prediction),
    },
    "monai": {
      "hd": hausdorff(None).item(),
      "nsd1": surface_dice(1.0).item(),
      "nsd2": surface_dice(2.0).item(),
      "dice": monai.compute_dice(*batch, include_background=True).item(),
    },
    "medpy": {
      "hd": float(medpy.hd(prediction, truth, spacing)),
      "dice": float(medpy.dc(prediction, truth)),
    },
  }


def detections(scans) -> dict:
  """AP and FROC: nnDetection's as MONAI has it, and picai's."""
  boxes = [flat(found) for _, found, _ in scans]
  truth = [flat(true) for _, _, true in scans]
  scores = [score for score, _, _ in scans]
  metric = COCOMetric(
    classes=["lesion"], iou_list=[0.1, 0.5], iou_range=(0.1, 0.5, 0.05)
  )
  matched = matching_batch(
    iou_fn=lambda a, b: box_iou(a, b),
    iou_thresholds=metric.iou_thresholds,
    pred_boxes=boxes,
    pred_classes=[np.zeros(len(b), int) for b in boxes],
    pred_scores=scores,
    gt_boxes=truth,
    gt_classes=[np.zeros(len(b), int) for b in truth],
  )
  result = metric(matched)[0]
  found = {
    key: value
    for name, value in result.items()
    for key in [name.split("_MaxDet")[0]]
    if name.startswith(("AP_IoU", "mAP"))
  }
  first = metric.iou_thresholds.searchsorted(0.1 - 1e-9)
  # A scan with neither boxes nor lesions has no class.
  nothing = {
    "dtMatches": np.zeros((len(metric.iou_thresholds), 0)),
    "dtScores": np.zeros(0),
  }
  one = [scan.get(0, nothing) for scan in matched]
  right = [scan["dtMatches"][first].astype(bool) for scan in one]
  ordered = [scan["dtScores"] for scan in one]
  lesions = [len(true) for true in truth]
  scans_of = [
    [(int(hit), float(score), 1.0 * hit) for hit, score in zip(r, s)]
    + [(1, 0.0, 0.0)] * (n - int(r.sum()))
    for r, s, n in zip(right, ordered, lesions)
  ]
  curve = monai.compute_froc_curve_data(
    fp_probs=np.concatenate([s[~r] for s, r in zip(ordered, right)]),
    tp_probs=np.concatenate([s[r] for s, r in zip(ordered, right)]),
    num_targets=sum(lesions),
    num_images=len(scans),
  )
  points = (0.125, 0.25, 0.5, 1, 2, 4, 8)
  return {
    "monai": {name: float(value) for name, value in found.items()},
    "picai": {"ap": float(Metrics(dict(enumerate(scans_of))).AP)},
    "froc": {
      "monai": float(monai.compute_froc_score(*curve, eval_thresholds=points))
    },
  }


def flat(boxes):
  """Corners to MONAI's x1 y1 z1 x2 y2 z2."""
  return boxes.reshape(-1, 6)


if __name__ == "__main__":
  main()
