# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from vf_jax.infer.result import Vertebra
from vf_jax.io.vertebrae import (
  COLUMNS,
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
