# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""`vf-jax <command>`: parses, then calls one library function.

Exit codes: 0 all done; 1 a fault of vf_jax itself; 2 usage or configuration;
3 an input was refused (named on stderr and in summary.csv, the others done) or
the results cannot be written; 4 training stopped at a loss that is no number;
130 interrupted (Ctrl-C, SIGTERM; nothing half written stays, and training has
saved a checkpoint).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO, cast

from vf_jax import cli_data, cli_evaluate, cli_predict
from vf_jax.exit_codes import DONE, INTERRUPTED, NON_FINITE, REFUSED, USAGE
from vf_jax.huge_pages import restart_with_huge_pages


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command.

  Args:
    argv: arguments without the program's name; those of the process if None.

  Returns:
    The exit code.
  """
  _say_input_warnings_plainly()
  # A file may have a name that the terminal cannot show.
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
  if argv is not None:  # the streams are those of who calls
    return _run(argv)
  with _forgiving_output():
    return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
  from vf_jax.errors import ConfigError, NonFiniteLossError, VfError

  arguments = list(sys.argv[1:] if argv is None else argv)
  if arguments[:1] == ["train"]:
    if argv is None:
      restart_with_huge_pages()
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
    return INTERRUPTED


class _Forgiving:
  """A standard stream that takes every line, shown or not."""

  def __init__(self, stream: Any):
    self._stream = stream
    self.lost = ""  # why lines are missing

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    self._try(lambda: self._stream.write(text))
    return len(text)

  def flush(self) -> None:
    self._try(self._stream.flush)

  def isatty(self) -> bool:
    return self._stream.isatty()

  def close_down(self) -> None:
    """Brings out what is left, or lets it lead to nowhere.

    NOTE: what is still in a buffer would fail again when Python ends, and its
    exit code be 120 whatever became of the command.
    """
    self.flush()
    if self.lost:
      self._drop()

  def _try(self, action: Callable[[], object]) -> None:
    try:
      action()
    except BrokenPipeError:  # its reader has seen enough
      self._drop()
    except (OSError, ValueError) as error:  # ValueError: it was closed
      self.lost = getattr(error, "strerror", None) or str(error)

  def _drop(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      nowhere = os.open(os.devnull, os.O_WRONLY)
      try:
        os.dup2(nowhere, self._stream.fileno())
      finally:
        os.close(nowhere)


@contextlib.contextmanager
def _forgiving_output() -> Iterator[None]:
  """Lets no command fail by what it cannot show.

  A reader that went away (`| head -1`) or a full disk behind standard output
  ends no work that is under way, and changes no exit code.
  """
  # Python has no stream where the shell closed it (`>&-`).
  usual = sys.stdout, sys.stderr
  out, err = (None if s is None else _Forgiving(s) for s in usual)
  sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
  try:
    yield
  finally:
    sys.stdout, sys.stderr = usual
    if out is not None:
      out.close_down()
      if out.lost and err is not None:
        err.write(f"vf-jax: warning: not all lines were shown: {out.lost}\n")
    if err is not None:
      err.close_down()


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
    epilog="Exit codes: 0 done, 1 a fault of vf_jax, 2 usage or "
    "configuration, 3 an input was refused or results cannot be written, 4 "
    "training stopped at a non-finite loss, 130 stopped by Ctrl-C or SIGTERM.",
  )
  parser.add_argument(
    "--version", action="version", version=f"vf-jax {vf_jax.__version__}"
  )
  commands = parser.add_subparsers(
    title="commands", metavar="COMMAND", required=True
  )

  cli_predict.add_command(commands)

  demo = commands.add_parser(
    "demo", help="predict the CT that comes with the package"
  )
  demo.add_argument("--out", default="demo_out", metavar="DIR")
  cli_predict.add_model_options(demo)
  demo.set_defaults(run=_demo)

  cli_data.add_commands(commands)
  cli_evaluate.add_command(commands)

  commands.add_parser(
    "train",
    help="train a model, or go on training it",
    description="vf-jax train --config FILE.py[:variant] --workdir DIR "
    "[--config.key=value ...] [--distributed]. With --distributed the "
    "processes that srun, mpirun or a TPU pod started make one run on all "
    "their devices (docs/training.md).",
  )

  numbering = commands.add_parser(
    "train-numbering",
    help="train the numbering by points",
    description="Learns levels from the detections of the VID archive. Writes "
    "DIR/weights.npz, metrics.json and numbering.md; what is measured comes "
    "from patients that were held back.",
  )
  numbering.add_argument(
    "--data", required=True, metavar="TAR", help="vid_training.tar.xz"
  )
  numbering.add_argument("--out", required=True, metavar="DIR")
  numbering.add_argument(
    "--cross-validate",
    type=int,
    default=0,
    metavar="K",
    help="hold back each of K parts of the patients once",
  )
  numbering.add_argument(
    "--config",
    metavar="FILE",
    help="FILE.py[:variant] (default: that of the shipped weights)",
  )
  numbering.set_defaults(run=_train_numbering)

  export = commands.add_parser(
    "export", help="write the weights of a run for prediction"
  )
  export.add_argument("workdir", metavar="DIR", help="of `vf-jax train`")
  export.add_argument("--out", required=True, metavar="WEIGHTS")
  export.set_defaults(run=_export)

  calibrate = commands.add_parser(
    "calibrate",
    help="make the confidences of levels true on held-out cases",
    description="Fits predict.level_temperature on prepared cases that the "
    "weights were not trained on, and writes weights that carry it. No level "
    "changes.",
  )
  calibrate.add_argument(
    "checkpoint", metavar="WEIGHTS", help="exported weights, or a workdir"
  )
  calibrate.add_argument(
    "--store", required=True, metavar="STORE", help="of `vf-jax prepare`"
  )
  calibrate.add_argument(
    "--split",
    default="",
    metavar="FILE",
    help="of `vf-jax split` (default: all cases of STORE)",
  )
  calibrate.add_argument(
    "--part", help="of --split (default there: validation)"
  )
  calibrate.add_argument("--out", required=True, metavar="WEIGHTS")
  calibrate.set_defaults(run=_calibrate)
  return parser


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
  distributed = flags.DEFINE_bool(
    "distributed", False, "one run over all processes of a cluster"
  )
  try:
    rest = flags.FLAGS(["vf-jax", *arguments[1:]])[1:]
    found = config.value
    # A file that could not be loaded gives a stand-in that raises when used.
    found = None if found is None else found.copy_and_resolve_references()
  except Exception as error:  # whatever the file does
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
    from vf_jax.parallel.processes import join
    from vf_jax.train.loop import train

    if distributed.value:
      join()
    summary = train(from_config_dict(found), folder)
    state = "finished" if summary.finished else "stopped, rerun to go on,"
    print(f"{state} at step {summary.step}: {folder}")
    return DONE if summary.finished else INTERRUPTED

  return run


def _demo(options: argparse.Namespace) -> int:
  from vf_jax.demo import run_demo

  run_demo(options.out, options.checkpoint)
  return DONE


def _train_numbering(options: argparse.Namespace) -> int:
  from vf_jax.train.numbering_config import NumberingConfig, read_config
  from vf_jax.train.numbering_run import train_numbering

  config = read_config(options.config) if options.config else NumberingConfig()
  metrics = train_numbering(
    options.data,
    options.out,
    config,
    options.cross_validate,
    lambda text: print(text, flush=True),
  )
  held = metrics["held_back"]
  if held:
    rate = 100 * held["identification_rate"]
    print(f"identification rate of patients held back: {rate:.2f} %")
  print(f"weights {metrics['weights_sha256'][:12]} -> {options.out}")
  return DONE


def _export(options: argparse.Namespace) -> int:
  from vf_jax.train.checkpoint import export

  digest = export(options.workdir, options.out)
  print(f"weights {digest[:12]} -> {options.out}")
  return DONE


def _calibrate(options: argparse.Namespace) -> int:
  from vf_jax.errors import ConfigError

  if options.part and not options.split:
    raise ConfigError("--part is of a split. Fix: name it with --split FILE.")
  from vf_jax.infer.calibrate import calibrate_weights

  found, digest = calibrate_weights(
    options.checkpoint,
    options.out,
    options.store,
    options.split,
    options.part or "validation",
    lambda text: print(text, flush=True),
  )
  print(
    f"{found.bodies} vertebrae of {found.cases} scans, "
    f"{found.right:.1%} right; mean confidence "
    f"{found.mean_confidence_before:.1%} -> {found.mean_confidence_after:.1%}, "
    f"-log p {found.nll_before:.3f} -> {found.nll_after:.3f} at temperature "
    f"{found.temperature:g}"
  )
  print(f"weights {digest[:12]} -> {options.out}")
  return DONE


if __name__ == "__main__":
  sys.exit(main())
