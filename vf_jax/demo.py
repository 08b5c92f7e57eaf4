# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""The main job on the CT that comes with the package."""

from __future__ import annotations

import importlib.resources
import os
import pathlib

import numpy as np

from vf_jax.evaluate.metrics.overlap import dice
from vf_jax.infer.cases import predict_file
from vf_jax.infer.predictor import load
from vf_jax.infer.result import CaseResult
from vf_jax.io import nifti
from vf_jax.labels import SACRUM, to_verse
from vf_jax.report.page import write_report

_ASSETS = importlib.resources.files("vf_jax") / "assets" / "demo"
DEMO_CT = pathlib.Path(str(_ASSETS / "example_ct.nii.gz"))
"""Abdomen and pelvis at 3 mm, from TotalSegmentator's tests (Apache-2.0)."""

DEMO_MASK = pathlib.Path(str(_ASSETS / "example_seg.nii.gz"))
"""TotalSegmentator's own mask of it: a network's output, no ground truth."""


def run_demo(
  out: str | os.PathLike[str],
  checkpoint: str | os.PathLike[str] | None = None,
) -> CaseResult:
  """Predicts the demo CT, prints the table and where the report is.

  Args:
    out: folder for the case.
    checkpoint: as for `predictor.load`.

  Returns:
    The result.
  """
  result = predict_file(load(checkpoint), DEMO_CT, out, write_report)
  print(f"{'level':<6}{'sure':>7}{'whole':>7}{'volume':>11}{'mean HU':>9}")
  for v in result.vertebrae:
    whole = "yes" if v.complete else "cut"
    print(
      f"{v.level:<6}{v.confidence:>7.0%}{whole:>7}{v.volume_ml:>8.1f} ml"
      f"{v.mean_hu:>9.0f}"
    )
  for note in result.warnings:
    print(f"note: {note}")
  print(
    f"agreement with TotalSegmentator's mask (a network too): vertebra Dice "
    f"{demo_agreement(result):.3f}"
  )
  page = pathlib.Path(out) / result.case / f"{result.case}_report.html"
  print(f"{result.run['seconds']['total']:.1f} s; report: {page}")
  return result


def reference_mask() -> np.ndarray:
  """Mask of the other network in VerSe codes, vertebrae only."""
  mask = to_verse(nifti.read_labels(DEMO_MASK).voxels, "totalsegmentator")
  mask[mask == SACRUM.code] = 0
  return mask


def demo_agreement(result: CaseResult) -> float:
  """Dice of vertebra against background with the other network's mask."""
  return dice(result.mask > 0, reference_mask() > 0)
