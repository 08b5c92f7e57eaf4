# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Hip bones from a template, heads of the femurs, muscles and bladder."""

from __future__ import annotations

import numpy as np

from vf_jax.multispine import tissues
from vf_jax.multispine.phantom.canvas import Canvas
from vf_jax.multispine.phantom.spine import Spine, Vertebra
from vf_jax.multispine.phantom.templates import load_templates
from vf_jax.multispine.phantom.torso import Habitus


def pelvis(
  canvas: Canvas, spine: Spine, habitus: Habitus, rng: np.random.Generator
) -> None:
  """Draws what is around and below the sacrum.

  Args:
    canvas: gets bone and soft tissue.
    spine: the hips share the frame of its sacrum.
    habitus: the build.
    rng: for the bladder.
  """
  (shape,) = load_templates()["hip"]
  sacrum = spine.sacrum
  hips = Vertebra("sacrum", shape, sacrum.centre, sacrum.frame, sacrum.scale)
  low, high = hips.box_mm
  box = canvas.box(low, high)
  if box is None:
    return
  depth = hips.depth(canvas.x[box[0]], canvas.y[box[1]], canvas.z[box[2]])
  _muscles(canvas, hips, habitus)
  canvas.add_bone(box, depth)
  for side in (-1.0, 1.0):
    socket = hips.to_world(np.array([side * 88.0, -10.0, -125.0]))
    canvas.bone_ellipsoid(socket, np.full(3, 22.0) * spine.size)
  bladder = hips.to_world(np.array([0.0, 10.0, -135.0]))
  canvas.ellipsoid(
    bladder, rng.uniform(25, 42) * np.array([1.1, 0.9, 0.9]), tissues.ORGAN,
    8.0, (tissues.FAT, tissues.ORGAN, tissues.GAS),
  )  # fmt: skip


def _muscles(canvas, hips, habitus) -> None:
  over = (tissues.FAT,)
  for side in (-1.0, 1.0):
    for spot, radii in (
      ((98, -60, -70), (38, 34, 62)), ((112, -15, -55), (22, 45, 48)),
      ((70, 12, -40), (34, 22, 52)), ((60, -95, -105), (52, 26, 55)),
      ((28, -75, -125), (18, 18, 40)),
    ):  # fmt: skip
      place = hips.to_world(np.array(spot, float) * (side, 1, 1))
      canvas.ellipsoid(place, radii, tissues.MUSCLE, habitus.muscle_hu, over)
