# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The command `vf-jax predict`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from vf_jax.cli_types import one_of_several
from vf_jax.exit_codes import DONE, FAILED, REFUSED

_NAMED = 20


def add_command(commands: argparse._SubParsersAction) -> None:
  """Adds the command to the parser of `vf-jax`.

  Args:
    commands: what `add_subparsers` gave.
  """
  parser = commands.add_parser(
    "predict",
    help="label the vertebrae of CT scans",
    description="Writes, for every CT, DIR/<case>/ with mask, body centres, "
    "lesions, table, report and run.json, and DIR/summary.csv of all cases. "
    "What is there already, made of the same input by the same weights, is "
    "passed over: repeat the command to go on after an interruption.",
  )
  parser.add_argument(
    "ct",
    nargs="*",
    metavar="CT",
    help="NIfTI or MetaImage file, DICOM folder or its zip archive, or a "
    "folder of any of these",
  )
  parser.add_argument(
    "--list",
    action="append",
    default=[],
    metavar="FILE",
    help="text file with one CT a line, relative to the folder of FILE",
  )
  parser.add_argument("--out", required=True, metavar="DIR")
  add_model_options(parser)
  parser.add_argument(
    "--series",
    metavar="UID",
    help="which series of a DICOM folder or archive; the end of the UID is "
    "enough (without it, the choices are listed)",
  )
  parser.add_argument(
    "--dicom-seg",
    action="store_true",
    help="for DICOM, also write <case>_seg.dcm (needs the extra dicom)",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="predict again what is there"
  )
  share = parser.add_mutually_exclusive_group()
  share.add_argument(
    "--shard",
    type=one_of_several,
    default=(1, 1),
    metavar="I/N",
    help="take every N-th case from the I-th on, 1 <= I <= N",
  )
  share.add_argument(
    "--distributed",
    action="store_true",
    help="divide the cases among the processes of a cluster (SLURM, Open MPI, "
    "a TPU pod, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
    "JAX_PROCESS_ID)",
  )
  parser.add_argument(
    "--assume-orientation",
    type=_codes,
    metavar="CODES",
    help="axis codes such as LPS, for files that name no orientation",
  )
  parser.add_argument(
    "--index", type=int, metavar="N", help="which volume of a 4D file"
  )
  parser.add_argument(
    "--hu-offset",
    type=_offset,
    default=0,
    metavar="HU",
    help="added to all voxels, for files without their rescale intercept",
  )
  parser.set_defaults(run=lambda options: _predict(options, parser))


def add_model_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that choose the weights.

  Args:
    parser: of a command that predicts.
  """
  parser.add_argument(
    "--checkpoint",
    metavar="DIR",
    help="exported weights or the workdir of a run (default: the weights of "
    "the package)",
  )


def _codes(text: str) -> str:
  from vf_jax.errors import InputError
  from vf_jax.grid import Reorientation

  try:
    Reorientation.between("RAS", text)
  except InputError as error:
    raise argparse.ArgumentTypeError(error.fault) from None
  return text


def _offset(text: str) -> int:
  value = int(text)
  if abs(value) > 65536:
    raise argparse.ArgumentTypeError(f"{value} is beyond -65536..65536")
  return value


def _predict(
  options: argparse.Namespace, parser: argparse.ArgumentParser
) -> int:
  if not options.ct and not options.list:
    parser.error("the following arguments are required: CT (or --list FILE)")
  from vf_jax.errors import InputError
  from vf_jax.infer.cohort import CohortOptions, predict_cohort
  from vf_jax.infer.inputs import find_cases, read_list, take_shard
  from vf_jax.infer.predictor import load
  from vf_jax.infer.progress import Progress
  from vf_jax.io.ct import InputOptions
  from vf_jax.parallel.processes import meet, split_further
  from vf_jax.report.index import write_index
  from vf_jax.report.page import write_report
  from vf_jax.scratch import share_heaps

  def say(text: str) -> None:
    print(f"vf-jax: {text}", file=sys.stderr, flush=True)

  share_heaps()
  paths = [*options.ct]
  for name in options.list:
    paths += read_list(name)
  cases = find_cases(paths, one_each=options.series is not None, say=say)
  shard = meet() if options.distributed else split_further(options.shard)
  predictor = load(options.checkpoint)
  cases = take_shard(cases, shard)
  inputs = InputOptions(
    assume_orientation=options.assume_orientation,
    index=options.index,
    hu_offset=options.hu_offset,
    series=options.series,
  )
  progress = Progress(len(cases))
  result = predict_cohort(
    predictor,
    cases,
    options.out,
    write_report,
    CohortOptions(inputs, options.overwrite, options.dicom_seg),
    progress,
  )
  # Also if every case was refused: an older page does not say so.
  if os.path.isdir(options.out) and not result.stopped:
    try:
      write_index(options.out)
    except InputError as error:
      result = dataclasses.replace(result, stopped=str(error))
  failed = [*result.refused, *result.broken]
  if len(cases) > 1:
    progress.conclude(
      f"{len(result.done)} done, {len(result.skipped)} done before, "
      f"{len(failed)} not done -> {options.out}/summary.csv"
    )
    if failed:
      more = ", ..." if len(failed) > _NAMED else ""
      names = ", ".join(failed[:_NAMED]) + more
      say(f"{len(failed)} not done: {names} (why: {options.out}/summary.csv)")
  if result.stopped:
    say(result.stopped)
  if result.broken:
    return FAILED
  return REFUSED if result.refused or result.stopped else DONE
