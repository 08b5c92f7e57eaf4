# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The commands of `vf-jax` that make data: prepare, merge, phantom, split."""

from __future__ import annotations

import argparse
import collections
import sys

from vf_jax.cli_types import not_negative, one_of_several
from vf_jax.exit_codes import DONE, FAILED, REFUSED


def add_commands(commands: argparse._SubParsersAction) -> None:
  """Adds the commands to the parser of `vf-jax`.

  Args:
    commands: what `add_subparsers` gave.
  """
  prepare = commands.add_parser(
    "prepare",
    help="turn archives of CTs and masks into a store for training",
    description="Reads archives, checks every case and writes a store of "
    "prepared cases (docs/data.md). Run it again to go on after a stop.",
  )
  prepare.add_argument(
    "archives",
    nargs="*",
    metavar="KIND=PATH",
    help="KIND: verse, ctspine1k, spineweb, totalsegmentator, nnunet or "
    "cohort (a YAML file); PATH alone is recognised by its layout",
  )
  prepare.add_argument("--out", metavar="STORE")
  prepare.add_argument(
    "--spacing", type=float, default=1.0, metavar="MM", help="default 1.0"
  )
  prepare.add_argument(
    "--prune",
    action="store_true",
    help="remove cases from STORE that the archives given do not have "
    "(without it the run is refused)",
  )
  prepare.add_argument(
    "--check-only", action="store_true", help="print the findings, no store"
  )
  prepare.add_argument(
    "--report", metavar="HTML", help="write the findings as a page with views"
  )
  prepare.add_argument(
    "--verify",
    action="store_true",
    help="read STORE against its checksums, prepare nothing",
  )
  prepare.add_argument(
    "--workers",
    type=not_negative,
    metavar="N",
    help="processes (default: all cores)",
  )
  prepare.add_argument(
    "--scheduler",
    metavar="ADDRESS",
    help="of a Dask cluster that does the work, tcp://HOST:8786",
  )
  prepare.set_defaults(run=_prepare)

  merge = commands.add_parser(
    "merge",
    help="copy the cases of several stores into one",
    description="Copies prepared cases as they are. NAME=STORE calls the "
    "domains of that store NAME-DOMAIN.",
  )
  merge.add_argument("stores", nargs="+", metavar="[NAME=]STORE")
  merge.add_argument("--out", required=True, metavar="STORE")
  merge.add_argument(
    "--prune",
    action="store_true",
    help="remove cases from --out that the stores given do not have (without "
    "it the run is refused)",
  )
  merge.set_defaults(run=_merge)

  phantom = commands.add_parser(
    "phantom",
    help="make synthetic CTs in the layouts of the archives",
    description="Writes DIR/verse, DIR/ctspine1k, DIR/spineweb and DIR/cohort "
    "as `vf-jax prepare` reads them, and the truth in DIR/phantom.json.",
  )
  phantom.add_argument("--out", required=True, metavar="DIR")
  phantom.add_argument("--cases", type=int, default=40, metavar="N")
  phantom.add_argument("--seed", type=not_negative, default=0, metavar="S")
  phantom.add_argument(
    "--first",
    type=int,
    default=0,
    metavar="N",
    help="number of the first case, so that one store can hold several runs",
  )
  phantom.add_argument(
    "--sources",
    type=lambda text: tuple(text.split(",")),
    default=("verse", "ctspine1k", "spineweb", "cohort"),
    metavar="KIND,...",
    help="layouts, totalsegmentator and nnunet too (default: the first four)",
  )
  phantom.add_argument(
    "--size",
    choices=("small", "full"),
    default="small",
    help="full: 512x512 and as many slices as a real scan",
  )
  phantom.add_argument(
    "--spans",
    type=_spans,
    default=(),
    metavar="C1-T3,...",
    help="levels in view, to 'sacrum' at the most; each case draws one "
    "(default: what its domain scans)",
  )
  phantom.add_argument(
    "--variants",
    type=_variants,
    metavar="T13=0.1,...",
    help="shares of patients with T13, L6 or 'absent T12' (default: 0.03, "
    "0.06 and 0.02)",
  )
  phantom.add_argument(
    "--leaks",
    action="store_true",
    help="second series of patients and a duplicate, for leak checks to find",
  )
  phantom.add_argument("--workers", type=not_negative, metavar="N")
  phantom.set_defaults(run=_phantom)

  split = commands.add_parser(
    "split",
    help="write a file that says which case is for what",
    description="Splits a store by patients into a JSON file to be committed: "
    "official parts are kept, duplicates and series of one patient stay "
    "together (docs/data.md).",
  )
  split.add_argument("store", metavar="STORE", help="of `vf-jax prepare`")
  split.add_argument("--out", required=True, metavar="FILE.json")
  test = split.add_mutually_exclusive_group()
  test.add_argument(
    "--leave-out", metavar="DOMAIN", help="train on every other domain"
  )
  test.add_argument(
    "--fold",
    type=one_of_several,
    metavar="I/N",
    help="cross-validation: test on the I-th of N parts, 1 <= I <= N, and "
    "train on the others",
  )
  split.add_argument("--seed", type=int, default=0, metavar="N")
  test.add_argument(
    "--fractions",
    type=_fractions,
    default=(0.7, 0.1, 0.2),
    metavar="TRAIN,VALIDATION,TEST",
    help="of the patients without an official part (default 0.7,0.1,0.2)",
  )
  split.set_defaults(run=_split)


def _fractions(text: str) -> tuple[float, float, float]:
  try:
    train, validation, test = (float(word) for word in text.split(","))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not three numbers with commas between"
    ) from None
  return train, validation, test


