# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How much memory and time does a CT of 512 x 512 x 600 voxels take?

A phantom of full size goes through `prepare` and 100 batches of the input
pipeline, each in a fresh process of one worker; so does a second store with
four copies of it, whose pipeline must take no more.

    python benchmarks/full_size.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile

import measuring

SHAPE = (512, 512, 600)
_COHORT = """cases:
  - case: full-{number}
    domain: phantom
    image: ct.nii.gz
    mask: mask.nii.gz
    mask_kind: synthetic
    annotates: [masks, levels, cut_vertebrae]
"""


def main() -> None:
  """Makes the CT, measures both steps, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--spacing", type=float, default=1.0)
  parser.add_argument("--batches", metavar="STORE", help=argparse.SUPPRESS)
  parser.add_argument("--make", metavar="DIR", help=argparse.SUPPRESS)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  if options.make:
    _make_scan(pathlib.Path(options.make))
    return
  if options.batches:
    _read_batches(options.batches, options.spacing)
    return
  rows = []
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    rows.append(["phantom", *measuring.usage(__file__, "--make", str(folder))])
    for copies in (1, 4):
      store = folder / f"store{copies}"
      archives = []
      for number in range(copies):
        path = folder / f"cohort{number}.yaml"
        path.write_text(_COHORT.format(number=number))
        archives.append(f"cohort={path}")
      common = ["--spacing", str(options.spacing)]
      rows.append(
        [
          f"prepare, {copies} case(s)",
          *measuring.usage(
            "-m", "vf_jax", "prepare", *archives, "--out", str(store),
            "--workers", "0", *common,
          ),
        ]
      )  # fmt: skip
      rows.append(
        [
          f"100 batches, {copies} case(s)",
          *measuring.usage(__file__, "--batches", str(store), *common),
        ]
      )
  text = _render(rows, options.spacing)
  print(text)
  if options.out:
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "full_size.md").write_text(text + "\n")
    (folder / "full_size.json").write_text(
      json.dumps({"facts": measuring.facts(), "rows": rows}, indent=1) + "\n"
    )


def _make_scan(folder: pathlib.Path) -> None:
  """Writes image and mask of a patient from the upper thorax to the pelvis."""
  import numpy as np

  from vf_jax.io import nifti
  from vf_jax.multispine.phantom.anatomy import make_anatomy
  from vf_jax.multispine.phantom.domains import draw_protocol
  from vf_jax.multispine.phantom.scanner import acquire
  from vf_jax.volume import crop

  span = ("T1", "L5")
  anatomy = make_anatomy(np.random.default_rng(0), levels=span)
  height = anatomy.grid.spacing[2] * anatomy.grid.shape[2]
  protocol = draw_protocol("colonog", np.random.default_rng(1), "full")
  # Finer slices than wanted; what is too much at the ends is cut off.
  step = round(0.75 * height / SHAPE[2], 3)
  protocol = dataclasses.replace(
    protocol, span=span, slice_mm=step, step_mm=step
  )
  scan = acquire(anatomy, protocol, np.random.default_rng(2))
  for name, volume, fill in (
    ("ct", scan.image, -1024),
    ("mask", scan.labels, 0),
  ):
    spare = (np.array(volume.voxels.shape) - SHAPE) // 2
    nifti.write(folder / f"{name}.nii.gz", crop(volume, spare, SHAPE, fill))


def _read_batches(path: str, spacing: float) -> None:
  from vf_jax.config import from_config_dict
  from vf_jax.data.pipeline import make_batches
  from vf_jax.multispine.store import Store

  sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
  from configs import tiny

  values = tiny.get_config("own")
  values.model.crop = (96, 96, 96)
  values.model.spacing_mm = spacing
  values.data.store = path
  config = from_config_dict(values)
  batches = make_batches(Store(path, config.data.cache_mib), config)
  try:
    for _ in range(100):
      next(batches)
  finally:
    batches.close()


def _render(rows, spacing: float) -> str:
  facts = measuring.facts()
  shape = " x ".join(str(n) for n in SHAPE)
  return "\n\n".join(
    [
      "# A CT of full size",
      f"{measuring.origin(facts)}. A phantom of {shape} voxels "
      f"(int16, 300 MiB; its mask 150 MiB), prepared at {spacing} mm; windows "
      "of 112^3 in batches of 2 with a cache of 256 MiB.",
      measuring.table(
        ["step", "seconds", "peak MiB"],
        [[name, f"{s:.1f}", f"{mib:.0f}"] for name, s, mib in rows],
      ),
    ]
  )


if __name__ == "__main__":
  main()
