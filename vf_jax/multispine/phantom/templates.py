# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Shapes of real bones, each in a frame of its own, as signed distances.

A template is the right half of a bone made symmetric: the left is its mirror
image, and what makes a patient lopsided comes from the warp. Distances are
positive inside. `template_fitting` makes the file; its README names the
subjects and licences.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping
from importlib import resources

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from vf_jax.multispine.phantom.points import Triple

STEP_MM = 0.15
"""Stored unit of distance."""

REACH_MM = 6.0
"""Distances are cut off here."""


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
  """One bone in its own frame: x right, y anterior, z up, origin in the body.

  Attributes:
    distance: mm below the surface, negative outside; x from the mid-plane on.
    low_mm: y and z of the first voxel.
    spacing_mm: edge of the voxels.
    height_mm: of the body; for the sacrum, of its base to the tip.
    half_mm: half width and half depth of the body.
    pedicle_mm: the right pedicle.
    canal_mm: y of the middle of the canal.
    interval_mm: to the neighbours in the subject it is from.
    source: subject.
  """

  distance: Float32[np.ndarray, "x y z"]
  low_mm: tuple[float, float]
  spacing_mm: float
  height_mm: float
  half_mm: tuple[float, float]
  pedicle_mm: Triple
  canal_mm: float
  interval_mm: float
  source: str

  @property
  def box_mm(self) -> tuple[Triple, Triple]:
    """Corners of what the template covers, both sides."""
    x, y, z = ((n - 1) * self.spacing_mm for n in self.distance.shape)
    low_y, low_z = self.low_mm
    return (-x, low_y, low_z), (x, low_y + y, low_z + z)

  def depth(
    self, points_mm: Float[np.ndarray, "xyz=3 *shape"]
  ) -> Float32[np.ndarray, "*shape"]:
    """Distance below the surface at any points.

    Args:
      points_mm: in the template's frame.

    Returns:
      mm, negative outside, cut off at `REACH_MM`.
    """
    at = np.empty(points_mm.shape, np.float32)
    at[0] = np.abs(points_mm[0])
    at[1] = points_mm[1] - self.low_mm[0]
    at[2] = points_mm[2] - self.low_mm[1]
    at /= self.spacing_mm
    return ndimage.map_coordinates(
      self.distance, at, order=1, mode="constant", cval=-REACH_MM,
      output=np.float32, prefilter=False,
    )  # fmt: skip


@functools.cache
def load_templates() -> Mapping[str, tuple[Template, ...]]:
  """Reads the committed templates.

  Returns:
    Level name -> its templates; 'hip' is the right hip bone in the frame of
    the sacrum.
  """
  path = resources.files("vf_jax") / "assets/phantom/templates.npz"
  with np.load(io.BytesIO(path.read_bytes())) as stored:
    names = sorted({key.rsplit("/", 1)[0] for key in stored.files})
    found: dict[str, list[Template]] = {}
    for name in names:
      level, source = name.split("/")
      found.setdefault(level, []).append(
        unpack(stored[f"{name}/distance"], stored[f"{name}/facts"], source)
      )
  return {level: tuple(several) for level, several in found.items()}


def pack(template: Template) -> tuple[np.ndarray, np.ndarray]:
  """Gives the arrays that are stored of a template.

  Args:
    template: the template.

  Returns:
    Distances in `STEP_MM` as int8, differences along z (they compress), and
    the other attributes as float32.
  """
  steps = np.clip(template.distance, -REACH_MM, REACH_MM) / STEP_MM
  whole = np.rint(steps).astype(np.int8)
  facts = np.array(
    [
      *template.low_mm, template.spacing_mm, template.height_mm,
      *template.half_mm, *template.pedicle_mm, template.canal_mm,
      template.interval_mm,
    ], np.float32,
  )  # fmt: skip
  return np.diff(whole, axis=2, prepend=np.int8(0)), facts


def unpack(steps: np.ndarray, facts: np.ndarray, source: str) -> Template:
  """Undoes `pack`.

  Args:
    steps: the stored distances.
    facts: the stored attributes.
    source: subject.

  Returns:
    The template, rounded to `STEP_MM`.
  """
  distance = np.cumsum(steps, axis=2, dtype=np.int8) * np.float32(STEP_MM)
  y, z, spacing, height, wide, deep, px, py, pz, canal, interval = (
    float(fact) for fact in facts
  )
  return Template(
    distance.astype(np.float32), (y, z), spacing, height, (wide, deep),
    (px, py, pz), canal, interval, source,
  )  # fmt: skip
