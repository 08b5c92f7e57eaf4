# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest

from vf_jax.errors import InputError
from vf_jax.infer.result import Vertebra
from vf_jax.io.vertebrae import (
  COLUMNS,
  VertebraLike,
  VertebraRow,
  read_vertebrae_csv,
  write_vertebrae_csv,
  write_vertebrae_json,
)

NAN = float("nan")
L3 = Vertebra(
  "L3",
  22,
  (1.234, -0.001, -300.5),
  0.98765,
  True,
  45.6789,
  210.04,
  12.3456,
  130.04,
  128.0,
  24.001,
  25.0,
  30.0,
  0.98765,
)
T13 = Vertebra(
  "T13",
  28,
  (0.0, 2.0, 3.0),
  1.0,
  False,
  1.0,
  NAN,
  partial={"core_ml": "cut", "volume_ml": "cut, by the border"},
)


def test_file_is_exactly_this(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [T13, L3])
  assert path.read_bytes().decode() == (
    "level,code,confidence,complete,partial,volume_ml,mean_hu,"
    "core_ml,core_mean_hu,core_median_hu,"
    "height_anterior_mm,height_middle_mm,height_posterior_mm,"
    "wedge_ratio,biconcave_ratio,crush_ratio,"
    "centre_r_mm,centre_a_mm,centre_s_mm\n"
    "T13,28,1.0000,no,volume_ml core_ml,1.000,,,,,,,,,,,0.00,2.00,3.00\n"
    "L3,22,0.9877,yes,,45.679,210.0,12.346,130.0,128.0,"
    "24.00,25.00,30.00,0.800,0.833,0.988,1.23,0.00,-300.50\n"
  )
  assert [p.name for p in tmp_path.iterdir()] == ["vertebrae.csv"]


def test_rows_come_back(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [L3, T13])
  first, second = read_vertebrae_csv(path)
  assert isinstance(first, VertebraLike)
  assert isinstance(L3, VertebraLike)
  assert first == VertebraRow(
    level="L3",
    code=22,
    centre_mm=(1.23, 0.0, -300.5),
    confidence=0.9877,
    complete=True,
    partial={},
    volume_ml=45.679,
    mean_hu=210.0,
    core_ml=12.346,
    core_mean_hu=130.0,
    core_median_hu=128.0,
    height_anterior_mm=24.0,
    height_middle_mm=25.0,
    height_posterior_mm=30.0,
    wedge_ratio=0.8,
    biconcave_ratio=0.833,
    crush_ratio=0.988,
  )
  assert math.isnan(second.mean_hu)
  assert set(second.partial) == {"volume_ml", "core_ml"}
  again = tmp_path / "again.csv"
  write_vertebrae_csv(again, [first, second])
  assert again.read_bytes() == path.read_bytes()


def test_json_says_why_a_number_is_partial(tmp_path):
  path = tmp_path / "vertebrae.json"
  write_vertebrae_json(path, [T13, L3])
  content = json.loads(path.read_text())
  assert content["note"] == "Not for clinical use."
  first, second = content["vertebrae"]
  assert first["partial"] == {
    "volume_ml": "cut, by the border",
    "core_ml": "cut",
  }
  assert first["mean_hu"] is None
  assert second["height_middle_mm"] == 25.0
  assert second["wedge_ratio"] == 0.8
  assert set(COLUMNS) - set(second) == {f"centre_{axis}_mm" for axis in "ras"}


def test_no_vertebra_is_a_header(tmp_path):
  path = tmp_path / "vertebrae.csv"
  write_vertebrae_csv(path, [])
  assert path.read_text() == ",".join(COLUMNS) + "\n"
  assert read_vertebrae_csv(path) == ()


def test_spreadsheet_may_move_columns(tmp_path):
  path = tmp_path / "vertebrae.csv"
  columns = ["note", *reversed(COLUMNS)]
  row = ["mine", "3", "2", "1", *[""] * 10, "4.5", "", "yes", "0.5", "22", "L3"]
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
    ("yes,,", "yes,weight,", "partial names no column 'weight'"),
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
