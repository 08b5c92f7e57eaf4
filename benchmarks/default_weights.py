# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How good are weights on prepared cases: masks, levels, and when they abstain.

    python benchmarks/default_weights.py --store HELD_OUT \
      --weights before=OLD --weights now=vf_jax/assets/weights \
      --out benchmarks/results

Every case of the stores with an image and levels is predicted whole by every
set of weights. Intervals are of a bootstrap over cases.

`--sides-mm 30` leaves that much beside, before and behind the centres of the
bodies, all of them in one box, as a narrow field of view does, which cuts
processes and ribs; the table is another then (narrow_fields).
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import warnings
from typing import Any

import measuring
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.hounsfield import AIR_HU
from vf_jax.infer.plausibility import is_anchored
from vf_jax.infer.predictor import Predictor, load
from vf_jax.labels import IGNORE
from vf_jax.multispine.store import Store, StoredCase
from vf_jax.volume import Volume, from_network

_NEAR_MM = 15.0  # a found body belongs to a true one up to here
GOOD = 0.7
"""Dice of an instance that counts as found."""
_RESAMPLES = 2000


def main() -> None:
  """Predicts all cases with all weights and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--store", action="append", required=True)
  parser.add_argument(
    "--weights", action="append", required=True, metavar="NAME=DIR"
  )
  parser.add_argument("--sides-mm", type=_positive, metavar="MM")
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # of scans; what counts is measured
  cases = [c for path in options.store for c in _cases(Store(path))]
  found: dict[str, list[dict[str, Any]]] = {}
  digests = {}
  for word in options.weights:
    name, _, path = word.partition("=")
    predictor = load(path)
    digests[name] = predictor.digest
    found[name] = []
    for case in cases:
      found[name].append(judge(predictor, case, options.sides_mm))
      print(name, found[name][-1], flush=True)
  result = {
    "facts": measuring.facts(),
    "weights": digests,
    "sides_mm": options.sides_mm,
    "cases": found,
  }
  print(render(result))
  if options.out:
    narrow = options.sides_mm is not None
    table = "narrow_fields" if narrow else "default_weights"
    measuring.write(options.out, table, result, render(result))


def _positive(text: str) -> float:
  number = float(text)
  if not number > 0:
    raise argparse.ArgumentTypeError(f"{text} is not above 0")
  return number


def _cases(store: Store) -> list[StoredCase]:
  cases = map(store.case, range(len(store)))
  return [c for c in cases if "image" in c.arrays and c.record.centres]


def judge(
  predictor: Predictor, case: StoredCase, sides_mm: float | None = None
) -> dict[str, Any]:
  """Predicts a whole case and compares.

  Args:
    predictor: the weights.
    case: prepared, with image and body centres.
    sides_mm: what is left of the scan around the centres of all bodies, to the
      sides, to the front and to the back; all of it if None.

  Returns:
    Levels that are right (a body of that name within 15 mm), Dice of vertebra
    where there is a mask, whole vertebrae found as one instance, abstention.
  """
  record = case.record
  fills = {"image": AIR_HU, "labels": IGNORE}
  affine = np.array(record.affine)
  start, shape = (0, 0, 0), case.shape
  if sides_mm is not None:
    start, shape = _narrowed(record.centres, affine, case.shape, sides_mm)
  arrays = case.read_all(fills, start, shape)
  truth = np.asfortranarray(from_network(arrays["labels"]))
  image = np.asfortranarray(from_network(arrays["image"]))
  corner = affine.copy()
  corner[:3, 3] += affine[:3, :3] @ start[::-1]
  result = predictor(Volume(image, corner), record.case)
  right = 0
  for code, position in record.centres.items():
    place = affine[:3, :3] @ np.array(position[::-1]) + affine[:3, 3]
    right += any(
      v.code == code
      and np.linalg.norm(np.array(v.centre_mm) - place) < _NEAR_MM
      for v in result.vertebrae
    )
  row: dict[str, Any] = {
    "case": record.case,
    "domain": record.domain,
    "mask": record.mask_kind,
    "bodies": len(record.centres),
    "right": int(right),
    "abstained": bool(result.abstained),
    # Whether there is a place to count from that the sides do not cut.
    "whole_anchor": is_anchored(
      {v.level for v in result.vertebrae if v.complete}
    ),
    "cut": sum(not v.complete for v in result.vertebrae),
    "named": len(result.vertebrae),
    "dice": None,
  }
  if "masks" in record.annotates:
    known = truth != IGNORE
    row["dice"] = float(dice((result.mask > 0) & known, (truth > 0) & known))
    whole = [c for c in record.centres if c not in record.cut]
    row["whole"] = len(whole)
    row["found"] = sum(
      found_as(np.where(known, result.mask, 0), truth == code) > 0
      for code in whole
    )
  return row


def _narrowed(centres, affine, shape, sides_mm: float):
  """Start and shape of the whole depth near the bodies."""
  places = np.array(list(centres.values()))  # depth, height, width
  margin = sides_mm / np.linalg.norm(affine[:3, :3], axis=0)[::-1]
  first = np.maximum(0, np.floor(places.min(axis=0) - margin)).astype(int)
  stop = np.ceil(places.max(axis=0) + margin).astype(int) + 1
  stop = np.minimum(shape, stop)
  first[0], stop[0] = 0, shape[0]
  return tuple(first.tolist()), tuple((stop - first).tolist())


def found_as(mask: np.ndarray, own: np.ndarray) -> int:
  """Which instance a true vertebra was found as, whatever it is called.

  Args:
    mask: predicted VerSe codes.
    own: True in the true vertebra.

  Returns:
    The code of the instance with a Dice of `GOOD` and more; 0 if there is none.
  """
  counts = np.bincount(mask[own], minlength=2)
  counts[0] = 0
  best = int(counts.argmax())
  return best if counts[best] and dice(mask == best, own) >= GOOD else 0


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Numbers of one set of weights.

  Args:
    rows: from `judge`.

  Returns:
    Mean Dice and its interval, shares, counts of scans.
  """
  scores = np.array([r["dice"] for r in rows if r["dice"] is not None])
  rng = np.random.default_rng(0)
  draws = rng.choice(scores, (_RESAMPLES, len(scores))).mean(axis=1)
  answered = [r for r in rows if not r["abstained"]]
  return {
    "dice": float(scores.mean()),
    "interval": [float(v) for v in np.percentile(draws, [2.5, 97.5])],
    "least": float(scores.min()),
    "found": sum(r.get("found", 0) for r in rows),
    "whole": sum(r.get("whole", 0) for r in rows),
    "right": sum(r["right"] for r in rows),
    "bodies": sum(r["bodies"] for r in rows),
    "answered": len(answered),
    "answered_right": sum(r["right"] == r["bodies"] for r in answered),
    "scans": len(rows),
  }


