# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (lines of a program)
from __future__ import annotations

import importlib
import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


@pytest.fixture(scope="module")
def hlo():
  return importlib.import_module("hlo_account")


@pytest.fixture(scope="module")
def chips():
  return importlib.import_module("chips")


def _compile(function, *arguments):
  return jax.jit(function).lower(*arguments).compile()


def _chain(unroll):
  def run(weights, x):
    body = lambda carry, w: (jnp.tanh(carry @ w), None)  # noqa: E731
    return lax.scan(body, x, weights, unroll=unroll)[0]

  return run


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_agrees_with_the_compiler_where_it_sees_everything(hlo):
  def run(x, kernel):
    out = lax.conv_general_dilated(
      x,
      kernel,
      (2, 2, 2),
      "SAME",
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return jnp.tanh(out).sum()

  compiled = _compile(
    jax.grad(run, argnums=(0, 1)), _shape(2, 8, 9, 10, 4), _shape(3, 3, 3, 4, 5)
  )
  found, own = hlo.account(compiled.as_text()), compiled.cost_analysis()
  # XLA counts the arithmetic of elementwise operations too.
  assert found.flops == pytest.approx(own["flops"], rel=0.05)
  assert found.bytes == pytest.approx(own["bytes accessed"], rel=0.02)


def test_counts_a_loop_as_often_as_it_runs(hlo):
  shapes = _shape(9, 128, 128), _shape(64, 128)
  rolled = _compile(_chain(1), *shapes)
  unrolled = hlo.account(_compile(_chain(9), *shapes).as_text())
  found = hlo.account(rolled.as_text())
  once = hlo.account(rolled.as_text(), looped=False)
  assert list(found.loops.values()) == [9]
  assert found.flops == unrolled.flops == 9 * 2 * 64 * 128 * 128
  assert once.flops == found.flops / 9
  # The loop carries its state through memory; weights are most of the rest.
  assert found.bytes == pytest.approx(unrolled.bytes, rel=0.35)
  assert once.bytes == pytest.approx(
    rolled.cost_analysis()["bytes accessed"], rel=0.02
  )


def test_a_longer_loop_adds_its_body_once_a_turn(hlo):
  def moved(length):
    compiled = _compile(_chain(1), _shape(length, 128, 128), _shape(64, 128))
    return hlo.account(compiled.as_text()).bytes

  step = moved(5) - moved(4)
  assert step == pytest.approx(moved(6) - moved(5))
  weights, carry = 4 * 128 * 128, 4 * 64 * 128
  assert weights + 2 * carry < step < 3 * (weights + 2 * carry)


def test_counts_collectives_of_a_sharded_step(hlo):
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:4],
  )  # fmt: skip
  split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
  step = jax.jit(
    jax.grad(lambda w, x: (jnp.tanh(x @ w) ** 2).mean()), out_shardings=whole
  )
  text = (
    step.lower(
      jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=whole),
      jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=split),
    )
    .compile()
    .as_text()
  )
  found = hlo.account(text)
  size = 4 * 16 * 32
  assert dict(found.collectives) == {"all-reduce": size}
  assert found.wire == pytest.approx(2 * 3 / 4 * size)


_TEXT = """\

HloModule step

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %gathered = f32[32,128]{1,0:T(8,128)S(1)} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %y = f32[8,128]{1,0:T(8,128)} reduce-scatter(%gathered), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add, backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

%condition (q: (s32[], f32[8,128])) -> pred[] {
  %q = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %b = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %moved = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
  ROOT %done = f32[8,128]{1,0:T(8,128)} collective-permute-done(%moved)
}
"""


