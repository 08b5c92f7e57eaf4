# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Small prepared cases to fill stores with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vf_jax.multispine.record import PreparedCase, Record


@pytest.fixture(scope="session")
def make_case():
  """Maker of a case of 70x50x40 voxels; keywords go to case or record."""

  def make(
    name="a", domain="verse", seed=0, shape=(70, 50, 40), **changes
  ) -> PreparedCase:
    rng = np.random.default_rng(seed)
    fields = {f.name for f in dataclasses.fields(Record)}
    eye = tuple(tuple(float(v) for v in row) for row in np.eye(4))
    record = Record(
      case=name,
      source="verse",
      domain=domain,
      subject="p1",
      series="",
      split=None,
      spacing_mm=2.0,
      affine=eye,
      native_shape=(40, 50, 70),
      native_affine=eye,
      native_spacing_mm=(0.5, 0.5, 3.0),
      centres={20: (21.5, 20.25, 13.0), 19: (34.0, 20.0, 13.0)},
      centre_kind="body",
      boxes=((1.0, 2.0, 3.0, 10.0, 11.0, 12.0),),
      cut=(19,),
      annotates=("levels", "masks"),
      mask_kind="expert",
      licence="none",
      origin="drawn",
      scanner={"kvp": "120"},
      files={"x.nii.gz": "00"},
      voxels="11",
      findings=("note: drawn",),
    )
    record = dataclasses.replace(
      record, **{k: v for k, v in changes.items() if k in fields}
    )
    labels = np.zeros(shape, np.uint8)
    labels[10:30, 5:30, 5:20], labels[30:45, 5:30, 5:20] = 20, 19
    case = PreparedCase(
      record=record,
      image=rng.integers(-1024, 3000, shape).astype(np.int16),
      labels=labels,
      tissue=rng.integers(0, 10, shape).astype(np.uint8),
      depth=rng.integers(0, 99, shape).astype(np.uint8),
    )
    return dataclasses.replace(
      case, **{k: v for k, v in changes.items() if k not in fields}
    )

  return make
