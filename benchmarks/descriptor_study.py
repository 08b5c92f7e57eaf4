# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What does the modulation unit read, and how sure is it of a new domain?

Crops of phantom patients under four scanners (`paired_phantoms`). For every
part of what the unit reads: how far the scanners of one patient lie apart,
over how far the crops of one scan do. Then the unit alone learns to name three
domains from training patients, and other patients show it the fourth.

    python benchmarks/descriptor_study.py --data DIR --out benchmarks/results
"""

from __future__ import annotations

import argparse
import pathlib
import statistics

import measuring
import numpy as np
import paired_phantoms

_CROP = (64, 32, 32)
_CROPS = 4  # of a scan
_CHANNELS = 96


def main() -> None:
  """Measures both and writes the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", metavar="DIR", required=True)
  parser.add_argument("--patients", type=int, default=22)
  parser.add_argument("--held-out", type=int, default=8)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  store = pathlib.Path(options.data) / "store"
  if not (store / "store.json").exists():
    paired_phantoms.make_store(store, options.patients, options.held_out, 2.0)
  crops = _Crops(store)
  facts = measuring.facts()
  facts["command"] = facts["command"].replace(options.data, "DIR")
  result = {
    "facts": facts,
    "parts": crops.parts(),
    "units": [
      _alone(crops, version, left_out, seed, options.steps)
      for version in (1, 2)
      for left_out in range(len(paired_phantoms.DOMAINS))
      for seed in range(options.seeds)
    ],
  }
  text = _render(result)
  print(text)
  if options.out:
    measuring.write(options.out, "descriptor_study", result, text)


class _Crops:
  """Random crops around vertebrae, with their patient and domain."""

  def __init__(self, folder: pathlib.Path):
    import jax.numpy as jnp

    from vf_jax.hounsfield import AIR_HU
    from vf_jax.multispine.store import Store

    store = Store(folder)
    rng = np.random.default_rng(0)
    rows = []
    for place, record in enumerate(store.records):
      case = store.case(place)
      centres = list(record.centres.values())
      for _ in range(_CROPS):
        centre = np.array(centres[int(rng.integers(len(centres)))])
        start = centre - np.array(_CROP) * (0.5 + rng.uniform(-0.25, 0.25, 3))
        corner = tuple(int(v) for v in np.rint(start))
        image = case.read("image", corner, _CROP, AIR_HU)
        domain = paired_phantoms.DOMAINS.index(record.domain)
        rows.append(
          (image, record.native_spacing_mm, domain, record.subject,
           record.split == "train")
        )  # fmt: skip
    image, spacing, domain, subject, training = zip(*rows, strict=True)
    self.image = jnp.asarray(np.stack(image), jnp.float32)
    self.spacing = jnp.asarray(spacing, jnp.float32)
    self.domain = np.array(domain)
    self.subject = np.array(subject)
    self.training = np.array(training)
    self.pooled = self._pooled()

  def _pooled(self):
    """Mean features of a stem as it is drawn."""
    import jax

    from vf_jax.model_config import STEM_STRIDE
    from vf_jax.models.encoder import Stem

    stem = Stem(_CHANNELS, STEM_STRIDE)
    params = stem.init(jax.random.key(0), self.image[:1])
    look = jax.jit(lambda x: stem.apply(params, x)[1].mean(axis=(1, 2, 3)))
    return jax.lax.map(lambda x: look(x[None])[0], self.image)

  def parts(self) -> dict[str, dict[str, float]]:
    """Spread of every part of what the two versions read."""
    import jax

    from vf_jax.models.descriptor import describe, describe_first

    first, now = (
      np.asarray(
        jax.lax.map(
          lambda x, read=read: read(x[0][None], x[1][None])[0],
          (self.image, self.spacing),
        )
      )
      for read in (describe_first, describe)
    )
    content = np.array(self.pooled)
    content -= content.mean(axis=1, keepdims=True)
    content /= content.std(axis=1, keepdims=True)
    return {
      "1: HU": self._spread(first[:, :25]),
      "1: differences": self._spread(first[:, 25:40]),
      "1: log spacing": self._spread(first[:, 40:]),
      "1: mean features": self._spread(content),
      "2: HU": self._spread(now[:, :25]),
      "2: curvature": self._spread(now[:, 25:58]),
      "2: log spacing": self._spread(now[:, 58:]),
      "2: mean features": self._spread(content / np.sqrt(_CHANNELS)),
    }

  def _spread(self, values) -> dict[str, float]:
    places, scanners = [], []
    for subject in np.unique(self.subject):
      means = []
      for domain in np.unique(self.domain):
        scan = values[(self.subject == subject) & (self.domain == domain)]
        places.append(scan.var(axis=0).sum())
        means.append(scan.mean(axis=0))
      scanners.append(np.var(means, axis=0).sum())
    return {
      "variance": float(values.var(axis=0).sum()),
      "places": float(np.mean(places)),
      "scanners": float(np.mean(scanners)),
    }


