# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From worlds whose x and y run to left and back (ITK, DICOM) to RAS+."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from vf_jax.errors import InputError
from vf_jax.grid import Grid, is_singular
from vf_jax.io.nifti_geometry import SPACING_RANGE_MM
from vf_jax.io.nifti_header import MIN_SLICES

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_grid(
  shape: tuple[int, int, int],
  columns: Float64[np.ndarray, "3 3"],
  origin: Float64[np.ndarray, " 3"],
  name: str,
) -> Grid:
  """Makes the grid of a volume whose file speaks LPS.

  Args:
    shape: voxels along each array axis.
    columns: step from a voxel to its neighbour along each array axis, one
      column per axis.
    origin: centre of the first voxel.
    name: the file, for messages.

  Returns:
    The grid, RAS+.

  Raises:
    InputError: if the steps are not finite, flatten the volume or are no
      voxel sizes of a clinical CT, or an axis has a single voxel.

  Units:
    mm; LPS in, RAS+ out.
  """
  if min(shape) < MIN_SLICES:
    raise InputError(
      name,
      f"has an axis of {min(shape)} voxel: shape {shape}; at least "
      f"{MIN_SLICES} are needed.",
      "give a volume, not a single slice or line.",
    )
  affine = np.eye(4)
  affine[:3, :3], affine[:3, 3] = columns, origin
  if not np.isfinite(affine).all():
    raise InputError(name, "NaN or Inf in its geometry.", "export it again.")
  if is_singular(affine):
    raise InputError(
      name, "its geometry is singular: it flattens the volume.", "export again."
    )
  # The zero added turns -0.0 into 0.0.
  grid = Grid(shape, _FLIP @ affine + 0.0)
  low, high = SPACING_RANGE_MM
  if not (low <= min(grid.spacing) and max(grid.spacing) <= high):
    sizes = " x ".join(f"{size:g}" for size in grid.spacing)
    raise InputError(
      name,
      f"voxels of {sizes} mm are outside the plausible {low:g} to {high:g} mm.",
      "correct the voxel size in the file, or resample.",
    )
  return grid
