# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writes golden.json: what other packages measure on `drawn_pairs`.

By hand, in an environment with monai, torch, surface-distance, medpy,
picai-eval and scikit-learn:

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
from monai.metrics.utils import get_edge_surface_distance  # noqa: E402
from picai_eval.metrics import Metrics  # noqa: E402
from scipy.spatial.distance import cdist  # noqa: E402
from sklearn import metrics as sklearn  # noqa: E402
from surface_distance import lookup_tables  # noqa: E402

PACKAGES = (
  "monai", "surface-distance", "medpy", "picai-eval", "scikit-learn",
)  # fmt: skip
FROC_POINTS = (0.125, 0.25, 0.5, 1, 2, 4, 8)
LEAST_SCORE = 0.5
NEAR_MM = 10.0


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

  edges, distances, areas = get_edge_surface_distance(
    *(mask[0, 0].bool() for mask in batch),
    spacing=spacing,
    use_subvoxels=True,
    symmetric=True,
  )
  directions = [
    (d.double().numpy(), a[edge].double().numpy())
    for edge, d, a in zip(edges, distances, areas)
  ]
  average = monai.compute_average_surface_distance(
    *batch, include_background=True, symmetric=True, spacing=spacing
  )
  return {
    "surface-distance": {
      "hd": surface_distance.compute_robust_hausdorff(found, 100),
      "hd95": surface_distance.compute_robust_hausdorff(found, 95),
      "to_truth": float(to_truth),
      "to_prediction": float(to_prediction),
      "assd": mean_by_area(
        (found["distances_gt_to_pred"], found["surfel_areas_gt"]),
        (found["distances_pred_to_gt"], found["surfel_areas_pred"]),
      ),
      "nsd1": surface_distance.compute_surface_dice_at_tolerance(found, 1),
      "nsd2": surface_distance.compute_surface_dice_at_tolerance(found, 2),
      "dice": surface_distance.compute_dice_coefficient(truth, prediction),
    },
    "monai": {
      "hd": hausdorff(None).item(),
      "hd95": hausdorff(95).item(),
      "hd95_by_area": max(percentile_by_area(*d) for d in directions),
      "assd": average.item(),
      "assd_by_area": mean_by_area(*directions),
      "nsd1": surface_dice(1.0).item(),
      "nsd2": surface_dice(2.0).item(),
      "dice": monai.compute_dice(*batch, include_background=True).item(),
    },
    "medpy": {
      "hd": float(medpy.hd(prediction, truth, spacing)),
      "hd95": float(medpy.hd95(prediction, truth, spacing)),
      "assd": float(medpy.assd(prediction, truth, spacing)),
      "dice": float(medpy.dc(prediction, truth)),
    },
  }


def mean_by_area(*directions) -> float:
  """Over both surfaces together; each is (distances, areas)."""
  distances, areas = (np.concatenate(parts) for parts in zip(*directions))
  return float(np.average(distances, weights=areas))


def percentile_by_area(distances, areas) -> float:
  """The distance that 95 % of the area do not exceed."""
  return float(
    np.quantile(distances, 0.95, weights=areas, method="inverted_cdf")
  )


def detections(scans) -> dict:
  """AP, FROC, precision and recall by several packages."""
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
  lost = [n - int(r.sum()) for n, r in zip(lesions, right)]
  return {
    "monai": {name: float(value) for name, value in found.items()},
    "froc_monai": froc_of_monai(right, ordered, lesions),
    "picai": read_picai(right, ordered, lost),
    "sklearn": read_sklearn(right, ordered, lost),
    "near": [near_matches(*scan) for scan in scans],
  }


def froc_of_monai(right, scores, lesions) -> list[float]:
  """Sensitivity at each point.

  MONAI's curve leaves out the lowest score. `compute_fp_tp_probs` gives 0 to
  lesions that were missed, so that this is no detection's; here 0 always is
  among the scores, for the same reason.
  """
  right, scores = np.concatenate(right), np.concatenate(scores)
  curve = monai.compute_froc_curve_data(
    fp_probs=scores[~right],
    tp_probs=np.append(scores[right], 0.0),
    num_targets=sum(lesions),
    num_images=len(lesions),
  )
  return [
    float(monai.compute_froc_score(*curve, eval_thresholds=(point,)))
    for point in FROC_POINTS
  ]


def read_picai(right, scores, lost) -> dict:
  """AP, FROC by straight lines, counts at a score."""
  scans = {
    number: [(int(hit), float(score), 1.0 * hit) for hit, score in zip(r, s)]
    + [(1, 0.0, 0.0)] * n
    for number, (r, s, n) in enumerate(zip(right, scores, lost))
  }
  # The counts leave out the lowest score, which is to be that of no detection.
  scans[0].append((0, 0.0, 0.0))
  metrics = Metrics(scans)
  counts = metrics.calculate_counts()
  last = int((metrics.thresholds >= LEAST_SCORE).sum()) - 1
  hits, wrong = float(counts["TP"][last]), float(counts["FP"][last])
  wrong_a_scan, sensitivity = (
    [0, *curve[:-1]] for curve in (metrics.lesion_FPR, metrics.lesion_TPR)
  )
  return {
    "ap": float(metrics.AP),
    "froc": np.interp(FROC_POINTS, wrong_a_scan, sensitivity).tolist(),
    "precision": hits / (hits + wrong),
    "recall": hits / metrics.num_lesions,
  }


def read_sklearn(right, scores, lost) -> dict:
  """Precision and recall; a missed lesion is one that was scored 0."""
  is_lesion = np.append(np.concatenate(right), np.ones(sum(lost), bool))
  score = np.append(np.concatenate(scores), np.zeros(sum(lost)))
  told = score >= LEAST_SCORE
  return {
    "precision": float(sklearn.precision_score(is_lesion, told)),
    "recall": float(sklearn.recall_score(is_lesion, told)),
  }


def near_matches(scores, found, true) -> list[int]:
  """Which detections MONAI's matching takes as right, by centres."""

  def nearness(first, second):
    middles = [(b[:, :3] + b[:, 3:]) / 2 for b in (first, second)]
    return 1 / (1 + cdist(*middles))

  matched = matching_batch(
    iou_fn=nearness,
    iou_thresholds=[1 / (1 + NEAR_MM)],
    pred_boxes=[flat(found)],
    pred_classes=[np.zeros(len(found), int)],
    pred_scores=[scores],
    gt_boxes=[flat(true)],
    gt_classes=[np.zeros(len(true), int)],
  )[0]
  return matched[0]["dtMatches"][0].astype(int).tolist() if matched else []


def flat(boxes):
  """Corners to MONAI's x1 y1 z1 x2 y2 z2."""
  return boxes.reshape(-1, 6)


if __name__ == "__main__":
  main()
