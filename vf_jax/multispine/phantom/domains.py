# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""How each domain's scanners see a patient: one appearance model a domain.

The ranges of two domains overlap in single quantities but not in all, so that
a model which leaves one out has not seen its look. Only the narrow fields that
some scans of several domains have are drawn from the same ranges.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from vf_jax.errors import InputError

Range = tuple[float, float]

NARROW_MM: Range = (120.0, 180.0)
"""Edge of a field that was reconstructed for the spine alone; our choice."""

NARROW_OFF_MM = 25.0
"""How far from the spine its middle may lie."""

_NARROW_SHARE = 0.15
Size = Literal["small", "full"]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A reconstruction kernel by its transfer function in the slice plane.

  `exp(-ln 2 (f / half)^2) (1 + boost (f / half)^2)`: a Gaussian, raised at
  middle frequencies by kernels that sharpen edges.

  Attributes:
    name: of the family.
    half_per_mm: `half` above.
    boost: `boost` above; beyond 0.69 edges overshoot.
  """

  name: str
  half_per_mm: float
  boost: float = 0.0


KERNELS: Mapping[str, Kernel] = MappingProxyType(
  {
    kernel.name: kernel
    for kernel in (
      Kernel("smooth", 0.27),
      Kernel("soft", 0.33),
      Kernel("standard", 0.42),
      Kernel("lung", 0.48, 1.1),
      Kernel("bone", 0.58, 1.7),
    )
  }
)


@dataclasses.dataclass(frozen=True)
class Domain:
  """What the protocols of one domain are drawn from.

  Attributes:
    name: as in the manifest.
    spans: pairs of levels, first and last in view.
    kernels: names of `KERNELS`.
    kvp: tube voltages; bone and contrast agent are brighter at low ones.
    noise_hu: standard deviation at the centre of a body as thick as 30 cm of
      water.
    field_mm: edge of the reconstructed square.
    matrix: size -> pixels along that edge.
    slice_mm: size -> slice thicknesses.
    step: distance of slices as a share of their thickness.
    centred_on: what the square lies around.
    contrast_hu: what contrast agent adds to vessels.
    contrast_share: how many scans have it.
    offset_hu: constant error of the scale.
    metal_share: how many have pedicle screws.
    tilt_share: how many have a tilted gantry, so slices are sheared.
    padding_hu: value outside the round field of view; None if the whole
      square is measured.
    reformat_share: how many are stored as thick sagittal slices.
    turned_share: how many lie obliquely to the scanner.
    narrow_share: how many have a field so narrow that it may cut vertebrae at
      their sides.
    orientations: axis codes of the stored arrays.
  """

  name: str
  spans: tuple[tuple[str, str], ...]
  kernels: tuple[str, ...]
  kvp: tuple[int, ...]
  noise_hu: Range
  field_mm: Range
  matrix: Mapping[Size, tuple[int, ...]]
  slice_mm: Mapping[Size, tuple[float, ...]]
  step: Range = (1.0, 1.0)
  centred_on: Literal["body", "spine"] = "body"
  contrast_hu: Range = (0.0, 0.0)
  contrast_share: float = 0.0
  offset_hu: Range = (-2.0, 2.0)
  metal_share: float = 0.0
  tilt_share: float = 0.0
  padding_hu: int | None = None
  reformat_share: float = 0.0
  turned_share: float = 0.0
  narrow_share: float = 0.0
  orientations: tuple[str, ...] = ("LPS",)


_BODY: Mapping[Size, tuple[int, ...]] = {"small": (192, 208), "full": (512,)}


DOMAINS: Mapping[str, Domain] = MappingProxyType(
  {
    domain.name: domain
    for domain in (
      Domain(
        "verse",
        spans=(
          ("C2", "T3"), ("T1", "T12"), ("T6", "L3"), ("T9", "L5"),
          ("T11", "L5"), ("L1", "L5"), ("T4", "L5"),
        ),
        kernels=("standard", "standard", "bone"),
        kvp=(120, 120, 130),
        noise_hu=(12.0, 26.0),
        field_mm=(150.0, 230.0),
        matrix={"small": (144, 176, 192), "full": (512,)},
        slice_mm={"small": (1.0, 1.5, 2.0), "full": (0.8, 1.0, 1.5)},
        centred_on="spine",
        contrast_hu=(80.0, 180.0),
        contrast_share=0.3,
        reformat_share=0.4,
        turned_share=0.25,
        narrow_share=_NARROW_SHARE,
        orientations=("PIR", "PIR", "LPS", "LAS", "RAS", "PSR", "ASL"),
      ),
      Domain(
        "colonog",
        spans=(("T10", "L5"), ("T11", "L5"), ("T9", "L5")),
        kernels=("soft",),
        kvp=(120, 140),
        noise_hu=(36.0, 56.0),
        field_mm=(360.0, 440.0),
        matrix=_BODY,
        slice_mm={"small": (1.25,), "full": (1.25,)},
        step=(0.8, 1.0),
        orientations=("LPS", "LAS"),
      ),
      Domain(
        "msd-liver",
        spans=(("T8", "L3"), ("T9", "L5"), ("T11", "L4")),
        kernels=("soft", "standard"),
        kvp=(100, 120),
        noise_hu=(10.0, 20.0),
        field_mm=(340.0, 400.0),
        matrix=_BODY,
        slice_mm={"small": (2.0, 2.5), "full": (1.0, 2.5)},
        contrast_hu=(100.0, 160.0),
        contrast_share=1.0,
        narrow_share=_NARROW_SHARE,
        orientations=("RAS", "LAS"),
      ),
      Domain(
        "hnscc",
        spans=(("C1", "T3"), ("C2", "T4")),
        kernels=("smooth", "soft"),
        kvp=(120,),
        noise_hu=(6.0, 12.0),
        field_mm=(400.0, 500.0),
        matrix=_BODY,
        slice_mm={"small": (3.0,), "full": (2.5, 3.0)},
        contrast_hu=(120.0, 200.0),
        contrast_share=0.7,
        offset_hu=(-6.0, 2.0),
      ),
      Domain(
        "covid19",
        spans=(("C7", "T12"), ("T1", "L1")),
        kernels=("lung",),
        kvp=(120,),
        noise_hu=(20.0, 34.0),
        field_mm=(330.0, 400.0),
        matrix=_BODY,
        slice_mm={"small": (5.0,), "full": (5.0,)},
        orientations=("LPS", "LAS"),
      ),
      Domain(
        "spineweb2",
        spans=(("T1", "L5"), ("T6", "L5")),
        kernels=("bone",),
        kvp=(120,),
        noise_hu=(50.0, 80.0),
        field_mm=(140.0, 180.0),
        matrix={"small": (224, 256), "full": (512,)},
        slice_mm={"small": (2.0,), "full": (1.0,)},
        step=(0.8, 1.0),
        centred_on="spine",
        padding_hu=-1024,
      ),
      Domain(
        "spineweb3",
        spans=(("C3", "T4"), ("T4", "L1"), ("T10", "L5"), ("L1", "L5")),
        kernels=("bone",),
        kvp=(120, 140),
        noise_hu=(60.0, 95.0),
        field_mm=(125.0, 170.0),
        matrix={"small": (208, 224), "full": (512,)},
        slice_mm={"small": (2.0, 2.5), "full": (1.25, 2.5)},
        centred_on="spine",
        metal_share=0.35,
        padding_hu=-2000,
      ),
      Domain(
        "cohort",
        spans=(("T8", "L5"), ("T10", "L5"), ("T3", "T12"), ("L1", "L5")),
        kernels=("standard", "soft"),
        kvp=(100, 100, 110),
        noise_hu=(14.0, 24.0),
        field_mm=(260.0, 340.0),
        matrix={"small": (192, 208), "full": (512,)},
        slice_mm={"small": (1.5, 2.0), "full": (1.0, 1.5)},
        step=(0.7, 1.0),
        contrast_hu=(180.0, 320.0),
        contrast_share=0.8,
        offset_hu=(6.0, 18.0),
        metal_share=0.4,
        tilt_share=0.35,
        narrow_share=_NARROW_SHARE,
        padding_hu=-1024,
      ),
      Domain(
        "totalsegmentator",
        spans=(("T6", "L5"), ("T10", "L5"), ("C5", "T8")),
        kernels=("soft", "standard", "lung"),
        kvp=(100, 120),
        noise_hu=(8.0, 18.0),
        field_mm=(300.0, 420.0),
        matrix={"small": (200,), "full": (260,)},
        slice_mm={"small": (1.5,), "full": (1.5,)},
        contrast_hu=(60.0, 220.0),
        contrast_share=0.6,
        orientations=("RAS",),
      ),
      Domain(
        "nnunet",
        spans=(("T11", "L5"), ("T5", "L1")),
        kernels=("standard",),
        kvp=(120,),
        noise_hu=(14.0, 28.0),
        field_mm=(180.0, 260.0),
        matrix={"small": (176, 192), "full": (400,)},
        slice_mm={"small": (1.0, 1.5), "full": (0.8, 1.0)},
        centred_on="spine",
        narrow_share=_NARROW_SHARE,
        orientations=("RAS", "LPS"),
      ),
    )
  }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The settings of one scan.

  Attributes:
    domain: name in `DOMAINS`.
    span: first and last level in view.
    kernel: name in `KERNELS`.
    kvp: tube voltage.
    noise_hu: see `Domain`.
    field_mm: edge of the reconstructed square.
    matrix: pixels along that edge.
    slice_mm: thickness of a slice.
    step_mm: distance of slices along the table.
    centred_on: 'body' or 'spine'.
    contrast_hu: what vessels gain; 0 without contrast agent.
    offset_hu: added to all that is measured.
    metal: whether screws are in the patient.
    tilt_deg: of the gantry, about the right-left axis.
    turn_deg: of the patient, about the three world axes.
    padding_hu: outside the round field of view; None without padding.
    reformat_mm: distance of sagittal slices; None for axial ones.
    table: the side the patient lies on, 'back' or 'front'.
    orientation: axis codes of the stored array.
    narrow: whether the field may cut vertebrae at their sides.
    off_mm: of the field's middle from what it is centred on, to the right and
      to the front.
  """

  domain: str
  span: tuple[str, str]
  kernel: str
  kvp: int
  noise_hu: float
  field_mm: float
  matrix: int
  slice_mm: float
  step_mm: float
  centred_on: str
  contrast_hu: float
  offset_hu: float
  metal: bool
  tilt_deg: float
  turn_deg: tuple[float, float, float]
  padding_hu: int | None
  reformat_mm: float | None
  table: str
  orientation: str
  narrow: bool = False
  off_mm: tuple[float, float] = (0.0, 0.0)


