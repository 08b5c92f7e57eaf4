# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`vf-jax <command>`: parses, then calls one library function.

Exit codes: 0 all done; 1 a fault of vf_jax itself; 2 usage or configuration;
3 an input was refused (named on stderr, nothing written for it, the others
done); 4 training stopped at a loss that is no number; 130 interrupted (Ctrl-C,
SIGTERM; nothing half written stays).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence

DONE, USAGE, REFUSED, NON_FINITE = 0, 2, 3, 4
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command.

  Args:
    argv: arguments without the program's name; those of the process if None.

  Returns:
    The exit code.
  """
  from vf_jax.errors import ConfigError, NonFiniteLossError, VfError

  _say_input_warnings_plainly()
  # A file may have a name that the terminal cannot show.
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
  arguments = list(sys.argv[1:] if argv is None else argv)
  if arguments[:1] == ["train"]:
    run = _parse_train(arguments)
  else:
    options = _parser().parse_args(arguments)

    def run() -> int:
      with _tidy_end():
        return options.run(options)

  try:
    return run()
  except ConfigError as error:
    print(f"vf-jax: {error}", file=sys.stderr)
    return USAGE
  except NonFiniteLossError as error:
    print(f"vf-jax: {error}", file=sys.stderr)
    return NON_FINITE
  except VfError as error:
    print(f"vf-jax: {error}", file=sys.stderr)
    return REFUSED
  except KeyboardInterrupt:
    print("vf-jax: interrupted", file=sys.stderr)
    return _INTERRUPTED


def _say_input_warnings_plainly() -> None:
  """Faults of files are for people: no source line, no class name."""
  from vf_jax.errors import InputWarning

  usual = warnings.formatwarning

  def plain(message, category, *rest, **options):
    if issubclass(category, InputWarning):
      return f"vf-jax: warning: {message}\n"
    return usual(message, category, *rest, **options)

  warnings.formatwarning = plain


@contextlib.contextmanager
def _tidy_end() -> Iterator[None]:
  """Makes SIGTERM end a command as Ctrl-C does, its hidden files removed.

  Training has its own way: it saves a checkpoint first.
  """

  def stop(number, frame):
    raise KeyboardInterrupt

  old = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, old)


def _parser(base: type[argparse.ArgumentParser] = argparse.ArgumentParser):
  import vf_jax

  parser = base(
    prog="vf-jax",
    description="Vertebra segmentation, numbering and lesion localization in "
    "spinal CT. Not for clinical use.",
    epilog="Exit codes: 0 done, 2 usage or configuration, 3 an input was "
    "refused, 4 training stopped at a non-finite loss.",
  )
  parser.add_argument(
    "--version", action="version", version=f"vf-jax {vf_jax.__version__}"
  )
  commands = parser.add_subparsers(
    title="commands", metavar="COMMAND", required=True
  )

  predict = commands.add_parser(
    "predict",
    help="label the vertebrae of CT scans",
    description="Writes, for every CT, DIR/<case>/ with mask, body centres, "
    "lesions, table, report and run.json.",
  )
  predict.add_argument("ct", nargs="+", metavar="CT", help=".nii or .nii.gz")
  predict.add_argument("--out", required=True, metavar="DIR")
  _add_model_options(predict)
  predict.add_argument(
    "--assume-orientation",
    metavar="CODES",
    help="axis codes such as LPS, for files that name no orientation",
  )
  predict.add_argument(
    "--index", type=int, metavar="N", help="which volume of a 4D file"
  )
  predict.add_argument(
    "--hu-offset",
    type=_offset,
    default=0,
    metavar="HU",
    help="added to all voxels, for files without their rescale intercept",
  )
  predict.set_defaults(run=_predict)

  demo = commands.add_parser(
    "demo", help="predict the CT that comes with the package"
  )
  demo.add_argument("--out", default="demo_out", metavar="DIR")
  _add_model_options(demo)
  demo.set_defaults(run=_demo)

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
    "--workers", type=int, metavar="N", help="processes (default: all cores)"
  )
  prepare.add_argument(
    "--scheduler",
    metavar="ADDRESS",
    help="of a Dask cluster that does the work, tcp://HOST:8786",
  )
  prepare.set_defaults(run=_prepare)

  phantom = commands.add_parser(
    "phantom",
    help="make synthetic CTs in the layouts of the archives",
    description="Writes DIR/verse, DIR/ctspine1k, DIR/spineweb and DIR/cohort "
    "as `vf-jax prepare` reads them, and the truth in DIR/phantom.json.",
  )
  phantom.add_argument("--out", required=True, metavar="DIR")
  phantom.add_argument("--cases", type=int, default=40, metavar="N")
  phantom.add_argument("--seed", type=int, default=0, metavar="S")
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
    "--leaks",
    action="store_true",
    help="second series of patients and a duplicate, for leak checks to find",
  )
  phantom.add_argument("--workers", type=int, metavar="N")
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
  split.add_argument(
    "--leave-out", metavar="DOMAIN", help="train on every other domain"
  )
  split.add_argument("--seed", type=int, default=0, metavar="N")
  split.add_argument(
    "--fractions",
    type=_fractions,
    default=(0.7, 0.1, 0.2),
    metavar="TRAIN,VALIDATION,TEST",
    help="of the patients without an official part (default 0.7,0.1,0.2)",
  )
  split.set_defaults(run=_split)

  commands.add_parser(
    "train",
    help="train a model, or go on training it",
    description="vf-jax train --config FILE.py[:variant] --workdir DIR "
    "[--config.key=value ...]",
  )

  export = commands.add_parser(
    "export", help="write the weights of a run for prediction"
  )
  export.add_argument("workdir", metavar="DIR", help="of `vf-jax train`")
  export.add_argument("--out", required=True, metavar="WEIGHTS")
  export.set_defaults(run=_export)
  return parser


def _fractions(text: str) -> tuple[float, float, float]:
  try:
    train, validation, test = (float(word) for word in text.split(","))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not three numbers with commas between"
    ) from None
  return train, validation, test


def _offset(text: str) -> int:
  value = int(text)
  if abs(value) > 32768:
    raise argparse.ArgumentTypeError(f"{value} is beyond -32768..32768")
  return value


def _add_model_options(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--checkpoint",
    metavar="DIR",
    help="exported weights or the workdir of a run (default: the weights of "
    "the package)",
  )


def _parse_train(arguments: list[str]):
  """Parses `train`, whose --config.* belong to absl's config flags."""
  from absl import flags
  from ml_collections import config_flags

  parser = _parser()
  if "--help" in arguments or "-h" in arguments:
    parser.parse_args(["train", "--help"])
  # NOTE: the flag reads the overrides from sys.argv itself.
  sys.argv[1:] = arguments
  config = config_flags.DEFINE_config_file(
    "config", help_string="experiment file, FILE.py[:variant]"
  )
  workdir = flags.DEFINE_string("workdir", None, "folder of the run")
  try:
    rest = flags.FLAGS(["vf-jax", *arguments[1:]])[1:]
    found = config.value
    # A file that could not be loaded gives a stand-in that raises when used.
    found = None if found is None else found.copy_and_resolve_references()
  except (
    flags.Error,
    AttributeError,
    ImportError,
    KeyError,
    TypeError,
    OSError,
    SyntaxError,
    ValueError,
  ) as error:
    # The flag library hands on whole tracebacks; their last line says it.
    text = error.args[0] if isinstance(error, KeyError) else error
    parser.error(str(text).strip().splitlines()[-1].strip())
  if rest:
    parser.error(f"train: unexpected {' '.join(rest)}")
  if found is None:
    parser.error("train: --config FILE.py is required, e.g. configs/tiny.py")
  folder = str(workdir.value or "")
  if not folder:
    parser.error("train: --workdir DIR is required")

  def run() -> int:
    from vf_jax.config import from_config_dict
    from vf_jax.train.loop import train

    summary = train(from_config_dict(found), folder)
    state = "finished" if summary.finished else "stopped, rerun to go on,"
    print(f"{state} at step {summary.step}: {folder}")
    return DONE

  return run


