# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Is our UNETR on CPU as fast as MONAI's, and the same network?

Each side lives in a worker process of its own (MONAI eager, MONAI under
torch.compile, ours) that computes only when told to, so that no two share a
thread pool or the cores. All have the same weights, image and labels. A
forward pass and a training step (Dice + cross-entropy, gradients, AdamW) are
timed in turn, the second of two in a row; the ratios are medians over the
rounds of ours / theirs, where theirs is the faster of both. Ours runs in huge
pages of memory, as `vf-jax train` sets them. PyTorch spends much of its time on
taking memory anew, so both are measured with jemalloc, too. Needs the extra
`peers`, and jemalloc.

    python benchmarks/unetr_vs_monai.py --json FILE --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import measuring
import numpy as np
import unetr_cost
from allocator import require_jemalloc
from worker import Worker, facts_with_peers

MONAI = ("monai_eager", "monai_compile")
JEMALLOC = ("monai_compile_jemalloc", "ours_jemalloc")


def main() -> None:
  """Runs the workers in turn, prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--side", type=int, default=96, help="voxels")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument(
    "--peers",
    nargs="+",
    choices=MONAI,
    default=list(MONAI),
    help="compiling takes minutes and a C++ compiler",
  )
  parser.add_argument("--json", metavar="FILE")
  parser.add_argument("--out", metavar="DIR", help="for the dated table")
  options = parser.parse_args()
  facts = facts_with_peers()
  if "monai_compile" in options.peers:
    require_jemalloc()
  with tempfile.TemporaryDirectory() as folder:
    for found in _measure(options, pathlib.Path(folder)):
      result = {**found, "facts": facts, "settings": vars(options)}
      _save(result, options)
  print(render(result))


def _save(result: dict, options) -> None:
  text = json.dumps(result, indent=1) + "\n"
  if options.json:
    pathlib.Path(options.json).write_text(text)
  if options.out:
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unetr_vs_monai.md").write_text(render(result) + "\n")
    (folder / "unetr_vs_monai.json").write_text(text)


def _measure(options, folder: pathlib.Path) -> Iterator[dict]:
  """What was found: after the rounds, and again with the parts."""
  workers = {}
  try:
    # The first writes the weights that the others load.
    for kind in _sides(options.peers):
      workers[kind] = Worker(
        pathlib.Path(__file__).with_name("unetr_worker.py"),
        kind,
        str(folder),
        str(options.side),
        str(options.threads),
      )
      facts = workers[kind].ask("prepare")
      print(f"{kind} ready: {facts}", flush=True)
    error, scale = _logit_error(folder, options.peers[0])
    times: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for turn in range(options.rounds):
      for what in ("matmul", "forward", "step"):
        for kind, worker in workers.items():
          if what == "matmul" and kind != "ours":
            continue
          times.setdefault(what, {}).setdefault(kind, []).append(
            worker.ask(what)
          )
      print(
        f"round {turn + 1}/{options.rounds}: "
        + ", ".join(
          f"{what} {kind} {values[-1][0]:.3f} s"
          for what, by in times.items()
          for kind, values in by.items()
        ),
        flush=True,
      )
    result = {
      **_judge(times, options),
      "part_cpu_seconds": {},
      "max_abs_logit_error": error,
      "largest_logit": scale,
      "first_loss": {k: worker.ask("loss") for k, worker in workers.items()},
    }
    yield result
    parts = {
      name: measuring.median(
        workers["ours"].ask("part", name)[1] for _ in range(3)
      )
      for name in workers["ours"].ask("parts")
    }
    yield {**result, "part_cpu_seconds": parts}
  finally:
    for worker in workers.values():
      worker.close()


def _sides(peers: Sequence[str]) -> tuple[str, ...]:
  jemalloc = JEMALLOC if "monai_compile" in peers else ()
  return (*peers, "ours", *jemalloc)


def _logit_error(folder: pathlib.Path, peer: str) -> tuple[float, float]:
  theirs, ours = (np.load(folder / f"{kind}.npy") for kind in (peer, "ours"))
  return float(abs(theirs - ours).max()), float(abs(theirs).max())


def _judge(times, options) -> dict:
  """Ratios round by round, and the limit of the arithmetic."""
  peak = 2e-9 * 2048**3 / min(seconds for seconds, _ in times["matmul"]["ours"])
  flops = unetr_cost.flops(options.side)
  result: dict = {
    "seconds_and_cpu_seconds": times,
    "matmul_peak_gflops_per_s": peak,
    "gflop": {name: value / 1e9 for name, value in flops.items()},
  }
  for what, key, factor in (
    ("forward", "forward_ratio", 1),
    ("step", "train_ratio", 3),
  ):
    by = _medians(times[what], 0)
    best = min(options.peers, key=by.__getitem__)
    for suffix, peer, our, clock in (
      ("", best, "ours", 0),
      ("_of_cpu_time", best, "ours", 1),
      ("_jemalloc", *JEMALLOC, 0),
    ):
      if peer in by:
        result[key + suffix] = measuring.median(
          ours[clock] / theirs[clock]
          for ours, theirs in zip(times[what][our], times[what][peer])
        )
    limit = factor * sum(flops.values()) / 1e9 / peak
    result[f"{what}_peer"] = best
    result[f"{what}_limit_seconds"] = limit
    result[f"{what}_limit_ratio"] = limit / by[best]
  return result


def _medians(by, clock: int) -> dict[str, float]:
  return {
    kind: measuring.median(pair[clock] for pair in pairs)
    for kind, pairs in by.items()
  }


def render(result: dict) -> str:
  """The tables.

  Args:
    result: what `--json` holds.

  Returns:
    Markdown.
  """
  facts, settings = result["facts"], result["settings"]
  side = settings["side"]
  rows = []
  for what, key in (("forward", "forward_ratio"), ("step", "train_ratio")):
    by = _medians(result["seconds_and_cpu_seconds"][what], 0)
    peer, jemalloc = result[f"{what}_peer"], f"{key}_jemalloc"
    rows.append(
      [
        what,
        f"**{result[key]:.2f}**",
        f"{result[jemalloc]:.2f}" if jemalloc in result else "not run",
        f"{result[key + '_of_cpu_time']:.2f}",
        peer.replace("_", " "),
        *(
          f"{by[kind] / by[peer]:.2f}" if kind in by else "not run"
          for kind in (*MONAI, "ours", *JEMALLOC)
        ),
        f"{result[f'{what}_limit_ratio']:.2f}",
      ]
    )
  step = _medians(result["seconds_and_cpu_seconds"]["step"], 1)["ours"]
  return "\n\n".join(
    [
      "# UNETR against MONAI's on CPU",
      f"{measuring.origin(facts)}, {settings['threads']} threads, "
      f"torch {facts['packages'].get('torch')}, monai "
      f"{facts['packages'].get('monai')}, jax {facts['packages'].get('jax')}. "
      f"{side}^3, 1 channel, 27 classes, feature_size 16, batch 1, fp32; "
      f"medians of {settings['rounds']} rounds, all sides in turn, the "
      "second of two calls in a row. The ratio is the median over rounds of "
      "ours / the faster MONAI as PyTorch runs it; the last columns are "
      "medians as parts of that MONAI. Ours is in huge pages of memory, as "
      "`vf-jax train` sets them; the second ratio is of both with jemalloc, "
      "which keeps freed memory. The limit is the analytic "
      "count of operations (a step counted as three forward passes) at the "
      "rate of a 2048^3 matrix product measured in the same run.",
      measuring.table(
        [
          "",
          "ratio",
          "both with jemalloc",
          "of processor time",
          "peer",
          "eager",
          "compiled",
          "ours",
          "compiled, jemalloc",
          "ours, jemalloc",
          "limit",
        ],
        rows,
      ),
      f"Largest difference of logits {result['max_abs_logit_error']:.1e} (of "
      f"up to {result['largest_logit']:.2f}); first loss "
      + ", ".join(f"{k} {v:.6f}" for k, v in result["first_loss"].items())
      + f"; {sum(result['gflop'].values()):.0f} GFLOP forward.",
      "Where our processor time goes, each part run alone, as part of that "
      "of our step:",
      measuring.table(
        ["part", "of the step"],
        [
          [name, f"{seconds / step:.2f}"]
          for name, seconds in result["part_cpu_seconds"].items()
        ],
      ),
    ]
  )


if __name__ == "__main__":
  main()
