# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Tissue classes and the table of TotalSegmentator's codes."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.labels import SCHEMES
from vf_jax.multispine import tissues


def test_codes_are_places_in_the_table():
  assert [tissue.code for tissue in tissues.TISSUES] == list(range(10))
  for tissue in tissues.TISSUES:
    assert -1024 <= tissue.hu[0] <= tissue.hu[1] <= 400
    assert tissue.texture >= 0


@pytest.mark.parametrize(
  ("code", "tissue"),
  [
    (0, tissues.UNKNOWN),
    (1, tissues.ORGAN),  # spleen
    (10, tissues.LUNG),  # left upper lobe
    (14, tissues.LUNG),  # right lower lobe
    (15, tissues.ORGAN),  # oesophagus
    (16, tissues.GAS),  # trachea
    (25, tissues.BONE),  # sacrum
    (50, tissues.BONE),  # C1
    (52, tissues.VESSEL),  # aorta
    (69, tissues.BONE),  # left humerus
    (79, tissues.MUSCLE),  # spinal cord
    (86, tissues.MUSCLE),  # left autochthonous muscles
    (92, tissues.BONE),  # first left rib
    (116, tissues.BONE),  # sternum
    (117, tissues.CARTILAGE),  # costal cartilages
  ],
)
def test_structures_of_totalsegmentator(code, tissue):
  mask = np.full((2, 3), code, np.uint16)
  found = tissues.from_totalsegmentator(mask)
  assert found.dtype == np.uint8
  assert (found == tissue.code).all()


def test_every_code_has_a_tissue_and_every_vertebra_is_bone():
  found = tissues.from_totalsegmentator(np.arange(118, dtype=np.uint8))
  assert (found[1:] != tissues.UNKNOWN.code).all()
  levels = SCHEMES["totalsegmentator"].levels
  assert len(levels) >= 25
  assert set(found[list(levels)]) == {tissues.BONE.code}
