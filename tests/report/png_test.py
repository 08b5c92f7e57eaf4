# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vf_jax.report.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 256), (5, 4, 3)])
def test_pixels_survive(decode_png, shape):
  pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  decoded, kind, _ = decode_png(encode_png(pixels))
  assert kind == (0 if len(shape) == 2 else 2)
  np.testing.assert_array_equal(decoded, pixels)


def test_strided_pixels_survive(decode_png):
  pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)[::-2, ::3].T
  np.testing.assert_array_equal(decode_png(encode_png(pixels))[0], pixels)


def test_palette_carries_colours_and_alpha(decode_png):
  pixels = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
  palette = np.arange(12, dtype=np.uint8).reshape(3, 4)
  decoded, kind, chunks = decode_png(encode_png(pixels, palette))
  assert kind == 3
  np.testing.assert_array_equal(decoded, pixels)
  assert chunks["PLTE"] == palette[:, :3].tobytes()
  assert chunks["tRNS"] == palette[:, 3].tobytes()
  assert list(chunks) == ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"]
  assert "tRNS" not in decode_png(encode_png(pixels, palette[:, :3]))[2]


def test_equal_pixels_make_equal_bytes():
  pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
  assert encode_png(pixels) == encode_png(np.asfortranarray(pixels))


@pytest.mark.parametrize(
  ("shape", "palette"),
  [
    ((0, 4), None),
    ((4, 4, 4), None),
    ((4, 4, 3), (4, 3)),
    ((4, 4), (2, 3)),
    ((4, 4), (257, 3)),
    ((4, 4), (4, 2)),
  ],
)
def test_what_is_no_picture_is_refused(shape, palette):
  pixels = np.full(shape, 3, np.uint8)
  colours = None if palette is None else np.zeros(palette, np.uint8)
  with pytest.raises(ValueError, match=r"picture|palette"):
    encode_png(pixels, colours)