def test_reads_a_tpu_program(hlo):
  found = hlo.account(_TEXT)
  size = 4 * 8 * 128
  assert found.loops == {"body": 5}
  assert dict(found.collectives) == {
    "all-gather": 5 * size,
    "reduce-scatter": 5 * 4 * size,
    "collective-permute": size,
  }
  assert found.wire == 5 * 3 * size + 5 * 3 / 4 * 4 * size + size
  assert (found.cycles, found.untimed) == (500, 0)
  # What is gathered stays on the chip: one read and one write are left.
  outside = 5 * 2 * size + 2 * size
  assert found.hbm_bytes == pytest.approx(outside, rel=0.01)
  assert found.bytes == pytest.approx(outside + 5 * 2 * 4 * size, rel=0.01)


_GATHERS = """\

HloModule step

%fused (table: f32[64,128], at: s32[96]) -> f32[96,128] {
  %table = f32[64,128]{1,0:T(8,128)} parameter(0)
  %at = s32[96]{0:T(128)} parameter(1)
  ROOT %rows = f32[96,128]{1,0:T(8,128)} gather(%table, %at), offset_dims={1}
}

ENTRY %main (a: f32[64,128], b: s32[96]) -> f32[96,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %b = s32[96]{0:T(128)} parameter(1)
  %sum = f32[64,128]{1,0:T(8,128)} add(%a, %a), backend_config={"estimated_cycles":"100"}
  %ours = f32[64,128]{1,0:T(8,128)} custom-call(%sum), custom_call_target="tpu_custom_call"
  %few = s32[96]{0:T(128)} negate(%b)
  ROOT %rows = f32[96,128]{1,0:T(8,128)} fusion(%ours, %few), kind=kCustom, calls=%fused
}
"""


def test_counts_what_the_schedule_leaves_out(hlo):
  # The gather, neither the kernel nor what moves a few numbers.
  found = hlo.account(_GATHERS)
  assert (found.cycles, found.untimed) == (100, 1)


_GPU_TEXT = """\

HloModule step

ENTRY %main (a: bf16[8,128], b: bf16[128,16]) -> bf16[8,16] {
  %a = bf16[8,128]{1,0} parameter(0)
  %b = bf16[128,16]{1,0} parameter(1)
  %product = (bf16[8,16]{1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"
  %plain = bf16[8,16]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm"
  %two = (bf16[8,16]{1,0}, s8[8,16]{1,0}, u8[64]{0}) custom-call(%a, %b), custom_call_target="__cudnn$any"
  ROOT %out = bf16[8,16]{1,0} get-tuple-element(%product), index=0
}
"""


def test_room_of_a_library_to_work_in_is_not_moved(hlo):
  read, made = 2 * (8 * 128 + 128 * 16), 2 * 8 * 16
  found = hlo.account(_GPU_TEXT).hbm_bytes
  assert found == 3 * (read + made) + 8 * 16


def test_text_without_a_program_is_refused(hlo):
  with pytest.raises(ValueError, match="ENTRY"):
    hlo.account("HloModule nothing")


def test_roofline_takes_the_longest_and_says_which(chips):
  chip = chips.Chip(flops=100.0, hbm=10.0, memory=1.0, link=2.0, ports=4)
  limit = chips.roofline(chip, ports=2, flops=200.0, moved=30.0, sent=4.0)
  assert (limit.compute, limit.memory, limit.network) == (2.0, 3.0, 1.0)
  assert limit.seconds == 3.0
  assert limit.limit == "memory"
  assert limit.mfu(chip, 150.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("name", "shape", "ports"),
  [("v5e", (1, 1), 1), ("v5e", (2, 2), 2), ("v5p", (4, 4, 4), 3),
   ("h100", (8,), 1)],
)  # fmt: skip
def test_links_follow_the_slice(chips, name, shape, ports):
  assert chips.links(name, shape) == ports


def test_facts_are_in_the_order_of_the_chips(chips):
  v5e, v5p, v6e = (chips.CHIPS[name] for name in ("v5e", "v5p", "v6e"))
  assert v5e.flops < v5p.flops < v6e.flops
  assert v5e.memory < v6e.memory < v5p.memory
  # Published sums of both directions.
  for chip, total in ((v5e, 400e9), (v5p, 1200e9), (v6e, 800e9)):
    assert 2 * chip.ports * chip.link == total