def draw_protocol(
  domain: str, rng: np.random.Generator, size: Size = "small"
) -> Protocol:
  """Draws the settings of a scan.

  Args:
    domain: name in `DOMAINS`.
    rng: the draw.
    size: 'small' for quick work, 'full' for clinical matrices.

  Returns:
    The settings.

  Raises:
    InputError: if there is no such domain.
  """
  if domain not in DOMAINS:
    raise InputError(
      "phantom", f"no domain {domain!r}.", f"use one of {', '.join(DOMAINS)}."
    )
  model = DOMAINS[domain]

  def pick(choices):
    return choices[int(rng.integers(len(choices)))]

  def draw(limits):
    return round(float(rng.uniform(*limits)), 3)

  def happens(share):
    return bool(rng.random() < share)

  thickness = pick(model.slice_mm[size])
  reformat = happens(model.reformat_share)
  turned = happens(model.turned_share)
  turns = (draw((-8.0, 8.0)), draw((-8.0, 8.0)), draw((-8.0, 8.0)))
  tilt = draw((8.0, 18.0)) * pick((-1, 1))
  protocol = Protocol(
    domain=domain,
    span=pick(model.spans),
    kernel=pick(model.kernels),
    kvp=pick(model.kvp),
    noise_hu=draw(model.noise_hu),
    field_mm=draw(model.field_mm),
    matrix=pick(model.matrix[size]),
    slice_mm=thickness,
    step_mm=round(thickness * draw(model.step), 3),
    centred_on=model.centred_on,
    contrast_hu=draw(model.contrast_hu) * happens(model.contrast_share),
    offset_hu=draw(model.offset_hu),
    metal=happens(model.metal_share),
    tilt_deg=tilt * happens(model.tilt_share),
    turn_deg=turns if turned else (0.0, 0.0, 0.0),
    padding_hu=model.padding_hu,
    reformat_mm=float(pick((2.0, 3.0))) if reformat else None,
    table="back",
    orientation=pick(model.orientations),
  )
  if not happens(model.narrow_share):
    return protocol
  # Anywhere on the disc.
  away = NARROW_OFF_MM * math.sqrt(draw((0.0, 1.0)))
  angle = draw((0.0, 2 * math.pi))
  return dataclasses.replace(
    protocol,
    field_mm=draw(NARROW_MM),
    centred_on="spine",
    narrow=True,
    off_mm=(
      round(away * math.cos(angle), 3),
      round(away * math.sin(angle), 3),
    ),
  )
