# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`vf-jax train-numbering`: from the archive to weights and a dated table."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from vf_jax.io.atomic import make_folder, write_text
from vf_jax.io.keypoints import is_held_back_by_verse, read_archive
from vf_jax.io.named_arrays import write_arrays
from vf_jax.labels import VERTEBRAE
from vf_jax.telemetry import run_facts
from vf_jax.threads import usable_cores
from vf_jax.train.numbering import (
  cross_validate,
  prepare,
  train_members,
)
from vf_jax.train.numbering_config import NumberingConfig
from vf_jax.train.numbering_scores import ScanScore, coverage_curve, summarise

_UNMEASURED = 0.8  # threshold of confidence when nothing was held back


def train_numbering(
  data: str | os.PathLike[str],
  out: str | os.PathLike[str],
  config: NumberingConfig,
  folds: int = 0,
  report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Trains on all scans and, if asked, measures on scans held back first.

  Writes `weights.npz`, `weights.json`, `metrics.json`, `numbering.md` and,
  with folds, `scans.jsonl`, one line for every scan.

  Args:
    data: the VID archive.
    out: folder of what is written.
    config: the experiment.
    folds: parts of the cross-validation; 0 for none.
    report: told of progress.

  Returns:
    What `metrics.json` holds.

  Raises:
    InputError: the archive is refused, or the folder cannot be written.
    ConfigError: too many folds.
  """
  folder = pathlib.Path(out)
  make_folder(folder)
  facts = {"date": datetime.date.today().isoformat(), **run_facts()}
  # Results are published; where the files lay on this machine is not.
  words = [os.path.basename(word) for word in facts["command"][1:]]
  facts["command"] = ["vf-jax", *words]
  facts["cores"] = usable_cores()
  scans = [
    scan
    for scan in read_archive(data)
    if not (config.spare_verse and is_held_back_by_verse(scan.origin))
  ]
  prepared = prepare(scans)
  report(f"{len(prepared)} scans")
  measured: dict[str, Any] | None = None
  threshold = _UNMEASURED
  if folds:
    scores = cross_validate(prepared, config, folds, report)
    measured = summarise(scores)
    threshold = coverage_curve(scores, (config.coverage,))[0]["threshold"]
    lines = (json.dumps(_line(score)) for score in scores)
    write_text(folder / "scans.jsonl", "\n".join(lines) + "\n")
  members = train_members(prepared, config, report)
  arrays = {"/".join(k): v for k, v in flatten_dict(members).items()}
  digest = write_arrays(
    folder / "weights.npz",
    arrays,
    {
      "model": {
        "width": config.width,
        "depth": config.depth,
        "heads": config.heads,
      },
      "members": config.members,
      "levels": [level.name for level in VERTEBRAE],
      "abstain_below": threshold,
      "trained_on": f"{len(prepared)} scans of VID, CC BY-SA 4.0",
      "licence": "CC-BY-SA-4.0",
    },
  )
  metrics = {
    **facts,
    "config": dataclasses.asdict(config),
    "weights_sha256": digest,
    "parameters": sum(v.size for v in arrays.values()),
    "abstain_below": threshold,
    "folds": folds,
    "held_back": measured,
  }
  write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
  write_text(folder / "numbering.md", table(metrics))
  return metrics


def table(metrics: Mapping[str, Any]) -> str:
  """Renders the numbers for people.

  Args:
    metrics: what `train_numbering` returns.

  Returns:
    Markdown.
  """
  head = (
    "# Numbering by points\n\n"
    f"{metrics['date']}, `{' '.join(metrics['command'])}`, commit "
    f"{metrics['git']}, {metrics['platform']}, {metrics['cores']} cores, "
    f"Python {metrics['python']}, jax {metrics['packages'].get('jax')}.\n"
  )
  held = metrics["held_back"]
  if held is None:
    return head + "\nNothing was held back, so nothing is reported.\n"
  low, high = held["identification_rate_95"]
  by_fold = ", ".join(_share(x) for x in held["identification_rate_by_fold"])
  rows = [
    ["scans, patients", f"{held['scans']}, {held['patients']}"],
    ["true bodies", str(held["true_bodies"])],
    ["identification rate", _share(held["identification_rate"])],
    ["... 95 % interval over patients", f"{_share(low)} to {_share(high)}"],
    ["... by fold", by_fold],
    [
      f"... usual anatomy, {held['usual_anatomy']['scans']} scans",
      _share(held["usual_anatomy"]["identification_rate"]),
    ],
    [
      f"... hard, {held['hard']['scans']} scans",
      _share(held["hard"]["identification_rate"]),
    ],
    ["scans with everything right", _share(held["all_right"])],
    ["precision of kept bodies", _share(held["precision"])],
    ["expected calibration error", f"{held['calibration_error']:.4f}"],
    ["abstains below confidence", f"{metrics['abstain_below']:.3f}"],
  ]
  parts = [
    head,
    f"Every patient was held back once ({metrics['folds']} folds). A true "
    "body counts if the same level is predicted within 20 mm. Hard: the "
    "detected bodies and the true ones do not match one to one within 20 mm "
    "(the data set names no hard subset; this is ours).\n",
    _render(["", "held back"], rows),
    "Variants, as the truth has them:\n",
    _render(
      ["variant", "scans", "found", "claimed elsewhere", "rate"],
      [
        [
          name,
          str(v["scans"]),
          str(v["found"]),
          str(v["claimed_elsewhere"]),
          "" if v["scans"] == 0 else _share(v["identification_rate"]),
        ]
        for name, v in held["variants"].items()
      ],
    ),
    "If only the surest scans are answered:\n",
    _render(
      ["coverage", "confidence from", "identification rate", "all right"],
      [
        [
          _share(row["coverage"]),
          f"{row['threshold']:.3f}",
          _share(row["identification_rate"]),
          _share(row["all_right"]),
        ]
        for row in held["coverage"]
      ],
    ),
    "Confidence of kept bodies and how often they are right:\n",
    _render(
      ["bodies", "confidence", "right"],
      [
        [
          str(row["bodies"]),
          _share(row["confidence"]),
          _share(row["right"]),
        ]
        for row in held["reliability"]
      ],
    ),
  ]
  return "\n".join(parts)


def _share(value: float) -> str:
  return f"{100 * value:.2f} %"


def _render(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [names, ["---"] * len(names), *rows]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(score: ScanScore) -> dict[str, Any]:
  return {
    "scan": score.scan,
    "fold": score.fold,
    "true": score.true,
    "hit": score.hit,
    "confidence": round(score.confidence, 4),
    "kept": [round(x, 4) for x in score.kept.tolist()],
    "right": score.right.tolist(),
    "variants": list(score.variants),
    "found": list(score.found),
    "hard": score.hard,
  }
