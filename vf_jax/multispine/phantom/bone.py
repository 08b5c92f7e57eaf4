# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What bone looks like on CT, by how deep one is below its surface."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class Density:
  """The bone of a patient.

  Attributes:
    trabecular_hu: mean of the inside of a vertebral body, from osteoporotic
      (50) to young (250).
    cortical_hu: of the shell.
    shell_mm: its thickness around a body; arches have twice as much.
    grain_hu: deviation of the trabecular texture.
  """

  trabecular_hu: float
  cortical_hu: float
  shell_mm: float
  grain_hu: float


def draw_density(rng: np.random.Generator) -> Density:
  """Draws a patient's bone.

  Args:
    rng: the draw.

  Returns:
    Density; shell and inside thin out together.

  Source:
    L1 trabecular means of 1,867 adults: 113 to 226 HU from over 80 to under
    30 years, sd about 40 (Jang et al. 2019, Radiology 291).
  """
  inside = float(np.clip(rng.normal(150, 50), 40, 280))
  firm = inside / 150
  return Density(
    inside,
    float(rng.uniform(620, 900) * firm**0.15),
    float(rng.uniform(0.8, 1.3) * firm**0.3),
    float(rng.uniform(18, 40)),
  )


def bone_hu(
  depth: Float32[np.ndarray, " voxels"],
  compact: Float32[np.ndarray, " voxels"] | float,
  density: Density,
) -> Float32[np.ndarray, " voxels"]:
  """HU of solid bone, without what its surface shares with other tissue.

  Args:
    depth: below the surface, mm.
    compact: 0 in a vertebral body, 1 in an arch: thicker shell, denser inside.
    density: of the patient.

  Returns:
    HU.
  """
  compact = np.asarray(compact, np.float32)
  shell = np.float32(density.shell_mm) * (1 + np.float32(0.7) * compact)
  inside = np.float32(density.trabecular_hu) + np.float32(60) * compact
  share = 1 / (1 + np.exp((depth - shell) * np.float32(3.0)))
  # The shell of a body is half a millimetre of bone: CT shows it dimmed.
  share *= np.float32(0.5) + np.float32(0.5) * compact
  return inside + (np.float32(density.cortical_hu) - inside) * share


def coverage(
  depth: Float32[np.ndarray, "*shape"], spacing_mm: float
) -> Float32[np.ndarray, "*shape"]:
  """Share of a voxel that lies in the bone.

  Args:
    depth: below the surface at its centre, mm.
    spacing_mm: voxel edge.

  Returns:
    0..1.
  """
  return np.clip(depth / np.float32(spacing_mm) + np.float32(0.5), 0, 1)
