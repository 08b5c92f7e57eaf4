# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Small CT series made with pydicom, sound unless told otherwise."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
  CTImageStorage,
  EnhancedCTImageStorage,
  ExplicitVRBigEndian,
  ExplicitVRLittleEndian,
)

SERIES = "1.2.826.0.1.3680043.8.498.1"
ROWS, COLUMNS, SLICES = 6, 5, 12
SPACING = (0.75, 0.5)  # between rows, between columns
GAP = 2.5


def stored(slices: int = SLICES) -> np.ndarray:
  """Stored values 0..4000 in order (slice, row, column)."""
  shape = (slices, ROWS, COLUMNS)
  return np.random.default_rng(5).integers(0, 4000, shape).astype(np.uint16)


def hounsfield(slices: int = SLICES) -> np.ndarray:
  """What `read` should give for `stored`, axes (x, y, z)."""
  return stored(slices).T.astype(np.int16) - 1024


def image(
  pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **changes: Any
) -> Dataset:
  """A CT image; a change to None leaves the element out."""
  dataset = Dataset()
  dataset.file_meta = FileMetaDataset()
  dataset.file_meta.TransferSyntaxUID = syntax
  values: dict[str, Any] = {
    "SOPClassUID": CTImageStorage,
    "SOPInstanceUID": f"{SERIES}.{np.random.default_rng().integers(1 << 60)}",
    "SeriesInstanceUID": SERIES,
    "SeriesDescription": "SPINE 2.5",
    "PatientName": "Secret^Name",
    "PatientID": "4711",
    "Modality": "CT",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "Manufacturer": "Maker",
    "ManufacturerModelName": "Model 1",
    "ConvolutionKernel": ["B30f", "2"],
    "KVP": "120",
    "SliceThickness": "3",
    "Rows": pixels.shape[-2],
    "Columns": pixels.shape[-1],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": pixels.dtype.itemsize * 8,
    "BitsStored": pixels.dtype.itemsize * 8,
    "HighBit": pixels.dtype.itemsize * 8 - 1,
    "PixelRepresentation": int(pixels.dtype.kind == "i"),
    "PixelSpacing": list(SPACING),
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [-10, -20, -300],
    "RescaleSlope": "1",
    "RescaleIntercept": "-1024",
  } | changes
  dataset.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
  dataset.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
  for key, value in values.items():
    if value is not None:
      setattr(dataset, key, value)
  order = ">" if syntax == ExplicitVRBigEndian else "<"
  dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
  dataset["PixelData"].VR = "OW"
  return dataset


def save(dataset: Dataset, path: pathlib.Path) -> None:
  """Writes a dataset as a DICOM file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def place(
  folder: pathlib.Path,
  slices: int = SLICES,
  step: tuple[float, float, float] = (0, 0, GAP),
  skip: tuple[int, ...] = (),
  **changes: Any,
) -> pathlib.Path:
  """Writes a series into a folder, in no order; gives the folder.

  Args:
    folder: is made.
    slices: how many.
    step: from a slice to the next.
    skip: which are not written.
    **changes: of every image; a list of one value a slice if the key ends in
      `_each`.
  """
  origin = np.array(changes.pop("ImagePositionPatient", [-10, -20, -300]))
  each = {k: changes.pop(k) for k in list(changes) if k.endswith("_each")}
  pixels = changes.pop("pixels", stored(slices))
  names = np.random.default_rng(1).permutation(slices)
  for number in range(slices):
    if number in skip:
      continue
    own = {key.removesuffix("_each"): each[key][number] for key in each}
    position = (origin + number * np.array(step)).round(6).tolist()
    dataset = image(
      pixels[number],
      **(
        {"ImagePositionPatient": position, "InstanceNumber": 7} | changes | own
      ),
    )
    save(dataset, folder / f"IM{names[number]:03d}")
  return folder


def items(**values: Any) -> Sequence:
  """A sequence of one item."""
  dataset = Dataset()
  for key, value in values.items():
    setattr(dataset, key, value)
  return Sequence([dataset])


def enhanced(pixels: np.ndarray, depths: list[float]) -> Dataset:
  """A multi-frame CT with functional groups, frames at these depths."""
  dataset = image(
    pixels,
    SOPClassUID=EnhancedCTImageStorage,
    NumberOfFrames=len(depths),
    **dict.fromkeys(
      (
        *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"),
        *("RescaleSlope", "RescaleIntercept", "SliceThickness"),
        *("ConvolutionKernel", "KVP"),
      )
    ),
  )
  dataset.SharedFunctionalGroupsSequence = items(
    PixelMeasuresSequence=items(PixelSpacing=list(SPACING), SliceThickness="3"),
    PlaneOrientationSequence=items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    CTReconstructionSequence=items(ConvolutionKernel=["B30f"]),
  )
  groups = []
  for number, depth in enumerate(depths):
    frame = Dataset()
    frame.PlanePositionSequence = items(ImagePositionPatient=[-10, -20, depth])
    frame.PixelValueTransformationSequence = items(
      RescaleSlope="1", RescaleIntercept=str(-1024 + number), RescaleType="HU"
    )
    groups.append(frame)
  dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
  return dataset
