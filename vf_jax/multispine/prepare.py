# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""From files as they lie in an archive to prepared cases.

A manifest is a JSON list of cases; paths are relative to its own folder.
docs/data.md names every key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from vf_jax import labels as label_table
from vf_jax.errors import InputError
from vf_jax.hounsfield import AIR_HU
from vf_jax.io import centroids, lesions, nifti
from vf_jax.labels import IGNORE
from vf_jax.multispine import bodies, surroundings, tissues
from vf_jax.multispine.store import (
  DEPTH_STEP_MM,
  PreparedCase,
  Record,
  write_case,
)
from vf_jax.volume import (
  Grid,
  Volume,
  check_hounsfield,
  network_grid,
  resample,
  to_network,
)

_KEYS = {
  "case", "domain", "subject", "ct", "mask", "scheme", "centroids", "lesions",
  "lesion_key", "annotates", "mask_kind", "background_boxes", "margin_mm",
  "tissues", "recode", "licence", "source", "seed",
}  # fmt: skip
_TASKS = ("masks", "levels", "lesions")


def prepare(
  manifest: str | os.PathLike[str],
  store: str | os.PathLike[str],
  spacing_mm: float,
  root: str | os.PathLike[str] | None = None,
) -> list[str]:
  """Prepares every case of a manifest.

  Args:
    manifest: JSON file.
    store: output folder.
    spacing_mm: voxel edge of the store, the network's, mm.
    root: what paths in it are relative to; the manifest's folder if None.

  Returns:
    Names of the cases.

  Raises:
    InputError: for a broken manifest or a refused file, naming it.
  """
  path = pathlib.Path(manifest)
  try:
    entries = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise InputError(
      path, f"not a readable JSON manifest ({error}).", "see docs/data.md."
    ) from error
  if not isinstance(entries, list) or not all(
    isinstance(entry, dict) for entry in entries
  ):
    raise InputError(path, "is not a list of cases.", "see docs/data.md.")
  folder = pathlib.Path(root) if root is not None else path.parent
  names = []
  for entry in entries:
    case = prepare_case(entry, folder, spacing_mm)
    write_case(store, case)
    names.append(case.record.case)
  return names


