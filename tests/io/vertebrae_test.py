# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from vf_jax.errors import InputError
from vf_jax.infer.result import Vertebra
from vf_jax.io.vertebrae import (
  COLUMNS,
  VertebraRow,
  read_vertebrae_csv,
  write_vertebrae_csv,
)

L3 = Vertebra("L3", 22, (1.234, -0.001, -300.5), 0.98765, True, 45.6789, 210.04)
T13 = Vertebra("T13", 28, (0.0, 2.0, 3.0), 1.0, False, 0.0, float("nan"))


def test_file_is_exactly_this(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [T13, L3])
  assert path.read_bytes().decode() == (
    "level,code,confidence,complete,volume_ml,mean_hu,"
    "centre_r_mm,centre_a_mm,centre_s_mm\n"
    "T13,28,1.0000,no,0.000,,0.00,2.00,3.00\n"
    "L3,22,0.9877,yes,45.679,210.0,1.23,0.00,-300.50\n"
  )
  assert [p.name for p in tmp_path.iterdir()] == ["vertebrae.csv"]


def test_rows_come_back(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [L3, T13])
  first, second = read_vertebrae_csv(path)
  assert first == VertebraRow(
    level="L3",
    code=22,
    centre_mm=(1.23, 0.0, -300.5),
    confidence=0.9877,
    complete=True,
    volume_ml=45.679,
    mean_hu=210.0,
  )
  assert math.isnan(second.mean_hu)
  again = tmp_path / "again.csv"
  write_vertebrae_csv(again, [first, second])
  assert again.read_bytes() == path.read_bytes()


def test_no_vertebra_is_a_header(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [])
  assert path.read_text() == ",".join(COLUMNS) + "\n"
  assert read_vertebrae_csv(path) == ()


def test_spreadsheet_may_move_columns(tmp_path):
  path = tmp_path / "vertebrae.csv"
  columns = ["note", *reversed(COLUMNS)]
  row = ["mine", "3", "2", "1", "", "4.5", "yes", "0.5", "22", "L3"]
  text = "\r\n".join([",".join(columns), ",".join(row), ""])
  path.write_bytes(b"\xef\xbb\xbf" + text.encode())
  (read,) = read_vertebrae_csv(path)
  assert read.centre_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
  ("old", "new", "fault"),
  [
    ("volume_ml", "volume", "no column volume_ml"),
    ("L3,22", "L3,23", "not that of L3"),
    ("L3,22", "L9,22", "no vertebra level"),
    ("yes", "maybe", "not yes or no"),
    ("0.9877", "1.5", "not within 0..1"),
    ("45.679", "much", "volume_ml 'much' is not a number"),
    ("45.679", "inf", "is not a number"),
  ],
)
def test_malformed_tables_are_refused(tmp_path, old, new, fault):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [L3])
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))
  with pytest.raises(InputError, match=fault):
    read_vertebrae_csv(path)


def test_binary_is_refused(tmp_path):
  path = tmp_path / "vertebrae.csv"
  path.write_bytes(b"\xff\xfe\x00\x01")
  with pytest.raises(InputError, match="not a CSV"):
    read_vertebrae_csv(path)
