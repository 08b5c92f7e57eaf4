# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tables of `modulation_study`: scores by domain, differences by patient."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import measuring
import numpy as np

BLANK = "film of a blank scan"  # all its parameters, nothing to adapt to
NOTHING = "nothing"  # left out: the network learns under every scanner
_RESAMPLES = 2000
_METRICS = ("Dice", "level accuracy", "lesion AP")
_CHANGES = tuple(f"change of {metric}" for metric in _METRICS)
_INTERVAL = (
  "(95 % interval of a bootstrap over patients, the same for both; the seeds "
  "are fixed, so that it lacks what other seeds would change)"
)

Run = Mapping[str, Any]
Scans = Sequence[Mapping[str, Any]]
# Of one seed: the scans of every patient by the one network, and by the other.
Pair = Sequence[Mapping[str, Scans]]


def render(result: Mapping[str, Any]) -> str:
  """Writes the study as Markdown.

  Args:
    result: 'facts' and 'runs' as `modulation_study` saves them.

  Returns:
    The text.
  """
  runs, facts = result["runs"], result["facts"]
  parts = ["# What the modulation unit changes"]
  settings: dict[tuple[str, int], dict[str, list[Run]]] = {}
  for run in runs:
    members = settings.setdefault((run["augment"], run["steps"]), {})
    members.setdefault(run["left_out"], []).append(run)
  for (augment, steps), by_scanner in sorted(settings.items()):
    said = f"augmentation of intensities {augment}, {steps} steps"
    parts += _costs(by_scanner, said) + _pooled(by_scanner, said)
    parts += _control(by_scanner, said)
    for left_out, members in sorted(by_scanner.items()):
      parts += [
        f"## {left_out} left out, {said}",
        _head(members),
        _scores(members, left_out),
      ]
      if rows := _differences(members, left_out):
        parts += [
          f"Difference to no modulation, mean over seeds {_INTERVAL}:",
          measuring.table(["unit", "domains", "seeds", *_CHANGES], rows),
        ]
  parts.insert(
    1,
    f"{measuring.origin(facts)}; runs of the commits {_commits(runs)}. "
    "Phantoms: every patient under "
    "four scanners, 2 mm, margin of 20 mm around the spine; a network of "
    f"{min(r['parameters'] for r in runs) / 1e6:.2f} M parameters without the "
    "unit; scores of whole scans of patients that were never trained on, at "
    "true body centres for levels, candidates within 10 mm for lesions. There "
    "are four fields of view only.",
  )
  return "\n\n".join(parts)


def _costs(by_scanner: Mapping[str, Sequence[Run]], said: str) -> list[str]:
  """What a scanner loses by being left out, without the unit; or nothing."""
  seen_all = _plain(by_scanner.get(NOTHING, []))
  rows = []
  for left_out in sorted(by_scanner.keys() - {NOTHING}):
    without = _plain(by_scanner[left_out])
    if pairs := _pairs(without, seen_all, left_out, False):
      rows.append([left_out, len(pairs), *_changes(pairs)])
  if not rows:
    return []
  return [
    f"## What leaving a scanner out costs, {said}",
    "Without the unit: scores on that scanner of networks that never saw it, "
    "less those of networks that learned under all four, mean over seeds "
    f"{_INTERVAL}:",
    measuring.table(["left out", "seeds", *_CHANGES], rows),
  ]


def _pooled(by_scanner: Mapping[str, Sequence[Run]], said: str) -> list[str]:
  """What a unit changes on the scanners left out, if it met several."""
  pooled: dict[tuple[str, str], dict[str, list[Pair]]] = {}
  for left_out in sorted(by_scanner.keys() - {NOTHING}):
    members = by_scanner[left_out]
    for kind, runs in _kinds(members).items():
      pairs = _pairs(runs, _plain(members), left_out, False)
      if pairs and kind[0] != "none":
        pooled.setdefault(kind, {})[left_out] = pairs
  rows = [
    [
      _name(kind),
      ", ".join(scanners),
      sum(map(len, scanners.values())),
      *_changes([pair for pairs in scanners.values() for pair in pairs]),
    ]
    for kind, scanners in pooled.items()
    if len(scanners) > 1
  ]
  if not rows:
    return []
  return [
    f"## What the unit changes on scanners left out, {said}",
    "Difference to no modulation, each scanner by networks that never saw it, "
    f"mean over pairs of networks {_INTERVAL}:",
    measuring.table(["unit", "left out", "pairs", *_CHANGES], rows),
  ]


def _control(by_scanner: Mapping[str, Sequence[Run]], said: str) -> list[str]:
  """What `film` gains by seeing the scan, if its control was measured."""
  rows = []
  for seen in (True, False):
    pairs = [
      pair
      for left_out in sorted(by_scanner.keys() - {NOTHING})
      for pair in _pairs(
        _of_kind(by_scanner[left_out], "film"),
        _of_kind(by_scanner[left_out], BLANK),
        left_out,
        seen,
      )
    ]
    if pairs:
      domains = "seen" if seen else "left out"
      rows.append([domains, len(pairs), *_changes(pairs)])
  if not rows:
    return []
  return [
    f"## What film gains by seeing the scan, {said}",
    "Difference to the same unit that is shown a blank scan, mean over pairs "
    f"of networks {_INTERVAL}:",
    measuring.table(["domains", "pairs", *_CHANGES], rows),
  ]


def _plain(runs: Sequence[Run]) -> list[Run]:
  """Runs without the unit."""
  return _of_kind(runs, "none")


def _of_kind(runs: Sequence[Run], kind: str) -> list[Run]:
  return [run for run in runs if run["kind"] == kind]


