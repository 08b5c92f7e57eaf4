# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""A small curved spine whose every level has a known place."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from vf_jax.infer.result import CaseResult, Vertebra
from vf_jax.volume import Grid, Volume, reorient

_SPACING = 2.0
_SHAPE = (60, 70, 100)
_ORIGIN = (-40.0, -90.0, 10.0)
BODY_HU, SOFT_HU = 600, 40


def centre_of(index: int) -> tuple[float, float, float]:
  """Body centre of the n-th level: scoliotic, and falling by 30 mm."""
  return (
    20.0 * np.sin(1.3 * index) + 20.0,
    -25.0 + 6.0 * index,
    190.0 - 30.0 * index,
  )


@pytest.fixture
def make_case():
  """Factory of a CT and its prediction in any orientation.

  Only the places matter here, so a body is a box of 20 x 16 x 20 mm.
  """

  def make(
    codes="RAS", lesions=(), warnings=(), levels=5, dtype=np.int16, **more
  ):
    affine = np.diag([_SPACING] * 3 + [1.0])
    affine[:3, 3] = _ORIGIN
    grid = Grid(_SHAPE, affine)
    voxels = np.full(_SHAPE, SOFT_HU, dtype)
    mask = np.zeros(_SHAPE, np.uint8)
    vertebrae = []
    for index in range(levels):
      centre = centre_of(index)
      low = np.rint(grid.to_voxel(np.array([centre]) - (10, 8, 10))[0])
      box = tuple(
        slice(int(a), int(a) + n) for a, n in zip(low, (11, 9, 11), strict=True)
      )
      voxels[box], mask[box] = BODY_HU, 20 + index
      vertebrae.append(
        Vertebra(
          level=f"L{index + 1}",
          code=20 + index,
          centre_mm=tuple(float(c) for c in centre),
          confidence=0.9 + 0.01 * index,
          complete=index != 4,
          volume_ml=8.7,
          mean_hu=float(BODY_HU),
        )
      )
    ct = reorient(Volume(voxels, affine), codes)
    seg = reorient(Volume(mask, affine), codes)
    facts = {
      "case": "case-1",
      "grid": ct.grid,
      "mask": seg.voxels,
      "vertebrae": tuple(vertebrae),
      "lesions": tuple(lesions),
      "warnings": tuple(warnings),
      "run": {"version": "0.1.0", "seconds": {"read": 0.5}},
    }
    return ct, CaseResult(**(facts | more))

  return make


@pytest.fixture
def decode_png():
  """Decoder of the PNG files that the report writes."""
  return _decode_png


def _decode_png(data):
  """Pixels and chunks of a PNG with filters none and up, by the book."""
  assert data[:8] == b"\x89PNG\r\n\x1a\n"
  chunks, at = {}, 8
  while at < len(data):
    (size,) = struct.unpack(">I", data[at : at + 4])
    name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
    (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
    assert crc == zlib.crc32(name + body)
    chunks[name.decode()], at = body, at + 12 + size
  columns, rows, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks["IHDR"])
  assert (depth, rest) == (8, [0, 0, 0])
  wide = columns * (3 if kind == 2 else 1)
  lines = np.frombuffer(zlib.decompress(chunks["IDAT"]), np.uint8)
  lines = lines.reshape(rows, wide + 1)
  pixels = np.zeros((rows + 1, wide), np.uint8)
  for row, line in enumerate(lines):
    assert line[0] in (0, 2)
    pixels[row + 1] = line[1:] + (pixels[row] if line[0] == 2 else 0)
  pixels = pixels[1:].reshape(
    (rows, columns, 3) if kind == 2 else (rows, columns)
  )
  return pixels, kind, chunks
