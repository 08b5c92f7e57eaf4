# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Training and judging of one network for `same_job.py accuracy`.

All networks get the same stream of augmented crops, made by our pipeline, and
the same loss; each makes as many steps as fit in the time. What is learnt is
judged on whole cases that nobody was trained on, by the same sliding windows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import contestants
import measuring
import numpy as np
from contestants import CROP, NAMES, OURS

REAL = "lidc-idri-0001"
_AROUND_MM = 40.0
_PILOT_SEED = 100
_LADDER = (4e-4, 1e-3, 2.5e-3, 6.3e-3, 1.6e-2)  # learning rates
_RUNG = 2.5
_RESAMPLES = 2000


def compare(
  script: str,
  stores: Sequence[str],
  workdir: pathlib.Path,
  steps: Mapping[str, int],
  seeds: int,
  fresh: str = "",
  near: Mapping[str, float] | None = None,
) -> dict[str, Any]:
  """Chooses a learning rate for each network, then trains each with each seed.

  Runs of another seed choose it, by phantoms set aside for that.

  Args:
    script: whose `run` trains one network in a process of its own.
    stores: prepared cases, of one voxel edge.
    workdir: of the merged store and the runs; runs that are there are kept.
    steps: of each network.
    seeds: how many.
    fresh: store of the phantoms to judge by, if not those of `stores`.
    near: learning rates around which to look, if not on the whole ladder.

  Returns:
    `pilots`, at all rates that were tried, and `runs`, at the best.

  Raises:
    ValueError: if a run that is there was asked for something else.
  """
  from vf_jax.multispine.merge import merge

  store = workdir / "store"
  if not (store / "store.json").exists():
    merge([("", path) for path in stores], store)
  (workdir / "runs").mkdir(parents=True, exist_ok=True)

  def alone(name: str, seed: int, part: str, rate: float) -> dict[str, Any]:
    one = {
      "name": name,
      "store": str(store),
      "steps": steps[name],
      "rate": rate,
      "seed": seed,
      "part": part,
      "fresh": fresh,
    }
    file = f"{name}-{steps[name]}-{rate:g}-{seed}".replace(" ", "_")
    file = file.replace(":", "_")
    path = workdir / "runs" / f"{file}.json"
    if not path.exists():
      found = measuring.run_alone(script, "run", "--one", json.dumps(one))
      path.write_text(json.dumps(one | found))
      print(path.name, found, flush=True)
    found = json.loads(path.read_text())
    if found | one != found:
      raise ValueError(f"{path} is of another comparison; name another folder")
    return found

  pilots = []
  best = {}
  for name in NAMES:
    rungs = _around(near[name]) if near else _LADDER
    pilot = functools.partial(alone, name, _PILOT_SEED, "validation")
    tried, best[name] = climb(pilot, rungs)
    pilots += tried
  runs = [
    alone(name, seed, "test", best[name])
    for seed in range(seeds)
    for name in NAMES
  ]
  return {"pilots": pilots, "runs": runs}


def _around(rate: float) -> tuple[float, ...]:
  return _rung(rate / _RUNG), rate, _rung(rate * _RUNG)


def _rung(rate: float) -> float:
  return float(f"{rate:.2g}")


def climb(
  pilot: Callable[[float], dict[str, Any]], rungs: Sequence[float] = _LADDER
) -> tuple[list[dict[str, Any]], float]:
  """Finds the learning rate of the highest mean Dice on a ladder.

  Args:
    pilot: trains with a rate and returns the `dice` of cases.
    rungs: learning rates to begin with.

  Returns:
    All pilots, and the best rate: neither the lowest nor the highest tried,
    for the ladder goes on until the best lies inside it.
  """
  tried = {rate: pilot(rate) for rate in rungs}
  while True:
    best = max(tried, key=lambda rate: mean_dice(tried[rate]["dice"]))
    if best == max(tried):
      beyond = _rung(best * _RUNG)
    elif best == min(tried):
      beyond = _rung(best / _RUNG)
    else:
      return [tried[rate] for rate in sorted(tried)], best
    tried[beyond] = pilot(beyond)


def mean_dice(dice: Mapping[str, float]) -> float:
  """Mean over cases."""
  return float(np.mean(list(dice.values())))


def divide(store: Any) -> dict[str, list[int]]:
  """Places of the cases with masks in the store, by what they are for.

  Args:
    store: the merged cases.

  Returns:
    Part -> places. 'test' is the last phantom of every domain and the real CT
    with a mask, 'validation' the phantom before the last of the domains that
    have three or more, 'train' the rest.
  """
  masked = _with_masks(store)
  phantoms: dict[str, list[int]] = {}
  for i in masked:
    if store.records[i].mask_kind == "synthetic":
      phantoms.setdefault(store.records[i].domain, []).append(i)
  own = sorted(phantoms.values())
  test = sorted({store.names.index(REAL), *(p[-1] for p in own)})
  validation = sorted(p[-2] for p in own if len(p) > 2)
  train = [i for i in masked if i not in (*test, *validation)]
  return {"train": train, "validation": validation, "test": test}


