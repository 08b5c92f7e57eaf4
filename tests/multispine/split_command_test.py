# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What `vf-jax split` says and writes of a store."""

from __future__ import annotations

from vf_jax.cli import DONE, main
from vf_jax.multispine.store_writer import finish, write_case


def _store(path, *cases):
  for case in cases:
    write_case(path, case)
  finish(path, [case.record.case for case in cases], 2.0)
  return path


def test_a_leak_is_told_with_the_part_of_each_case(tmp_path, make_case, capsys):
  voxels = "1" * 64
  one, two, other = (
    make_case(name, f"site-{name}", subject=name, files={}, **more)
    for name, more in (
      ("a", {"split": "train", "voxels": voxels}),
      ("b", {"split": "test", "voxels": voxels}),
      ("c", {"split": "train", "voxels": "2" * 64}),
    )
  )
  store = _store(tmp_path / "s", one, two, other)
  command = ["split", str(store), "--out", str(tmp_path / "split.json")]
  reason = f"leak: one patient by same voxels {voxels[:16]}: "
  assert main(command) == DONE
  assert f"{reason}a (train, now test), b (test)\n" in capsys.readouterr().err
  assert main([*command, "--leave-out", "site-a"]) == DONE
  assert f"{reason}a (test), b (excluded)\n" in capsys.readouterr().err