@pytest.mark.parametrize(("name", "units"), [("v5e", 4), ("v5p", 8)])
def test_clocks_follow_from_the_peak(chips, name, units):
  chip = chips.CHIPS[name]
  assert chip.clock == pytest.approx(chip.flops / (2 * 128**2 * units), 3e-3)


def test_target_names_a_chip_and_a_shape():
  module = importlib.import_module("compile_for")
  assert module.parse_target("v5e:16x16") == ("v5e", (16, 16))
  assert module.parse_target("h100:8") == ("h100", (8,))
  with pytest.raises(SystemExit, match="v5e"):
    module.parse_target("a100:8")


def test_only_a_step_that_is_too_large_is_a_result():
  module = importlib.import_module("compile_for")
  error = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nLargest: 1."
  )
  assert module.does_not_fit(error).endswith("memory space hbm.")
  with pytest.raises(jax.errors.JaxRuntimeError, match="lockfile"):
    module.does_not_fit(jax.errors.JaxRuntimeError("ABORTED: lockfile"))


def test_a_row_that_failed_is_tried_again(tmp_path, monkeypatch):
  module = importlib.import_module("compile_for_table")
  monkeypatch.setattr(module, "ROWS", module.ROWS[:1])
  script = tmp_path / "killed.py"
  script.write_text("import os; os.kill(os.getpid(), 9)")
  with pytest.raises(RuntimeError, match="ended with -9"):
    module.fill(tmp_path, str(script))
  assert not (tmp_path / "compile_for.json").exists()
  script.write_text('print(\'{"error": "no memory | at all"}\')')
  module.fill(tmp_path, str(script))
  rows = json.loads((tmp_path / "compile_for.json").read_text())["rows"]
  (row,) = rows.values()
  assert row["facts"]["commit"]
  assert "no memory / at all" in (tmp_path / "compile_for.md").read_text()


def test_table_shows_what_fits_and_what_failed():
  module = importlib.import_module("compile_for_table")
  row = {
    "date": "2026-11-25", "compile_s": 100.4, "compile_cpu_s": 90.2,
    "model_flops": 3e12, "flops": 4e12, "hbm_bytes_per_crop": 5e9,
    "bytes_per_crop": 7e9, "compiler_bytes": None, "crops_per_chip": 2.0,
    "peak_bytes": 20 * 2**30, "fits": False, "sent_bytes": 1e9,
    "limit": "compute", "compute_s": 0.02, "mfu": 0.75, "scheduled_s": None,
    "compiler_flops": 1e12, "temp_bytes": 2**30, "argument_bytes": 2**29,
    "collectives": {"all-gather": 8e7, "all-reduce": 2.1e8},
    "facts": {"commit": "0123456789" * 4 + "+changes"},
  }  # fmt: skip
  text = module.render(
    {
      "facts": {"date": "2026-11-25", "commit": "abc", "machine": "two cores"},
      "rows": {
        "--for v5e:2x2": row,
        "--for h100:1": {"date": "2026-11-25", "error": "no memory"},
        "--for v5e:1x1": row | {"scheduled_s": 0.02, "untimed": 3},
        "--for v6e:1x1": row | {"scheduled_s": 0.02},
      },
    }
  )
  lines = [line for line in text.splitlines() if line.startswith("|")]
  assert len(lines) == 12
  assert len({line.count("|") for line in lines[:6]}) == 1
  assert len({line.count("|") for line in lines[6:]}) == 1
  assert "20.0 (does not fit)" in lines[2]
  assert "20.0 (compute)" in lines[2]
  assert "75 %" in lines[2]
  assert "no memory" in lines[3]
  assert lines[4].endswith("| >= 20.00 |")
  assert lines[5].endswith("| 20.00 |")
  row = "| 012345678+changes | 1.00 | 1.00 | 0.50 | all-reduce 0.21, all-gather"
  assert row in lines[8]
  assert lines[9] == "| `--for h100:1` | - |  |  |  |  |"
