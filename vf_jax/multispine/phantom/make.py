# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A benchmark that anyone can have: phantoms in the layouts of the archives.

Case number i depends on the seed and on i alone, not on how many cases there
are or who makes them. A case is complete when its record is there; a run that
was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

import vf_jax
from vf_jax.errors import InputError, VfError
from vf_jax.io.atomic import write_text
from vf_jax.io.text import read_text
from vf_jax.jobs import WorkerDiedError, run_jobs, show_progress
from vf_jax.labels import SACRUM
from vf_jax.multispine.identity import PHANTOM
from vf_jax.multispine.phantom.anatomy import Anatomy, Rates, make_anatomy
from vf_jax.multispine.phantom.domains import Protocol, Size, draw_protocol
from vf_jax.multispine.phantom.field_of_view import SACRUM_MM
from vf_jax.multispine.phantom.marks import BEGUN, LICENCE, TRUTH
from vf_jax.multispine.phantom.plan import SOURCES, Plan, plan_case
from vf_jax.multispine.phantom.scanner import acquire, cut_codes
from vf_jax.multispine.phantom.settings import (
  Span,
  check_settings,
  check_variants,
  checked_spans,
)
from vf_jax.multispine.phantom.spine import draw_variant
from vf_jax.multispine.phantom.truth import names_of, truth_of
from vf_jax.multispine.phantom.writers import (
  LAYOUTS,
  Series,
  annotated,
  row_of,
)

RECIPE = 2
"""Raise it when a change makes other cases from the same seed."""

_MAX_JSON = 64 << 20
_ATTEMPTS = 10_000  # of patients, not of bodies
_MARGIN_MM = 45.0
_LEAN_MM = 115.0  # half the depth of a body


@dataclasses.dataclass(frozen=True)
class _Job:
  out: str
  seed: int
  size: Size
  plan: Plan
  spans: tuple[Span, ...]
  rates: Rates


def make_phantoms(
  out: str | os.PathLike[str],
  cases: int,
  seed: int = 0,
  *,
  first: int = 0,
  sources: Sequence[str] = SOURCES[:4],
  size: Size = "small",
  spans: Sequence[Span] = (),
  variants: Mapping[str, float] | None = None,
  leaks: bool = False,
  workers: int | None = None,
) -> pathlib.Path:
  """Makes phantoms and writes them as their archives would have them.

  Every source gets a folder `OUT/<source>` that its reader in
  `multispine.sources` understands. `OUT/phantom.json` holds the truth of every
  case: levels, variant, fractures, lesions, pedicles, settings of the scanner
  and files. Progress goes to stderr.

  Args:
    out: folder, made if need be. One with phantoms of the same settings is
      completed.
    cases: how many; they take turns among the sources.
    seed: of everything.
    first: number of the first case. Cases of other numbers have other names, so
      a store can hold both.
    sources: names out of `SOURCES`.
    size: 'small' for quick work, 'full' for clinical matrices.
    spans: pairs of levels, first and last in view, that every case draws from
      in place of its domain's; the sacrum may be the last.
    variants: share of patients with each variant in place of the usual ones.
    leaks: some patients have two series, and some images lie in two archives
      under different names, for the checks to find.
    workers: processes; 0 runs in this one, None takes all cores.

  Returns:
    The path of `phantom.json`.

  Raises:
    ConfigError: if the settings make no sense.
    InputError: if the folder holds something else or more cases.
  """
  check_settings(cases, seed, first, sources, size)
  rates = Rates() if variants is None else Rates(variants)
  check_variants(rates.variants, sources)
  spans = checked_spans(spans, rates.variants)
  folder = pathlib.Path(out)
  settings: dict[str, Any] = {
    "seed": seed,
    "size": size,
    "sources": list(sources),
    "leaks": leaks,
    "recipe": RECIPE,
    "versions": _versions(),
  }
  if first:
    settings["first"] = first
  if spans:
    settings["spans"] = [list(span) for span in spans]
  if variants is not None:
    settings["variants"] = dict(variants)
  _claim(folder, settings, cases)
  plans = [plan_case(first + i, sources, leaks) for i in range(cases)]
  jobs = {
    str(plan.index): _Job(str(folder), seed, size, plan, spans, rates)
    for plan in plans
    if not _is_complete(folder, plan.index)
  }
  began, now = time.monotonic(), time.time()
  failed: dict[str, BaseException] = {}
  for done, (name, result) in enumerate(
    run_jobs(_make_case, jobs, workers=workers), 1
  ):
    if isinstance(result, BaseException):
      failed[name] = result
    show_progress(done, len(jobs), began)
  if failed:
    _raise(folder, failed)
  _sweep(folder, now)
  records = [_read_record(folder, plan.index) for plan in plans]
  for source in sources:
    rows = [
      series["row"]
      for record in records
      if record["source"] == source
      for series in record["series"]
    ]
    if rows:
      LAYOUTS[source].finish(folder / source, rows)
  return _write_truth(folder, settings, records)


