# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""What a predictor takes from Python and what it refuses."""

from __future__ import annotations

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from vf_jax.errors import InputError, InputWarning
from vf_jax.infer.arrays import as_volume
from vf_jax.io.nifti import read
from vf_jax.volume import Volume

AFFINE = np.array(
  [[-2.0, 0, 0, 10], [0, -3.0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]]
)
HU = np.random.default_rng(0).integers(-1000, 1500, (4, 5, 6)).astype(np.int16)
FORMS = {
  "as it is": HU,
  "negative strides": HU[::-1, :, ::-1].copy()[::-1, :, ::-1],
  "every second": np.repeat(HU, 2, axis=1)[:, ::2],
  "fortran": np.asfortranarray(HU),
  "read-only": np.broadcast_to(HU, HU.shape),
  "big-endian": HU.astype(">i2"),
  "big-endian float": HU.astype(">f8"),
  "float16": HU.astype(np.float16).astype(np.float16),
  "float32": HU.astype(np.float32),
  "float64": HU.astype(np.float64),
  "int64": HU.astype(np.int64),
  "a list of lists as an array": np.array(HU.tolist()),
  "a JAX array": jnp.asarray(HU),
}


@pytest.mark.parametrize("form", FORMS)
def test_layouts_and_dtypes(form):
  volume, name = as_volume(FORMS[form], AFFINE)
  assert name == "array"
  assert volume.voxels.dtype == np.int16
  assert volume.voxels.dtype.isnative
  np.testing.assert_array_equal(volume.voxels, HU)
  np.testing.assert_array_equal(volume.affine, AFFINE)


def test_an_array_with_hidden_voxels_is_refused():
  hidden = np.ma.masked_less(HU, 0)
  for given, affine in ((hidden, AFFINE), (Volume(hidden, AFFINE), None)):
    with pytest.raises(InputError, match=r"masked array.*Fix: .*filled"):
      as_volume(given, affine)
  shown, _ = as_volume(np.ma.array(HU), AFFINE)
  np.testing.assert_array_equal(shown.voxels, HU)


def test_what_is_plain_already_is_not_copied():
  volume, _ = as_volume(HU[:, ::-1], AFFINE)
  assert np.shares_memory(volume.voxels, HU)


def test_fractions_stay_and_what_is_no_number_becomes_air():
  voxels = np.tile(HU.astype(np.float16), (1, 1, 3)) + np.float16(0.5)
  voxels[0, 0, 0] = np.inf
  with pytest.warns(InputWarning, match="NaN or Inf"):
    volume, _ = as_volume(voxels, AFFINE)
  assert volume.voxels.dtype == np.float32
  assert volume.voxels[0, 0, 0] == -1024
  assert volume.voxels[1, 1, 1] == voxels[1, 1, 1]
  assert "NaN or Inf" in volume.warnings[0]


def test_spacing_and_orientation_make_the_affine():
  volume, _ = as_volume(HU, spacing=(2, 3, 4), orientation="LPS")
  np.testing.assert_array_equal(volume.affine, np.diag([-2.0, -3, 4, 1]))
  volume, _ = as_volume(HU, spacing=(2, 3, 4), orientation="PIR")
  assert volume.axis_codes == ("P", "I", "R")
  assert volume.spacing == (2, 3, 4)


def test_paths_and_volumes_say_themselves(tmp_path):
  path = tmp_path / "sub-1_ct.nii.gz"
  nibabel.save(nibabel.Nifti1Image(HU, AFFINE), path)
  for given in (path, str(path), read(path)):
    volume, name = as_volume(given)
    assert name == "sub-1"
    np.testing.assert_array_equal(volume.voxels, HU)
    with pytest.raises(InputError, match="says itself where it lies"):
      as_volume(given, AFFINE)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({}, "does not say where it lies"),
    ({"spacing": (1, 1, 1)}, "does not say where it lies"),
    ({"spacing": (1, 0, 1), "orientation": "LPS"}, "spacing is"),
    ({"spacing": (1, 1, 1), "orientation": "LPX"}, "axis codes"),
    ({"affine": AFFINE, "orientation": "LPS"}, "an affine and a spacing"),
    ({"affine": np.eye(3)}, r"affine is \(3, 3\)"),
    ({"affine": np.diag([1.0, 1, 0, 1])}, "singular"),
    ({"affine": np.diag([1e-3, 1e-3, 1e-3, 1])}, "0.1 to 10 mm"),
  ],
)
def test_a_place_is_never_guessed(given, said):
  with pytest.raises(InputError, match=said):
    as_volume(HU, **given)


@pytest.mark.parametrize(
  ("ct", "said"),
  [
    (HU > 0, "a mask, not a CT"),
    (HU.astype(np.complex64), "complex64"),
    (HU.astype(object), "object"),
    (HU[0], "has 2 axes"),
    (HU[None], "has 4 axes"),
    (HU[:, :, :1], "4 x 5 x 1"),
    (HU.tolist(), "is a list"),
    (None, "is a NoneType"),
    (np.full(HU.shape, np.nan), "NaN or Inf"),
  ],
)
def test_what_cannot_be_a_ct_is_refused(ct, said):
  with pytest.raises(InputError, match=said):
    as_volume(ct, AFFINE)


def test_a_volume_of_a_mask_is_refused():
  with pytest.raises(InputError, match="a mask, not a CT"):
    as_volume(Volume(HU > 0, AFFINE))
