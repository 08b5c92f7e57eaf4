# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How long from nothing to one epoch of training data, and is it repeatable?

Phantoms in the four native layouts, `prepare`, one epoch of the input pipeline
(as many crops as there are cases, augmented on the device), each in a fresh
process; then everything once more, and all bytes of the store and all arrays of
the epoch compared.

    python benchmarks/multispine_from_scratch.py --cases 40
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import measuring

SOURCES = ("verse", "ctspine1k", "spineweb", "cohort")


def main() -> None:
  """Runs the chain twice and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--cases", type=int, default=40)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--spacing", type=float, default=1.0)
  parser.add_argument("--epoch", metavar="STORE", help=argparse.SUPPRESS)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  if options.epoch:
    print(json.dumps(_epoch(options.epoch, options.spacing)))
    return
  runs = []
  with tempfile.TemporaryDirectory() as scratch:
    for turn in ("first", "second"):
      runs.append(_chain(pathlib.Path(scratch, turn), options))
  same = {
    key: runs[0][key] == runs[1][key]
    for key in ("store_sha256", "epoch_sha256")
  }
  result = {"facts": measuring.facts(), "runs": runs, "identical": same}
  text = _render(result)
  print(text)
  if options.out:
    measuring.write(options.out, "multispine_from_scratch", result, text)
  if not all(same.values()):
    sys.exit("the two runs differ")


def _render(result: dict) -> str:
  runs, facts = result["runs"], result["facts"]
  rows = [
    [part, *(f"{run['seconds'][part]:.0f} s" for run in runs)]
    for part in runs[0]["seconds"]
  ]
  rows.append(["store", *(f"{run['store_mib']:.0f} MiB" for run in runs)])
  rows.append(
    ["SHA-256 of the store", *(run["store_sha256"][:16] for run in runs)]
  )
  rows.append(
    ["SHA-256 of the epoch", *(run["epoch_sha256"][:16] for run in runs)]
  )
  return "\n\n".join(
    [
      "# From nothing to one epoch",
      f"{measuring.origin(facts)}: {runs[0]['cases']} phantoms in "
      "four native layouts, prepared, one augmented crop for each.",
      measuring.table(["part", "first run", "second run"], rows),
    ]
  )


def _chain(folder: pathlib.Path, options: argparse.Namespace) -> dict:
  phantom, store = folder / "phantom", folder / "store"
  seconds, began = {}, time.monotonic()
  for part, command in (
    (
      "phantom",
      ["-m", "vf_jax", "phantom", "--out", phantom, "--cases", options.cases,
       "--seed", options.seed],
    ),
    (
      "prepare",
      ["-m", "vf_jax", "prepare", *(phantom / name for name in SOURCES),
       "--out", store, "--spacing", options.spacing],
    ),
    (
      "epoch",
      [__file__, "--epoch", store, "--spacing", options.spacing],
    ),
  ):  # fmt: skip
    before = time.monotonic()
    done = subprocess.run(
      [sys.executable, *map(str, command)],
      check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds[part] = time.monotonic() - before
  seconds["all"] = time.monotonic() - began
  epoch = json.loads(done.stdout.splitlines()[-1])
  return {
    "seconds": seconds,
    "cases": epoch["cases"],
    "store_sha256": _digest(store),
    "epoch_sha256": epoch["sha256"],
    "store_mib": sum(
      p.stat().st_size for p in store.rglob("*") if p.is_file()
    ) / 2**20,
  }  # fmt: skip


def _digest(store: pathlib.Path) -> str:
  """Of every byte of a store but the command and versions of the run."""
  total = hashlib.sha256()
  for path in sorted(store.rglob("*")):
    if path.is_file() and path.name not in ("run.json", ".lock"):
      total.update(path.relative_to(store).as_posix().encode())
      total.update(path.read_bytes())
  return total.hexdigest()


def _epoch(path: str, spacing: float) -> dict:
  """One crop for every case, augmented as in training."""
  import jax
  import numpy as np

  from vf_jax.config import from_config_dict
  from vf_jax.data.augment.augmentation import augment
  from vf_jax.data.augment.patches import Patches
  from vf_jax.data.pipeline import make_batches
  from vf_jax.multispine.store import Store

  sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
  from configs import tiny

  values = tiny.get_config("own")
  values.data.store = path
  values.model.spacing_mm = spacing
  config = from_config_dict(values)
  store = Store(path)
  on_device = jax.jit(
    lambda patches: augment(patches, config.model, config.data.augment)
  )
  total = hashlib.sha256()
  batches = make_batches(store, config)
  try:
    for _ in range(-(-len(store) // config.data.batch)):
      batch = on_device(Patches(**next(batches)))
      for leaf in jax.tree.leaves(batch):
        total.update(np.asarray(leaf).tobytes())
  finally:
    batches.close()
  return {"cases": len(store), "sha256": total.hexdigest()}


if __name__ == "__main__":
  main()