def render(result: dict[str, Any]) -> str:
  """Renders the tables."""
  facts, sides = result["facts"], result.get("sides_mm")
  field = "Whole scans."
  if sides is not None:
    field = (
      f"Of every scan the whole depth and {sides:g} mm beside, before and "
      "behind the centres of all bodies."
    )
  rows = []
  for name, cases in result["cases"].items():
    s = summary(cases)
    low, high = s["interval"]
    rows.append(
      [
        f"{name} ({result['weights'][name][:12]})",
        f"{s['dice']:.3f} [{low:.3f}, {high:.3f}], {s['least']:.3f}",
        f"{s['found']} of {s['whole']}",
        f"{s['right']} of {s['bodies']}",
        f"{s['answered']} of {s['scans']}",
        str(s["answered_right"]),
      ]
    )
  names = list(result["cases"])
  each = []
  for number, case in enumerate(result["cases"][names[0]]):
    row = [case["case"], case["domain"], case["mask"]]
    for name in names:
      own = result["cases"][name][number]
      score = "" if own["dice"] is None else f"{own['dice']:.3f}, "
      silent = ", abstained" if own["abstained"] else ""
      row.append(f"{score}{own['right']}/{own['bodies']}{silent}")
    each.append(row)
  return "\n\n".join(
    [
      "# Weights on cases" + ("" if sides is None else " with a narrow field"),
      f"{measuring.origin(facts)}. {field} Found: whole "
      f"vertebrae that are one instance with a Dice of {GOOD} and more. A "
      "scan is right if every true body was found under its level; superfluous "
      "ones are not counted. Abstention by today's rules for all weights.",
      measuring.table(
        [
          "weights", "vertebra Dice: mean, 95 % interval, least",
          "vertebrae found", "levels right", "scans answered",
          "answered and right",
        ],
        rows,
      ),
      *(_cut(n, cases) for n, cases in result["cases"].items() if sides),
      measuring.table(
        ["case", "domain", "mask", *(f"{n}: Dice, levels" for n in names)],
        each,
      ),
    ]
  )  # fmt: skip


def _cut(name: str, cases: list[dict[str, Any]]) -> str:
  """What a narrow field cuts, and the scans that are answered all the same."""
  rest = [c for c in cases if not c["abstained"] and not c["whole_anchor"]]
  right = sum(c["right"] == c["bodies"] for c in rest)
  return (
    f"{name}: of {sum(c['named'] for c in cases)} vertebrae that were named "
    f"{sum(c['cut'] for c in cases)} are cut. In {len(rest)} scans that are "
    "answered the levels are counted from vertebrae that the sides cut; "
    f"{right} of these are right."
  )


if __name__ == "__main__":
  main()
