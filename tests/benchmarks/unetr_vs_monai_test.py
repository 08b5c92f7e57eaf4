# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Our logits are compared with those of the peer that ran."""

from __future__ import annotations

import importlib
import types

import numpy as np


def test_logits_are_compared_with_the_peer_that_ran(tmp_path):
  module = importlib.import_module("unetr_vs_monai")
  np.save(tmp_path / "monai_compile.npy", np.array([1.0, -4.0]))
  np.save(tmp_path / "ours.npy", np.array([1.5, -4.0]))
  assert module._logit_error(tmp_path, "monai_compile") == (0.5, 4.0)


def test_each_ratio_is_to_its_own_peer():
  module = importlib.import_module("unetr_vs_monai")
  seconds = {
    "monai_eager": 5.0,
    "monai_compile": 4.0,
    "ours": 2.0,
    "monai_compile_jemalloc": 2.5,
    "ours_jemalloc": 1.5,
  }
  turns = {kind: [(s, 2 * s)] * 3 for kind, s in seconds.items()}
  times = {
    "matmul": {"ours": [(1.0, 1.0)]},
    "forward": turns,
    "step": turns | {"monai_eager": [(1.0, 8.0)] * 3},
  }
  options = types.SimpleNamespace(side=96, peers=module.MONAI)
  found = module._judge(times, options)
  assert (found["forward_ratio"], found["forward_peer"]) == (
    0.5,
    "monai_compile",
  )
  assert (found["train_ratio"], found["step_peer"]) == (2.0, "monai_eager")
  assert found["train_ratio_of_cpu_time"] == 0.5
  assert found["forward_ratio_jemalloc"] == 0.6
  assert module._sides(["monai_eager"]) == ("monai_eager", "ours")
