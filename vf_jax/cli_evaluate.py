# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The command `vf-jax evaluate`."""

from __future__ import annotations

import argparse
import math
import shutil
import sys

from vf_jax.cli_types import not_negative
from vf_jax.exit_codes import DONE, FAILED, REFUSED


def add_command(commands: argparse._SubParsersAction) -> None:
  """Adds the command to the parser of `vf-jax`.

  Args:
    commands: what `add_subparsers` gave.
  """
  parser = commands.add_parser(
    "evaluate",
    help="measure predictions against references",
    description="Measures every case of the references: segmentation, "
    "surfaces, levels, lesions, with intervals over patients. Writes "
    "cases.csv, vertebrae.csv, summary.json and summary.md. A case without a "
    "prediction, or with a refused one, counts as missed from head to foot; "
    "what is refused is named and the exit code is 3.",
  )
  parser.add_argument(
    "--pred",
    required=True,
    metavar="DIR",
    help="masks in VerSe codes, <case>_seg-vert_msk.nii.gz, with "
    "<case>_seg-vb_ctd.json and <case>_lesions.json if there are any",
  )
  parser.add_argument(
    "--ref", required=True, metavar="DIR", help="the same, or a VerSe tree"
  )
  parser.add_argument("--out", required=True, metavar="DIR")
  parser.add_argument(
    "--patients",
    metavar="CSV",
    help="columns case,patient (default: sub-... of the name)",
  )
  parser.add_argument(
    "--tolerance-mm",
    type=_tolerances,
    default=(1.0, 2.0),
    metavar="MM,...",
    help="of the surface Dice (default 1,2)",
  )
  parser.add_argument(
    "--count-cut",
    action="store_true",
    help="count a vertebra at the border of the scan as superfluous if the "
    "reference lacks it: for references with cut vertebrae",
  )
  parser.add_argument(
    "--lesion-score",
    type=_number,
    default=0.5,
    metavar="S",
    help="operating point of precision and recall (default 0.5)",
  )
  parser.add_argument(
    "--missing-penalty-mm",
    type=_number,
    metavar="MM",
    help="adds a d_mean in which a missing vertebra counts with MM",
  )
  parser.add_argument(
    "--replicates",
    type=_count,
    default=10_000,
    metavar="N",
    help="of the bootstrap over patients (default 10000)",
  )
  parser.add_argument("--seed", type=not_negative, default=0, metavar="N")
  parser.add_argument(
    "--workers",
    type=not_negative,
    metavar="N",
    help="processes (default: all cores)",
  )
  parser.set_defaults(run=_evaluate)


def _number(text: str) -> float:
  value = float(text)
  if not math.isfinite(value) or value < 0:
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
  return value


def _tolerances(text: str) -> tuple[float, ...]:
  values = tuple(_number(word) for word in text.split(","))
  if len(set(values)) < len(values):
    raise argparse.ArgumentTypeError(f"{text!r} names a tolerance twice")
  return values


def _count(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"{value} is less than 1")
  return value


def _evaluate(options: argparse.Namespace) -> int:
  from vf_jax.evaluate.evaluate import evaluate
  from vf_jax.evaluate.measure import MeasureOptions
  from vf_jax.evaluate.summary import SummaryOptions
  from vf_jax.evaluate.tables import summary_terminal

  def show(case) -> None:
    for note in case.notes:
      print(f"vf-jax: {case.name}: {note}", file=sys.stderr, flush=True)

  result = evaluate(
    options.pred,
    options.ref,
    options.out,
    patients=options.patients,
    measured=MeasureOptions(options.tolerance_mm, options.count_cut),
    summed=SummaryOptions(
      options.replicates,
      options.seed,
      options.lesion_score,
      options.missing_penalty_mm,
    ),
    workers=options.workers,
    report=show,
  )
  for fault in result.refused.values():
    print(f"vf-jax: {fault}", file=sys.stderr)
  for name, fault in result.failed.items():
    print(f"vf-jax: {name}: vf_jax failed: {fault}", file=sys.stderr)
  for line in result.lines:
    print(line)
  width = min(shutil.get_terminal_size().columns, 100)
  print(summary_terminal(result.measures, width))
  print(f"-> {options.out}/summary.md")
  if result.failed:
    return FAILED
  return DONE if result.clean else REFUSED
