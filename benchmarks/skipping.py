# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Do windows that are skipped, because they hold no bone, change a mask?

Every CT is predicted as always and with no window skipped, and the two masks
are compared voxel by voxel.

    python benchmarks/skipping.py CT [CT ...] --out benchmarks/results
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import measuring
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from vf_jax.infer import windows
from vf_jax.infer.predictor import Predictor, load


def main() -> None:
  """Predicts every CT twice and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("ct", nargs="+", help="file or folder")
  parser.add_argument("--checkpoint", help="default: that of the package")
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # of scans; what counts is measured
  predictor = load(options.checkpoint)
  rows = []
  for path in options.ct:
    rows.append({"ct": pathlib.Path(path).name} | compare(predictor, path))
    print(rows[-1], flush=True)
  result = {
    "facts": measuring.facts(), "weights": predictor.digest, "rows": rows
  }  # fmt: skip
  print(render(result))
  if options.out:
    measuring.write(options.out, "skipping", result, render(result))


def compare(predictor: Predictor, path: str) -> dict[str, Any]:
  """Predicts a CT with windows skipped, and with none.

  Args:
    predictor: of the weights.
    path: of the CT.

  Returns:
    Shape, windows that were run and skipped, voxels of vertebrae, voxels with
    another label.
  """
  usual = predictor(path)
  with _nothing_skipped():
    whole = predictor(path)
  assert whole.run["windows"]["skipped"] == 0
  return {
    "shape": list(usual.mask.shape),
    **usual.run["windows"],
    "vertebra_voxels": int(np.count_nonzero(whole.mask)),
    "differ": int(np.count_nonzero(usual.mask != whole.mask)),
  }


@contextmanager
def _nothing_skipped() -> Iterator[None]:
  usual = windows.BONE_HU
  windows.BONE_HU = -np.inf
  try:
    yield
  finally:
    windows.BONE_HU = usual


def render(result: dict[str, Any]) -> str:
  """Renders the table.

  Args:
    result: content of skipping.json.

  Returns:
    Markdown.
  """
  facts = result["facts"]
  rows = [
    [
      row["ct"],
      " x ".join(map(str, row["shape"])),
      row["run"],
      row["skipped"],
      row["vertebra_voxels"],
      row["differ"],
    ]
    for row in result["rows"]
  ]
  return "\n".join(
    [
      "# Windows that are skipped",
      "",
      f"{facts['date']}, `python benchmarks/skipping.py CT ... --out "
      f"benchmarks/results`, commit {facts['commit']}, weights "
      f"{result['weights'][:8]}, {facts['machine']}. Every CT predicted as "
      "always, and with no window skipped.",
      "",
      measuring.table(
        [
          "CT", "voxels", "windows run", "skipped", "voxels of vertebrae",
          "voxels that differ",
        ],
        rows,
      ),
    ]
  )  # fmt: skip


if __name__ == "__main__":
  main()
