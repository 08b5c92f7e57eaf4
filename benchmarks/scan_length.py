# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Does the memory of `vf-jax predict` grow with the number of slices?

The CT of the demo is interpolated to 512 x 512 pixels and 1 mm slices, given
noise, and continued by its mirror images to each length. The command predicts
each, files and report included, in a fresh process.

    python benchmarks/scan_length.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import measuring
import numpy as np

EDGE = 512
_FIELD_MM = 366.0
_NOISE_HU = 12.0
CEILING_MIB = 3 * 1024
CEILING_RATIO = 1.15


def main() -> None:
  """Predicts each length, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--slices", type=int, nargs="+", default=[300, 600, 1200])
  parser.add_argument("--edge", type=int, default=EDGE, help="pixels")
  parser.add_argument("--make", metavar="FILE", help=argparse.SUPPRESS)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  if options.make:
    edge = options.edge
    field = _FIELD_MM / edge
    make_scan(
      pathlib.Path(options.make),
      (edge, edge, options.slices[0]),
      (field, field, 1.0),
    )
    return
  rows = []
  for slices in options.slices:
    rows.append(measure(slices, options.edge))
    print(json.dumps(rows[-1]), flush=True)
  found = {"facts": measuring.facts(), "edge": options.edge, "rows": rows}
  text = render(found)
  print(text)
  if options.out:
    measuring.write(options.out, "scan_length", found, text)


def make_scan(
  path: pathlib.Path,
  shape: tuple[int, int, int],
  spacing: tuple[float, float, float],
) -> None:
  """Writes a CT of any size: the demo's, interpolated, with noise.

  Args:
    path: NIfTI file to write.
    shape: of the CT. Beyond the head of the demo's CT its mirror image
      follows, then itself, and so on; beside it there is air.
    spacing: of the CT, mm.
  """
  from vf_jax.demo import DEMO_CT
  from vf_jax.io import nifti
  from vf_jax.scratch import empty
  from vf_jax.volume import Grid, resample

  source = nifti.read(DEMO_CT)
  grid = source.grid
  length = int((grid.shape[2] - 1) * grid.spacing[2] / spacing[2])
  middle = grid.to_world((np.array([grid.shape]) - 1) / 2)[0]
  affine = np.diag([*spacing, 1.0])
  affine[:3, 3] = middle - (np.array(shape) - 1) / 2 * spacing
  affine[2, 3] = grid.affine[2, 3]
  lap = Grid((*shape[:2], length), affine)
  fine = resample(source.voxels, grid, lap, fill=-1024)
  random = np.random.default_rng(0)
  noise = random.normal(0, _NOISE_HU, (7, *shape[:2])).astype(np.float32)
  voxels = empty(shape, np.int16)
  for place in range(shape[2]):
    turn, rest = divmod(place, length)
    picked = fine[:, :, rest if turn % 2 == 0 else length - 1 - rest]
    values = np.rint(picked + noise[random.integers(7)])
    voxels[:, :, place] = np.clip(values, -1024, 3071)
  nifti.write(path, voxels, like=Grid(shape, affine))


def measure(slices: int, edge: int) -> dict[str, Any]:
  """Predicts a CT of a length by the command.

  Args:
    slices: of the CT.
    edge: pixels of a slice along both of its axes.

  Returns:
    Seconds, peak of resident memory, what was found.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "scan.nii.gz"
    sides = ["--slices", str(slices), "--edge", str(edge)]
    measuring.usage(__file__, "--make", str(path), *sides)
    out = pathlib.Path(folder) / "out"
    seconds, peak = measuring.usage(
      "-m", "vf_jax", "predict", str(path), "--out", str(out)
    )
    facts = json.loads((out / "scan" / "run.json").read_text())
    table = (out / "scan" / "scan_vertebrae.csv").read_text().splitlines()
    return {
      "slices": slices,
      "voxel_mib": edge * edge * slices * 2 / 2**20,
      "seconds": seconds,
      "peak_mib": peak,
      "windows": facts["windows"],
      "vertebrae": len(table) - 1,
      "parts": facts["seconds"],
    }


def render(found: dict[str, Any]) -> str:
  """The table.

  Args:
    found: what the JSON holds.

  Returns:
    Markdown.
  """
  facts, rows = found["facts"], found["rows"]
  edge = found["edge"]
  return "\n\n".join(
    [
      "# Memory of a prediction by the length of the scan",
      f"{measuring.origin(facts)}. `vf-jax predict` with the "
      f"weights shipped at that commit on {edge} x {edge} pixels, slices 1 mm "
      "apart (the CT of the demo interpolated, with noise, continued by its "
      "mirror images; NIfTI), all files but a DICOM SEG and the report "
      "written. Peak of resident memory of the "
      f"process; ceilings: {CEILING_MIB} MiB, and {CEILING_RATIO} times the "
      "shortest scan's.",
      measuring.table(
        [
          "slices", "voxels, MiB", "peak, MiB", "of the first", "seconds",
          "windows run", "skipped", "vertebrae",
        ],
        _cells(rows),
      ),
    ]
  )  # fmt: skip


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
  return [
    [
      row["slices"],
      f"{row['voxel_mib']:.0f}",
      f"{row['peak_mib']:.0f}",
      f"{row['peak_mib'] / rows[0]['peak_mib']:.2f}",
      f"{row['seconds']:.0f}",
      row["windows"]["run"],
      row["windows"]["skipped"],
      row["vertebrae"],
    ]
    for row in rows
  ]


if __name__ == "__main__":
  main()
