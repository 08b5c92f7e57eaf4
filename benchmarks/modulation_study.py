# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What does the modulation unit change, on known domains and a new one?

Every phantom patient passes four scanners (`paired_phantoms`). A small network
learns from the training patients under three of them; patients that it has
never seen are then measured under all four. One that learns under all four
(`--leave-out nothing`) tells what it costs to leave a scanner out. Steps, seeds
and the order of crops are the same for every kind of unit. Augmentation of
intensities is off by default: it draws random scanners and leaves little shift
to adapt to.

    python benchmarks/modulation_study.py --data DIR --out benchmarks/results

A run whose result lies in DIR is not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import measuring
import paired_phantoms
from modulation_report import BLANK, NOTHING, render

KINDS = ("none", "film", "prototype", "prototype without dropout", BLANK)
_WINDOWS = 8  # in one call of the network
_SLOTS = 16  # for the vertebrae of one scan


def main() -> None:
  """Makes the store, does the runs that are missing, writes the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", metavar="DIR", required=True)
  parser.add_argument(
    "--leave-out", nargs="+", default=["covid19"],
    choices=(*paired_phantoms.DOMAINS, NOTHING),
  )  # fmt: skip
  parser.add_argument("--augment", choices=("off", "on"), default="off")
  parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS[:3])
  parser.add_argument("--unit", default="now", help="name of its version")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--patients", type=int, default=22)
  parser.add_argument("--held-out", type=int, default=8)
  parser.add_argument("--measured", type=int, default=6, help="of them")
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  data = pathlib.Path(options.data)
  if not (data / "store" / "store.json").exists():
    paired_phantoms.make_store(
      data / "store", options.patients, options.held_out, 2.0
    )
  (data / "runs").mkdir(exist_ok=True)
  for left_out in options.leave_out:
    for kind in options.kinds:
      _run_kind(data, kind, left_out, options)
  if options.out:
    found = [
      json.loads(path.read_text().replace(options.data, "DIR"))
      for path in sorted((data / "runs").glob("*.json"))
    ]
    result = {"facts": _facts(options), "runs": found}
    folder = pathlib.Path(options.out)
    text = json.dumps(result, indent=None, separators=(",", ":"))
    (folder / "modulation_study.json").write_text(text + "\n")
    (folder / "modulation_study.md").write_text(render(result) + "\n")


def _facts(options) -> dict[str, Any]:
  """Facts of this process; where its data lie is nobody's business."""
  facts = measuring.facts()
  facts["command"] = facts["command"].replace(options.data, "DIR")
  return facts


def _run_kind(data: pathlib.Path, kind: str, left_out: str, options) -> None:
  """Does the missing seeds of one kind with one compilation."""
  # Without a unit there is no version of it.
  unit = "-" if kind == "none" else options.unit
  setting = {
    "kind": kind, "unit": unit, "left_out": left_out,
    "augment": options.augment, "steps": options.steps,
  }  # fmt: skip
  sight = nn.intercept_methods(_blank) if kind == BLANK else nullcontext()
  with sight:
    _run_seeds(data, setting, options)


def _run_seeds(data: pathlib.Path, setting: dict[str, Any], options) -> None:
  """Trains and measures the seeds that are missing."""
  study = None
  for seed in range(options.seeds):
    name = "_".join(str(v).replace(" ", "-") for v in setting.values())
    path = data / "runs" / f"{name}_{seed}.json"
    if path.exists():
      continue
    study = study or _Study(data / "store", setting, options.measured)
    began = time.monotonic()
    params, losses = study.train(seed)
    trained = time.monotonic()
    cases = study.evaluate(params)
    result = setting | {
      "seed": seed,
      "losses": losses,
      "parameters": study.size(params),
      "cases": cases,
      "facts": _facts(options),
    }
    path.write_text(json.dumps(result) + "\n")
    print(
      f"{path.name}: trained {trained - began:.0f} s, measured "
      f"{time.monotonic() - trained:.0f} s",
      file=sys.stderr, flush=True,
    )  # fmt: skip


def _blank(next_fun, args, kwargs, context):
  """Hides the scan from the modulation unit, as Flax calls it."""
  from vf_jax.models.modulation import ModulationUnit

  if not isinstance(context.module, ModulationUnit):
    return next_fun(*args, **kwargs)
  image, spacing_mm, pooled, *rest = args
  blank = (0 * image, 0 * spacing_mm + 1, 0 * pooled)
  return next_fun(*blank, *rest, **kwargs)