def _alone(crops: _Crops, version, left_out, seed, steps) -> dict[str, float]:
  """Trains one unit by its domain loss and looks at other patients."""
  import jax
  import jax.numpy as jnp
  import optax

  from vf_jax.models.modulation import ModulationUnit, mixture_entropy

  unit = ModulationUnit("prototype", 8, 48, 0.0, version=version)
  inputs = (crops.image, crops.spacing, crops.pooled)
  domain = jnp.asarray(crops.domain)
  known = np.flatnonzero(crops.training & (crops.domain != left_out))
  tx = optax.adam(2e-3)

  def loss(params, rows):
    found = unit.apply({"params": params}, *(x[rows] for x in inputs))
    own = jnp.take_along_axis(found.log_mixture, domain[rows][:, None], axis=1)
    return -own.mean()

  @jax.jit
  def train(key):
    draw, order = jax.random.split(key)
    params = unit.init(draw, *(x[:1] for x in inputs))["params"]

    def step(carry, key):
      params, state = carry
      rows = jax.random.choice(key, jnp.asarray(known), (8,))
      updates, state = tx.update(jax.grad(loss)(params, rows), state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(order, steps)
    return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

  params = train(jax.random.key(seed))
  others = np.flatnonzero(~crops.training)
  found = jax.jit(unit.apply)({"params": params}, *(x[others] for x in inputs))
  log_mixture, truth = found.log_mixture, crops.domain[others]
  entropy = np.asarray(mixture_entropy(log_mixture))
  right = np.asarray(log_mixture).argmax(axis=1) == truth
  new = truth == left_out
  return {
    "version": version,
    "left_out": paired_phantoms.DOMAINS[left_out],
    "seed": seed,
    "named_rightly": float(right[~new].mean()),
    "entropy_seen": float(entropy[~new].mean()),
    "entropy_new": float(entropy[new].mean()),
    "largest_share_new": float(np.exp(log_mixture)[new].max(axis=1).mean()),
  }


def _render(result: dict) -> str:
  facts = result["facts"]
  parts = [
    [
      name,
      f"{spread['variance']:.3f}",
      f"{spread['scanners'] / spread['places']:.2f}"
      if spread["places"] > 1e-9
      else "no spread of places",
    ]
    for name, spread in result["parts"].items()
  ]
  names = ("named_rightly", "entropy_seen", "entropy_new", "largest_share_new")
  units = []
  for version in (1, 2):
    for domain in (*paired_phantoms.DOMAINS, "mean"):
      runs = [
        run
        for run in result["units"]
        if run["version"] == version and domain in (run["left_out"], "mean")
      ]
      means = (statistics.fmean(run[name] for run in runs) for name in names)
      units.append([version, domain, *(f"{mean:.2f}" for mean in means)])
  return "\n\n".join(
    [
      "# What the modulation unit reads",
      f"{measuring.origin(facts)}. Phantom patients under four "
      "scanners; the number before a part is the version of the unit.",
      measuring.table(
        ["part", "variance over crops", "scanners / places"], parts
      ),
      "The unit alone, trained to name three domains, on other patients "
      "(entropy in nats; mean of all seeds):",
      measuring.table(
        ["version", "new domain", "seen named rightly", "entropy of seen",
         "entropy of new", "largest share of new"],
        units,
      ),
    ]
  )  # fmt: skip


if __name__ == "__main__":
  main()
