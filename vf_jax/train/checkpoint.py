# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of training and exported weights (the only user of Orbax)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from vf_jax.config import Config, from_dict
from vf_jax.errors import InputError, OutputError
from vf_jax.io.atomic import replace_folder
from vf_jax.train.state import Params, TrainState, init_params, init_state
from vf_jax.train.unreadable import DAMAGED, explained

_FOLDER = "checkpoints"
_CONFIG = "config.json"
_WEIGHTS = "params"
_DIGEST = "sha256"  # of a checkpoint: of all, as older ones have it
_EMA_DIGEST = "sha256_ema"  # apart, as it may be read alone
_REST_DIGEST = "sha256_rest"
_FREE = ("attention", "remat")  # how it is computed may change between starts


class Checkpoints:
  """The checkpoints of one run: the latest ones and the best.

  Attributes:
    directory: where they are.
  """

  def __init__(self, workdir: str | os.PathLike[str], config: Config):
    """Opens (or starts) the checkpoints of a run.

    Args:
      workdir: folder of the run.
      config: the experiment; `train.keep` latest are kept.
    """
    training = ocp.training
    keep = training.preservation_policies
    self.directory = pathlib.Path(workdir).resolve() / _FOLDER
    self.directory.mkdir(parents=True, exist_ok=True)
    self._config = config
    self._checkpointer = training.Checkpointer(
      self.directory,
      # The loop decides when to save.
      save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(
        1
      ),
      preservation_policy=keep.AnyPreservationPolicy(
        [
          keep.LatestN(config.train.keep),
          keep.BestN(
            get_metric_fn=lambda m: m["dice"],
            n=1,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      ),
      cleanup_tmp_directories=True,
    )

  @property
  def latest(self) -> int | None:
    """Step of the newest complete checkpoint."""
    found = self._checkpointer.latest
    return None if found is None else int(found.step)

  def save(
    self,
    state: TrainState,
    data_state: Mapping[str, Any],
    dice: float | None,
  ) -> None:
    """Starts to write a checkpoint; it has its name when it is complete.

    The state may be given away afterwards: its numbers are on the host then,
    or held where they are. A write that fails raises at the next call, in
    `wait` or in `close`.

    Args:
      state: of training, step included.
      data_state: position of the data iterator.
      dice: decides which checkpoint is the best; None if there is none, which
        is never the best.
    """
    self._checkpointer.save_checkpointables_async(
      int(state.step),
      {
        "state": state,
        "data": dict(data_state),
        "config": self._config.to_dict(),
      },
      metrics=None if dice is None else {"dice": dice},
      custom_metadata=_signed(state),
    )

  def restore(
    self, abstract: TrainState
  ) -> tuple[TrainState, Mapping[str, Any]]:
    """Reads the newest checkpoint.

    Args:
      abstract: shapes, types and shardings of the state.

    Returns:
      The state and the position of the data iterator.

    Raises:
      InputError: if it was made by another model or is damaged.
    """
    folder = self.directory / str(self.latest)
    with explained(folder):
      stored = self._checkpointer.load_checkpointables(None, {"config": None})
    _check_same_model(self.directory, stored["config"], self._config)
    with explained(folder):
      found = self._checkpointer.load_checkpointables(
        None, {"state": abstract, "data": None}
      )
      state = found["state"]
      rest = dataclasses.replace(state, ema=None)
      for name, tree in (
        (_DIGEST, state), (_EMA_DIGEST, state.ema), (_REST_DIGEST, rest)
      ):  # fmt: skip
        _check_digest(self._checkpointer, folder, name, tree)
    return state, found["data"]

  def wait(self) -> None:
    """Waits for what is still being written, and raises if that fails."""
    self._checkpointer.wait()

  def close(self) -> None:
    """Ends the checkpoints after waiting for what is still being written."""
    self._checkpointer.close()


def _check_digest(
  checkpointer: Any, folder: pathlib.Path, name: str, tree: Any
) -> None:
  """The file format notices a cut file, but not a changed number."""
  written = checkpointer.metadata(int(folder.name)).custom_metadata or {}
  kept = written.get(name)
  # Older ones have none; of many processes each sees a part of the numbers.
  if kept is None or not _is_here(tree):
    return
  if kept != _digest(tree):
    raise InputError(folder, "its numbers have changed since.", DAMAGED)


def _check_same_model(path, stored: Mapping[str, Any], config: Config) -> None:
  before = from_dict(stored)  # with the defaults of keys that are newer
  ours, theirs = _shaping(config), _shaping(before)
  for key in ours:
    if ours[key] != theirs[key]:
      raise InputError(
        path,
        f"was trained with {key}={theirs[key]}, the config says {ours[key]}.",
        f"pass --config.{key}={theirs[key]} or another --workdir.",
      )


def _shaping(config: Config) -> dict[str, Any]:
  """Settings that decide which parameters there are."""
  model = config.to_dict()["model"]
  found = {f"model.{k}": v for k, v in model.items() if k not in _FREE}
  found["loss.weighting"] = config.loss.weighting
  found["train.only"] = config.train.only
  if config.loss.weighting == "uncertainty":  # one parameter a task
    losses = config.to_dict()["loss"]
    del losses["weighting"]
    found |= {f"loss.{k}": "above 0" if v else 0 for k, v in losses.items()}
  return found


def export(workdir: str | os.PathLike[str], out: str | os.PathLike[str]) -> str:
  """Writes the averaged parameters of a run's newest checkpoint for use.

  Args:
    workdir: folder of the run.
    out: folder of the weights, replaced if it holds such.

  Returns:
    The SHA-256 of the weights.

  Raises:
    InputError: if the run has no readable checkpoint; see `write_weights`.
  """
  config, params, _ = _from_run(pathlib.Path(workdir))
  return write_weights(config, params, out)


def write_weights(
  config: Config, params: Params, out: str | os.PathLike[str]
) -> str:
  """Writes parameters for use.

  Args:
    config: the experiment; what concerns prediction is used from it.
    params: to write.
    out: folder of the weights, replaced if it holds such.

  Returns:
    The SHA-256 of the weights.

  Raises:
    OutputError: if the folder holds anything else, or cannot be written.
  """
  target = pathlib.Path(out).resolve()
  _check_target(target)
  part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
  try:
    part.mkdir(parents=True)
    digest = _write_weights(config, params, part)
    replace_folder(part, target)
  except OSError as error:
    raise OutputError(
      target, f"cannot be written ({error.strerror}).", "change --out."
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return digest


def _check_target(target: pathlib.Path) -> None:
  """Refuses to replace what is no folder of weights, above all a run."""
  if not target.exists():
    return
  held = set(os.listdir(target)) if target.is_dir() else {""}
  foreign = sorted(held - {_CONFIG, _WEIGHTS, _DIGEST, ".DS_Store"})
  if foreign:
    raise OutputError(
      target,
      "is a file." if foreign == [""] else
      f"holds {foreign[0]}, which is no part of exported weights, and would "
      "be replaced.",
      "name a new folder, or one of `vf-jax export`.",
    )  # fmt: skip


def _write_weights(
  config: Config, params: Params, temporary: pathlib.Path
) -> str:
  ocp.save(temporary / _WEIGHTS, params)
  marker = temporary / _WEIGHTS / "commit_success.txt"
  if marker.exists():  # Orbax writes the absolute path into it
    marker.write_text("complete\n", "utf-8")
  values = config.to_dict()
  # Paths of this machine are of no use elsewhere.
  values["data"]["store"] = values["train"]["init"] = ""
  values["train"]["only"] = ()  # it belongs to `init`
  # Nor is a kernel of the devices that it was trained on.
  values["model"]["attention"] = "auto"
  (temporary / _CONFIG).write_text(json.dumps(values, indent=1) + "\n", "utf-8")
  digest = _digest(params)
  (temporary / _DIGEST).write_text(digest + "\n", "utf-8")
  return digest


def load(path: str | os.PathLike[str]) -> tuple[Config, Params, str]:
  """Reads parameters for prediction from weights or from a run.

  Args:
    path: folder written by `export`, or the workdir of a run (its newest
      checkpoint, averaged parameters).

  Returns:
    The configuration, the parameters and their SHA-256.

  Raises:
    InputError: if there is no checkpoint, it is damaged, or the digest of
      exported weights does not fit.
  """
  folder = pathlib.Path(path).resolve()
  if (folder / _FOLDER).is_dir():
    return _from_run(folder)
  if not (folder / _CONFIG).is_file():
    raise InputError(
      path,
      "is neither a run (checkpoints/) nor exported weights (config.json).",
      "pass the --workdir of `vf-jax train` or a folder of `vf-jax export`.",
    )
  try:
    config = from_dict(json.loads((folder / _CONFIG).read_text("utf-8")))
    expected = (folder / _DIGEST).read_text("utf-8").strip()
  except (OSError, ValueError) as error:
    raise InputError(
      path, f"its config or digest is damaged ({error}).", "export it again."
    ) from error
  abstract = _abstract_params(config)
  with explained(path):
    params = ocp.load(folder / _WEIGHTS, abstract)
  found = _digest(params)
  if found != expected:
    raise InputError(
      path,
      f"weights have SHA-256 {found[:12]}..., their file says "
      f"{expected[:12]}...: damaged.",
      "export or install them again.",
    )
  return config, params, found


def _from_run(workdir: pathlib.Path) -> tuple[Config, Params, str]:
  directory = (workdir / _FOLDER).resolve()
  if not directory.is_dir():
    raise InputError(
      workdir, "has no checkpoints/.", "pass the --workdir of `vf-jax train`."
    )
  checkpointer = ocp.training.Checkpointer(directory)
  try:
    if checkpointer.latest is None:
      raise InputError(
        workdir, "holds no complete checkpoint.", "train until the first one."
      )
    folder = directory / str(checkpointer.latest.step)
    with explained(folder):
      stored = checkpointer.load_checkpointables(None, {"config": None})
      config = from_dict(stored["config"])
      abstract = jax.eval_shape(lambda: init_state(config))
      # NOTE: nothing else is read: the whole state, four times as large, may
      # need more devices than there are here.
      wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, abstract)
      wanted = wanted.replace(ema=_placed(abstract.ema))
      found = checkpointer.load_checkpointables(None, {"state": wanted})
      params = found["state"].ema
      _check_digest(checkpointer, folder, _EMA_DIGEST, params)
    model = dataclasses.replace(config.model, attention="auto")
    config = dataclasses.replace(config, model=model)
    return config, params, _digest(params)
  finally:
    checkpointer.close()


def _abstract_params(config: Config) -> Params:
  return _placed(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))


def _placed(tree: Any) -> Any:
  """Gives every abstract leaf the first device of this process."""
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
  )


def _signed(state: TrainState) -> dict[str, str]:
  """Metadata of a checkpoint: digests, where one process sees all of it."""
  if not _is_here(state):
    return {}
  rest = dataclasses.replace(state, ema=None)
  return {_EMA_DIGEST: _digest(state.ema), _REST_DIGEST: _digest(rest)}


def _is_here(tree: Any) -> bool:
  return all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree))


def _digest(tree: Any) -> str:
  """SHA-256 over names, shapes and values, independent of the file layout."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    total.update(jax.tree_util.keystr(path).encode())
    total.update(str((array.shape, array.dtype.str)).encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return total.hexdigest()
