# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Our logits are compared with those of the peer that ran."""

from __future__ import annotations

import importlib

import numpy as np


def test_logits_are_compared_with_the_peer_that_ran(tmp_path):
  module = importlib.import_module("unetr_vs_monai")
  np.save(tmp_path / "monai_compile.npy", np.array([1.0, -4.0]))
  np.save(tmp_path / "ours.npy", np.array([1.5, -4.0]))
  assert module._logit_error(tmp_path, "monai_compile") == (0.5, 4.0)
