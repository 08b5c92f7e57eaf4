# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The same job: fast:S beside MONAI's UNETR and SwinUNETR, speed and accuracy.

    python benchmarks/same_job.py speed --out benchmarks/results
    python benchmarks/same_job.py accuracy --stores PHANTOMS,tests/data/store \
      --workdir DIR --out benchmarks/results

`speed` measures crops of 96^3 in training and inference, each setting in a
fresh process, in turn. `accuracy` trains all three on the same stream of crops
(`equal_time.py`), each as many steps as it makes in the same time by the table
of `speed`, which must exist; a new one drops all accuracies. Tables of several
times (`--seconds`), and of phantoms of another store (`--fresh`), stand beside
each other. It goes on where it was stopped: every run leaves a file in DIR.
Needs torch, monai and jemalloc; PHANTOMS is made by `vf-jax phantom` and
`vf-jax prepare --spacing 2`.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import contestants
import measuring
import numpy as np
from allocator import require_jemalloc, restart
from contestants import CROP, OURS, SWIN, UNETR

_AUGMENTING = f"{OURS}, augmentation in the step"
# Network, torch.compile, jemalloc. Ours is in huge pages, as in `vf-jax train`.
SETTINGS = {
  OURS: (OURS, False, False),
  _AUGMENTING: (OURS, False, False),
  f"{OURS}, jemalloc": (OURS, False, True),
  f"{UNETR}, eager": (UNETR, False, False),
  f"{UNETR}, torch.compile": (UNETR, True, False),
  f"{UNETR}, eager, jemalloc": (UNETR, False, True),
  f"{UNETR}, torch.compile, jemalloc": (UNETR, True, True),
  f"{SWIN}, eager": (SWIN, False, False),
  f"{SWIN}, torch.compile": (SWIN, True, False),
  f"{SWIN}, eager, jemalloc": (SWIN, False, True),
  f"{SWIN}, torch.compile, jemalloc": (SWIN, True, True),
}
_JOBS = ("train", "infer")
_FILE = "same_job"