def _versions() -> dict[str, str]:
  return {
    "vf_jax": vf_jax.__version__,
    "numpy": np.__version__,
    "scipy": scipy.__version__,
  }


def _claim(
  folder: pathlib.Path, settings: Mapping[str, Any], cases: int
) -> None:
  """Makes the folder ours, or refuses one that is not."""
  path = folder / BEGUN
  if path.is_file():
    found = _read_json(path)
    keys = dict.fromkeys([*settings, *found])
    other = [key for key in keys if found.get(key) != settings.get(key)]
    if other:
      told = ", ".join(f"{key} {found.get(key)!r}" for key in other)
      raise InputError(
        folder,
        f"holds phantoms made with {told}.",
        "name another folder, or delete this one.",
      )
    there = len(list(path.parent.glob("case-*.json")))
    if there > cases:
      raise InputError(
        folder,
        f"holds {there} cases already, more than {cases}.",
        f"ask for {there} or more, or name another folder.",
      )
    return
  strange = [name for name in SOURCES if (folder / name).exists()]
  if strange:
    raise InputError(
      folder,
      f"holds {', '.join(strange)}, which no phantom has made.",
      "name another folder.",
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, json.dumps(settings, indent=1) + "\n")


def _record_path(folder: pathlib.Path, index: int) -> pathlib.Path:
  return (folder / BEGUN).with_name(f"case-{index:05d}.json")


def _read_record(folder: pathlib.Path, index: int) -> dict[str, Any]:
  return _read_json(_record_path(folder, index))


def _read_json(path: pathlib.Path) -> Any:
  fix = "delete it and run again."
  try:
    return json.loads(read_text(path, "phantom record", _MAX_JSON, fix))
  except ValueError as error:
    raise InputError(path, f"is no JSON ({error}).", fix) from error


def _is_complete(folder: pathlib.Path, index: int) -> bool:
  """Whether a case and all its files are there, in their full length."""
  if not _record_path(folder, index).is_file():
    return False
  for series in _read_record(folder, index)["series"]:
    for name, size in series["files"].items():
      path = folder / name
      if not path.is_file() or path.stat().st_size != size:
        return False
  return True


def _sweep(folder: pathlib.Path, before: float) -> None:
  """Removes what `atomic_write` had begun when an earlier run was killed."""
  for path in folder.rglob(".vf-*.part"):
    if path.stat().st_mtime < before:
      path.unlink()


def _raise(folder: pathlib.Path, failed: Mapping[str, BaseException]) -> None:
  """Says what became of the first case that failed."""
  name, error = min(failed.items(), key=lambda item: int(item[0]))
  fault = f"{len(failed)} cases failed; case {name}: {error}"
  if isinstance(error, (VfError, OSError, MemoryError, WorkerDiedError)):
    raise InputError(
      folder,
      fault,
      "run the same command again; with fewer workers if memory is short.",
    ) from error
  error.add_note(fault)
  raise error