def _prepare(options: argparse.Namespace) -> int:
  from vf_jax.errors import ConfigError

  if options.verify and options.check_only:
    raise ConfigError(
      "--verify reads a store and --check-only archives. Fix: leave out one "
      "of them."
    )
  if options.prune and (options.verify or options.check_only):
    raise ConfigError(
      "--prune removes cases and --verify and --check-only change nothing. "
      "Fix: leave out one of them."
    )
  if options.check_only and options.out:
    raise ConfigError("--check-only writes no store. Fix: leave out --out.")
  if not options.check_only and not options.out:
    raise ConfigError("--out STORE is missing. Fix: name it, or --check-only.")
  if options.verify:
    if options.archives:
      raise ConfigError("--verify reads a store. Fix: give no KIND=PATH.")
    return _verify(options.out)
  if not options.archives:
    raise ConfigError("no KIND=PATH is given. Fix: name an archive.")
  from vf_jax.multispine.prepare import describe_findings, prepare

  describe = None
  if options.report:
    from vf_jax.report.quality import make_entry

    describe = make_entry

  def show(outcome) -> None:
    text = describe_findings(outcome)
    if not text and options.check_only:
      text = f"{outcome.case}: nothing found"
    failed = outcome.status == "failed"
    refused = outcome.status == "refused" and not options.check_only
    if text and (failed or refused or options.check_only):
      stream = sys.stderr if failed or refused else sys.stdout
      print(text, file=stream, flush=True)

  outcomes = prepare(
    options.archives,
    options.out,
    options.spacing,
    workers=options.workers,
    scheduler=options.scheduler,
    prune=options.prune,
    describe=describe,
    report=show,
  )
  if options.report:
    from vf_jax.report.quality import write_quality_page

    entries = [o.description for o in outcomes if o.description is not None]
    write_quality_page(options.report, entries)
    print(f"page: {options.report}")
  counts = collections.Counter(outcome.status for outcome in outcomes)
  parts = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
  listed = counts["written"] + counts["kept"]
  print(
    f"{len(outcomes)} cases: {parts}" + _arrow(options.out if listed else None)
  )
  if listed:
    _tell_warnings(options.out)
  if counts["failed"]:
    return FAILED
  return REFUSED if counts["refused"] else DONE


def _tell_warnings(store: str) -> None:
  """Names the cases with warnings, those that an earlier run wrote too."""
  from vf_jax.multispine.store import Store

  found = [
    record.case
    for record in Store(store).records
    if any(text.startswith("warning: ") for text in record.findings)
  ]
  if found:
    count = "1 case" if len(found) == 1 else f"{len(found)} cases"
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    print(
      f"vf-jax: {count} with warnings: {', '.join(found[:5])}{more} "
      "(see --check-only or --report)",
      file=sys.stderr,
    )


def _arrow(path: str | None) -> str:
  return f" -> {path}" if path else ""


def _verify(path: str) -> int:
  from vf_jax.multispine.store import Store

  store = Store(path)
  faults = store.verify()
  for name in faults:
    print(f"vf-jax: {path}/{name}: damaged", file=sys.stderr)
  print(f"{len(store)} cases, {len(faults)} damaged files in {path}")
  return REFUSED if faults else DONE


def _merge(options: argparse.Namespace) -> int:
  from vf_jax.multispine.merge import merge

  stores = []
  for word in options.stores:
    prefix, mark, path = word.partition("=")
    stores.append((prefix, path) if mark else ("", word))
  count = merge(stores, options.out, prune=options.prune)
  print(f"{count} cases -> {options.out}")
  return DONE


def _spans(text: str) -> tuple[tuple[str, str], ...]:
  """Reads `C1-T3,T9-sacrum`."""
  spans = [tuple(word.split("-")) for word in text.split(",")]
  if any(len(span) != 2 for span in spans):
    raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST,FIRST-LAST")
  return tuple((first, last) for first, last in spans)


def _variants(text: str) -> dict[str, float]:
  """Reads `T13=0.1,L6=0.2`."""
  try:
    pairs = (word.rsplit("=", 1) for word in text.split(","))
    return {name: float(share) for name, share in pairs}
  except ValueError as error:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not NAME=SHARE,NAME=SHARE"
    ) from error


def _phantom(options: argparse.Namespace) -> int:
  from vf_jax.multispine.phantom.make import make_phantoms

  truth = make_phantoms(
    options.out,
    options.cases,
    options.seed,
    first=options.first,
    sources=options.sources,
    size=options.size,
    spans=options.spans,
    variants=options.variants,
    leaks=options.leaks,
    workers=options.workers,
  )
  print(f"{options.cases} cases -> {options.out}, truth in {truth}")
  return DONE


def _split(options: argparse.Namespace) -> int:
  from vf_jax.multispine.splits import split_store

  split = split_store(
    options.store,
    options.out,
    options.seed,
    options.fractions,
    leave_out=options.leave_out,
    fold=options.fold,
  )
  for leak in split.leaks:
    cases = ", ".join(
      f"{case} ({part}, now {now})"
      if part != (now := split.part_of(case))
      else f"{case} ({part})"
      for case, part in leak.cases.items()
    )
    print(
      f"vf-jax: leak: one patient by {', '.join(leak.reasons)}: {cases}",
      file=sys.stderr,
    )
  counts = ", ".join(f"{len(c)} {part}" for part, c in split.parts.items())
  print(f"{split.name}: {counts} -> {options.out}")
  return DONE