def _predict(options: argparse.Namespace) -> int:
  from vf_jax.errors import InputError
  from vf_jax.infer.cases import (
    InputOptions,
    case_name,
    check_names,
    predict_file,
  )
  from vf_jax.infer.predictor import load
  from vf_jax.report.page import write_report

  try:
    check_names(options.ct)
  except InputError as error:
    print(f"vf-jax: {error}", file=sys.stderr)
    return USAGE
  predictor = load(options.checkpoint)
  inputs = InputOptions(
    assume_orientation=options.assume_orientation,
    index=options.index,
    hu_offset=options.hu_offset,
  )
  code = DONE
  for path in options.ct:
    try:
      result = predict_file(predictor, path, options.out, write_report, inputs)
    except InputError as error:
      print(f"vf-jax: {error}", file=sys.stderr)
      code = REFUSED
      continue
    case = case_name(path)
    found = ", ".join(v.level for v in result.vertebrae) or "no vertebra"
    print(
      f"{case}: {found} ({result.run['seconds']['total']:.1f} s) -> "
      f"{options.out}/{case}/{case}_report.html"
    )
    for note in result.warnings:
      print(f"{case}: warning: {note}", file=sys.stderr)
  return code


def _demo(options: argparse.Namespace) -> int:
  from vf_jax.demo import run_demo

  run_demo(options.out, options.checkpoint)
  return DONE


