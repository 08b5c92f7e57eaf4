# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A scan defined in world coordinates, drawn on a grid of any orientation."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np

from vf_jax.multispine.case import CentroidFile, LesionFile, MaskFile

MIDDLE = np.array([-31.0, 18.0, 402.0])  # of the scan, mm RAS+
# VerSe code -> body centre, mm RAS+. L2 lies lower and further to the right.
CENTRES = {
  20: np.add(MIDDLE, (-3.0, 8.0, 17.0)),
  21: np.add(MIDDLE, (4.0, 6.0, -17.0)),
}
LESION = np.add(MIDDLE, (14.0, -12.0, 5.0))
LESION_MM = (10.0, 14.0, 18.0)  # along R, A, S


def phantom(world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """HU and VerSe codes at points (..., 3) in mm RAS+."""
  hu = np.full(world.shape[:-1], -1000.0)
  hu[np.linalg.norm((world - MIDDLE) / (38, 34, 36), axis=-1) < 1] = 40.0
  codes = np.zeros(hu.shape, np.uint8)
  for code, centre in CENTRES.items():
    right, front, up = np.moveaxis(world - centre, -1, 0)
    body = (right / 15) ** 2 + (front / 11) ** 2 < 1
    body &= np.abs(up) < 10
    spine = (np.abs(right) < 12) & (front > -36) & (front < 0)
    spine &= np.abs(up) < 7
    codes[body | spine] = code
  hu[codes > 0] = 300.0
  box = np.abs(world - LESION) < np.array(LESION_MM) / 2
  hu[box.all(axis=-1)] = 900.0
  return hu, codes


def affine_of(codes: str, shape, spacing) -> np.ndarray:
  """An affine of these axis codes whose middle voxel is at MIDDLE."""
  ornt = nib.orientations.axcodes2ornt(codes)
  affine = np.eye(4)
  affine[:3, :3] = 0
  for axis, (world, sign) in enumerate(ornt):
    affine[int(world), axis] = sign * spacing[axis]
  affine[:3, 3] = MIDDLE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
  return affine


def write_scan(folder, codes="PIR"):
  """Writes ct, mask, ctd.json and lesion table; returns fields of a case."""
  spacing = (1.0, 1.5, 1.25)
  extent = {"R": 84, "L": 84, "A": 76, "P": 76, "S": 80, "I": 80}
  shape = [round(extent[c] / s) for c, s in zip(codes, spacing)]
  affine = affine_of(codes, shape, spacing)
  place = np.stack(np.indices(shape), axis=-1)
  hu, mask = phantom(nib.affines.apply_affine(affine, place))
  for name, array in (("ct", hu.astype(np.int16)), ("mask", mask)):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / f"{name}.nii.gz")
  points = [{"direction": list(codes)}]
  for code, centre in CENTRES.items():
    voxel = nib.affines.apply_affine(np.linalg.inv(affine), centre)
    points.append({"label": code, **dict(zip("XYZ", voxel.tolist()))})
  (folder / "ctd.json").write_text(json.dumps(points))
  x, y, z = LESION
  sizes = ",".join(str(v) for v in LESION_MM)
  (folder / "boxes.csv").write_text(
    "image_path,class,x,y,z,width,height,depth\n"
    f"ct.nii.gz,osteoma,{-x},{-y},{z},{sizes}\n"  # LPS+
    f"other.nii.gz,osteoma,1,2,3,{sizes}\n"
  )
  return {
    "name": "phantom",
    "source": "cohort",
    "domain": "drawn",
    "subject": "phantom",
    "series": "",
    "licence": "none",
    "image": folder / "ct.nii.gz",
    "mask": MaskFile(folder / "mask.nii.gz"),
    "centroids": CentroidFile(folder / "ctd.json"),
    "lesions": LesionFile(folder / "boxes.csv", "ct.nii.gz"),
    "annotates": frozenset({"masks", "levels", "cut_vertebrae", "lesions"}),
    "tissues": None,
  }