def _with_masks(store: Any) -> list[int]:
  return [i for i, r in enumerate(store.records) if "masks" in r.annotates]


def run(
  name: str,
  store: str,
  steps: int,
  rate: float,
  seed: int,
  part: str,
  fresh: str,
) -> dict[str, Any]:
  """Trains one network, and judges it.

  Args:
    name: of `contestants.NAMES`.
    store: the merged cases.
    steps: to make.
    rate: learning rate.
    seed: of parameters and crops.
    part: by which of the cases it is judged, 'validation' or 'test'.
    fresh: store of the phantoms to test by; '' for those of the merged cases.

  Returns:
    Mean loss of the last third of the steps, processor seconds of the steps,
    Dice of every case.
  """
  import jax

  from vf_jax.multispine.store import Store

  jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(store).parent / "xla")
  )
  cases = Store(store)
  train = divide(cases)["train"]
  judged = to_judge(cases, Store(fresh) if fresh else None, part)
  net = contestants.build(name, steps, rate, seed)
  losses = []
  worked = 0.0
  for batch in itertools.islice(_crops(cases, train, seed), steps):
    began = time.process_time()
    losses.append(net.train(batch))
    if len(losses) > 1:  # the first compiles
      worked += time.process_time() - began
  tail = losses[-max(1, steps // 3) :]
  return {
    "last_loss": float(np.mean(tail)),
    "cpu_s": worked * steps / max(1, steps - 1),
    "dice": {
      of.names[i]: judge(net, of.case(i), (CROP,) * 3) for of, i in judged
    },
  }


def to_judge(cases: Any, fresh: Any | None, part: str) -> list[tuple[Any, int]]:
  """The cases by which a run is judged.

  Args:
    cases: the merged store.
    fresh: store of other phantoms, or None.
    part: 'validation' or 'test' of `divide`. With fresh phantoms those of both
      are for validation, and the fresh ones and the real CT for the test.

  Returns:
    Store and place of each.

  Raises:
    ValueError: if a fresh case is among the others, of another voxel size, or
      no phantom.
  """
  places = divide(cases)
  if fresh is None:
    return [(cases, i) for i in places[part]]
  real = cases.names.index(REAL)
  if part == "validation":
    phantoms = {*places["validation"], *places["test"]} - {real}
    return [(cases, i) for i in sorted(phantoms)]
  masked = _with_masks(fresh)
  known = set(fresh.names) & set(cases.names)
  kinds = {fresh.records[i].mask_kind for i in masked}
  if known or kinds != {"synthetic"} or fresh.spacing_mm != cases.spacing_mm:
    raise ValueError(
      f"fresh phantoms must be new ({known} are not), of {cases.spacing_mm} mm "
      f"(they have {fresh.spacing_mm}), and phantoms (masks are {kinds})"
    )
  return [(cases, real), *((fresh, i) for i in masked)]


def _crops(store: Any, cases: Sequence[int], seed: int) -> Iterator[dict]:
  """The stream of augmented crops, the same for all who share a seed."""
  from configs import fast
  from vf_jax.config import from_config_dict
  from vf_jax.data.pipeline import make_batches

  config = fast.get_config("S")
  config.model.spacing_mm = store.spacing_mm
  config.data.update(batch=1, foreground=0.4, levels=0.3, lesions=0.0)
  config.train.seed = seed
  checked = from_config_dict(config)
  return augmented(make_batches(store, checked, cases=cases), checked)


def augmented(batches: Any, config: Any) -> Iterator[dict[str, np.ndarray]]:
  """Augments crops before a training step that does not.

  Args:
    batches: of `make_batches`; closed at the end.
    config: the experiment.

  Yields:
    Fields of `augment.patches.Patches`.
  """
  import jax
  import jax.numpy as jnp

  from vf_jax.data.augment.augmentation import augment
  from vf_jax.data.augment.patches import Patches

  change = jax.jit(
    lambda patches: augment(patches, config.model, config.data.augment)
  )
  try:
    for arrays in batches:
      crops = change(Patches(**{k: jnp.asarray(v) for k, v in arrays.items()}))
      fields = {
        field.name: np.asarray(getattr(crops, field.name))
        for field in dataclasses.fields(Patches)
        if hasattr(crops, field.name)
      }
      yield fields | {
        "image": np.rint(fields["image"]).astype(np.int16),
        "painted": np.zeros(len(fields["image"]), bool),
        "seed": np.asarray(arrays["seed"]),
      }
  finally:
    batches.close()


def judge(
  net: contestants.Contestant,
  case: Any,
  window: tuple[int, int, int],
  overlap: float = 0.0,
) -> float:
  """Dice of vertebra against the rest, in a case's box of vertebrae.

  To save time nothing is predicted farther from them than 40 mm.

  Args:
    net: after its training.
    case: prepared, with masks.
    window: voxels of a sliding window.
    overlap: share of a window that the next one covers too.

  Returns:
    0..1.
  """
  from vf_jax.evaluate.metrics.overlap import dice
  from vf_jax.hounsfield import AIR_HU
  from vf_jax.infer.windows import blend, plan_windows
  from vf_jax.labels import IGNORE

  zero = (0, 0, 0)
  found = case.read_all({"image": AIR_HU, "labels": IGNORE}, zero, case.shape)
  box = _box(found["labels"], _AROUND_MM / case.record.spacing_mm)
  found = {name: array[box] for name, array in found.items()}
  windows = plan_windows(found["image"], window, overlap)
  positive = np.zeros(windows.shape, bool)
  spacing = case.record.native_spacing_mm
  for slab in blend(windows, lambda w: [net.predict(w, spacing)[..., None]], 1):
    rows = slice(slab.start, slab.start + len(slab.maps[0]))
    positive[rows] = slab.maps[0][..., 0] > 0
  labels = found["labels"]
  inside = tuple(slice(n) for n in labels.shape)
  known = labels != IGNORE
  return dice(positive[inside] & known, (labels > 0) & known)


def _box(labels: np.ndarray, margin: float) -> tuple[slice, ...]:
  """Slices around all vertebrae, `margin` voxels wider on each side."""
  from vf_jax.labels import IGNORE

  bone = (labels > 0) & (labels != IGNORE)
  box = []
  for axis in range(3):
    others = tuple(a for a in range(3) if a != axis)
    (rows,) = np.nonzero(bone.any(axis=others))
    first = max(0, round(rows[0] - margin))
    box.append(slice(first, round(rows[-1] + 1 + margin)))
  return tuple(box)


def render(found: Mapping[str, Any]) -> list[str]:
  """Renders the runs as Markdown.

  Args:
    found: what `compare` returned, with the `seconds` of a run and the store of
      `fresh` phantoms, if any.

  Returns:
    Paragraphs and tables.
  """
  runs, rows = found["runs"], []
  seeds = sorted({r["seed"] for r in runs})
  table = {
    name: _by_case([r for r in runs if r["name"] == name]) for name in NAMES
  }
  cases = sorted(table[OURS])
  aside = len(found["pilots"][0]["dice"])
  groups = {
    f"{len(cases) - 1} held-out phantoms": [c for c in cases if c != REAL],
    f"{REAL}, agreement with a network's mask": [REAL],
  }
  for title, members in groups.items():
    ours = np.array([table[OURS][c] for c in members])
    for name in NAMES:
      dice = np.array([table[name][c] for c in members])
      own = [r for r in runs if r["name"] == name]
      rows.append(
        [
          title,
          name,
          f"{dice.mean():.3f} {interval(dice)}",
          "" if name == OURS else
          f"{(ours - dice).mean():+.3f} {interval(ours - dice)}",
          own[0]["steps"],
          f"{own[0]['rate']:g}",
          f"{measuring.median(r['cpu_s'] for r in own):.0f}",
        ]
      )  # fmt: skip
  return [
    f"Each network makes the steps that it makes in {found['seconds']:g} s "
    "by the wall clock of the table of speed, in its fastest setting, on the "
    "same stream of augmented crops (2 mm voxels, one crop a step; the stream "
    "is not timed), with the same loss (Dice and cross-entropy of vertebra), "
    "clipping, schedule and averaging; ours carries its other decoders "
    "along, without a loss. Processor seconds are of these runs, all with "
    "jemalloc, MONAI's networks not compiled. Learning rate: by the Dice of "
    f"{aside} phantoms set aside, after as many steps with another seed, the "
    "best of a ladder that goes on until the best lies inside it. Trained on "
    "phantoms, painted real masks and real patches without vertebrae; the "
    f"held-out phantoms are those of {found['fresh'] or 'the same store'}. "
    f"Dice in the box of a case's vertebrae and {_AROUND_MM:.0f} mm around it, "
    f"mean over {len(seeds)} seeds and the cases, with the 95 % interval of a "
    "bootstrap over both.",
    measuring.table(
      [
        "judged on", "network", "Dice", "ours is better by", "steps",
        "learning rate", "processor s",
      ],
      rows,
    ),
    "Mean Dice of the phantoms set aside, by learning rate:",
    measuring.table(
      ["network", "pilots"],
      [
        [
          name,
          ", ".join(
            f"{p['rate']:g}: {mean_dice(p['dice']):.3f}"
            for p in found["pilots"]
            if p["name"] == name
          ),
        ]
        for name in NAMES
      ],
    ),
  ]  # fmt: skip


def _by_case(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
  runs = sorted(runs, key=lambda r: r["seed"])
  return {case: [r["dice"][case] for r in runs] for case in runs[0]["dice"]}


def interval(values: np.ndarray) -> str:
  """95 % percentile interval over rows (cases) and columns (seeds)."""
  rng = np.random.default_rng(0)
  count, seeds = values.shape
  means = [
    values[
      np.ix_(rng.integers(0, count, count), rng.integers(0, seeds, seeds))
    ].mean()
    for _ in range(_RESAMPLES)
  ]
  low, high = np.percentile(means, [2.5, 97.5])
  return f"[{low:.3f}, {high:.3f}]"
