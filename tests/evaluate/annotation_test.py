# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Where the points of masks without points are."""

from __future__ import annotations

import numpy as np
import pytest

from vf_jax.evaluate.annotation import read_prediction, read_reference
from vf_jax.evaluate.cases import CaseFiles
from vf_jax.io import nifti
from vf_jax.multispine.phantom.cervical import cervical_model
from vf_jax.volume import Volume


@pytest.fixture
def atlas(tmp_path):
  """File of a mask of C1 alone; its arch lies at the origin of the world."""
  template = cervical_model("C1")
  right = template.distance > 0
  mask = np.concatenate([right[:0:-1], right]).astype(np.uint8)
  affine = np.eye(4)
  affine[:3, 3] = (1 - len(right), *template.low_mm)
  path = tmp_path / "case_seg-vert_msk.nii.gz"
  nifti.write(path, mask, like=Volume(mask, affine))
  return CaseFiles("case", mask=path)


def test_c1_without_points_is_where_annotations_put_it(atlas):
  truth = read_reference(atlas)
  found = read_prediction(atlas, truth)
  for annotation in (truth, found):
    assert annotation.point_kind == "derived"
    assert np.linalg.norm(annotation.points[1]) < 3.0
