# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Which lesions do weights find in prepared cases, and at how many false boxes?

    python benchmarks/lesions.py --store NAME=DIR[@WEIGHTS][:CASE,CASE] \
      [--store ...] --out benchmarks/results

Every case with an image and lesion boxes (or the named ones only) is predicted
whole, by weights of its own or those of the package; stores of one NAME are
counted together, as folds are. Whether the weights were trained on a case is
not known here: let NAME say it.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import measuring
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from vf_jax.evaluate.metrics import detection
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.predictor import Predictor, load
from vf_jax.infer.result import CaseResult, Lesion
from vf_jax.multispine.store import Store, StoredCase
from vf_jax.volume import Volume, from_network

_FALSE = (1, 2, 4)  # boxes a scan


def main() -> None:
  """Predicts all cases and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--store",
    action="append",
    required=True,
    type=_cases_of,
    metavar="NAME=DIR[@WEIGHTS][:CASE,CASE]",
  )
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # of scans; what counts is measured
  found: dict[str, list[dict[str, Any]]] = {}
  weights: dict[str, list[str]] = {}
  for asked in options.store:
    predictor = load(asked.weights or None)
    rows = [judge(predictor, case) for case in _cases(asked)]
    found.setdefault(asked.name, []).extend(rows)
    digests = weights.setdefault(asked.name, [])
    digests += {predictor.digest[:12]}.difference(digests)
    print(asked.name, summary(rows), flush=True)
  result = {
    "facts": measuring.facts(), "weights": weights, "stores": found
  }  # fmt: skip
  print(render(result))
  if options.out:
    measuring.write(options.out, "lesions", result, render(result))


@dataclasses.dataclass(frozen=True)
class _Asked:
  """Cases of a store and the weights that predict them; empty: all, ours."""

  name: str
  store: str
  weights: str
  cases: tuple[str, ...]


def _cases_of(word: str) -> _Asked:
  name, _, place = word.partition("=")
  place, _, cases = place.partition(":")
  store, _, weights = place.partition("@")
  return _Asked(name, store, weights, tuple(filter(None, cases.split(","))))


def _cases(asked: _Asked) -> list[StoredCase]:
  store = Store(asked.store)
  if missing := set(asked.cases).difference(store.names):
    raise SystemExit(f"{asked.store} has no case {sorted(missing)}")
  return [
    store.case(place)
    for place, record in enumerate(store.records)
    if "lesions" in record.annotates
    and "image" in store.case(place).arrays
    and (not asked.cases or record.case in asked.cases)
  ]


def judge(predictor: Predictor, case: StoredCase) -> dict[str, Any]:
  """Predicts a whole case and lists its boxes.

  Args:
    predictor: of the weights.
    case: prepared, with image and lesion boxes.

  Returns:
    Detected and true boxes, lower and upper corner, mm along the axes of the
    case; scores, falling.
  """
  record = case.record
  image = case.read_all({"image": AIR_HU}, (0, 0, 0), case.shape)["image"]
  affine = np.array(record.affine)
  found = predictor(
    Volume(np.asfortranarray(from_network(image)), affine), record.case
  )
  seen = by_score(found)
  turn, shift = affine[:3, :3], affine[:3, 3]
  return {
    "case": record.case,
    "scores": [lesion.score for lesion in seen],
    "found": corners([(v.centre_mm, v.size_mm) for v in seen]),
    "true": corners(
      [(turn @ box[2::-1] + shift, box[:2:-1]) for box in record.boxes]
    ),
  }


def by_score(result: CaseResult) -> list[Lesion]:
  """All boxes of a case, findings and candidates, by falling score.

  Args:
    result: of a prediction.

  Returns:
    The boxes.
  """
  boxes = [*result.lesions, *result.candidates]
  return sorted(boxes, key=lambda box: -box.score)


def corners(boxes: Sequence[tuple[Any, Any]]) -> list[list[list[float]]]:
  """Lower and upper corner of boxes.

  Args:
    boxes: centre and edges of each, mm.

  Returns:
    As JSON holds them.
  """
  return [
    [(np.array(c) + sign * np.array(size) / 2).tolist() for sign in (-1, 1)]
    for c, size in boxes
  ]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Numbers of one store.

  Args:
    rows: from `judge`.

  Returns:
    Scans, lesions, AP, and recall at some false boxes a scan, for boxes that
    overlap (IoU 0.1) and for centres within 10 mm.
  """
  result: dict[str, Any] = {
    "scans": len(rows),
    "lesions": sum(len(row["true"]) for row in rows),
  }
  for name, nearness, least in (
    ("iou", detection.box_iou, detection.AP_IOU),
    ("centre", detection.centre_nearness, -detection.NEAR_MM),
  ):
    scans = []
    for row in rows:
      true, seen = (
        np.array(row[key], float).reshape(-1, 2, 3) for key in ("true", "found")
      )
      scores = np.array(row["scores"], float)
      right = detection.match_scan(scores, nearness(seen, true), least)
      scans.append((scores, right, len(true)))
    pool = detection.pool_scans(scans)
    ones = pool.ones()
    result[name] = {
      "ap": float(detection.average_precision(pool, ones)[0]),
      "recall": detection.froc(pool, ones, _FALSE)[0].tolist(),
    }
  return result


def render(result: dict[str, Any]) -> str:
  """Renders the table.

  Args:
    result: content of lesions.json.

  Returns:
    Markdown.
  """
  facts = result["facts"]
  rows = []
  for name, cases in result["stores"].items():
    s = summary(cases)
    numbers = [
      f"{value:.2f}"
      for kind in ("iou", "centre")
      for value in (s[kind]["ap"], *s[kind]["recall"])
    ]
    weights = ", ".join(result["weights"][name])
    rows.append([name, weights, s["scans"], s["lesions"], *numbers])
  columns = [
    f"{what}, {kind}"
    for kind in ("IoU 0.1", "10 mm")
    for what in ("AP", *(f"recall at {n}" for n in _FALSE))
  ]
  return "\n\n".join(
    [
      "# Lesions",
      f"{measuring.origin(facts)}. Whole scans. Recall at so many "
      "false boxes a scan; a box is right if it overlaps a lesion (IoU 0.1), "
      "or if their centres lie within 10 mm.",
      measuring.table(["cases", "weights", "scans", "lesions", *columns], rows),
    ]
  )


if __name__ == "__main__":
  main()
