# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A loaded case on the network's grid: the arrays that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from scipy import ndimage

from vf_jax.hounsfield import AIR_HU, MAX_HU
from vf_jax.labels import BY_CODE, IGNORE, SACRUM
from vf_jax.multispine import bodies, surroundings, tissues
from vf_jax.multispine.checks.mask_findings import cut_codes
from vf_jax.multispine.harmonise import ignore_unannotated_ends
from vf_jax.multispine.identity import voxel_digest
from vf_jax.multispine.load import Loaded
from vf_jax.multispine.record import DEPTH_STEP_MM, PreparedCase, Record
from vf_jax.multispine.shapes import measure_shapes
from vf_jax.volume import Grid, bounds, network_grid, resample, to_network

Centres = dict[int, tuple[float, float, float]]


def convert(
  loaded: Loaded, spacing_mm: float, findings: tuple[str, ...] = ()
) -> PreparedCase:
  """Carries a case to the isotropic world-aligned grid of the network.

  Args:
    loaded: a case that passed its checks.
    spacing_mm: voxel edge of the result, mm.
    findings: what the checks said, kept in the record.

  Returns:
    The case on a RAS+ grid in (depth, height, width) order.
  """
  case, native = loaded.case, loaded.grid
  codes = None if loaded.labels is None else loaded.labels.voxels
  grid = network_grid(native, spacing_mm)
  if loaded.image is None:
    grid = _padded(grid)
  elif codes is not None and case.margin_mm is not None:
    spine = (codes > 0) & (codes != SACRUM.code) & (codes != IGNORE)
    grid = _around(spine, native, grid, case.margin_mm)

  def carry(array, order, fill):
    return np.ascontiguousarray(
      to_network(resample(array, native, grid, order=order, fill=fill))
    )

  image = None
  if loaded.image is not None:
    hu = np.clip(loaded.image.voxels, AIR_HU, MAX_HU).astype(np.int16)
    image = carry(hu, 1, AIR_HU)
  labels = np.full(grid.shape[::-1], IGNORE, np.uint8)
  if codes is not None:
    labels = carry(codes, 0, 0)
  for low, high in case.background_boxes:
    _mark_background(labels, grid, np.array(low), np.array(high))
  cut = _cut(loaded)
  centres, kind = _centres(loaded, grid, labels, cut)
  if codes is not None and "cut_vertebrae" not in case.annotates:
    scan = np.broadcast_to(np.uint8(1), native.shape)
    labels, _ = ignore_unannotated_ends(
      labels, spacing_mm, centres, carry(scan, 0, 0).astype(bool)
    )
  # The sacrum is background to the segmentation: VerSe does not annotate it.
  labels[labels == SACRUM.code] = 0
  tissue = depth = None
  if loaded.image is None or case.tissues is not None:
    tissue = _tissue(loaded, labels, image, centres, carry, spacing_mm)
    depth = _depth(labels, tissue, spacing_mm)
  fine, middle, coarse = sorted(float(v) for v in native.spacing)
  return PreparedCase(
    record=Record(
      case=case.name,
      source=case.source,
      domain=case.domain,
      subject=case.subject,
      series=case.series,
      split=case.split,
      spacing_mm=spacing_mm,
      affine=_rows(grid),
      native_shape=native.shape,
      native_affine=_rows(native),
      native_spacing_mm=(fine, middle, coarse),
      centres=centres,
      centre_kind=kind,
      boxes=_boxes(loaded, grid),
      cut=cut,
      annotates=tuple(sorted(case.annotates)),
      mask_kind=case.mask_kind,
      licence=case.licence,
      origin=case.origin,
      scanner=dict(case.scanner),
      files=dict(loaded.digests),
      voxels="" if loaded.image is None else voxel_digest(loaded.image),
      findings=findings,
    ),
    image=image,
    labels=labels,
    tissue=tissue,
    depth=depth,
  )


def _cut(loaded: Loaded) -> tuple[int, ...]:
  if loaded.labels is None:
    return ()
  # NOTE: of the scan's own grid: on a resampled one the borders of an oblique
  # scan are no longer those of the array.
  cut = cut_codes(measure_shapes(loaded.labels).levels)
  return tuple(sorted(cut, key=lambda code: BY_CODE[code].order))


def _rows(grid: Grid) -> tuple[tuple[float, ...], ...]:
  return tuple(tuple(float(v) for v in row) for row in grid.affine)


def _padded(grid: Grid) -> Grid:
  """Room for modelled ribs and pelvis around a mask without its CT."""
  low, high = np.array([60.0, 40.0, 110.0]), np.array([60.0, 50.0, 0.0])
  before = np.round(low / grid.spacing).astype(int)
  after = np.round(high / grid.spacing).astype(int)
  return _box(grid, -before, before + grid.shape + after)


def _around(
  mask: Bool[np.ndarray, "x y z"], native: Grid, grid: Grid, margin_mm: float
) -> Grid:
  """The part of `grid` within a margin of the mask; all of it without one."""
  box = bounds(mask)
  if box is None:
    return grid
  corners = np.array(
    np.meshgrid(*((s.start, s.stop - 1) for s in box), indexing="ij")
  ).reshape(3, -1)
  inside = grid.to_voxel(native.to_world(corners.T.astype(float)))
  margin = margin_mm / np.array(grid.spacing)
  low = np.maximum(np.floor(inside.min(axis=0) - margin), 0).astype(int)
  high = np.minimum(
    np.ceil(inside.max(axis=0) + margin) + 1, grid.shape
  ).astype(int)
  return _box(grid, low, high - low)


