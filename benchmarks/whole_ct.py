# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A whole CT through the same UNETR: MONAI's way and ours.

File to file: read, resample to 2 mm, windows of 96^3 with overlap 0.5 and
Gaussian weights, class of each voxel, back to the native grid, write. Both
sides have the same weights and the same grid, each in a fresh process, in
turn; and `fast:S` by `vf-jax predict`, report included. Needs the extra
`peers`, and jemalloc.

    python benchmarks/whole_ct.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import measuring
import numpy as np
import scan_length
import whole_ct_worker
from allocator import require_jemalloc
from worker import facts_with_peers

# MONAI gives 192 x 144 x 192 voxels of 2 mm: both place the windows alike.
# No native voxel lies halfway between two of those.
SHAPE, SPACING_MM = (497, 372, 395), (0.77, 0.77, 0.97)
PEERS = ("monai", "monai_compile", "monai_jemalloc")
MEASURES = ("seconds", "cpu_seconds", "peak_mib")
KINDS = (*PEERS, "ours", "ours_two", "fast")
_ROOT = pathlib.Path(__file__).parent.parent
_WORKER = str(pathlib.Path(__file__).with_name("whole_ct_worker.py"))
STEPS = 200  # of fast:S


def main() -> None:
  """Measures every side, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--out", metavar="DIR")
  parser.add_argument(
    "--shape", type=int, nargs=3, default=SHAPE, help="of the CT"
  )
  options = parser.parse_args()
  require_jemalloc()
  with tempfile.TemporaryDirectory() as folder:
    found = compare(pathlib.Path(folder), tuple(options.shape), options.rounds)
  found["facts"] = facts_with_peers()
  text = render(found)
  print(text)
  if options.out:
    measuring.write(options.out, "whole_ct", found, text)


def compare(
  folder: pathlib.Path, shape: tuple[int, int, int], rounds: int
) -> dict[str, Any]:
  """Runs all sides in turn.

  Args:
    folder: for CT, weights and masks.
    shape: of the CT.
    rounds: how often each is run.

  Returns:
    What each run measured, the ratios, and the Dice of the two masks.
  """
  scan_length.make_scan(folder / "ct.nii.gz", shape, SPACING_MM)
  teach_fast(folder)
  for kind in ("weights", "compile"):
    subprocess.run([sys.executable, _WORKER, kind, str(folder)], check=True)
  runs = measuring.interleave(
    _WORKER, {kind: [kind, str(folder)] for kind in KINDS}, rounds
  )
  with np.load(folder / "grid.npz") as file:
    network_shape = file["shape"].tolist()
  return {
    "shape": shape,
    "network_shape": network_shape,
    "runs": runs,
    "masks": agreement(folder),
    "ratios": ratios(runs, PEERS[:1]),
    "ratios_to_the_best": ratios(runs, PEERS),
  }


def ratios(
  runs: dict[str, list[dict[str, float]]], peers: Sequence[str]
) -> dict[str, dict[str, float]]:
  """Compares every kind with the best of some in the same round.

  Args:
    runs: of each kind what each round measured.
    peers: kinds of which the smallest number counts.

  Returns:
    Of each kind, for each measure, the median over rounds.
  """
  return {
    kind: {
      what: measuring.median(
        run[what] / min(runs[peer][n][what] for peer in peers)
        for n, run in enumerate(rounds)
      )
      for what in MEASURES
    }
    for kind, rounds in runs.items()
  }


def teach_fast(folder: pathlib.Path) -> None:
  """Weights of fast:S that find bone: untrained ones find vertebrae of noise.

  Args:
    folder: gets `fast`, trained on the real scans and masks of the tests, which
      the CT of the demo is not among.
  """
  settings = {
    "data.store": str(_ROOT / "tests" / "data" / "store"),
    "data.batch": 1,
    "model.spacing_mm": whole_ct_worker.SPACING_MM,
    "model.dtype": "float32",
    "optim.warmup_steps": STEPS // 10,
    "optim.learning_rate": 1e-3,
    "predict.overlap": whole_ct_worker.OVERLAP,
    "predict.batch": 1,
    "train.steps": STEPS,
  }
  program = [sys.executable, "-m", "vf_jax"]
  subprocess.run(
    [
      *program, "train", "--config", str(_ROOT / "configs" / "fast.py:S"),
      "--workdir", str(folder / "run"),
      *(f"--config.{key}={value}" for key, value in settings.items()),
    ],
    check=True, cwd=_ROOT,
  )  # fmt: skip
  subprocess.run(
    [*program, "export", str(folder / "run"), "--out", str(folder / "fast")],
    check=True, cwd=_ROOT,
  )  # fmt: skip


def agreement(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Compares the masks of the same network with that of MONAI as it comes.

  Args:
    folder: that holds the masks.

  Returns:
    Of each kind Dice of class > 0, and that share of the scan.
  """
  from vf_jax.evaluate.metrics.overlap import dice
  from vf_jax.io import nifti

  theirs = nifti.read_labels(folder / f"{KINDS[0]}.nii.gz")
  found = {}
  for kind in KINDS[:-1]:
    mask = nifti.read_labels(folder / f"{kind}.nii.gz")
    if not theirs.grid.same_as(mask.grid):
      raise RuntimeError(f"the mask of {kind} is on another grid")
    found[kind] = {
      "dice": dice(mask.voxels > 0, theirs.voxels > 0),
      "share": float((mask.voxels > 0).mean()),
    }
  return found


