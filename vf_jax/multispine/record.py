# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What the store holds of a case: its record, its arrays, its index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int16, Int32, UInt8

from vf_jax.hounsfield import AIR_HU
from vf_jax.labels import BY_CODE, SACRUM

SCHEMA = 2
DEPTH_STEP_MM = 0.25  # of the stored depth below the bone surface
CHUNK = 32  # voxels a side; a crop of 96 touches 64 of them
_PER_LEVEL = 512  # voxels of each level kept in the index

ARRAYS: Mapping[str, tuple[str, int]] = {
  "image": ("int16", AIR_HU),
  "labels": ("uint8", 0),
  "tissue": ("uint8", 0),
  "depth": ("uint8", 0),
}
"""Array -> dtype and the value of chunks that are not stored."""


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of a prepared case beside its arrays.

  Attributes:
    case: its name.
    source: kind of archive: 'verse', 'ctspine1k', ...
    domain: where it comes from; what is left out in cross-domain studies.
    subject: patient, the unit of splits.
    series: which scan of the patient.
    split: part of the official split, None without one.
    spacing_mm: voxel edge of the arrays, mm.
    affine: 4x4, (x, y, z) voxel of the arrays -> mm RAS+.
    native_shape: of the scan as stored in its file, (x, y, z).
    native_affine: 4x4, voxel of the scan as stored -> mm RAS+.
    native_spacing_mm: spacing of the scan in ascending order, mm.
    centres: VerSe code -> body centre in voxels (depth, height, width).
    centre_kind: 'body' (annotated; of whole vertebrae without a point derived),
      'derived' (from the masks) or 'none'.
    boxes: lesions, centre in voxels and edge lengths in mm, both along
      (depth, height, width).
    cut: VerSe codes of vertebrae cut by the field of view.
    annotates: subset of `case.TASKS`.
    mask_kind: 'expert', 'network', 'synthetic' or 'none'.
    licence: of image and annotation.
    origin: archive, version or DOI.
    scanner: facts of the scanner where known.
    files: name -> SHA-256 of what was read.
    voxels: digest of the image's voxels whatever file holds them.
    findings: what the checks found, in words.
  """

  case: str
  source: str
  domain: str
  subject: str
  series: str
  split: str | None
  spacing_mm: float
  affine: tuple[tuple[float, ...], ...]
  native_shape: tuple[int, int, int]
  native_affine: tuple[tuple[float, ...], ...]
  native_spacing_mm: tuple[float, float, float]
  centres: Mapping[int, tuple[float, float, float]]
  centre_kind: str
  boxes: tuple[tuple[float, ...], ...]
  cut: tuple[int, ...]
  annotates: tuple[str, ...]
  mask_kind: str
  licence: str
  origin: str
  scanner: Mapping[str, str]
  files: Mapping[str, str]
  voxels: str
  findings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCase:
  """One case, ready to be written.

  Attributes:
    record: what is known of it.
    image: HU, None for a mask without its CT.
    labels: VerSe codes, 255 unknown.
    tissue: tissue classes, None if intensities cannot be synthesised.
    depth: distance below the surface of the own bone in `DEPTH_STEP_MM`,
      0 outside bone; None without tissue.
  """

  record: Record
  image: Int16[np.ndarray, "depth height width"] | None
  labels: UInt8[np.ndarray, "depth height width"]
  tissue: UInt8[np.ndarray, "depth height width"] | None
  depth: UInt8[np.ndarray, "depth height width"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class SampleIndex:
  """Where the vertebrae of a case are, for balanced crops.

  Attributes:
    voxels: a uniform sample of each level's voxels, sorted by code.
    codes: VerSe code of each.
  """

  voxels: Int32[np.ndarray, "samples 3"]
  codes: UInt8[np.ndarray, " samples"]


def index_levels(
  labels: UInt8[np.ndarray, "depth height width"],
) -> SampleIndex:
  """Draws up to 512 voxels of each level, the same ones every time.

  Args:
    labels: VerSe codes.

  Returns:
    The index.
  """
  flat = labels.ravel()
  vertebra = np.zeros(256, bool)
  vertebra[[code for code in BY_CODE if code != SACRUM.code]] = True
  places = np.flatnonzero(vertebra[flat])
  order = np.argsort(flat[places], kind="stable")
  places = places[order]
  found, starts = np.unique(flat[places], return_index=True)
  kept, codes = [], []
  for code, part in zip(found, np.split(places, starts[1:])):
    if len(part) > _PER_LEVEL:
      rng = np.random.default_rng(int(code))
      part = np.sort(rng.choice(part, _PER_LEVEL, replace=False))
    kept.append(part)
    codes.append(np.full(len(part), code, np.uint8))
  flat_places = np.concatenate([*kept, np.zeros(0, np.int64)])
  voxels = np.stack(np.unravel_index(flat_places, labels.shape), axis=1)
  return SampleIndex(
    voxels.astype(np.int32), np.concatenate([*codes, np.zeros(0, np.uint8)])
  )
