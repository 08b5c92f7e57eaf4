# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Writing PNG pictures with the standard library alone.

A report needs three kinds of 8-bit picture (grey, RGB, palette with alpha) and
nothing else of an imaging library. The bytes depend on the pixels and on zlib
only, so a report made twice from one result is the same report.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_NO_FILTER, _UP_FILTER = 0, 2


def encode_png(
  pixels: UInt8[np.ndarray, "rows columns *channels"],
  palette: UInt8[np.ndarray, "colours rgb_or_rgba"] | None = None,
) -> bytes:
  """Encodes a picture as PNG.

  Args:
    pixels: `(rows, columns)` grey values, or palette entries if `palette` is
      given; `(rows, columns, 3)` RGB. Row 0 is the top.
    palette: at most 256 colours, RGB, or RGBA where alpha 0 is clear.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: the picture is empty, its channels or palette are of another
      kind than above, or a pixel has no colour in the palette.
  """
  if pixels.size == 0 or pixels.shape[2:] not in ((), (3,)):
    raise ValueError(
      f"a picture of shape {pixels.shape} is not (rows, columns) or"
      " (rows, columns, 3) with at least one pixel"
    )
  chunks = []
  if palette is not None:
    if pixels.ndim != 2:
      raise ValueError("a picture with a palette has no channel axis")
    if palette.shape[1] not in (3, 4) or not 1 <= len(palette) <= 256:
      raise ValueError(f"a palette of shape {palette.shape} is not (1..256, 3)")
    if int(pixels.max()) >= len(palette):
      raise ValueError(
        f"pixel {int(pixels.max())} has no colour in a palette of"
        f" {len(palette)}"
      )
    chunks.append(_chunk(b"PLTE", palette[:, :3].tobytes()))
    if palette.shape[1] == 4:
      chunks.append(_chunk(b"tRNS", palette[:, 3].tobytes()))
  rows, columns = pixels.shape[:2]
  kind = _RGB if pixels.ndim == 3 else _GREY if palette is None else _PALETTE
  header = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
  return b"".join(
    [
      _SIGNATURE,
      _chunk(b"IHDR", header),
      *chunks,
      _chunk(b"IDAT", zlib.compress(_scanlines(pixels, kind), 9)),
      _chunk(b"IEND", b""),
    ]
  )


def _scanlines(
  pixels: UInt8[np.ndarray, "rows columns *channels"], kind: int
) -> bytes:
  """Rows of bytes, each led by its filter; anatomy packs best row by row."""
  lines = pixels.reshape(len(pixels), -1)
  if kind != _PALETTE:
    # uint8 subtraction wraps modulo 256, which is what the format asks for.
    lines = np.diff(lines, axis=0, prepend=np.zeros_like(lines[:1]))
  led = np.full(
    (len(lines), lines.shape[1] + 1),
    _NO_FILTER if kind == _PALETTE else _UP_FILTER,
    np.uint8,
  )
  led[:, 1:] = lines
  return led.tobytes()


def _chunk(name: bytes, body: bytes) -> bytes:
  return b"".join(
    [
      struct.pack(">I", len(body)),
      name,
      body,
      struct.pack(">I", zlib.crc32(name + body)),
    ]
  )