def _prepare(options: argparse.Namespace) -> int:
  from vf_jax.errors import ConfigError

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
    if text and (options.check_only or outcome.status == "refused"):
      refused = outcome.status == "refused" and not options.check_only
      print(text, file=sys.stderr if refused else sys.stdout, flush=True)

  outcomes = prepare(
    options.archives,
    options.out,
    options.spacing,
    workers=options.workers,
    scheduler=options.scheduler,
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
  print(f"{len(outcomes)} cases: {parts}" + _arrow(options.out))
  return REFUSED if counts["refused"] else DONE


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


def _phantom(options: argparse.Namespace) -> int:
  from vf_jax.multispine.phantom.make import make_phantoms

  truth = make_phantoms(
    options.out,
    options.cases,
    options.seed,
    sources=options.sources,
    size=options.size,
    leaks=options.leaks,
    workers=options.workers,
  )
  print(f"{options.cases} cases -> {options.out}, truth in {truth}")
  return DONE


def _split(options: argparse.Namespace) -> int:
  import pathlib

  from vf_jax.multispine import splits
  from vf_jax.multispine.store import Store

  records = Store(options.store).records
  if options.leave_out:
    split = splits.leave_one_domain_out(
      records, options.leave_out, options.seed
    )
  else:
    shares = dict(zip(("train", "validation", "test"), options.fractions))
    name = pathlib.Path(options.out).stem
    split = splits.make_split(records, name, options.seed, shares)
  splits.write_split(options.out, split)
  for leak in split.leaks:
    cases = ", ".join(f"{case} ({part})" for case, part in leak.cases.items())
    print(
      f"vf-jax: leak: {cases}: {' '.join(leak.reasons)} All are in "
      f"'{leak.moved_to}' now.",
      file=sys.stderr,
    )
  counts = ", ".join(f"{len(c)} {part}" for part, c in split.parts.items())
  print(f"{split.name}: {counts} -> {options.out}")
  return DONE


def _export(options: argparse.Namespace) -> int:
  from vf_jax.train.checkpoint import export

  digest = export(options.workdir, options.out)
  print(f"weights {digest[:12]} -> {options.out}")
  return DONE


if __name__ == "__main__":
  sys.exit(main())
