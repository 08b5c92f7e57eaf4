# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How much of the numbering by points can the detections of VID decide?

python benchmarks/numbering_limits.py vid_training.tar.xz \
  --scans DIR/scans.jsonl --out benchmarks/results

`scans.jsonl` is what `vf-jax train-numbering --cross-validate` wrote. The trees
need scikit-learn, which nothing else of vf_jax does.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import border_references as references
import measuring
import numpy as np
import series_truth

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

_SOURCES = {"VerSe": "verse", "Pancreas-CT": "Pancreas", "CT colonography": ""}
_COVERAGES = (1.0, 0.95, 0.9)
_SHIFTED = 1 / 3  # a scan that has fewer of its bodies right
_FOLDS = 5


def main() -> None:
  """Measures and writes `numbering_limits.json` and `.md`."""
  from vf_jax.io.keypoints import read_archive
  from vf_jax.train.numbering import prepare

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("archive", metavar="FILE")
  parser.add_argument("--scans", metavar="FILE", required=True)
  parser.add_argument("--out", metavar="DIR", default="benchmarks/results")
  options = parser.parse_args()
  prepared = prepare(read_archive(options.archive))
  lines = pathlib.Path(options.scans).read_text().splitlines()
  facts = measuring.facts()
  # Results are published; where the files lay on this machine is not.
  words = [pathlib.Path(word).name for word in sys.argv]
  results = {
    **facts,
    "command": " ".join(words),
    "sources": sources(prepared),
    "losses": losses(prepared, [json.loads(line) for line in lines]),
    "series": series_truth.compare_series(prepared),
    "references": decide(prepared),
  }
  stem = pathlib.Path(options.out) / "numbering_limits"
  stem.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
  stem.with_suffix(".md").write_text(render(results))
  print(render(results))


def source_of(origin: str) -> str:
  """Names the data set that a CT is from, by its path."""
  return next(name for name, word in _SOURCES.items() if word in origin)


def sources(prepared: Sequence[Any]) -> dict[str, dict[str, Any]]:
  """What the truth of each data set looks like, beside the detector's border.

  Args:
    prepared: from `vf_jax.train.numbering.prepare`.

  Returns:
    Source -> scans, bodies, the lowest true level, and bodies from the true to
    the detector's thoracolumbar junction, with how many scans.
  """
  from vf_jax.labels import VERTEBRAE

  found = references.borders(prepared)
  offsets = dict(zip(found.scans.tolist(), found.offsets.tolist()))
  out: dict[str, dict[str, Any]] = {}
  for name in _SOURCES:
    own = [
      (i, scan)
      for i, scan in enumerate(prepared)
      if source_of(scan.scan.origin) == name
    ]
    lowest = (VERTEBRAE[scan.scan.levels.max()].name for _, scan in own)
    border = collections.Counter(offsets[i] for i, _ in own if i in offsets)
    out[name] = {
      "scans": len(own),
      "bodies": sum(len(scan.scan.levels) for _, scan in own),
      "lowest": dict(collections.Counter(lowest).most_common()),
      "border": {str(k): border[k] for k in sorted(border)},
    }
  return out


def losses(
  prepared: Sequence[Any], scored: Sequence[dict[str, Any]]
) -> dict[str, dict[str, int]]:
  """Where the network loses bodies on scans that were held back.

  Args:
    prepared: from `vf_jax.train.numbering.prepare`.
    scored: lines of `scans.jsonl`.

  Returns:
    Source -> true bodies, those that were hit, and those that were not: no
    candidate is near them, the whole scan is shifted, or other reasons.
  """
  by_name = {scan.scan.name: scan for scan in prepared}
  out = {
    name: dict.fromkeys(
      ("bodies", "hit", "no candidate", "shifted", "other", "shifted scans"), 0
    )
    for name in _SOURCES
  }
  for line in scored:
    scan = by_name[line["scan"]]
    row = out[source_of(scan.scan.origin)]
    lost = line["true"] - line["hit"]
    row["bodies"] += line["true"]
    row["hit"] += line["hit"]
    missing = min(lost, line["true"] - int((scan.targets >= 0).sum()))
    shifted = line["hit"] < _SHIFTED * line["true"]
    row["no candidate"] += missing
    row["shifted" if shifted else "other"] += lost - missing
    row["shifted scans"] += shifted
  return out


def decide(prepared: Sequence[Any]) -> dict[str, Any]:
  """Scores the references on patients that were held back.

  Args:
    prepared: from `vf_jax.train.numbering.prepare`.

  Returns:
    Method -> share of bodies in scans with a border that it gets right, for
    several coverages; the share it expects; the share of all true bodies if
    nothing else were lost but those without a candidate; scans it gets wrong.
  """
  from vf_jax.train.numbering import patient_folds

  data = references.borders(prepared)
  fold = patient_folds([p.scan.patient for p in prepared], _FOLDS, 0)
  fold = fold[data.scans]
  origin = [source_of(prepared[i].scan.origin) for i in data.scans]
  shares = {"the detector's border": np.tile([0.0, 1.0, 0.0], (len(fold), 1))}
  shares["logistic regression"] = references.held_back(
    references.logistic, data, fold
  )
  try:
    shares["randomised trees"] = references.held_back(
      references.trees, data, fold
    )
  except ImportError:
    print("scikit-learn is not installed: the trees are left out.")
  true = sum(len(scan.scan.levels) for scan in prepared)
  matched = sum(int((scan.targets >= 0).sum()) for scan in prepared)
  out = {}
  for name, share in shares.items():
    right = share.argmax(axis=1) - 1 == data.offsets
    order = np.argsort(-share.max(axis=1), kind="stable")
    curve = []
    for coverage in _COVERAGES:
      kept = order[: round(coverage * len(order))]
      curve.append(float(np.average(right[kept], weights=data.bodies[kept])))
    shifted = int(data.bodies[~right].sum())
    wrong = collections.Counter(o for o, r in zip(origin, right) if not r)
    out[name] = {
      "scans": len(fold),
      "right": curve,
      "expected": float(np.average(share.max(axis=1), weights=data.bodies)),
      "of_all": (matched - shifted) / true,
      "wrong_scans": {source: wrong[source] for source in _SOURCES},
    }
  return out


def render(results: dict[str, Any]) -> str:
  """Renders the results for people."""
  from numbering_limits_table import text

  return text(results, _COVERAGES)


if __name__ == "__main__":
  main()