def _make_case(job: _Job) -> None:
  """Draws, scans and writes one case; its record comes last."""
  plan, folder = job.plan, pathlib.Path(job.out)
  protocols = _protocols(job)
  anatomy = _patient(job, protocols)
  layout = LAYOUTS[plan.source]
  entries = []
  for number, (name, protocol) in enumerate(zip(plan.names, protocols)):
    scan = acquire(anatomy, protocol, _draw(job, 2, number))
    series = Series(
      name=name,
      subject=plan.subject,
      group=plan.group,
      part=plan.part,
      scan=scan,
      centres=anatomy.centres,
      lesions=anatomy.lesions,
    )
    files = layout.write(folder / plan.source, series)
    entries.append(
      {
        "name": name,
        "domain": plan.stated_domain,
        "protocol": dataclasses.asdict(protocol),
        "visible": names_of(np.unique(scan.labels.voxels).tolist()),
        "cut": names_of(cut_codes(scan.labels)),
        "whole": names_of(np.unique(annotated(scan, cut=False)).tolist()),
        "files": {
          path.relative_to(folder).as_posix(): path.stat().st_size
          for path in files
        },
        "row": row_of(series),
      }
    )
    del scan, series
  record = truth_of(plan, anatomy) | {"series": entries}
  path = _record_path(folder, plan.index)
  write_text(path, json.dumps(record, allow_nan=False) + "\n")


def _draw(job: _Job, *purpose: int) -> np.random.Generator:
  """The stream of one purpose of one case."""
  sequence = np.random.SeedSequence(
    job.seed, spawn_key=(job.plan.seed_index, *purpose)
  )
  return np.random.default_rng(sequence)


def _protocols(job: _Job) -> list[Protocol]:
  """Settings of all series; they look at the same levels."""
  protocols: list[Protocol] = []
  for number, table in enumerate(job.plan.tables):
    protocol = draw_protocol(
      job.plan.appearance, _draw(job, 0, number), job.size
    )
    if protocols:
      span = protocols[0].span
    elif job.spans:
      span = job.spans[int(_draw(job, 3).integers(len(job.spans)))]
    else:
      span = protocol.span
    protocols.append(dataclasses.replace(protocol, span=span, table=table))
  return protocols


def _patient(job: _Job, protocols: Sequence[Protocol]) -> Anatomy:
  """Draws patients until one can be said in the archive's codes."""
  for attempt in range(_ATTEMPTS):
    # What is drawn first of a patient; who is not wanted needs no body.
    variant = draw_variant(_draw(job, 1, attempt), job.rates.variants)
    if variant not in job.plan.unsaid:
      break
  else:
    raise InputError(
      "phantom", f"{_ATTEMPTS} patients in a row have {job.plan.unsaid}."
    )
  # Slabs that lean reach further up on one side and down on the other.
  angle = max(abs(p.tilt_deg) + max(map(abs, p.turn_deg)) for p in protocols)
  margin = _MARGIN_MM + _LEAN_MM * math.sin(math.radians(angle))
  if protocols[0].span[1] == SACRUM.name:
    margin += SACRUM_MM[1]
  return make_anatomy(
    _draw(job, 1, attempt),
    levels=protocols[0].span,
    margin_mm=margin,
    rates=job.rates,
  )


def _write_truth(
  folder: pathlib.Path,
  settings: Mapping[str, Any],
  records: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
  """Writes phantom.json."""
  cases = []
  for record in records:
    series = [
      {key: entry[key] for key in entry if key != "row"}
      | {"files": sorted(entry["files"])}
      for entry in record["series"]
    ]
    cases.append({**record, "series": series})
  content = {
    "format": PHANTOM,
    "version": 1,
    "frame": "world, RAS+",
    "units": "mm, HU",
    "licence": LICENCE,
    **settings,
    "cases": cases,
  }
  path = folder / TRUTH
  write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
  return path
