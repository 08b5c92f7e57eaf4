# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What each part of the default recipe does for real CTs, at equal time.

    vf-jax prepare cohort=DEMO.yaml --out DEMO --spacing 2
    vf-jax merge STORE DEMO --out STUDY   # STORE of launch/default_weights.sh
    python benchmarks/recipe_study.py study --store STUDY --workdir DIR \
      --out benchmarks/results

Trains from nothing: the recipe of configs/default.py, the same without the
modulation unit, on real CTs only, and with a smaller and a larger network, and
a plain U-Net on crops of the same cases as far as they have masks; each makes
the steps that fit in the same time, by a measurement in turn at the beginning.
Ours have the recipe's learning rate; the U-Net's is the best of several in
pilots. Judged on the last phantom of every domain and on the real CTs with
masks, each only by networks that were not trained on it. It goes on where it
was stopped: every run leaves a file in DIR. Needs torch and monai.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import re
import statistics
import time
from collections.abc import Collection, Iterator
from typing import Any

import contestants
import equal_time
import measuring
import numpy as np
from contestants import PLAIN

from vf_jax.huge_pages import restart_with_huge_pages

_COMPILED = f"{PLAIN}, torch.compile"
SIZES = {
  "default:smaller": {"dim": 128, "heads": 2, "channels": 64},
  "default:larger": {"dim": 256, "heads": 4, "depth": 6, "channels": 128},
}
"""Of the network; the default has 192, 3, depth 4 and 96."""

SETTINGS = (
  "default", "default:-modulation", "default:-synthesis", *SIZES, PLAIN,
  _COMPILED,
)  # fmt: skip
NAMES = SETTINGS[:-1]
REAL = {"lidc-idri-0001": "chest CT", "example-ct": "abdominal CT of the demo"}
_ONLY_REAL = "default:-synthesis"
_RATE, _OVERLAP, _TIMED = 1e-3, 0.25, 8
_PILOT_SEED, _PILOT = 100, 0.2  # of the steps
_RATES = (4e-4, 1e-3, 2.5e-3)  # that the U-Net's pilots try