def prepare_case(
  entry: Mapping[str, Any], root: pathlib.Path, spacing_mm: float
) -> PreparedCase:
  """Prepares one case of a manifest.

  Args:
    entry: its keys, see docs/data.md.
    root: folder that its paths are relative to.
    spacing_mm: voxel edge of the result, mm.

  Returns:
    The case on a RAS+ grid in (depth, height, width) order.

  Raises:
    InputError: for unknown keys and refused files.
  """
  name = _check_entry(entry)
  files: dict[str, str] = {}

  def locate(key):
    file = root / entry[key]
    files[entry[key]] = _sha256(file)
    return file

  volume = nifti.read(locate("ct")) if entry.get("ct") else None
  if volume is not None and (check := check_hounsfield(volume)).refused:
    raise InputError(root / entry["ct"], check.message)
  mask = nifti.read_labels(locate("mask")) if entry.get("mask") else None
  if volume is None and mask is None:
    raise InputError(name, "has neither ct nor mask.", "name at least one.")
  first = volume if volume is not None else mask
  assert first is not None
  if volume is not None and mask is not None:
    if not volume.grid.same_as(mask.grid):
      raise InputError(
        name,
        f"mask grid {mask.grid.shape} and image grid {volume.grid.shape} "
        "differ.",
        "resample the mask onto the image.",
      )
  if mask is not None and entry.get("recode"):
    mask = _recode(mask, entry["recode"])
  scheme = entry.get("scheme", "verse")
  native = first.grid
  codes = (
    label_table.to_verse(mask.voxels, scheme) if mask is not None else None
  )
  if codes is not None:
    # The sacrum is background to the segmentation: VerSe does not annotate it.
    codes[codes == label_table.SACRUM.code] = 0
  grid = network_grid(native, spacing_mm)
  if volume is None:
    grid = _padded(grid)
  elif codes is not None and entry.get("margin_mm"):
    grid = _around(codes > 0, native, grid, float(entry["margin_mm"]))

  def carry(array, order, fill):
    return np.ascontiguousarray(
      to_network(resample(array, native, grid, order=order, fill=fill))
    )

  image = None
  if volume is not None:
    hu = np.clip(volume.voxels, AIR_HU, 3071).astype(np.int16)
    image = carry(hu, 1, AIR_HU)
  labels = np.full(grid.shape[::-1], IGNORE, np.uint8)
  if codes is not None:
    labels = carry(codes, 0, 0)
  for low, high in entry.get("background_boxes", ()):
    _mark_background(labels, grid, np.array(low), np.array(high))

  centres, kind = _centres(entry, locate, native, grid, labels)
  boxes = _boxes(entry, locate, grid)
  tissue = depth = None
  if codes is not None:
    tissue = _tissue(entry, mask, labels, image, centres, carry, spacing_mm)
    depth = _depth(labels, tissue, spacing_mm)
  fine, middle, coarse = sorted(float(v) for v in native.spacing)
  return PreparedCase(
    record=Record(
      case=entry["case"],
      domain=entry["domain"],
      subject=entry.get("subject", entry["case"]),
      spacing_mm=spacing_mm,
      native_spacing_mm=(fine, middle, coarse),
      affine=tuple(tuple(float(v) for v in row) for row in grid.affine),
      centres=centres,
      centre_kind=kind,
      boxes=boxes,
      annotates=tuple(entry.get("annotates", ())),
      mask_kind=entry.get(
        "mask_kind", "expert" if mask is not None else "none"
      ),
      licence=entry.get("licence", "unknown"),
      source=entry.get("source", "unknown"),
      files=files,
    ),
    image=image,
    labels=labels,
    tissue=tissue,
    depth=depth,
  )


def _check_entry(entry: Mapping[str, Any]) -> str:
  """Refuses what would be misread in silence; returns the case's name."""
  name = str(entry.get("case", "<manifest>"))
  unknown = set(entry) - _KEYS
  if unknown or "case" not in entry or "domain" not in entry:
    raise InputError(
      name,
      f"manifest entry has unknown keys {sorted(unknown)} or lacks case or "
      "domain.",
      f"allowed: {sorted(_KEYS)}.",
    )
  if pathlib.PurePath(name).name != name or name.startswith("."):
    raise InputError(
      name, "is no name for a file of the store.", "use no slashes in it."
    )
  strange = [task for task in entry.get("annotates", ()) if task not in _TASKS]
  if strange:
    raise InputError(
      name, f"annotates {strange}, unknown here.", f"allowed: {list(_TASKS)}."
    )
  if entry.get("lesions") and not (entry.get("lesion_key") or entry.get("ct")):
    raise InputError(
      name, "has lesions but neither ct nor lesion_key.", "name one of them."
    )
  return name


def _sha256(path: pathlib.Path) -> str:
  try:
    return hashlib.sha256(path.read_bytes()).hexdigest()
  except OSError as error:
    raise InputError(
      path, f"cannot be read ({error.strerror}).", "check the manifest's path."
    ) from error


def _recode(mask: Volume, table: Mapping[str, int]) -> Volume:
  """Renames codes of a mask that departs from its scheme in a few of them."""
  voxels = mask.voxels.copy()
  for old, new in table.items():
    voxels[mask.voxels == int(old)] = new
  return dataclasses.replace(mask, voxels=voxels)


def _padded(grid: Grid) -> Grid:
  """Room for modelled ribs and pelvis around a mask without its CT."""
  low, high = np.array([60.0, 40.0, 110.0]), np.array([60.0, 50.0, 0.0])
  before = np.round(low / grid.spacing).astype(int)
  after = np.round(high / grid.spacing).astype(int)
  affine = grid.affine.copy()
  affine[:3, 3] = grid.to_world(-before[None].astype(float))[0]
  size = [int(v) for v in before + grid.shape + after]
  return Grid((size[0], size[1], size[2]), affine)