class _Study:
  """One kind of unit: its compiled programs and the cases."""

  def __init__(
    self, folder: pathlib.Path, setting: dict[str, Any], measured: int
  ):
    import jax

    from vf_jax.models.vertebraformer import VertebraFormer
    from vf_jax.multispine.store import Store
    from vf_jax.train.step import make_train_step

    self.config = _config(folder, setting)
    self.store = Store(folder, 512)
    self.training = [
      place
      for place, record in enumerate(self.store.records)
      if record.split == "train" and record.domain != setting["left_out"]
    ]
    subjects = sorted(
      {r.subject for r in self.store.records if r.split == "test"}
    )
    self.held_out = [
      place
      for place, record in enumerate(self.store.records)
      if record.subject in subjects[:measured]
    ]
    self.step = jax.jit(make_train_step(self.config), donate_argnums=0)
    model = VertebraFormer(self.config.model)

    def look(params, image, spacing, points):
      out = model.apply(
        {"params": params}, image.astype("float32"), spacing, points,
        points[..., 0] >= 0,
      )  # fmt: skip
      maps = out.lesions
      boxes = jax.numpy.concatenate(
        [maps.heat[..., None], maps.offset, maps.log_size], axis=-1
      )
      log_mixture = out.domain.log_mixture
      return out.logits, out.offsets, boxes, out.evidence[:, 0], log_mixture

    def number(params, evidence, points_mm, mask):
      scores = model.apply(
        {"params": params}, evidence, points_mm, mask, method="number"
      )
      return scores.decode()[0]

    self.look, self.number = jax.jit(look), jax.jit(number)

  def size(self, params) -> int:
    """Number of parameters."""
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))

  def train(self, seed: int):
    """Trains through the loop's own parts; gives the averaged parameters."""
    import jax

    from vf_jax.data.augment.patches import Patches
    from vf_jax.data.pipeline import make_batches
    from vf_jax.train.state import init_state

    config = dataclasses.replace(
      self.config, train=dataclasses.replace(self.config.train, seed=seed)
    )
    state = jax.jit(lambda: init_state(config))()
    batches = make_batches(self.store, config, cases=self.training)
    losses: list[dict[str, float]] = []
    try:
      for step in range(config.train.steps):
        state, sums = self.step(state, Patches(**next(batches)))
        if step % 50 == 49:
          found = jax.device_get(sums)
          losses.append(
            {k: round(float(a / max(b, 1)), 4) for k, (a, b) in found.items()}
          )
    finally:
      batches.close()
    return state.ema, losses

  def evaluate(self, params) -> dict[str, Any]:
    """Measures every held-out scan as a whole."""
    return {
      self.store.names[place]: self._measure(params, self.store.case(place))
      for place in self.held_out
    }

  def _measure(self, params, case) -> dict[str, Any]:
    import numpy as np

    from vf_jax.evaluate.metrics.overlap import dice
    from vf_jax.hounsfield import AIR_HU
    from vf_jax.infer.decode import find_lesions, suppress
    from vf_jax.infer.sweep import WindowOutputs, sweep
    from vf_jax.labels import IGNORE

    record = case.record
    image = case.read("image", (0, 0, 0), case.shape, AIR_HU)
    labels = case.read("labels", (0, 0, 0), case.shape, IGNORE)
    spacing = np.tile(np.float32(record.native_spacing_mm), (_WINDOWS, 1))
    middle = np.zeros((_WINDOWS, 1, 3), np.float32)
    mixtures = []

    def forward(block):
      found = self.look(params, block, spacing, middle)
      if found[4] is not None:
        # The last call is filled up with air.
        real = (block > AIR_HU).any(axis=(1, 2, 3))
        mixtures.append(np.asarray(found[4])[real])
      return WindowOutputs(*(np.asarray(x) for x in found[:3]))

    out = sweep(image, forward, self.config.model.crop, 0.25, _WINDOWS, 0.5)
    known = labels != IGNORE
    boxes = list(suppress(find_lesions(out, 0.02), record.spacing_mm))
    result: dict[str, Any] = {
      "dice": dice((out.probability > 0.5) & known, (labels > 0) & known),
      "levels": self._levels(params, case, image, spacing),
      "lesions": len(record.boxes),
      "found": _hits(boxes, record.boxes, record.spacing_mm),
    }
    if mixtures:
      log_mixture = np.concatenate(mixtures).astype(float)
      share = np.exp(log_mixture)
      result["entropy"] = float(-(share * log_mixture).sum(axis=1).mean())
      result["mixture"] = [round(float(v), 4) for v in share.mean(axis=0)]
    return result

  def _levels(self, params, case, image, spacing) -> list[list[int]]:
    """True and decoded level at every true body centre, a window for each."""
    import numpy as np

    from vf_jax.infer.windows import padded_shape, take_window
    from vf_jax.labels import VERTEBRAE

    order = {level.code: level.order for level in VERTEBRAE}
    known = sorted(
      (centre[0], order[code], centre)
      for code, centre in case.record.centres.items()
      if code in order and 0 <= centre[0] <= case.shape[0] - 1
    )[::-1][:_SLOTS]
    crop = self.config.model.crop
    last = np.subtract(padded_shape(image.shape, crop), crop)
    windows, points, places = [], [], []
    for _, _, centre in known:
      start = np.round(np.array(centre) - np.array(crop) / 2).astype(int)
      start = np.clip(start, 0, last)
      windows.append(take_window(image, start.tolist(), crop))
      points.append([np.array(centre) - start])
      places.append(np.array(centre) * case.record.spacing_mm)
    evidence: list[Any] = []
    for first in range(0, len(known), _WINDOWS):
      chunk = range(first, min(first + _WINDOWS, len(known)))
      fill = [*chunk] + [chunk[0]] * (_WINDOWS - len(chunk))
      found = self.look(
        params,
        np.stack([windows[i] for i in fill]),
        spacing,
        np.array([points[i] for i in fill], np.float32),
      )
      evidence += list(np.asarray(found[3])[: len(chunk)])
    rows = np.zeros((1, _SLOTS, len(evidence[0])), np.float32)
    points_mm = np.zeros((1, _SLOTS, 3), np.float32)
    rows[0, : len(known)] = evidence
    points_mm[0, : len(known)] = places
    mask = np.arange(_SLOTS)[None] < len(known)
    guess = np.asarray(self.number(params, rows, points_mm, mask))[0]
    return [[level, int(g)] for (_, level, _), g in zip(known, guess)]