def _box(grid: Grid, start: np.ndarray, size: np.ndarray) -> Grid:
  affine = grid.affine.copy()
  affine[:3, 3] = grid.to_world(start[None].astype(float))[0]
  x, y, z = (int(v) for v in size)
  return Grid((x, y, z), affine)


def _mark_background(
  labels: UInt8[np.ndarray, "depth height width"],
  grid: Grid,
  low_mm: np.ndarray,
  high_mm: np.ndarray,
) -> None:
  """Declares what is unknown in a box (corners, mm RAS+) free of vertebrae."""
  corners = grid.to_voxel(np.stack([low_mm, high_mm]).astype(float))
  low = np.maximum(np.ceil(corners.min(axis=0)), 0).astype(int)[::-1]
  high = (np.floor(corners.max(axis=0)).astype(int) + 1)[::-1]
  inside = labels[tuple(slice(a, max(a, b)) for a, b in zip(low, high))]
  inside[inside == IGNORE] = 0


def _centres(
  loaded: Loaded,
  grid: Grid,
  labels: UInt8[np.ndarray, "depth height width"],
  cut: tuple[int, ...],
) -> tuple[Centres, str]:
  """Body centres; a centre of mass of a vertebra is no substitute for one."""
  given: Centres = {}
  if loaded.centre_kind in ("body", "subregions"):
    points = np.array(list(loaded.centres.values()), float).reshape(-1, 3)
    for code, (d, h, w) in zip(
      loaded.centres, grid.to_voxel(points)[:, ::-1].tolist()
    ):
      given[code] = (d, h, w)
  if loaded.labels is not None:
    # Of whole vertebrae without a point, too: without a centre the numbering
    # would learn a gap there.
    left_out = bodies.derive_centres(labels, grid.spacing[0], {*cut, *given})
    given = {**left_out, **given}
    if loaded.centre_kind != "body":
      return given, "derived"
  return given, "body" if given else "none"


def _boxes(loaded: Loaded, grid: Grid) -> tuple[tuple[float, ...], ...]:
  return tuple(
    tuple(
      float(v)
      for v in (
        *grid.to_voxel(np.array([box.centre_mm], float))[0][::-1],
        *box.size_mm[::-1],
      )
    )
    for box in loaded.boxes
  )


def _tissue(
  loaded: Loaded,
  labels: UInt8[np.ndarray, "depth height width"],
  image: Integer[np.ndarray, "depth height width"] | None,
  centres: Mapping[int, tuple[float, float, float]],
  carry: Callable[..., np.ndarray],
  spacing_mm: float,
) -> UInt8[np.ndarray, "depth height width"]:
  """Tissue map: known classes, modelled bones, air around the body."""
  vertebra = (labels > 0) & (labels != IGNORE)
  if loaded.case.tissues == "totalsegmentator":
    assert loaded.stored_mask is not None, "a source gives tissues with a mask"
    tissue = carry(
      tissues.from_totalsegmentator(loaded.stored_mask.voxels), 0, 0
    )
  else:
    rng = np.random.default_rng(loaded.case.seed)
    tissue = np.zeros(labels.shape, np.uint8)
    bones = surroundings.model_bones(
      np.where(vertebra, labels, 0).astype(np.uint8), centres, spacing_mm, rng
    )
    tissue[bones] = tissues.BONE.code
  discs = surroundings.model_discs(labels.shape, centres, spacing_mm)
  tissue[discs & (tissue == 0)] = tissues.CARTILAGE.code
  if image is not None:
    tissue[~_body(image) & (tissue == 0)] = tissues.OUTSIDE.code
  tissue[vertebra] = tissues.BONE.code
  return tissue


def _body(
  image: Integer[np.ndarray, "depth height width"],
) -> Bool[np.ndarray, "depth height width"]:
  """The patient: the largest part that is not air, its lungs included."""
  parts, _ = ndimage.label(ndimage.binary_opening(image > -300, iterations=2))
  sizes = np.bincount(parts.ravel())[1:]
  if not sizes.size:
    return np.zeros(image.shape, bool)
  return ndimage.binary_fill_holes(parts == 1 + int(np.argmax(sizes)))


def _depth(
  labels: UInt8[np.ndarray, "depth height width"],
  tissue: UInt8[np.ndarray, "depth height width"],
  spacing_mm: float,
) -> UInt8[np.ndarray, "depth height width"]:
  """Distance below the surface of each bone, vertebrae one by one."""
  depth = np.zeros(labels.shape, np.float32)
  code = np.where(labels == IGNORE, 0, labels)
  objects = np.where(
    (tissue == tissues.BONE.code) & (code == 0), 250, code
  ).astype(np.uint8)
  for value, box in enumerate(ndimage.find_objects(objects), start=1):
    if box is None:
      continue
    part = np.pad(objects[box] == value, 1)
    inside = ndimage.distance_transform_edt(part)[1:-1, 1:-1, 1:-1]
    depth[box] = np.maximum(depth[box], inside * spacing_mm)
  return np.minimum(np.round(depth / DEPTH_STEP_MM), 255).astype(np.uint8)