def _around(mask, native, grid, margin_mm) -> Grid:
  """The part of `grid` within a margin of the mask."""
  where = [
    np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)
  ]
  corners = np.array(
    np.meshgrid(*((w[0], w[-1]) for w in where), indexing="ij")
  ).reshape(3, -1)
  inside = grid.to_voxel(native.to_world(corners.T.astype(float)))
  margin = margin_mm / np.array(grid.spacing)
  low = np.maximum(np.floor(inside.min(axis=0) - margin), 0).astype(int)
  high = np.minimum(
    np.ceil(inside.max(axis=0) + margin) + 1, grid.shape
  ).astype(int)
  affine = grid.affine.copy()
  affine[:3, 3] = grid.to_world(low[None].astype(float))[0]
  size = [int(v) for v in high - low]
  return Grid((size[0], size[1], size[2]), affine)


def _mark_background(labels, grid, low_mm, high_mm) -> None:
  """Declares a box (corners in mm RAS+) free of vertebrae."""
  corners = grid.to_voxel(np.stack([low_mm, high_mm]).astype(float))
  low = np.maximum(np.ceil(corners.min(axis=0)), 0).astype(int)[::-1]
  high = (np.floor(corners.max(axis=0)).astype(int) + 1)[::-1]
  labels[tuple(slice(a, max(a, b)) for a, b in zip(low, high))] = 0


def _centres(entry, locate, native, grid, labels):
  if entry.get("centroids"):
    file = locate("centroids")
    table = centroids.read_centroids(file, native)
    if table.kind != "body":
      raise InputError(
        file,
        "holds centres of mass of whole vertebrae, about 1 cm behind the body.",
        "leave centroids out; the mask gives the bodies.",
      )
    return {
      level.code: tuple(
        float(v) for v in grid.to_voxel(np.array([point], float))[0][::-1]
      )
      for level, point in table.positions.items()
    }, "annotated"
  if entry.get("mask"):
    spacing = grid.spacing[0]
    return bodies.derive_centres(labels, spacing), "derived"
  return {}, "none"


def _boxes(entry, locate, grid):
  if not entry.get("lesions"):
    return ()
  key = entry.get("lesion_key", os.path.basename(entry["ct"]))
  table = lesions.read_blds(locate("lesions"))
  return tuple(
    tuple(
      float(v)
      for v in (
        *grid.to_voxel(np.array([box.centre_mm], float))[0][::-1],
        *box.size_mm[::-1],
      )
    )
    for box in table.get(key, ())
  )


def _tissue(entry, mask, labels, image, centres, carry, spacing_mm):
  """Tissue map: known classes, modelled bones, air around the body."""
  vertebra = (labels > 0) & (labels != IGNORE)
  if entry.get("tissues") == "totalsegmentator":
    tissue = carry(tissues.from_totalsegmentator(mask.voxels), 0, 0)
  else:
    rng = np.random.default_rng(entry.get("seed", 0))
    tissue = np.zeros(labels.shape, np.uint8)
    bones = surroundings.model_bones(
      np.where(vertebra, labels, 0).astype(np.uint8),
      centres,
      spacing_mm,
      rng,
    )
    tissue[bones] = tissues.BONE.code
  discs = surroundings.model_discs(labels.shape, centres, spacing_mm)
  tissue[discs & (tissue == 0)] = tissues.CARTILAGE.code
  if image is not None:
    body = ndimage.binary_opening(image > -300, iterations=2)
    parts, _ = ndimage.label(body)
    sizes = np.bincount(parts.ravel())[1:]
    body = ndimage.binary_fill_holes(parts == 1 + int(np.argmax(sizes)))
    tissue[~body & (tissue == 0)] = tissues.OUTSIDE.code
  tissue[vertebra] = tissues.BONE.code
  return tissue


def _depth(labels, tissue, spacing_mm):
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
