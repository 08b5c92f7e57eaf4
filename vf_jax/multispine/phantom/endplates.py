# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the endplates of a template are, in its plane of symmetry."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64

from vf_jax.multispine.phantom.templates import Template

_STEP_MM = 0.5
_SACRUM_MM = ((-40.0, 20.0), (-45.0, 0.0))  # y and z of the body of S1


@dataclasses.dataclass(frozen=True, eq=False)
class Endplate:
  """The line from one rim to the other in the plane of symmetry.

  Attributes:
    back: y and z of its posterior corner, mm of the template.
    front: of its anterior one.
  """

  back: Float64[np.ndarray, " 2"]
  front: Float64[np.ndarray, " 2"]


def lower_endplate(template: Template) -> Endplate:
  """Finds the lower endplate of a vertebra.

  Args:
    template: with its origin in the middle of the body.

  Returns:
    The endplate.
  """
  _, deep = template.half_mm
  tall = template.height_mm
  return _corners(template, ((-deep - 6, deep + 8), (-tall, -2.0)), -1.0)


def sacral_endplate(template: Template) -> Endplate:
  """Finds the endplate of S1.

  Args:
    template: the sacrum, in the frame of L5.

  Returns:
    The endplate.
  """
  return _corners(template, _SACRUM_MM, 1.0)


def _corners(template, window, up) -> Endplate:
  """What juts out furthest between the endplate and the walls."""
  axes = [np.arange(low, high, _STEP_MM) for low, high in window]
  y, z = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
  inside = template.depth(np.stack([np.zeros_like(y), y, z])) > 0
  rims = np.stack([y[inside], z[inside]], axis=1)
  along = np.array([1.0, 0.0])
  for _ in range(4):
    away = np.array([-along[1], along[0]]) * up
    back = rims[np.argmax(rims @ (away - along))]
    front = rims[np.argmax(rims @ (away + along))]
    along = (front - back) / np.linalg.norm(front - back)
  return Endplate(back, front)