def _hits(boxes, truth, spacing_mm) -> list[list[float]]:
  """Score of every candidate, and 1 if it is the first near a lesion."""
  import numpy as np

  free = [np.array(box[:3]) for box in truth]
  rows = []
  for box in boxes:
    away = [
      float(np.linalg.norm(np.array(box.centre) - centre)) * spacing_mm
      for centre in free
    ]
    hit = bool(away) and min(away) <= 10.0
    if hit:
      free.pop(int(np.argmin(away)))
    rows.append([round(box.score, 5), float(hit)])
  return rows


def _config(store: pathlib.Path, setting: dict[str, Any]):
  """The experiment: `configs/tiny.py:own`, smaller and shorter."""
  from vf_jax.config import from_config_dict

  sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
  from configs import tiny

  values = tiny.get_config("own")
  values.model.update(
    crop=(64, 32, 32), channels=32, stem_blocks=0, dim=64, depth=2, heads=2,
    sequence_dim=64, max_points=_SLOTS, modulation=setting["kind"].split()[0],
  )  # fmt: skip
  if setting["kind"].endswith("without dropout"):
    values.model.prototype_dropout = 0.0
  values.data.update(
    store=str(store), batch=4, foreground=0.4, levels=0.3, lesions=0.3,
    synthesis=0.0,
  )  # fmt: skip
  values.data.augment.update(
    margin=0, rotate_deg=0.0, scale=0.0, elastic_mm=0.0, mirror=0.0
  )
  if setting["augment"] == "off":
    values.data.augment.update(
      gamma=0.0, contrast=0.0, shift=0.0, blur=0.0, slices=0.0,
      low_resolution=0.0, noise=0.0,
    )  # fmt: skip
  values.optim.update(learning_rate=2e-3, warmup_steps=30, ema=0.98)
  values.train.update(steps=setting["steps"], checkpoint_every=10**6)
  return from_config_dict(values)


if __name__ == "__main__":
  main()
