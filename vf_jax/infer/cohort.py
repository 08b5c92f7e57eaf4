# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Many cases in one run: nothing twice, nothing stopped by one bad file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vf_jax.errors import InputError, InputWarning, OutputError
from vf_jax.infer.cases import (
  WriteReport,
  check_target,
  drop_leftovers,
  predict_file,
  room_for_names,
)
from vf_jax.infer.inputs import CaseInput
from vf_jax.infer.predictor import Predictor
from vf_jax.infer.progress import Progress
from vf_jax.infer.request import check_same_input, finished, request_of
from vf_jax.infer.result import CaseResult
from vf_jax.infer.summary import FAILURES, write_summary
from vf_jax.io.atomic import write_text
from vf_jax.io.ct import AS_STORED, InputOptions, read_ct
from vf_jax.volume import Volume


@dataclasses.dataclass(frozen=True)
class CohortOptions:
  """How a run treats its cases.

  Attributes:
    inputs: what the files do not say themselves.
    overwrite: predict again what is there already.
    dicom_seg: write a DICOM SEG beside the mask of a DICOM input.
  """

  inputs: InputOptions = AS_STORED
  overwrite: bool = False
  dicom_seg: bool = False


@dataclasses.dataclass(frozen=True)
class CohortResult:
  """What came of a run.

  Attributes:
    done: names of the cases predicted.
    skipped: names of those that were there already.
    refused: case -> why its input was refused.
    broken: case -> the error of vf_jax itself.
    stopped: why the run ended before its last case, if it did.
  """

  done: tuple[str, ...]
  skipped: tuple[str, ...]
  refused: Mapping[str, str]
  broken: Mapping[str, str]
  stopped: str = ""


@dataclasses.dataclass(frozen=True)
class _Ready:
  """A case that has been read; `volume` is None if it is finished already."""

  request: Mapping[str, Any]
  volume: Volume | None


def predict_cohort(
  predictor: Predictor,
  cases: Sequence[CaseInput],
  out: str | os.PathLike[str],
  write_report: WriteReport,
  options: CohortOptions = CohortOptions(),
  progress: Progress | None = None,
) -> CohortResult:
  """Predicts cases one after the other; a thread reads the next meanwhile.

  A case whose folder says that it was made of the same files by the same
  weights and options is passed over, so that a run that was killed goes on
  where it was. A refused case is told, kept in `.failures/` and in
  `summary.csv`, and tried again by the next run. Only a folder that cannot be
  written ends the run.

  Args:
    predictor: the model.
    cases: of `find_cases`.
    out: folder of all cases, made if missing. Several runs may share it.
    write_report: writes the page of a case.
    options: of the run.
    progress: is told of every case.

  Returns:
    What became of them.

  Raises:
    OutputError: if `out` cannot be written from the start.
  """
  folder = pathlib.Path(out)
  progress = progress or Progress(len(cases))
  done: list[str] = []
  skipped: list[str] = []
  refused: dict[str, str] = {}
  broken: dict[str, str] = {}
  stopped = ""

  def prepare(case: CaseInput) -> _Ready:
    if case.refusal is not None:
      raise case.refusal
    request = request_of(
      predictor, case.path, options.inputs, options.dicom_seg
    )
    if not options.overwrite:
      if finished(folder / case.name, request):
        return _Ready(request, None)
      check_same_input(folder / case.name, request)
    check_target(folder, case.name)
    return _Ready(request, read_ct(case.path, options.inputs))

  def predict(case: CaseInput, ready: _Ready) -> CaseResult | None:
    if ready.volume is None:
      return None
    return predict_file(
      predictor,
      case.path,
      folder,
      write_report,
      options.inputs,
      case=case.name,
      volume=ready.volume,
      request=ready.request,
      dicom_seg=options.dicom_seg,
    )

  drop_leftovers(folder)
  try:
    with warnings.catch_warnings():
      # NOTE: set once and here, because filters are not of one thread only.
      # What the readers say is in volume.warnings and in the report.
      warnings.simplefilter("ignore", InputWarning)
      for case, get in _ahead(cases, prepare):
        try:
          progress.begin(case.name)
          result = predict(case, get())
        except OutputError as error:
          stopped = str(error)
          break
        except InputError as error:
          refused[case.name] = str(error)
          _remember(folder, case, error.fault, error.fix)
          progress.refuse(str(error))
        except Exception as error:  # One case must not cost the others.
          broken[case.name] = f"{type(error).__name__}: {error}"
          _remember(folder, case, broken[case.name], "", traceback.format_exc())
          progress.refuse(f"{case.path}: vf_jax failed: {broken[case.name]}")
        else:
          _forget(folder, case)
          if result is None:
            skipped.append(case.name)
            progress.skip(case.name)
          else:
            done.append(case.name)
            progress.finish(result, folder)
          # NOTE: its mask would take room while the next case is computed.
          del result
  finally:
    progress.close()
    fault = _summarise(folder)
  stopped = stopped or fault
  return CohortResult(tuple(done), tuple(skipped), refused, broken, stopped)