def main() -> None:
  """Measures one setting, or everything of a part and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("part", choices=("speed", "accuracy", "measure", "run"))
  parser.add_argument("--setting", choices=SETTINGS)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--out", metavar="DIR", default="benchmarks/results")
  parser.add_argument("--stores", default="", metavar="STORE,STORE")
  parser.add_argument("--workdir", metavar="DIR")
  parser.add_argument("--seconds", type=float, default=240)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument(
    "--fresh",
    default="",
    metavar="STORE",
    help="of phantoms to judge by, if not by some of --stores",
  )
  parser.add_argument(
    "--near",
    nargs=3,
    type=float,
    metavar="RATE",
    help="learning rates of ours, UNETR and SwinUNETR to begin with",
  )
  parser.add_argument("--one", default="", help="JSON of one training run")
  options = parser.parse_args()
  if options.part == "measure":
    name, _, jemalloc = SETTINGS[options.setting]
    restart(name == OURS, jemalloc)
    print(json.dumps(measure(options.setting, options.repeats)))
  elif options.part == "run":
    import equal_time

    one = json.loads(options.one)
    restart(ours=one["name"] == OURS, jemalloc=True)
    print(json.dumps(equal_time.run(**one)))
  elif options.part == "speed":
    require_jemalloc()
    arguments = {
      name: ["measure", "--setting", name, "--repeats", str(options.repeats)]
      for name in SETTINGS
    }
    found = measuring.interleave(__file__, arguments, options.rounds)
    # Steps of an older table of accuracy are not those of these speeds.
    speed = {"facts": measuring.facts(), "rounds": found}
    _write(options.out, {"speed": speed})
  else:
    import equal_time

    require_jemalloc()
    results = _read(options.out)
    tables = results.setdefault("accuracy", {})
    rounds = results["speed"]["rounds"]
    found = equal_time.compare(
      __file__,
      options.stores.split(","),
      pathlib.Path(options.workdir),
      {
        name: round(options.seconds / best(rounds, name, "train"))
        for name in contestants.NAMES
      },
      options.seeds,
      options.fresh,
      options.near and dict(zip(contestants.NAMES, options.near)),
    )
    found |= {"seconds": options.seconds, "fresh": options.fresh}
    found["facts"] = measuring.facts()
    key = ", ".join(filter(None, (f"{options.seconds:g}", options.fresh)))
    tables[key] = found
    _write(options.out, results)


def measure(setting: str, repeats: int) -> dict[str, float]:
  """Times training steps and forward passes of one setting, warm.

  Args:
    setting: of `SETTINGS`.
    repeats: of each.

  Returns:
    Median seconds of wall clock and of processor a crop, and peak memory.
  """
  name, compiled, _ = SETTINGS[setting]
  margin = 12 if setting == _AUGMENTING else 0
  batch = _windows(margin)
  if margin:
    result = _timed("train", _augmenting_step(batch), repeats)
  else:
    net = contestants.build(
      name, 100, 1e-4, 0, compiled, windows=1, only_mask=False
    )
    spacing = batch["spacing_mm"][0]
    predict = functools.partial(net.predict, batch["image"], spacing)
    result = _timed("infer", predict, repeats)
    result |= _timed("train", lambda: net.train(batch), repeats)
  return result | {"peak_mib": measuring.peak_rss_bytes() / 2**20}


def _timed(job: str, call: Callable[[], Any], repeats: int) -> dict[str, float]:
  began = time.perf_counter()
  call()
  first = time.perf_counter() - began
  wall, work = [], []
  for _ in range(repeats):
    began, worked = time.perf_counter(), time.process_time()
    call()
    wall.append(time.perf_counter() - began)
    work.append(time.process_time() - worked)
  return {
    f"{job}_s": statistics.median(wall),
    f"{job}_cpu_s": statistics.median(work),
    f"{job}_first_s": first,
  }


def _augmenting_step(batch: dict[str, np.ndarray]) -> Callable[[], float]:
  """The step of the package as it is: augmentation and every task."""
  import dataclasses

  from configs import fast
  from vf_jax.config import from_config_dict

  plain = contestants.our_config(100, 1e-4, 0, only_mask=False)
  usual = from_config_dict(fast.get_config("S")).data.augment
  data = dataclasses.replace(plain.data, augment=usual)
  net = contestants.Ours(dataclasses.replace(plain, data=data))
  return lambda: net.train(batch)


def _windows(margin: int) -> dict[str, np.ndarray]:
  """One window with a vertebra, a lesion and noise in it."""
  from vf_jax.labels import CODES

  rng = np.random.default_rng(0)
  shape = (1, *(CROP + 2 * margin,) * 3)
  labels = np.zeros(shape, np.uint8)
  labels[:, 30:60, 30:60, 30:60] = 20
  known = np.arange(CODES)[None] == 20
  yes = np.ones(1, bool)
  return {
    "image": rng.integers(-200, 600, shape).astype(np.int16),
    "labels": labels,
    "painted": ~yes,
    "spacing_mm": np.ones((1, 3), np.float32),
    "centres": np.full((1, CODES, 3), 45, np.float32),
    "has_centre": known,
    "boxes": np.full((1, 8, 6), 50, np.float32),
    "box_mask": np.arange(8)[None] < 1,
    "domain": np.zeros(1, np.int32),
    "has_masks": yes,
    "has_levels": yes,
    "has_lesions": yes,
    "case": np.zeros(1, np.int32),
    "seed": np.ones((1, 2), np.uint32),
  }


def best(rounds: dict[str, Any], name: str, job: str) -> float:
  """Median seconds a crop of a network in its fastest setting.

  Args:
    rounds: setting -> what each round measured.
    name: of the network.
    job: 'train' or 'infer'.

  Returns:
    Seconds.
  """
  return min(
    measuring.median(r[f"{job}_s"] for r in found)
    for setting, found in rounds.items()
    if SETTINGS[setting][0] == name and setting != _AUGMENTING
  )


def _read(folder: str) -> dict[str, Any]:
  return json.loads((pathlib.Path(folder) / f"{_FILE}.json").read_text())


def _write(folder: str, results: dict[str, Any]) -> None:
  """Writes the results, and renders them."""
  text = render(results)
  print(text)
  measuring.write(folder, _FILE, results, text)


def _head(facts: dict[str, Any]) -> str:
  return f"{measuring.origin(facts)}."


def render(results: dict[str, Any]) -> str:
  """Renders all parts as Markdown."""
  parts = ["# The same job"]
  if "speed" in results:
    parts += ["## Speed", *_render_speed(results["speed"])]
  accuracy = results.get("accuracy", {}).values()
  for found in sorted(accuracy, key=lambda f: (f["seconds"], f["fresh"])):
    import equal_time

    fresh = ", on fresh phantoms" if found["fresh"] else ""
    parts += [
      f"## Accuracy after {found['seconds']:g} s each{fresh}",
      _head(found["facts"]),
      *equal_time.render(found),
    ]
  return "\n\n".join(parts)


def _render_speed(speed: dict[str, Any]) -> list[str]:
  rounds = speed["rounds"]
  rows = []
  for setting, found in rounds.items():
    row = [setting]
    for job in _JOBS:
      for unit in ("s", "cpu_s"):
        key = f"{job}_{unit}"
        if key not in found[0]:
          row.append("")
          continue
        ratios = [
          r[key] / o[key] for r, o in zip(found, rounds[OURS]) if key in r
        ]
        row.append(
          f"{measuring.median(ratios):.1f} "
          f"({min(ratios):.1f}-{max(ratios):.1f})"
        )
    peak = measuring.median(r["peak_mib"] for r in found)
    rows.append([*row, f"{peak:.0f}"])
  return [
    _head(speed["facts"])
    + f" Crops of {CROP}^3, one a step, float32. A training step is forward "
    "pass, loss, gradients, clipping, AdamW and averaged parameters; ours "
    "with all its decoders and losses, in huge pages of memory as `vf-jax "
    "train` sets them. jemalloc keeps freed memory, in huge pages. Times as "
    "multiples of ours in the same round: median (range) of rounds in turn, "
    "each a fresh process.",
    measuring.table(
      [
        "network", "training, wall", "training, processor", "inference, wall",
        "inference, processor", "peak MiB",
      ],
      rows,
    ),
  ]  # fmt: skip


if __name__ == "__main__":
  main()
