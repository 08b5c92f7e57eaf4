# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A predictor that needs no network, and a report that needs no time."""

from __future__ import annotations

import numpy as np

from vf_jax.infer.predictor import Predictor
from vf_jax.infer.result import CaseResult, Vertebra


class Quick(Predictor):
  """Finds one vertebra, an octant of the scan, in no time."""

  def _predict(self, volume, case, facts):
    mask = np.zeros(volume.grid.shape, np.uint8)
    mask[tuple(slice(0, n // 2) for n in mask.shape)] = 22
    found = Vertebra("L3", 22, (0.0, 0.0, 0.0), 0.75, False, 1.0, 100.0)
    run = {
      "checkpoint_sha256": self.digest,
      "config": self.config.to_dict(),
      "windows": {"run": 1, "skipped": 0},
      "seconds": {"resample": 0.0, "network": 0.0, "decode": 0.0},
    }
    notes = volume.warnings
    return CaseResult(case, volume.grid, mask, (found,), (), notes, run)


def no_report(path, volume, result):
  path.write_text("page")