def main() -> None:
  """Runs everything that is not done yet and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("part", choices=("study", "measure", "run"))
  parser.add_argument("--store", metavar="DIR")
  parser.add_argument("--workdir", metavar="DIR", type=pathlib.Path)
  parser.add_argument("--out", metavar="DIR", default="benchmarks/results")
  parser.add_argument("--seconds", type=float, default=600)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--settings", nargs="+", choices=NAMES, default=NAMES)
  parser.add_argument("--one", default="", help="JSON of one training run")
  options = parser.parse_args()
  if options.part in ("measure", "run"):
    one = json.loads(options.one)
    if not one["setting"].startswith(PLAIN):
      restart_with_huge_pages()
    print(json.dumps((measure if options.part == "measure" else run)(**one)))
    return
  times = _kept(
    options.workdir / "times.json",
    lambda: _times(options.store, options.settings),
  )
  untimed = set(options.settings) - set(map(_network, times))
  if untimed:
    parser.error(
      f"{options.workdir} has times of other settings, not of "
      f"{', '.join(sorted(untimed))}: they are measured in turn, so use "
      "another --workdir"
    )

  def trained(setting, share=1.0, **further):
    one = {
      "setting": setting,
      "store": options.store,
      "steps": round(share * options.seconds / times[setting]),
      **further,
    }
    name = "-".join(str(one[key]) for key in ("setting", "steps", *further))
    path = re.sub("[ :]", "_", name.replace(",", "")) + ".json"
    found = _kept(
      options.workdir / path,
      lambda: (
        one | measuring.run_alone(__file__, "run", "--one", json.dumps(one))
      ),
    )
    print(found, flush=True)
    return found

  runs, pilots = [], []
  for name in options.settings:
    setting = min((s for s in times if _network(s) == name), key=times.get)
    further = {}
    if name == PLAIN:
      pilots = [
        trained(setting, _PILOT, seed=_PILOT_SEED, rate=rate) for rate in _RATES
      ]
      further["rate"] = min(pilots, key=lambda p: p["last_loss"])["rate"]
    runs += [
      trained(setting, seed=seed, **further) for seed in range(options.seeds)
    ]
  result = {
    "facts": measuring.facts(),
    "seconds": options.seconds,
    "times": times,
    "pilots": pilots,
    "runs": runs,
  }
  print(render(result))
  name = f"recipe_study_{options.seconds:.0f}s"
  measuring.write(options.out, name, result, render(result))


def _network(setting: str) -> str:
  return setting.partition(",")[0]


def _kept(path: pathlib.Path, make: Any) -> Any:
  """What a file holds, made and written if it does not exist."""
  if not path.exists():
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
  return json.loads(path.read_text())


def _times(store: str, names: Collection[str]) -> dict[str, float]:
  """Seconds of a step of each way to run them: the better of two rounds."""
  found = measuring.interleave(
    __file__,
    {
      name: [
        "measure", "--one", json.dumps({"setting": name, "store": store})
      ]
      for name in SETTINGS
      if _network(name) in names
    },
    rounds=2,
  )  # fmt: skip
  return {
    name: min(one["step_s"] for one in rounds) for name, rounds in found.items()
  }


def measure(setting: str, store: str) -> dict[str, Any]:
  """Measures a training step.

  Args:
    setting: of `SETTINGS`.
    store: prepared cases.

  Returns:
    Median seconds of a step.
  """
  net, batches, _ = _open(setting, store, steps=1000, seed=0)
  seconds = []
  for batch in itertools.islice(batches, 2 + _TIMED):
    began = time.monotonic()
    net.train(batch)
    seconds.append(time.monotonic() - began)
  return {"step_s": statistics.median(seconds[2:])}  # the first ones compile


def run(
  setting: str, store: str, steps: int, seed: int, rate: float = _RATE
) -> dict[str, Any]:
  """Trains one network from nothing and judges it.

  Args:
    setting: of `SETTINGS`.
    store: prepared cases.
    steps: to make.
    seed: of parameters and crops.
    rate: highest learning rate.

  Returns:
    Mean loss of the last tenth of the steps, Dice of every case.
  """
  net, batches, judged = _open(setting, store, steps, seed, rate)
  losses = [net.train(batch) for batch in itertools.islice(batches, steps)]
  window = _config(setting, store, steps, seed, rate).model.crop
  return {
    "last_loss": float(np.mean(losses[-max(1, steps // 10) :])),
    "dice": {
      case.record.case: equal_time.judge(net, case, window, _OVERLAP)
      for case in judged
    },
  }


def _open(
  setting: str, store: str, steps: int, seed: int, rate: float = _RATE
) -> tuple[contestants.Contestant, Iterator[dict], list[Any]]:
  """A network, its stream of crops, and the cases that it is judged on."""
  import jax

  from vf_jax.data.pipeline import make_batches
  from vf_jax.multispine.store import Store

  jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(store).parent / "xla")
  )
  cases = Store(store)
  train, test = divide(cases, setting)
  if setting.startswith(PLAIN):  # it learns nothing where no mask is
    train = [i for i in train if "masks" in cases.records[i].annotates]
  judged = [cases.case(i) for i in test]
  config = _config(setting, store, steps, seed, rate)
  batches = make_batches(cases, config, cases=train)
  if not setting.startswith(PLAIN):
    return contestants.Ours(config), batches, judged
  net = contestants.build(
    PLAIN, steps, rate, seed, compiled=setting == _COMPILED
  )
  return net, equal_time.augmented(batches, config), judged


def _config(
  setting: str, store: str, steps: int, seed: int, rate: float
) -> Any:
  """The recipe from nothing; for the plain U-Net its stream of crops."""
  from configs import default
  from vf_jax.config import from_config_dict
  from vf_jax.data.pipeline import domain_names
  from vf_jax.multispine.store import Store

  variant = "" if setting.startswith(PLAIN) else setting.partition(":")[2]
  size = SIZES.get(setting, {})
  config = default.get_config("" if size else variant)
  config.model.update(size)
  config.model.prototypes = len(domain_names(Store(store)))
  config.data.store = store
  config.optim.update(learning_rate=rate, warmup_steps=max(1, steps // 10))
  config.train.update(init="", steps=steps, seed=seed)
  return from_config_dict(config)


def divide(store: Any, setting: str) -> tuple[list[int], list[int]]:
  """Cases to train on and to judge by.

  Args:
    store: prepared cases, with both real CTs.
    setting: what is trained on real CTs only has the chest CT to train on.

  Returns:
    Places of the cases to train on, and of the last phantom of every domain and
    the real CTs that are not trained on.
  """
  last = {
    record.domain: place
    for place, record in enumerate(store.records)
    if record.mask_kind == "synthetic" and record.domain.startswith("phantom-")
  }
  chest, demo = map(store.names.index, REAL)
  test = [*last.values(), demo]
  if setting != _ONLY_REAL:
    test.append(chest)
  return [i for i in range(len(store)) if i not in test], sorted(test)


def render(result: dict[str, Any]) -> str:
  """Renders the table.

  Args:
    result: content of recipe_study.json.

  Returns:
    Markdown.
  """
  facts, runs = result["facts"], result["runs"]
  rows = []
  for name in dict.fromkeys(_network(r["setting"]) for r in runs):
    own = [r for r in runs if _network(r["setting"]) == name]
    phantoms = [c for c in own[0]["dice"] if c not in REAL]
    dice = np.array([[r["dice"][c] for r in own] for c in phantoms])
    rows.append(
      [
        name,
        own[0]["steps"],
        *(
          f"{np.mean([r['dice'][c] for r in own]):.3f}"
          if c in own[0]["dice"] else "trained on"
          for c in REAL
        ),
        f"{dice.mean():.3f} {equal_time.interval(dice)}",
      ]
    )  # fmt: skip
  seeds = sorted({r["seed"] for r in runs})
  return "\n\n".join(
    [
      "# Parts of the default recipe at equal time",
      f"{measuring.origin(facts)}.",
      f"Each trains from nothing, {len(seeds)} seed(s), for "
      f"{result['seconds']:.0f} s of steps by the median of {_TIMED} steps in "
      "the better of two rounds in turn at the beginning (ours with its "
      "augmentation, the plain U-Net without). Vertebra Dice in the box of a "
      "case's vertebrae and 40 mm around it. Of the real CTs it is agreement "
      "with another network's mask, not truth, and one case each. Held-out "
      "phantoms: one of each domain with masks, mean and 95 % interval of a "
      "bootstrap over cases and seeds. "
      "`-synthesis` is trained on the chest CT, the real lesion patches and "
      "nothing else; the others saw no whole real CT with a mask.",
      measuring.table(
        ["network", "steps", *REAL.values(), "held-out phantoms"], rows
      ),
    ]
  )


if __name__ == "__main__":
  main()
