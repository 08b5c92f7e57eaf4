# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From archives as they lie on disk to a store of prepared cases.

Every case is one independent job: read, check, carry to the network's grid,
write. A run that was killed goes on where it was; a case that is there already
and was made from the same bytes in the same way is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from vf_jax.errors import InputError, VfError, warn_input
from vf_jax.io.atomic import write_text
from vf_jax.jobs import WorkerDiedError, run_jobs, show_progress
from vf_jax.model_config import check_spacing
from vf_jax.multispine.case import Case, MaskFile, MaskFiles
from vf_jax.multispine.checks.check import Finding, check, format_findings
from vf_jax.multispine.convert import convert
from vf_jax.multispine.load import Loaded, file_digests, file_names, load
from vf_jax.multispine.record import SCHEMA
from vf_jax.multispine.sources import find_cases, recognise
from vf_jax.multispine.store_writer import (
  finish,
  refuse_others,
  write_case,
  writing,
  written_fingerprint,
)
from vf_jax.telemetry import run_facts

RECIPE = 3
"""Raise it when a change makes other arrays of the same files, or refuses them.
"""

Describe = Callable[[Loaded, tuple[Finding, ...]], Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of one case.

  Attributes:
    case: its name.
    status: 'written', 'kept' (it was there), 'checked', 'refused' or 'failed'
      (by a fault of vf_jax).
    findings: of the checks; none for a kept case.
    message: why it was refused, or how vf_jax failed.
    description: what `describe` made of it.
  """

  case: str
  status: Literal["written", "kept", "checked", "refused", "failed"]
  findings: tuple[Finding, ...] = ()
  message: str = ""
  description: Any = None


@dataclasses.dataclass(frozen=True)
class _Job:
  case: Case
  store: str | None
  spacing_mm: float
  describe: Describe | None


def find_all(archives: Sequence[str]) -> tuple[Case, ...]:
  """Finds the cases of several archives.

  Args:
    archives: `KIND=PATH`, or a path whose layout is recognised.

  Returns:
    Cases with unique names: of several cases of one name the later archives'
    get '-2', '-3', ... added, with a warning.

  Raises:
    InputError: if an archive is not recognised or holds no case.
  """
  found: dict[str, Case] = {}
  for archive in archives:
    kind, path = _split_archive(archive)
    renamed = []
    for case in find_cases(kind, path):
      name, count = case.name, 1
      while name in found:
        count += 1
        name = f"{case.name}-{count}"
      found[name] = dataclasses.replace(case, name=name)
      if name != case.name:
        renamed.append(f"{case.name} is called {name}")
    if renamed:
      warn_input(
        path,
        f"has {len(renamed)} names of archives before it: {renamed[0]} in the "
        "store. Name the archives in this order the next time, too.",
      )
  return tuple(found.values())


def _split_archive(archive: str) -> tuple[str, pathlib.Path]:
  kind, separator, path = archive.partition("=")
  if separator and not os.path.exists(archive):
    return kind, pathlib.Path(path)
  return recognise(archive), pathlib.Path(archive)


def prepare(
  archives: Sequence[str],
  store: str | os.PathLike[str] | None,
  spacing_mm: float,
  *,
  workers: int | None = None,
  scheduler: str | None = None,
  prune: bool = False,
  describe: Describe | None = None,
  report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
  """Prepares, or only checks, every case of some archives.

  Args:
    archives: see `find_all`.
    store: output folder; None checks and writes nothing.
    spacing_mm: voxel edge of the store, the network's, mm.
    workers: see `jobs.run_jobs`.
    scheduler: see `jobs.run_jobs`.
    prune: remove what the store holds of other archives; without it such a
      store is refused.
    describe: makes something of each loaded case where it was loaded, e.g. an
      entry of the quality page; kept cases are loaded for it.
    report: called with each outcome as it comes.

  Returns:
    Outcomes in the order of the cases. If none can be listed and not all were
    refused, there is no list and the store is as unfinished as it was.

  Raises:
    InputError: for archives that are not recognised, a store that cannot be
      written or holds cases of other archives, or if every case was refused.
    ConfigError: for a kind or a spacing that does not exist, or if the
      scheduler cannot be used.
  """
  check_spacing("--spacing", spacing_mm)
  cases = find_all(archives)
  if store is None:
    outcomes = _run(
      cases, None, spacing_mm, workers, scheduler, describe, report
    )
    return outcomes
  with writing(store):
    asked = {case.name for case in cases}
    if not prune:
      refuse_others(store, asked, "archives")
    outcomes = _run(
      cases, store, spacing_mm, workers, scheduler, describe, report
    )
    names = [o.case for o in outcomes if o.status in ("written", "kept")]
    if not names:
      if any(o.status == "failed" for o in outcomes):
        return outcomes
      raise InputError(
        store, "got no case: all were refused.", "see the reasons above."
      )
    # What was refused or failed this time may only have been out of reach.
    finish(store, names, spacing_mm, spare=asked)
    facts = run_facts() | {"archives": list(archives), "spacing_mm": spacing_mm}
    write_text(
      pathlib.Path(store) / "run.json", json.dumps(facts, indent=1) + "\n"
    )
  return outcomes


def _run(cases, store, spacing_mm, workers, scheduler, describe, report):
  folder = None if store is None else os.path.abspath(store)
  jobs = {case.name: _Job(case, folder, spacing_mm, describe) for case in cases}
  began = time.monotonic()
  outcomes: dict[str, Outcome] = {}
  for name, result in run_jobs(
    run_job, jobs, workers=workers, scheduler=scheduler
  ):
    if isinstance(result, WorkerDiedError):
      result = Outcome(
        name, "refused", message=f"{name}: {result} (out of memory?)."
      )
    if isinstance(result, BaseException):
      result = _failed(name, result)
    outcomes[name] = result
    report(result)
    show_progress(len(outcomes), len(jobs), began)
  return [outcomes[name] for name in jobs]


def run_job(job: _Job) -> Outcome:
  """Prepares one case; what a worker runs.

  Args:
    job: the case and where it goes.

  Returns:
    What became of it; refused input is an outcome, not an exception, and so
    is a fault of vf_jax.
  """
  try:
    return _run_job(job)
  except VfError as error:
    return Outcome(job.case.name, "refused", message=str(error))
  except Exception as error:  # One case must not cost the others.
    return _failed(job.case.name, error)


def _failed(name: str, error: BaseException) -> Outcome:
  """Names the fault and the line of vf_jax that it came by."""
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if "vf_jax" in pathlib.Path(f.filename).parts]
  where = ""
  if ours:
    where = f" ({pathlib.Path(ours[-1].filename).name}, line {ours[-1].lineno})"
  text = f"{name}: vf_jax failed: {type(error).__name__}: {error}{where}"
  return Outcome(name, "failed", message=text)


def _run_job(job: _Job) -> Outcome:
  case, store = job.case, job.store
  digests = file_digests(case)
  print_of_it = fingerprint(case, job.spacing_mm, digests)
  there = store is not None and (
    written_fingerprint(store, case.name) == print_of_it
  )
  if there and job.describe is None:
    return Outcome(case.name, "kept")
  loaded = load(case, digests)
  findings = check(loaded)
  description = job.describe(loaded, findings) if job.describe else None
  faults = [f.message for f in findings if f.severity == "error"]
  if faults:
    message = f"{case.name}: {' '.join(faults)}"
    return Outcome(case.name, "refused", findings, message, description)
  if store is None or there:
    status: Literal["kept", "checked"] = "kept" if there else "checked"
    return Outcome(case.name, status, findings, description=description)
  words = tuple(f"{f.severity}: {f.message}" for f in findings)
  write_case(store, convert(loaded, job.spacing_mm, words), print_of_it)
  return Outcome(case.name, "written", findings, description=description)


def fingerprint(
  case: Case, spacing_mm: float, digests: Mapping[str, str]
) -> str:
  """Digest of everything that decides what a prepared case looks like.

  Args:
    case: the case.
    spacing_mm: voxel edge, mm.
    digests: of its files.

  Returns:
    SHA-256; independent of the folder that the files lie in.
  """
  values = {
    field.name: getattr(case, field.name)
    for field in dataclasses.fields(case)
    if field.name not in ("image", "mask", "subregions", "centroids", "lesions")
  } | {
    "schema": SCHEMA,
    "recipe": RECIPE,
    "spacing_mm": spacing_mm,
    "digests": dict(digests),
    "annotates": sorted(case.annotates),
  }
  if isinstance(case.mask, MaskFile):
    values["mask"] = [case.mask.scheme, sorted(case.mask.recode.items())]
  if isinstance(case.mask, MaskFiles):
    names = file_names(case)
    values["mask"] = {
      level: digests[names[path]] for level, path in case.mask.paths.items()
    }
  if case.centroids is not None:
    values["centroids"] = [case.centroids.format, case.centroids.kind]
  if case.mask is None and "levels" in case.annotates:
    values["levels"] = "by centres"  # once they were known without any
  if case.lesions is not None:
    # Once a case that its table lacks had no lesions.
    values["lesions"] = ["listed", case.lesions.key]
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def describe_findings(outcome: Outcome) -> str:
  """What the checks say of a case, for the terminal.

  Args:
    outcome: of a case.

  Returns:
    A readable block; empty if there is nothing to say.
  """
  if outcome.message and not outcome.findings:
    return outcome.message
  if not outcome.findings:
    return ""
  return format_findings(outcome.case, outcome.findings)