def _ahead(
  cases: Sequence[CaseInput], prepare: Callable[[CaseInput], _Ready]
) -> Iterator[tuple[CaseInput, Callable[[], _Ready]]]:
  """Gives each case with what waits for it; only the next is prepared ahead.

  The thread is a daemon: an interrupted program does not wait for it.
  """
  following = _Task(cases[0], prepare) if cases else None
  for number, case in enumerate(cases):
    task = following
    assert task is not None
    task.join()
    last = number + 1 == len(cases)
    following = None if last else _Task(cases[number + 1], prepare)
    yield case, task.result
    del task


class _Task:
  """A call under way in a thread of its own."""

  def __init__(self, case: CaseInput, call: Callable[[CaseInput], _Ready]):
    self._value: _Ready | None = None
    self._error: BaseException | None = None

    def run() -> None:
      try:
        self._value = call(case)
      except BaseException as error:  # It is raised where it is asked for.
        self._error = error

    self._thread = threading.Thread(target=run, daemon=True)
    self._thread.start()

  def join(self) -> None:
    """Waits; in short steps, so that an interruption is heard."""
    while self._thread.is_alive():
      self._thread.join(0.2)

  def result(self) -> _Ready:
    """Gives what was read and forgets it, or raises what was raised."""
    value, self._value = self._value, None
    if self._error is not None:
      raise self._error
    assert value is not None, "joined before"
    return value


def _summarise(folder: pathlib.Path) -> str:
  """Writes the summary; gives the fault if it cannot be written."""
  if not os.path.isdir(folder):
    return ""
  try:
    write_summary(folder)
  except InputError as error:
    return str(error)
  return ""


def _remember(
  folder: pathlib.Path,
  case: CaseInput,
  fault: str,
  fix: str,
  trace: str = "",
) -> None:
  """Keeps a failure for the summary, one file a case: runs may share it."""
  record = {
    "case": case.name,
    "input": os.fspath(case.path),
    "fault": fault,
    "fix": fix,
    "traceback": trace,
  }
  try:
    place = _failure(folder, case)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps(record, indent=1) + "\n")
  except (OSError, InputError):
    return  # It has been told; the folder's own fault ends the run elsewhere.


def _forget(folder: pathlib.Path, case: CaseInput) -> None:
  with contextlib.suppress(OSError):
    _failure(folder, case).unlink()


def _failure(folder: pathlib.Path, case: CaseInput) -> pathlib.Path:
  """Where a failure is kept; a name that is too long for a file is hashed."""
  name = os.fsencode(case.name)
  fits = len(name) <= room_for_names(folder)
  stem = case.name if fits else hashlib.sha256(name).hexdigest()
  return folder / FAILURES / f"{stem}.json"