def _pairs(
  ones: Sequence[Run], others: Sequence[Run], left_out: str, seen: bool
) -> list[Pair]:
  """Scans on seen scanners or on the one left out, of seeds that both have."""
  by_seed = {run["seed"]: run for run in others}
  return [
    [
      _by_patient(_of(run, left_out, seen))
      for run in (one, by_seed[one["seed"]])
    ]
    for one in sorted(ones, key=lambda run: run["seed"])
    if one["seed"] in by_seed
  ]


def _changes(pairs: Sequence[Pair]) -> list[str]:
  return [_interval(_METRIC[name], pairs) for name in _METRICS]


def _commits(runs: Iterable[Run]) -> str:
  return ", ".join(sorted({run["facts"]["commit"][:9] for run in runs}))


def _head(runs: Sequence[Run]) -> str:
  patients = {name.split("-")[0] for name in runs[0]["cases"]}
  return (
    f"Four crops a step, {len(patients)} held-out patients. Mean of the seeds "
    "(each seed)."
  )


def _domain(name: str) -> str:
  return name.split("-", 1)[1]


def _of(run: Run, left_out: str, seen: bool) -> dict[str, Mapping[str, Any]]:
  return {
    name: scan
    for name, scan in run["cases"].items()
    if (_domain(name) != left_out) == seen
  }


def _kinds(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
  """Runs of each kind and version of the unit, by seed."""
  kinds: dict[tuple[str, str], list[Run]] = {}
  for run in sorted(runs, key=lambda r: (r["kind"], r["unit"], r["seed"])):
    kinds.setdefault((run["kind"], run["unit"]), []).append(run)
  return kinds


def _scores(runs: Sequence[Run], left_out: str) -> str:
  rows = []
  for kind, members in _kinds(runs).items():
    for seen in _views(left_out):
      parts = [list(_of(run, left_out, seen).values()) for run in members]
      cells = [
        _cell([_METRIC[name](scans) for scans in parts]) for name in _METRICS
      ]
      rows.append(
        [
          _name(kind),
          "seen" if seen else left_out,
          *cells,
          _cell([_entropy(scans) for scans in parts])
          if "entropy" in parts[0][0]
          else "-",
        ]
      )
  header = ["unit", "domains", *_METRICS, "entropy of the mixture"]
  return measuring.table(header, rows)


def _cell(values: Sequence[float]) -> str:
  each = ", ".join(f"{v:.3f}" for v in values)
  return f"{statistics.fmean(values):.3f} ({each})"


def _differences(runs: Sequence[Run], left_out: str) -> list[list[object]]:
  plain = _plain(runs)
  rows: list[list[object]] = []
  for kind, members in _kinds(runs).items():
    if kind[0] == "none":
      continue
    for seen in _views(left_out):
      if pairs := _pairs(members, plain, left_out, seen):
        domains = "seen" if seen else left_out
        rows.append([_name(kind), domains, len(pairs), *_changes(pairs)])
  return rows


def _name(kind: tuple[str, str]) -> str:
  """Of a kind of unit, with its version unless that is the present one."""
  return kind[0] if kind[1] in ("-", "now") else f"{kind[0]} ({kind[1]})"


def _views(left_out: str) -> tuple[bool, ...]:
  """Whether scores are of seen scanners: of both kinds, if one is left out."""
  return (True,) if left_out == NOTHING else (True, False)


def _by_patient(scans: Mapping[str, Mapping[str, Any]]) -> dict[str, Scans]:
  patients = collections.defaultdict(list)
  for name, scan in scans.items():
    patients[name.split("-")[0]].append(scan)
  return dict(patients)


def _interval(
  metric: Callable[[Scans], float],
  pairs: Sequence[Pair],
) -> str:
  """Mean difference over pairs of networks, and its bootstrap over patients.

  Args:
    metric: of pooled scans.
    pairs: the scans of every patient by the one and by the other network.

  Returns:
    Text.
  """
  patients = sorted(pairs[0][0])
  rng = np.random.default_rng(0)
  draws = rng.integers(len(patients), size=(_RESAMPLES, len(patients)))
  observed, *drawn = [
    statistics.fmean(
      metric([scan for i in chosen for scan in one[patients[i]]])
      - metric([scan for i in chosen for scan in other[patients[i]]])
      for one, other in pairs
    )
    for chosen in (range(len(patients)), *draws)
  ]
  # Without lesions among the patients there is no AP.
  low, high = np.nanquantile(drawn, (0.025, 0.975))
  return f"{observed:+.3f} ({low:+.3f} to {high:+.3f})"


def _dice(scans: Scans) -> float:
  return statistics.fmean(scan["dice"] for scan in scans)


def _level_accuracy(scans: Scans) -> float:
  pairs = [pair for scan in scans for pair in scan["levels"]]
  return statistics.fmean(float(a == b) for a, b in pairs)


def _average_precision(scans: Scans) -> float:
  """Area under precision over recall, precision made monotone."""
  found = sorted(
    (pair for scan in scans for pair in scan["found"]), key=lambda p: -p[0]
  )
  total = sum(scan["lesions"] for scan in scans)
  if not total:
    return float("nan")
  if not found:
    return 0.0
  hits = np.array([hit for _, hit in found])
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  precision = np.maximum.accumulate(precision[::-1])[::-1]
  return float((precision * hits).sum() / total)


def _entropy(scans: Scans) -> float:
  return statistics.fmean(scan["entropy"] for scan in scans)


_METRIC = {
  "Dice": _dice,
  "level accuracy": _level_accuracy,
  "lesion AP": _average_precision,
}