def render(found: dict[str, Any]) -> str:
  """The table.

  Args:
    found: what the JSON holds.

  Returns:
    Markdown.
  """
  facts = found["facts"]
  rows = []
  for kind, name in (
    ("monai", "MONAI UNETR, as it comes"),
    ("monai_compile", "MONAI UNETR, torch.compile, resampled in float32"),
    ("monai_jemalloc", "the same with jemalloc"),
    ("ours", "ours, the same UNETR"),
    ("ours_two", "ours, two windows at a time"),
    ("fast", f"fast:S after {STEPS} steps, `vf-jax predict`"),
  ):  # fmt: skip
    values = [
      measuring.median(run[what] for run in found["runs"][kind])
      for what in MEASURES
    ]
    best = found["ratios_to_the_best"][kind]
    mask = found["masks"].get(kind)
    rows.append(
      [name, *(f"{value:.0f}" for value in values)]
      + [
        f"{value:.2f} ({best[what]:.2f})"
        for what, value in found["ratios"][kind].items()
      ]
      + ([f"{mask['dice']:.4f}", f"{mask['share']:.2%}"] if mask else ["", ""])
    )
  shape = " x ".join(map(str, found["shape"]))
  grid = " x ".join(map(str, found["network_shape"]))
  return "\n\n".join(
    [
      "# A whole CT: MONAI's sliding window and ours",
      f"{measuring.origin(facts)}, 2 threads, torch "
      f"{facts['packages'].get('torch')}, monai "
      f"{facts['packages'].get('monai')}, jax {facts['packages'].get('jax')}. "
      f"{shape} voxels of {SPACING_MM} mm (the CT of the demo, interpolated, "
      f"with noise), {grid} voxels of 2 mm, windows of 96^3, overlap "
      "0.5, Gaussian weights, batch 1, 27 classes. Random weights of one seed "
      "on both sides; the last layer is fitted by least squares to bone above "
      "200 HU in one window, so that the mask is a mask. From file to file, "
      "without importing, loading weights and compiling (programs of ours come "
      "from an earlier run, as in `vf-jax predict`). Medians of "
      f"{len(found['runs']['monai'])} round(s), each in a fresh process, in "
      "turn; ratios are to MONAI as it comes in the same round, in brackets to "
      "the best of its three. Its program is compiled before the clock "
      "starts, as ours is; jemalloc keeps freed memory.",
      measuring.table(
        [
          "", "seconds", "processor s", "peak, MiB", "ratio: seconds",
          "processor s", "peak", "Dice with MONAI's mask", "its voxels",
        ],
        rows,
      ),
      "Ours blends the 16 channels before the last layer, which is linear and "
      "follows the blending; MONAI blends the 27 after it. Masks: class above "
      "0, native grid.",
    ]
  )  # fmt: skip


if __name__ == "__main__":
  main()
