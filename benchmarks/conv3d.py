# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How fast is each formulation of the 3x3x3 convolution on this machine?

GF/s of every implementation of `vf_jax.ops.conv3d`, and of PyTorch's Conv3d
if the extra `peers` is installed, forward and forward with both gradients,
for the shapes of our models, beside the rate of a matrix product measured in
the same run. Everything is measured in turn, round after round; operations
are those of the plain definition, whatever the implementation saves.

    python benchmarks/conv3d.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import get_args

import measuring
from worker import Worker, facts_with_peers, limit_threads, serve, timed

# Depth, height, width, channels in and out; where it is used.
SHAPES = {
  "96,96,96,1,16": "UNETR",
  "96,96,96,2,16": "base",
  "96,96,96,16,16": "UNETR",
  "96,96,96,32,16": "UNETR",
  "48,48,48,32,32": "UNETR",
  "48,48,48,64,32": "UNETR",
  "24,24,24,32,32": "UNETR",
  "24,24,24,64,64": "UNETR, fast:S",
  "24,24,24,128,64": "UNETR",
  "12,12,12,128,128": "UNETR",
  "12,12,12,256,128": "UNETR",
  "24,24,24,128,128": "fast:B",
  "24,24,24,256,256": "fast:L, H",
  "24,16,16,96,96": "tiny, default",
  "24,16,16,64,64": "default's lesions",
}
WHAT = ("forward", "gradients")


