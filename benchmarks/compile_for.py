# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
r"""What does a training step cost on chips that are not here?

Compiles the real step of a configuration for a named slice of TPUs or number of
GPUs, on a machine that has none, and reads the compiled program. Nothing is
allocated: state and windows are shapes only.

    python benchmarks/compile_for.py --config configs/fast.py:B \
      --for v5e:2x2 --mesh data=4 --batch 8 --json FILE

    python benchmarks/compile_for.py --table benchmarks/results

`--table` compiles what docs/training.md quotes, each in a fresh process, and
goes on where it was interrupted (days later if need be: a row has its date).

`--for`: v5e:2x2, v5e:16x16, v5p:2x2x2, v6e:2x4, ..., h100:1, h100:8. TPUs need
`pip install '.[tpu]'`, GPUs `'.[cuda]'`. `--set model.crop=(192,192,192)`
overrides the configuration. `--without-augment` compiles the step on ready
crops, so that the difference is what augmentation costs, but for the time of
its gathers, which XLA's schedule leaves out.

Three accounts are given, per chip. XLA's own (`compiler_*`) counts the body of
a loop once. `hlo_account.py` reads the program's text by the same rules with
every loop as often as it runs, once over all memories (`bytes`) and once
without what XLA keeps in the chip's own memory (`hbm_bytes`); the roofline
takes the latter. Operations are counted there (`flops`, recomputation
included) and from the shapes of the layers (`model_flops`,
vf_jax/models/cost.py, without it); the MFU takes the latter. For GPUs
operations are those of the shapes, because the text names library calls.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import os
import pathlib
import resource
import runpy
import sys
import time
from typing import Any
from unittest import mock

import chips
import compile_for_table
import hlo_account

_HERE = pathlib.Path(__file__).parent
# NOTE: without a GPU to try them on, XLA finds no tiles for its Triton products
# and gives up; products are library calls then.
_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
sys.path.insert(0, str(_HERE.parent))


def main() -> None:
  """Compiles, prints, and writes JSON if asked."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", metavar="FILE[:VARIANT]")
  parser.add_argument("--for", dest="target", metavar="CHIPS")
  parser.add_argument("--mesh", default="", metavar="data=4,fsdp=1")
  parser.add_argument("--batch", type=int, help="crops a step, all chips")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--without-augment", action="store_true")
  parser.add_argument("--json", metavar="FILE")
  parser.add_argument("--hlo", metavar="FILE", help="writes the program's text")
  parser.add_argument("--table", metavar="DIR")
  options = parser.parse_args()
  if options.table:
    compile_for_table.fill(pathlib.Path(options.table), __file__)
    return
  if not options.config or not options.target:
    parser.error("give --config and --for, or --table")
  row = measure(options)
  print(report(row))
  if options.json:
    pathlib.Path(options.json).write_text(json.dumps(row, indent=1) + "\n")
  print(json.dumps(row))


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Compiles one step and accounts for it.

  Args:
    options: of the command line.

  Returns:
    The row of the table, plain numbers; only `error` of a step that the
    compiler finds too large for the chip.
  """
  name, shape = parse_target(options.target)
  prepare_environment()
  import jax

  from vf_jax.models.cost import count_cost
  from vf_jax.parallel.mesh import make_mesh

  config = load_config(options, math.prod(shape))
  mesh = make_mesh(config.mesh, devices_of(name, shape))
  with as_if_on("gpu" if name == "h100" else "tpu"), jax.set_mesh(mesh):
    step, arguments = step_and_arguments(config, mesh, options.without_augment)
    lowered = step.lower(*arguments)
    began, busy = time.monotonic(), _cpu_seconds()
    try:
      compiled = lowered.compile(_OPTIONS if name == "h100" else None)
    except jax.errors.JaxRuntimeError as error:
      return {"error": does_not_fit(error)}
    took, busy = time.monotonic() - began, _cpu_seconds() - busy
  text = compiled.as_text()
  if options.hlo:
    pathlib.Path(options.hlo).write_text(text)
  found, own = hlo_account.account(text), compiled.cost_analysis() or {}
  memory, per_chip = compiled.memory_analysis(), config.data.batch / mesh.size
  cost = count_cost(config.model)
  model_flops = cost.training("none") * per_chip
  flops = found.flops
  if name == "h100":
    flops = cost.training(config.model.remat) * per_chip
  chip, ports = chips.CHIPS[name], chips.links(name, shape)
  limit = chips.roofline(chip, ports, flops, found.hbm_bytes, found.wire)
  peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
  return {
    "config": config.name,
    "crop": list(config.model.crop),
    "target": options.target,
    "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1},
    "batch": config.data.batch,
    "augment": not options.without_augment,
    "overrides": options.set,
    "compile_s": round(took, 1),
    "compile_cpu_s": round(busy, 1),
    "model_flops": model_flops,
    "flops": flops,
    "compiler_flops": own.get("flops"),
    "bytes": found.bytes,
    "hbm_bytes": found.hbm_bytes,
    "bytes_loops_once": hlo_account.account(text, looped=False).bytes,
    "compiler_bytes": own.get("bytes accessed"),
    "crops_per_chip": per_chip,
    "hbm_bytes_per_crop": found.hbm_bytes / per_chip,
    "bytes_per_crop": found.bytes / per_chip,
    "temp_bytes": memory.temp_size_in_bytes,
    "argument_bytes": memory.argument_size_in_bytes,
    "peak_bytes": peak,
    "fits": peak <= chip.memory,
    "collectives": dict(found.collectives),
    "sent_bytes": found.wire,
    "loops": sorted(found.loops.values()),
    "compute_s": limit.compute,
    "memory_s": limit.memory,
    "network_s": limit.network,
    "limit": limit.limit,
    "mfu": limit.mfu(chip, model_flops),
    "scheduled_s": found.cycles / chip.clock if chip.clock else None,
    "untimed": found.untimed if chip.clock else None,
  }


def does_not_fit(error: Exception) -> str:
  """Words of the compiler about a step that is too large, which is a result.

  Args:
    error: that the compiler raised.

  Returns:
    Its first line.

  Raises:
    Exception: the error itself, if it says anything else.
  """
  if "RESOURCE_EXHAUSTED" not in str(error):
    raise error
  return str(error).splitlines()[0][:160]


def parse_target(text: str) -> tuple[str, tuple[int, ...]]:
  """Reads `chip:shape`.

  Args:
    text: as v5e:2x2 or h100:8.

  Returns:
    Name of the chip and chips along each axis.

  Raises:
    SystemExit: if the chip is unknown.
  """
  name, _, shape = text.partition(":")
  if name not in chips.CHIPS or not shape:
    raise SystemExit(
      f"--for {text}: give chip:shape, a chip of {list(chips.CHIPS)}"
    )
  return name, tuple(int(n) for n in shape.split("x"))


def prepare_environment() -> None:
  """Lets both compilers start on a machine without their chips."""
  os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
  }


def devices_of(name: str, shape: tuple[int, ...]) -> list[Any]:
  """Descriptions of the chips of a slice."""
  from jax.experimental import topologies

  if name != "h100":
    text = f"{name}:{'x'.join(map(str, shape))}"
    # A host of four chips is what it takes for granted.
    alone = (
      {"chips_per_host_bounds": (1, 1, 1)} if math.prod(shape) == 1 else {}
    )
    return list(
      topologies.get_topology_desc(
        topology_name=text, platform="tpu", **alone
      ).devices
    )
  text = f"1x{math.prod(shape)}x1"  # slices x hosts x GPUs
  return list(
    topologies.get_topology_desc(
      platform="cuda",
      topology_name=text,
      topology=text,
      target_config=(_HERE / "h100_sxm.textproto").read_text(),
    ).devices
  )


def load_config(options: argparse.Namespace, count: int) -> Any:
  """Loads a configuration and fits it to a number of chips."""
  from vf_jax.config import from_config_dict

  path, _, variant = options.config.partition(":")
  get_config = runpy.run_path(path)["get_config"]
  values = get_config(variant) if variant else get_config()
  axes = dict(part.split("=") for part in options.mesh.split(",") if part)
  values.mesh.update({"data": 0} | {k: int(n) for k, n in axes.items()})
  if not values.mesh.data:
    others = values.mesh.fsdp * values.mesh.tensor * values.mesh.context
    values.mesh.data = count // others
  if options.batch:
    values.data.batch = options.batch
  for change in options.set:
    key, _, value = change.partition("=")
    with contextlib.suppress(ValueError, SyntaxError):
      value = ast.literal_eval(value)
    values.update_from_flattened_dict({key: value})
  return from_config_dict(values)


@contextlib.contextmanager
def as_if_on(backend: str):
  """Traces what that backend would: the code asks JAX where it runs."""
  import jax

  jax.clear_caches()
  with mock.patch.object(jax, "default_backend", return_value=backend):
    yield


def step_and_arguments(config: Any, mesh: Any, ready: bool) -> tuple[Any, Any]:
  """The jitted step and what it takes, as shapes with their places.

  Args:
    config: the experiment.
    mesh: the chips.
    ready: gives the step crops instead of windows to augment.

  Returns:
    The step and its two arguments.
  """
  import jax

  from vf_jax.data.augment.augmentation import centre_crops
  from vf_jax.parallel.sharding import batch_sharding, state_shardings
  from vf_jax.train import step as training
  from vf_jax.train.state import init_state

  state = jax.eval_shape(lambda: init_state(config))
  batch = abstract_patches(config)
  if ready:
    batch = jax.eval_shape(lambda p: centre_crops(p, config.model), batch)
    training.augment = lambda crops, *_: crops

  def place(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  everywhere = batch_sharding(mesh)
  return training.jit_train_step(config, mesh), (
    jax.tree.map(place, state, state_shardings(mesh, state)),
    jax.tree.map(lambda leaf: place(leaf, everywhere), batch),
  )


def abstract_patches(config: Any) -> Any:
  """Shapes of a batch of windows, with all that painting needs."""
  import jax
  import numpy as np

  from vf_jax.data.augment.patches import Patches
  from vf_jax.data.crops import MAX_BOXES
  from vf_jax.labels import CODES

  augment, batch = config.data.augment, config.data.batch
  margin = augment.margin if augment.turns else 0
  window = tuple(n + 2 * margin for n in config.model.crop)
  fields = {
    "image": (window, np.int16),
    "labels": (window, np.uint8),
    "painted": ((), np.bool_),
    "spacing_mm": ((3,), np.float32),
    "centres": ((CODES, 3), np.float32),
    "has_centre": ((CODES,), np.bool_),
    "boxes": ((MAX_BOXES, 6), np.float32),
    "box_mask": ((MAX_BOXES,), np.bool_),
    "domain": ((), np.int32),
    "has_masks": ((), np.bool_),
    "has_levels": ((), np.bool_),
    "has_lesions": ((), np.bool_),
    "case": ((), np.int32),
    "seed": ((2,), np.uint32),
    "tissue": (window, np.uint8),
    "depth": (window, np.uint8),
  }
  return Patches(
    **{
      name: jax.ShapeDtypeStruct((batch, *shape), dtype)
      for name, (shape, dtype) in fields.items()
    }
  )


def report(row: dict[str, Any]) -> str:
  """Renders what was found for people."""
  lines = []
  for key, value in row.items():
    if isinstance(value, float) and key.endswith("_s") and value < 10:
      value = f"{1000 * value:.2f} ms" if "compile" not in key else value
    elif key.endswith(("bytes", "per_crop")) and value:
      value = f"{value / 1e9:.3f} GB"
    elif key.endswith("flops") and value:
      value = f"{value / 1e12:.3f} TFLOP"
    elif key == "collectives":
      value = {k: f"{v / 1e6:.1f} MB" for k, v in value.items()}
    elif key == "mfu":
      value = f"{100 * value:.1f} %"
    lines.append(f"{key:20} {value}")
  return "\n".join(lines)


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


if __name__ == "__main__":
  main()
