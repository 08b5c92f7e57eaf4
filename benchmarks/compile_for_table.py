# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The rows that `compile_for.py --table` compiles, and how they are shown."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import measuring

_LARGE = ("--set", "model.crop=(192,192,192)")
ROWS: tuple[tuple[str, ...], ...] = (
  *(
    ("--config", config, "--for", target, "--batch", str(batch))
    for target, batch in (("v5e:2x2", 8), ("v5e:16x16", 512))
    for config in (
      "configs/base.py",
      "configs/base.py:unetr",
      "configs/fast.py:S",
      "configs/fast.py:B",
    )
  ),
  *(
    ("--config", config, "--for", target, "--batch", str(batch))
    for target, batch in (("h100:1", 2), ("h100:8", 16))
    for config in (
      "configs/base.py",
      "configs/base.py:unetr",
      "configs/fast.py:S",
      "configs/fast.py:B",
    )
  ),
  (
    "--config", "configs/fast.py:B", "--for", "v5e:2x2", "--batch", "8",
    "--without-augment",
  ),
  (
    "--config", "configs/fast.py:B", "--for", "v5e:2x2", "--batch", "32",
    "--mesh", "data=1,fsdp=4",
  ),
  (
    "--config", "configs/fast.py:B", "--for", "v5e:2x2", "--batch", "32",
    "--set", "train.micro_batches=4",
  ),
  (
    "--config", "configs/fast.py:B", "--for", "v5e:1x1", "--batch", "1",
    *_LARGE,
  ),
)  # fmt: skip


def fill(folder: pathlib.Path, script: str) -> None:
  """Compiles every row that is not there yet, and writes both files.

  Args:
    folder: of compile_for.json and compile_for.md.
    script: compiles one row in a process of its own.

  Raises:
    RuntimeError: if that process fails, with what it said: only a step that
      does not fit is a row, everything else is to be tried again.
  """
  path = folder / "compile_for.json"
  found = json.loads(path.read_text()) if path.exists() else {"rows": {}}
  for arguments in ROWS:
    key = " ".join(arguments)
    if key in found["rows"]:
      continue
    # Before it compiles: a commit that is made meanwhile is not its.
    facts = measuring.facts()
    row = measuring.run_alone(script, *arguments)
    row |= {"date": facts["date"], "facts": facts}
    found["rows"][key] = row
    found["facts"] = facts
    path.write_text(json.dumps(found, indent=1) + "\n")
    (folder / "compile_for.md").write_text(render(found))
    print(f"{key}: {row}", flush=True)


def render(found: dict[str, Any]) -> str:
  """Renders both tables.

  Args:
    found: content of compile_for.json.

  Returns:
    Markdown.
  """
  facts = found["facts"]
  rows = []
  for key, row in found["rows"].items():
    if "error" in row:
      rows.append([f"`{key}`", row["date"], _cell(row["error"]), *[""] * 10])
      continue
    rows.append(
      [
        f"`{key}`",
        row["date"],
        f"{row['compile_s']:.0f} ({row['compile_cpu_s']:.0f})",
        f"{row['model_flops'] / 1e12:.2f}",
        f"{row['flops'] / 1e12:.2f}",
        f"{row['hbm_bytes_per_crop'] / 1e9:.2f}",
        f"{row['bytes_per_crop'] / 1e9:.2f}",
        _number(row["compiler_bytes"], row["crops_per_chip"] * 1e9),
        f"{row['peak_bytes'] / 2**30:.1f}"
        + ("" if row["fits"] else " (does not fit)"),
        f"{row['sent_bytes'] / 1e9:.2f}",
        f"{1e3 * row[row['limit'] + '_s']:.1f} ({row['limit']})",
        f"{100 * row['mfu']:.0f} %",
        (">= " if row.get("untimed") else "")
        + _number(row["scheduled_s"], 1e-3),
      ]
    )
  return _HEAD.format(**facts) + measuring.table(
    [
      "step", "date", "compiled in s (CPU s)", "model TFLOP", "TFLOP done",
      "HBM GB a crop", "GB a crop", "XLA's own GB a crop", "memory, GiB",
      "sent, GB", "roofline, ms (limit)", "MFU at most", "XLA's schedule, ms",
    ],
    rows,
  ) + "\n\n" + _MORE + _details(found["rows"]) + "\n"  # fmt: skip


def _details(rows: dict[str, dict[str, Any]]) -> str:
  """The second table: what the compiler says itself, and the commit."""
  return measuring.table(
    [
      "step", "commit", "XLA's own TFLOP", "temporary, GiB", "arguments, GiB",
      "handed over, GB",
    ],
    [
      [
        f"`{key}`",
        _commit(row),
        _number(row.get("compiler_flops"), 1e12),
        _number(row.get("temp_bytes"), 2**30),
        _number(row.get("argument_bytes"), 2**30),
        _by_kind(row.get("collectives", {})),
      ]
      for key, row in rows.items()
    ],
  )  # fmt: skip


_HEAD = """# Training steps, compiled for chips that are not here

`python benchmarks/compile_for.py --table benchmarks/results`, last row
{date}, commit {commit}, {machine}. Per chip and step. Nothing ran: these are
the compiler's programs, accounted for as `benchmarks/compile_for.py` says, and
lower bounds of time. "XLA's own" counts the body of a loop once and is not
given for GPUs; neither is what it keeps in a GPU's caches, nor what cuBLAS
writes into its workspace; "done" lacks what the kernels of attention compute
again there. XLA's schedule is the sum of its cycles at a clock derived from
the peak (`benchmarks/chips.py`: v5e 1.5 GHz). XLA gives none for our own
kernels and collectives, nor for gathers and scatters (augmentation gathers
every voxel of a crop several times) and some reshapes: the step takes longer.
">=" marks rows in which any of the latter were found; rows without it were made
before they were counted. Compile times are of a busy machine; CPU seconds add
up all threads.

"""

_MORE = """\
What the compiler says itself, and what a chip hands over to collectives, by
kind: the bytes of their operands, of which rings make what is "sent" above. The
commit is that of the row ("-": not recorded).

"""


def _commit(row: dict[str, Any]) -> str:
  """Shortened, but with the mark of a changed tree behind its 40 digits."""
  commit = row.get("facts", {}).get("commit") or "-"
  return commit[:9] + commit[40:]


def _by_kind(collectives: dict[str, float]) -> str:
  """Largest first."""
  kinds = sorted(collectives, key=collectives.__getitem__, reverse=True)
  return ", ".join(f"{kind} {collectives[kind] / 1e9:.3g}" for kind in kinds)


def _cell(text: str) -> str:
  return text.replace("|", "/")


def _number(value: float | None, unit: float) -> str:
  return "" if value is None else f"{value / unit:.2f}"
