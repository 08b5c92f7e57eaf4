# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Does the line learn one real case by heart, on two cores, in ten minutes?

`vf-jax train` with configs/overfit.py, then the package's prediction of the
whole case, judged on the store's grid: vertebra Dice of at least 0.97, and
every whole labelled vertebra found once and under its own name.

    python benchmarks/overfit.py --out benchmarks/results
    python benchmarks/overfit.py --store STORE --case CASE --workdir DIR
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import measuring
import numpy as np

_ROOT = pathlib.Path(__file__).parent.parent
CASE = "lidc-idri-0001"
DICE, MINUTES = 0.97, 10.0
_NEAR_MM = 10.0  # a found body centre belongs to a true one up to here


def main() -> None:
  """Trains, predicts, judges, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--store", default=str(_ROOT / "tests/data/store"))
  parser.add_argument("--case", default=CASE)
  parser.add_argument("--workdir", metavar="DIR", help="kept, and resumed")
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    workdir = pathlib.Path(options.workdir or scratch)
    result = {"facts": measuring.facts(), "case": options.case}
    result |= _train(options.store, options.case, workdir)
    result |= judge(workdir, options.store, options.case)
  text = render(result)
  print(text)
  if options.out:
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overfit.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "overfit.md").write_text(text + "\n")


def _train(store: str, case: str, workdir: pathlib.Path) -> dict[str, float]:
  """Runs the command of the package; compilation is in its time."""
  from vf_jax.multispine.store import Store

  cases = Store(store)
  own = cases.records[cases.names.index(case)].domain
  shares = tuple((name, float(name == own)) for name in cases.domains)
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  began = time.perf_counter()
  subprocess.run(
    [
      sys.executable, "-m", "vf_jax", "train",
      "--config", str(_ROOT / "configs" / "overfit.py"),
      "--workdir", str(workdir),
      f"--config.data.store={store}",
      f"--config.data.weights={shares}",
    ],
    check=True,
    cwd=_ROOT,
  )  # fmt: skip
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  cores = len(os.sched_getaffinity(0))
  work = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
  return {
    "train_wall_s": time.perf_counter() - began,
    "train_cpu_s": work,
    "train_cores": cores,
  }


def judge(workdir: pathlib.Path, store: str, case: str) -> dict[str, Any]:
  """Predicts the case with a run's newest checkpoint and compares.

  Args:
    workdir: of the run.
    store: of the case.
    case: its name.

  Returns:
    Steps, Dice, what became of every labelled vertebra, seconds.
  """
  from vf_jax.evaluate.metrics.overlap import dice
  from vf_jax.hounsfield import AIR_HU
  from vf_jax.infer.predictor import load
  from vf_jax.labels import BY_CODE, IGNORE
  from vf_jax.multispine.store import Store
  from vf_jax.volume import Volume, from_network

  cases = Store(store)
  stored = cases.case(cases.names.index(case))
  record = stored.record
  arrays = stored.read_all(
    {"image": AIR_HU, "labels": IGNORE}, (0, 0, 0), stored.shape
  )
  volume, truth = (
    np.asfortranarray(from_network(arrays[k])) for k in ("image", "labels")
  )
  began = time.perf_counter()
  predictor = load(workdir)
  result = predictor(Volume(volume, np.array(record.affine)), case)
  seconds = time.perf_counter() - began
  known = truth != IGNORE
  affine = np.array(record.affine)
  vertebrae = []
  for code in sorted(set(np.unique(truth).tolist()) - {0, IGNORE}):
    own = truth == code
    centre = record.centres.get(code)
    near = []
    if centre is not None:
      place = affine[:3, :3] @ np.array(centre[::-1]) + affine[:3, 3]
      near = [
        v.level
        for v in result.vertebrae
        if np.linalg.norm(np.array(v.centre_mm) - place) < _NEAR_MM
      ]
    vertebrae.append(
      {
        "level": BY_CODE[code].name,
        "cut": code in record.cut,
        "found": near,
        "dice": dice((result.mask == code) & known, own),
      }
    )
  named = {v["level"] for v in vertebrae}
  return {
    "steps": predictor.config.train.steps,
    "dice": dice((result.mask > 0) & known, (truth > 0) & known),
    "vertebrae": vertebrae,
    "foreign": [v.level for v in result.vertebrae if v.level not in named],
    "predict_s": seconds,
    "mask_kind": record.mask_kind,
    "spacing_mm": record.spacing_mm,
  }


def render(result: dict[str, Any]) -> str:
  """Renders the result as Markdown."""
  facts = result["facts"]
  whole = [v for v in result["vertebrae"] if not v["cut"]]
  right = [v for v in whole if v["found"] == [v["level"]]]
  exact = len(right) == len(whole) and not result["foreign"]
  wall, work = result["train_wall_s"] / 60, result["train_cpu_s"] / 60
  alone = work / result["train_cores"]
  goals = [
    ["vertebra Dice", f">= {DICE}", f"{result['dice']:.4f}",
     result["dice"] >= DICE],
    ["whole vertebrae named exactly", "all", f"{len(right)} of {len(whole)}",
     exact],
    [f"minutes of {result['train_cores']} cores (processor time)",
     f"< {MINUTES:.0f}", f"{alone:.1f}", alone < MINUTES],
  ]  # fmt: skip
  return "\n\n".join(
    [
      "# One case by heart",
      f"{facts['date']}, `python benchmarks/{facts['command']}`, commit "
      f"{facts['commit']}, {facts['machine']}. {result['case']} at "
      f"{result['spacing_mm']:g} mm (mask: {result['mask_kind']}), "
      f"{result['steps']} steps of configs/overfit.py in {wall:.1f} minutes by "
      f"the wall clock, compilation included; prediction "
      f"{result['predict_s']:.0f} s.",
      measuring.table(
        ["goal", "wanted", "measured", "reached"],
        [[*row, "yes" if met else "**no**"] for *row, met in goals],
      ),
      measuring.table(
        ["vertebra", "cut by the scan", "found as", "Dice"],
        [
          [
            v["level"],
            "yes" if v["cut"] else "",
            ", ".join(v["found"]) or ("no centre known" if v["cut"] else "-"),
            f"{v['dice']:.3f}",
          ]
          for v in result["vertebrae"]
        ],
      ),
      f"Levels found that the case does not have: "
      f"{', '.join(result['foreign']) or 'none'}.",
    ]
  )


if __name__ == "__main__":
  main()