def main() -> None:
  """Measures in turn, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
  parser.add_argument("--worker", choices=("ours", "torch"),
                      help=argparse.SUPPRESS)  # fmt: skip
  parser.add_argument("--out", metavar="DIR")
  options = parser.parse_args()
  if options.worker:
    limit_threads(options.threads)
    serve(Ours() if options.worker == "ours" else Torch(options.threads))
    return
  from vf_jax.ops.conv3d import Implementation

  threads = ("--threads", str(options.threads), "--worker")
  ours = Worker(__file__, *threads, "ours")
  sides = [(ours, name) for name in get_args(Implementation)]
  workers = [ours]
  if importlib.util.find_spec("torch"):
    workers.append(Worker(__file__, *threads, "torch"))
    sides.append((workers[-1], "torch"))
  else:
    print("PyTorch is not installed: no peer (pip install '.[peers]')")
  seconds: dict[str, list[float]] = {"matmul": []}
  chosen = {shape: ours.ask("choice", shape) for shape in options.shapes}
  for turn in range(options.rounds):
    for shape in options.shapes:
      seconds["matmul"].append(ours.ask("matmul")[0])
      for what in WHAT:
        for worker, name in sides:
          seconds.setdefault(f"{shape} {what} {name}", []).append(
            worker.ask("run", shape, what, name)[0]
          )
    print(f"round {turn + 1}/{options.rounds}", flush=True)
  for worker in workers:
    worker.close()
  result = {
    "facts": facts_with_peers(),
    "settings": vars(options),
    "implementations": [name for _, name in sides],
    "chosen": chosen,
    "seconds": seconds,
  }
  text = render(result)
  print(text)
  if options.out:
    measuring.write(options.out, "conv3d", result, text)


class Ours:
  """Every implementation in JAX."""

  def __init__(self) -> None:
    self._programs: dict = {}

  def choice(self, shape: str) -> str:
    """Which implementation a model takes."""
    import jax.numpy as jnp

    from vf_jax.ops.conv3d import choose_implementation

    *space, cin, cout = _sizes(shape)
    return choose_implementation(
      "cpu", (1, *space, cin), (3, 3, 3, cin, cout), jnp.float32
    )

  def matmul(self) -> tuple[float, float]:
    """Seconds of a matrix product of 2048^3, best of three."""
    import jax
    import jax.numpy as jnp

    if "matmul" not in self._programs:
      a = _array((2048, 2048))
      product = jax.jit(jnp.matmul)
      self._programs["matmul"] = lambda: jax.block_until_ready(product(a, a))
      self._programs["matmul"]()
    return min(timed(self._programs["matmul"]) for _ in range(3))

  def run(
    self, shape: str, what: str, implementation: str
  ) -> tuple[float, float]:
    """Seconds of one convolution, warm."""
    import jax

    from vf_jax.ops.conv3d import conv3d

    key = (shape, what, implementation)
    if key not in self._programs:
      x, kernel, grad = _arrays(shape)

      def gradients(x, kernel, grad):
        y, back = jax.vjp(
          lambda x, kernel: conv3d(x, kernel, implementation), x, kernel
        )
        return (y, *back(grad)) if what == "gradients" else y

      # Nothing may be a constant: XLA would compute with it as it compiles.
      program = jax.jit(gradients)
      self._programs[key] = lambda: jax.block_until_ready(
        program(x, kernel, grad)
      )
      self._programs[key]()
    return timed(self._programs[key])


class Torch:
  """PyTorch's Conv3d.

  Args:
    threads: that it may use.
  """

  def __init__(self, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    self._torch = torch
    self._programs: dict = {}

  def run(self, shape: str, what: str, _: str) -> tuple[float, float]:
    """Seconds of one convolution, warm."""
    torch = self._torch
    key = (shape, what)
    if key not in self._programs:
      x, kernel, grad = (torch.from_numpy(a) for a in _numpy_arrays(shape))
      x = x.permute(0, 4, 1, 2, 3).contiguous().requires_grad_()
      grad = grad.permute(0, 4, 1, 2, 3).contiguous()
      kernel = kernel.permute(4, 3, 0, 1, 2).contiguous().requires_grad_()

      def forward():
        with torch.inference_mode():
          torch.nn.functional.conv3d(x, kernel, padding=1)

      def gradients():
        y = torch.nn.functional.conv3d(x, kernel, padding=1)
        torch.autograd.grad(y, (x, kernel), grad)

      self._programs[key] = forward if what == "forward" else gradients
      self._programs[key]()
    return timed(self._programs[key])


def _sizes(shape: str) -> list[int]:
  return [int(part) for part in shape.split(",")]


def _numpy_arrays(shape: str):
  import numpy as np

  *space, cin, cout = _sizes(shape)
  random = np.random.default_rng(0)
  return tuple(
    random.standard_normal(size, np.float32)
    for size in ((1, *space, cin), (3, 3, 3, cin, cout), (1, *space, cout))
  )


def _arrays(shape: str):
  import jax.numpy as jnp

  return tuple(jnp.asarray(array) for array in _numpy_arrays(shape))


def _array(shape):
  import jax.numpy as jnp
  import numpy as np

  return jnp.asarray(
    np.random.default_rng(0).standard_normal(shape, np.float32)
  )


def render(result: dict) -> str:
  """The tables.

  Args:
    result: what the JSON file holds.

  Returns:
    Markdown.
  """
  facts, settings = result["facts"], result["settings"]
  seconds, names = result["seconds"], result["implementations"]
  # Others on the machine only slow it down: the fastest run is the rate.
  peak = 2 * 2048**3 / 1e9 / min(seconds["matmul"])
  parts = [
    "# 3x3x3 convolution on CPU",
    f"{measuring.origin(facts)}, {settings['threads']} threads, "
    f"jax {facts['packages'].get('jax')}, torch "
    f"{facts['packages']['torch'] or 'not installed'}. GF/s by the "
    f"operations of the plain definition, medians of {settings['rounds']} "
    "rounds in turn; in bold what `conv3d` chooses on a CPU. The fastest "
    f"matrix product of 2048^3 in the same run: {peak:.0f} GF/s. With "
    "gradients: the result and the gradients of features and kernel (three "
    "times the operations). Time / torch's is the median of the rounds' "
    "ratios.",
  ]
  for what in WHAT:
    rows = []
    for shape in settings["shapes"]:
      *space, cin, cout = _sizes(shape)
      gflop = 54e-9 * space[0] * space[1] * space[2] * cin * cout
      gflop *= 1 if what == "forward" else 3
      rates = {
        name: gflop / measuring.median(seconds[f"{shape} {what} {name}"])
        for name in names
      }
      best = result["chosen"][shape]
      cells = [
        f"**{rate:.0f}**" if name == best else f"{rate:.0f}"
        for name, rate in rates.items()
      ]
      if "torch" in rates:
        cells.append(f"{_ratio(seconds, f'{shape} {what}', best):.2f}")
      rows.append(
        [
          SHAPES.get(shape, ""),
          " x ".join(str(side) for side in space),
          f"{cin} -> {cout}",
          *cells,
        ]
      )
    header = ["model", "voxels", "channels", *names]
    if "torch" in names:
      header.append("time / torch's")
    parts += [
      "Forward:" if what == "forward" else "With gradients:",
      measuring.table(header, rows),
    ]
  return "\n\n".join(parts)


def _ratio(seconds: dict[str, list[float]], job: str, name: str) -> float:
  """Time of an implementation as part of torch's in the same round."""
  return measuring.median(
    ours / theirs
    for ours, theirs in zip(seconds[f"{job} {name}"], seconds[f"{job} torch"])
  )


if __name__ == "__main__":
  main()
