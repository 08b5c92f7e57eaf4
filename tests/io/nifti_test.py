# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""Every row of the table of bad inputs, and the ways there and back."""

from __future__ import annotations

import gzip
import math
import os
import struct
import tracemalloc
import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vf_jax import volume as volume_lib
from vf_jax.errors import InputError, InputWarning
from vf_jax.io import nifti

AFFINE = np.array(
  [
    [0.0, 0.0, -2.0, 40.5],
    [-0.8, 0.0, 0.0, 30.25],
    [0.0, -0.9, 0.0, 20.0],
    [0.0, 0.0, 0.0, 1.0],
  ]
)
QUICK = settings(
  deadline=None,
  max_examples=25,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def hounsfield(shape=(12, 10, 8), dtype=np.int16):
  rng = np.random.default_rng(7)
  return rng.integers(-1000, 1500, shape).astype(dtype)


def encode(voxels, *edits, affine=AFFINE, sign="<", kind=nibabel.Nifti1Header):
  """NIfTI bytes; each edit changes the header on its way out."""
  header = kind(endianness=sign)
  header.set_data_shape(voxels.shape)
  header.set_data_dtype(voxels.dtype.newbyteorder(sign))
  header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
  header.set_qform(affine, code=1)
  header.set_sform(affine, code=1)
  header["xyzt_units"] = 2
  header["scl_slope"], header["scl_inter"] = 1, 0
  header["vox_offset"] = header.sizeof_hdr + 4
  header["magic"] = header.single_magic
  for edit in edits:
    edit(header)
  data = voxels.astype(voxels.dtype.newbyteorder(sign)).tobytes(order="F")
  return header.binaryblock + bytes(4) + data


def put(**fields):
  """An edit that sets header fields."""

  def edit(header):
    for field, value in fields.items():
      header[field] = value

  return edit


def put_at(field, index, value):
  """An edit that sets one entry of an array field."""

  def edit(header):
    header[field][index] = value

  return edit


@pytest.fixture
def save(tmp_path):
  def save(content, name="ct.nii.gz", compress=True):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if compress else content)
    return path

  return save


def refused(path, match, **options):
  with pytest.raises(InputError, match=match) as caught:
    nifti.read(path, **options)
  assert caught.value.source == os.fspath(path)
  assert caught.value.fix
  return caught.value


def warned(path, match, **options):
  with pytest.warns(InputWarning, match=match) as caught:
    volume = nifti.read(path, **options)
  assert len(caught) == len(volume.source.warnings) == len(volume.warnings)
  return volume


def test_plain_file_is_exact(save):
  voxels = hounsfield()
  volume = nifti.read(save(encode(voxels)))
  np.testing.assert_array_equal(volume.voxels, voxels)
  np.testing.assert_array_equal(volume.affine, AFFINE.astype(np.float32))
  assert volume.axis_codes == ("P", "I", "L")
  assert volume.voxels.dtype == np.int16
  assert (volume.source.form, volume.source.spatial_unit) == ("sform", "mm")
  assert volume.source.intact
  assert volume.warnings == ()


def test_row_01_truncated_gzip(save):
  content = gzip.compress(encode(hounsfield()))
  for share in (0.2, 0.5, 0.7, 0.99):
    cut = content[: int(share * len(content))]
    refused(save(cut, compress=False), "cut short|cannot hold")


def test_row_02_truncated_plain(save):
  content = encode(hounsfield())
  path = save(content[:-2], "ct.nii", compress=False)
  refused(path, "cannot hold")


def test_row_03_empty_file(save):
  refused(save(b"", compress=False), "empty")
  refused(save(b"", "e.nii.gz"), "not NIfTI")
  refused(save(b"ab", "e.nii.gz"), "not NIfTI")


def test_row_04_wrong_checksum_and_length(save):
  content = bytearray(gzip.compress(encode(hounsfield())))
  for position in (-8, -1):
    broken = bytearray(content)
    broken[position] ^= 1
    refused(save(bytes(broken), compress=False), "damaged gzip")


def fuzz(path, flips, cuts, seed):
  """Counts damaged copies that are read as if nothing had happened."""
  rng = np.random.default_rng(seed)
  content = path.read_bytes()
  good = nifti.read(path)
  silent = harmless = 0
  for trial in range(flips + cuts):
    broken = bytearray(content)
    if trial < flips:
      # The first ten bytes are gzip's own header: time, system, hints.
      bit = int(rng.integers(80, len(broken) * 8))
      broken[bit // 8] ^= 1 << (bit % 8)
    else:
      del broken[int(rng.integers(1, len(broken))) :]
    path.write_bytes(broken)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        got = nifti.read(path)
    except (InputError, InputWarning):
      continue
    same = np.array_equal(got.voxels, good.voxels)
    if same and np.array_equal(got.affine, good.affine):
      harmless += 1
    else:
      silent += 1
  return silent, harmless


def smooth_ct(size):
  """Voxels that compress like a scan, not like noise."""
  x, y, z = np.ogrid[:size, :size, :size]
  body = 60 * np.sin(x / 5) + 40 * np.cos(y / 3) + 300 * np.exp(-z / 9)
  noise = np.random.default_rng(0).normal(0, 5, (size, size, size))
  return (body + noise).astype(np.int16)


def test_row_05_bit_flips_are_never_silent(save):
  assert fuzz(save(encode(smooth_ct(24))), 30, 10, 1) == (0, 0)


@pytest.mark.slow
def test_row_05_bit_flips_are_never_silent_long(save):
  assert fuzz(save(encode(smooth_ct(64))), 300, 60, 2) == (0, 0)


def test_row_06_plain_named_gz(save):
  voxels = hounsfield()
  path = save(encode(voxels), "ct.nii.gz", compress=False)
  np.testing.assert_array_equal(nifti.read(path).voxels, voxels)


def test_row_07_gzip_named_nii(save):
  voxels = hounsfield()
  path = save(encode(voxels), "ct.nii")
  np.testing.assert_array_equal(nifti.read(path).voxels, voxels)


@pytest.mark.parametrize(
  ("content", "kind"),
  [
    (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"),
    (b"\xef\xbb\xbf<HTML>", "HTML"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-LFS"),
    (b"../.git/annex/objects/aa/bb/SHA256E-s1--0.nii.gz", "git-annex"),
    (b"/annex/objects/MD5E-s1--0.nii.gz\n", "git-annex"),
    (b'{"error": "not found"}', "JSON"),
    (b"<?xml version='1.0'?><Error/>", "XML"),
    (bytes(128) + b"DICM" + bytes(99), "DICOM"),
    (b"PK\x03\x04" + bytes(60), "zip"),
    (bytes(257) + b"ustar\x0000", "tar"),
    (b"NRRD0004\ntype: short\n", "NRRD"),
    (b"\x28\xb5\x2f\xfd" + bytes(60), "Zstandard"),
    (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    (b"\x93NUMPY\x01\x00" + bytes(60), "NumPy"),
    (b"ObjectType = Image\nNDims = 3\n", "MetaImage"),
    (b"hello", "a text file"),
  ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_row_08_foreign_content_is_named(save, content, kind, compress):
  refused(save(content, compress=compress), kind)


def test_row_08_dangling_annex_link(tmp_path):
  path = tmp_path / "ct.nii.gz"
  path.symlink_to(".git/annex/objects/aa/SHA256E-s1--0.nii.gz")
  assert "annex get" in refused(path, "git-annex").fix


def with_broken(value, count, size=1000):
  voxels = np.full((10, 10, size // 100), 40.5, np.float32)
  voxels.ravel(order="K")[:count] = value
  return voxels


@pytest.mark.parametrize("value", [np.nan])
def test_row_09_nan(save, value):
  volume = warned(save(encode(with_broken(value, 10))), "10 voxels .1.00%")
  assert np.count_nonzero(volume.voxels == -1024) == 10
  assert np.isfinite(volume.voxels).all()
  refused(save(encode(with_broken(value, 11))), "11 voxels")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_row_10_inf(save, value):
  volume = warned(save(encode(with_broken(value, 10))), "10 voxels")
  assert volume.voxels.min() == -1024
  assert volume.voxels.max() == 40.5
  refused(save(encode(with_broken(value, 11))), "NaN or Inf")


def test_row_11_singular_affine(save):
  path = save(encode(hounsfield(), put(srow_x=[0, 0, 0, 1])))
  refused(path, "singular")
  path = save(
    encode(hounsfield(), put(srow_x=[1, 2, 0, 1], srow_y=[2, 4, 0, 1]))
  )
  refused(path, "singular")


def test_row_12_zero_sform_falls_back_to_qform(save):
  zero = put(srow_x=0, srow_y=0, srow_z=0)
  volume = warned(save(encode(hounsfield(), zero)), "qform is used")
  np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
  assert volume.source.form == "qform"
  assert not volume.source.intact
  refused(save(encode(hounsfield(), zero, put(qform_code=0))), "all zero")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_row_13_nan_in_sform(save, value):
  refused(save(encode(hounsfield(), put_at("srow_y", 1, value))), "sform")
  refused(save(encode(hounsfield(), put_at("srow_y", 3, value))), "sform")


def sheared(degrees=20):
  affine = np.diag([0.8, 0.8, 2.0, 1.0])
  affine[1, 2] = 2.0 * math.tan(math.radians(degrees))
  return affine


def test_row_14_gantry_tilt_keeps_the_full_affine(save):
  affine = sheared()
  path = save(encode(hounsfield(), put(qform_code=0), affine=affine))
  with warnings.catch_warnings():
    # pixdim is the norm of the sheared columns here: no contradiction.
    volume = nifti.read(path)
  np.testing.assert_array_equal(volume.affine, affine.astype(np.float32))


def test_row_15_forms_disagree(save):
  path = save(encode(hounsfield(), put(qoffset_x=-40.5)))
  volume = warned(path, "sform and qform disagree: the sform is used")
  np.testing.assert_array_equal(volume.affine, AFFINE.astype(np.float32))
  assert not volume.source.intact


def test_row_16_pixdim_disagrees(save):
  path = save(encode(hounsfield(), put_at("pixdim", 3, 3.0), put(qform_code=0)))
  volume = warned(path, "the affine is used")
  np.testing.assert_allclose(volume.spacing, (0.8, 0.9, 2.0), rtol=1e-6)


def test_row_17_both_codes_zero(save):
  path = save(encode(hounsfield(), put(sform_code=0, qform_code=0)))
  assert "--assume-orientation" in refused(path, "no orientation").fix
  volume = warned(path, "LPS assumed", assume_orientation="LPS")
  assert volume.axis_codes == ("L", "P", "S")
  np.testing.assert_allclose(volume.spacing, (0.8, 0.9, 2.0), rtol=1e-6)
  assert volume.source.form == "assumed"
  volume = warned(path, "assumed", assume_orientation="IRA")
  assert volume.axis_codes == ("I", "R", "A")
  refused(path, "three different", assume_orientation="LLS")


def test_row_17_assumption_never_overrides_the_file(save):
  volume = nifti.read(save(encode(hounsfield())), assume_orientation="RAS")
  assert volume.axis_codes == ("P", "I", "L")


def test_row_18_zero_pixdim(save):
  zero = put_at("pixdim", 2, 0)
  warned(save(encode(hounsfield(), zero, put(qform_code=0))), "affine is used")
  refused(save(encode(hounsfield(), zero, put(sform_code=0))), "zero")


def test_row_19_negative_pixdim(save):
  negative = put_at("pixdim", 2, -0.9)
  volume = warned(
    save(encode(hounsfield(), negative, put(sform_code=0))), "negative"
  )
  np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_row_20_nan_pixdim(save):
  refused(save(encode(hounsfield(), put_at("pixdim", 2, np.nan))), "voxel size")


def test_row_21_invalid_quaternion(save):
  bad = put(quatern_b=0.9, quatern_c=0.9)
  refused(save(encode(hounsfield(), bad, put(sform_code=0))), "quaternion")
  bad = put(quatern_b=np.nan)
  refused(save(encode(hounsfield(), bad, put(sform_code=0))), "quaternion")
  warned(save(encode(hounsfield(), bad)), "the qform is not a rotation")


def test_qfac_zero_is_one_and_half_turn_is_exact(save):
  affine = np.diag([-1.0, -1.0, 1.0, 1.0])
  path = save(
    encode(
      hounsfield(),
      put(sform_code=0),
      put_at("pixdim", 0, 0),
      affine=affine,
    )
  )
  np.testing.assert_allclose(nifti.read(path).affine, affine, atol=1e-6)


@pytest.mark.parametrize(
  ("code", "scale", "unit"), [(1, 1e-3, "metre"), (3, 1e3, "micron")]
)
def test_row_22_units_are_converted(save, code, scale, unit):
  affine = np.diag([scale, scale, scale, 1.0]) @ AFFINE
  path = save(encode(hounsfield(), put(xyzt_units=code), affine=affine))
  volume = warned(path, f"units are {unit}: converted")
  np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
  assert volume.source.spatial_unit == unit
  refused(save(encode(hounsfield(), put(xyzt_units=code))), "plausible")


@pytest.mark.parametrize("size", [0.05, 12.0])
def test_row_22_implausible_spacing(save, size):
  affine = np.diag([1.0, size, 1.0, 1.0])
  refused(save(encode(hounsfield(), affine=affine)), "plausible 0.1 to 10")


def test_row_23_slope_zero(save):
  path = save(encode(hounsfield(), put(scl_slope=0, scl_inter=5)))
  volume = warned(path, "slope 0 with intercept 5: not scaled")
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  path = save(encode(hounsfield(), put(scl_slope=0, scl_inter=0)))
  assert nifti.read(path).warnings == ()


@pytest.mark.parametrize("slope", [np.nan, np.inf])
def test_row_24_slope_not_finite(save, slope):
  path = save(encode(hounsfield(), put(scl_slope=slope, scl_inter=slope)))
  volume = warned(path, "not scaled")
  np.testing.assert_array_equal(volume.voxels, hounsfield())
  path = save(encode(hounsfield(), put(scl_slope=2, scl_inter=slope)))
  refused(path, "values are unknown")


def test_row_25_overflow_by_scaling_is_not_wrapped(save):
  voxels = hounsfield()
  path = save(encode(voxels, put(scl_slope=100, scl_inter=-1024)))
  volume = nifti.read(path)
  assert volume.voxels.dtype == np.int32
  np.testing.assert_array_equal(
    volume.voxels, voxels.astype(np.int32) * 100 - 1024
  )


def test_row_25_missing_rescale_is_noticed(save):
  stored = (smooth_ct(24) + 1024).astype(np.uint16)
  check = volume_lib.check_hounsfield(nifti.read(save(encode(stored))))
  assert (check.verdict, check.offset) == ("offset", -1024)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8", "i4", "u2"])
def test_row_26_big_endian(save, kind, dtype):
  voxels = np.abs(hounsfield()).astype(np.int64) % 200
  path = save(encode(voxels.astype(dtype), sign=">", kind=kind))
  volume = nifti.read(path)
  np.testing.assert_array_equal(volume.voxels, voxels)
  assert volume.voxels.dtype.isnative
  assert volume.source.byte_order == "big"
  assert volume.source.format == kind.__name__[:6].lower()


@pytest.mark.parametrize("rank", [0, 200, -3, 8])
def test_row_27_impossible_rank(save, rank):
  refused(save(encode(hounsfield(), put_at("dim", 0, rank))), "dimensions")


@pytest.mark.parametrize("size", [0, -10])
def test_row_28_empty_axis(save, size):
  refused(save(encode(hounsfield(), put_at("dim", 2, size))), "empty axis")


@pytest.mark.parametrize("compress", [True, False])
def test_row_29_size_is_checked_before_allocation(save, compress):
  huge = put(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
  path = save(
    encode(hounsfield((2, 2, 2)), huge) + bytes(12_000), compress=compress
  )
  tracemalloc.start()
  refused(path, "cannot hold")
  assert tracemalloc.get_traced_memory()[1] < 5e6
  tracemalloc.stop()


@pytest.mark.parametrize(
  ("dtype", "fits"), [(np.int16, True), (np.float32, False)]
)
def test_row_43_whole_body_at_half_a_millimetre(save, monkeypatch, dtype, fits):
  """Fits as docs/predict.md says; the file here is a header and a hole."""

  class FitsError(Exception):
    pass

  def allocate(count, kind):
    assert (count, kind) == (1024 * 1024 * 3500, dtype)
    raise FitsError

  monkeypatch.setattr(nifti, "empty", allocate)
  size = put(dim=[3, 1024, 1024, 3500, 1, 1, 1, 1])
  voxels = hounsfield((2, 2, 2), dtype)
  path = save(encode(voxels, size), name="ct.nii", compress=False)
  os.truncate(path, 352 + 1024 * 1024 * 3500 * voxels.itemsize)
  if fits:
    with pytest.raises(FitsError):
      nifti.read(path)
  else:
    refused(path, "1024 x 1024 x 3500 voxels.*the limit is 8,589,934,592")


def test_row_30_byte_cap(save):
  path = save(encode(np.full((100, 100, 100), -1000, np.int16)))
  refused(path, "the limit is 1,000,000.*crop", max_bytes=1_000_000)
  assert nifti.read(path, max_bytes=2_000_400).voxels.min() == -1000


@pytest.mark.parametrize("code", [0, 9999, 1, 1536])
def test_row_31_unknown_dtype(save, code):
  path = save(encode(hounsfield(), put(datatype=code)))
  refused(path, "unknown datatype|1-bit|128-bit")


def test_row_32_bitpix_disagrees(save):
  volume = warned(save(encode(hounsfield(), put(bitpix=32))), "bitpix 32")
  np.testing.assert_array_equal(volume.voxels, hounsfield())


@pytest.mark.parametrize("compress", [True, False])
def test_row_33_offset_beyond_the_end(save, compress):
  path = save(encode(hounsfield(), put(vox_offset=100_000)), compress=compress)
  refused(path, "cannot hold|too early|cut short")


@pytest.mark.parametrize("offset", [0, 348, 351, np.nan, -352, 352.5])
def test_row_34_offset_inside_the_header(save, offset):
  refused(save(encode(hounsfield(), put(vox_offset=offset))), "vox_offset")


def test_extension_before_the_voxels_is_skipped(save):
  content = encode(hounsfield(), put(vox_offset=384))
  content = content[:348] + b"\1\0\0\0" + struct.pack("<ii", 32, 6)
  content += b"x" * 24 + hounsfield().tobytes(order="F")
  np.testing.assert_array_equal(nifti.read(save(content)).voxels, hounsfield())


def test_row_35_bad_magic(save):
  refused(save(encode(hounsfield(), put(magic=b"xyz"))), "bad magic")
  refused(save(encode(hounsfield(), put(magic=b""))), "Analyze")
  refused(save(encode(hounsfield(), put(magic=b"ni1")), "a.hdr"), "pair")
  refused(save(hounsfield().tobytes(), "a.img", compress=False), "pair")


def test_row_36_singleton_axes_are_squeezed(save):
  for shape in ((12, 10, 8, 1), (12, 10, 8, 1, 1)):
    path = save(encode(hounsfield().reshape(shape)))
    np.testing.assert_array_equal(nifti.read(path).voxels, hounsfield())


def test_row_36_4d_asks_for_an_index(save):
  series = hounsfield((6, 5, 4, 3))
  for path in (
    save(encode(series)),
    save(encode(series.reshape(6, 5, 4, 1, 3)), "5d.nii.gz"),
  ):
    fix = refused(path, "3 volumes").fix
    assert "--index 0 to 2" in fix
    # Other commands have no such option.
    assert fix.startswith("write one of them to a file of its own, or, for `vf")
    for index in range(3):
      got = nifti.read(path, index=index).voxels
      np.testing.assert_array_equal(got, series[..., index])
    refused(path, "no volume 3", index=3)
    refused(path, "no volume -1", index=-1)
  refused(save(encode(hounsfield((6, 5, 4, 3, 2)))), "5 dimensions")


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12,)])
def test_row_37_2d_image(save, shape):
  refused(save(encode(hounsfield(shape))), "2D image")


@pytest.mark.parametrize("shape", [(1, 10, 8), (12, 1, 8), (1, 1, 1)])
def test_row_38_one_voxel_axis(save, shape):
  refused(save(encode(hounsfield(shape))), "axis of 1 voxel")


def test_row_38_two_slices_are_enough(save):
  assert nifti.read(save(encode(hounsfield((5, 4, 2))))).voxels.shape[2] == 2


@pytest.mark.parametrize("code", [128, 2304])
def test_row_39_rgb(save, code):
  refused(save(encode(hounsfield(), put(datatype=code))), "colour")


@pytest.mark.parametrize("code", [32, 1792, 2048])
def test_row_40_complex(save, code):
  refused(save(encode(hounsfield(), put(datatype=code))), "complex")


def test_row_41_huge_values_are_clipped(save):
  voxels = hounsfield(dtype=np.float64) + 0.5
  voxels[0, 0, 0], voxels[1, 1, 1] = 1e300, -1e300
  volume = warned(save(encode(voxels)), "clipped")
  assert volume.voxels.dtype == np.float32
  assert np.isfinite(volume.voxels).all()
  assert volume.voxels[0, 0, 0] == np.finfo(np.float32).max
  np.testing.assert_array_equal(volume.voxels[2:], voxels[2:])


def test_row_42_constant_and_windowed(save):
  constant = nifti.read(save(encode(np.full((8, 8, 8), -1000, np.int16))))
  assert volume_lib.check_hounsfield(constant).verdict == "constant"
  grey = np.clip((smooth_ct(24) + 160) / 400 * 255, 0, 255).astype(np.uint8)
  windowed = nifti.read(save(encode(grey)))
  assert volume_lib.check_hounsfield(windowed).verdict == "windowed"


def test_more_data_than_declared_is_refused(save):
  content = encode(hounsfield())
  refused(save(content + b"\1"), "more data")
  refused(save(content + bytes(2 << 20)), "more data")
  assert nifti.read(save(content + bytes(512))).voxels.size == 960


def test_gzip_members_padding_and_garbage(save):
  content = encode(hounsfield())
  members = gzip.compress(content[:1000]) + gzip.compress(content[1000:])
  for end in (b"", bytes(512)):
    volume = nifti.read(save(members + end, compress=False))
    np.testing.assert_array_equal(volume.voxels, hounsfield())
  refused(save(members + b"garbage", compress=False), "follows its end")
  refused(save(members + bytes(9) + b"\x1f", compress=False), "follows")


def test_paths(tmp_path, save):
  content = encode(hounsfield())
  for name in ("Wirbel säule ö.nii.gz", "-leading.nii.gz", "脊椎.nii.gz"):
    assert nifti.read(save(content, name)).voxels.size == 960
  refused(tmp_path / "none.nii.gz", "does not exist")
  refused(tmp_path, "is a folder")
  loop = tmp_path / "loop.nii.gz"
  loop.symlink_to(loop)
  refused(loop, "cannot be opened")
  pipe = tmp_path / "pipe.nii"
  os.mkfifo(pipe)
  refused(pipe, "pipe")


def test_unreadable_file(save, monkeypatch):
  path = save(encode(hounsfield()))

  # The tests may run as root, whom no permission stops.
  def deny(name, mode):
    raise PermissionError(13, "Permission denied", name)

  monkeypatch.setattr("vf_jax.io.stream.open", deny, raising=False)
  assert "chmod" in refused(path, "may not be read").fix


@pytest.mark.parametrize(
  ("dtype", "shift", "expected"),
  [
    ("i1", 0, "i1"),
    ("u1", 0, "u1"),
    ("i2", 0, "i2"),
    ("u2", 0, "i2"),
    ("u2", 50_000, "i4"),
    ("i4", 0, "i2"),
    ("i8", 0, "i2"),
    ("u4", 100_000, "i4"),
    ("u8", 0, "i2"),
    ("f4", 0, "i2"),
    ("f8", 0, "i2"),
    ("f4", 0.25, "f4"),
    ("f8", 0.25, "f4"),
    ("f8", 1e12, "f4"),
  ],
)
def test_dtype_is_the_narrowest_exact_one(save, dtype, shift, expected):
  voxels = (np.abs(hounsfield(dtype=np.int64)) % 100 + shift).astype(dtype)
  got = nifti.read(save(encode(voxels))).voxels
  assert got.dtype == np.dtype(expected)
  np.testing.assert_array_equal(got, voxels.astype(expected))


def test_scaling(save):
  voxels = np.abs(hounsfield()).astype(np.uint16)
  path = save(encode(voxels, put(scl_inter=-1024)))
  got = nifti.read(path).voxels
  assert got.dtype == np.int16
  np.testing.assert_array_equal(got, voxels.astype(np.int32) - 1024)
  path = save(encode(voxels, put(scl_slope=0.5)))
  got = nifti.read(path).voxels
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, voxels / 2)


@pytest.mark.parametrize(
  ("dtype", "slope", "result"),
  [("i2", 1, 0), ("i2", 2, 2), ("f8", 1, 2), ("f4", 0.5, 4), (">i2", 1, 0)],
)
def test_memory_is_stored_plus_result(save, dtype, slope, result):
  voxels = np.tile(hounsfield((20, 20, 25)), (10, 5, 8)).astype(dtype)
  sign = dtype[0] if dtype[0] == ">" else "<"
  path = save(encode(voxels, put(scl_slope=slope), sign=sign), compress=False)
  tracemalloc.start()
  nifti.read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  # Slabs of 2**20 values need three or four float64 temporaries.
  slabs = 40e6 if result else 4e6
  assert peak < voxels.nbytes + voxels.size * result + slabs


def test_labels(save):
  labels = np.abs(hounsfield()) % 29
  for dtype in ("u1", "i2", "f4", "f8", "i8"):
    got = nifti.read_labels(save(encode(labels.astype(dtype)))).voxels
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, labels)
  wide = labels.astype(np.int32) * 100
  assert nifti.read_labels(save(encode(wide))).voxels.dtype == np.uint16


@pytest.mark.parametrize(
  ("value", "match"),
  [
    (0.5, "whole"),
    (-1, "negative label, -1"),
    (np.nan, "1 labels are NaN"),
    (np.inf, "NaN or Inf"),
    (1e12, "absurd"),
  ],
)
def test_rows_66_67_unusable_labels(save, value, match):
  labels = np.zeros((4, 4, 4))
  labels[1, 2, 3] = value
  with pytest.raises(InputError, match=match):
    nifti.read_labels(save(encode(labels)))


def geometry_fields(path):
  raw = path.read_bytes()
  raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
  header = nibabel.Nifti1Header(raw[:348], check=False)
  names = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z")
  names += ("quatern_b", "quatern_c", "quatern_d")
  names += ("qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units")
  values = [np.array(header[name]).tobytes() for name in names]
  return [*values, header["pixdim"][:4].tobytes()]


def test_write_copies_a_clean_geometry_to_the_bit(save, tmp_path):
  odd = AFFINE.copy()
  odd[:3, :3] += 1e-6
  path = save(encode(hounsfield(), put(sform_code=4, xyzt_units=0), affine=odd))
  volume = nifti.read(path)
  mask = (volume.voxels > 300).astype(np.uint8)
  out = tmp_path / "mask.nii.gz"
  nifti.write(out, mask, like=volume)
  assert geometry_fields(out) == geometry_fields(path)
  np.testing.assert_array_equal(nifti.read_labels(out).voxels, mask)
  a, b = (sitk.ReadImage(os.fspath(p)) for p in (path, out))
  assert (a.GetOrigin(), a.GetDirection()) == (b.GetOrigin(), b.GetDirection())


def test_write_repairs_a_faulty_geometry(save, tmp_path):
  path = save(encode(hounsfield(), put(qoffset_x=-40.5)))
  volume = warned(path, "disagree")
  out = tmp_path / "out.nii"
  nifti.write(out, volume)
  again = nifti.read(out)
  assert again.warnings == ()
  np.testing.assert_array_equal(again.affine, volume.affine)
  np.testing.assert_array_equal(again.voxels, volume.voxels)


def test_write_is_deterministic(save, tmp_path):
  volume = nifti.read(save(encode(hounsfield())))
  first, second = tmp_path / "a.nii.gz", tmp_path / "other name.nii.gz"
  nifti.write(first, volume)
  os.utime(first, (0, 0))
  nifti.write(second, volume)
  assert first.read_bytes() == second.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
    ["a.nii.gz", "ct.nii.gz", "other name.nii.gz"]
  )


def test_write_sheared_and_moved_grids(tmp_path):
  affine = sheared()
  volume = volume_lib.Volume(hounsfield(), affine)
  out = tmp_path / "sheared.nii"
  nifti.write(out, volume)
  np.testing.assert_allclose(nifti.read(out).affine, affine, rtol=1e-7)
  crop = volume_lib.crop(nifti.read(out), (1, 2, -1), (6, 5, 4), -1024)
  nifti.write(out, crop)
  np.testing.assert_allclose(nifti.read(out).affine, crop.affine, atol=1e-5)


def test_write_a_canonical_volume_back(save, tmp_path):
  volume = nifti.read(save(encode(hounsfield())))
  canonical = volume_lib.to_canonical(volume)
  out = tmp_path / "out.nii.gz"
  nifti.write(out, canonical)
  again = volume_lib.reorient(nifti.read(out), volume.axis_codes)
  np.testing.assert_array_equal(again.voxels, volume.voxels)
  np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)


def test_write_nifti2_stays_nifti2(save, tmp_path):
  affine = AFFINE + 1e-12
  affine[3] = (0, 0, 0, 1)
  path = save(
    encode(hounsfield(), affine=affine, kind=nibabel.Nifti2Header, sign=">")
  )
  volume = nifti.read(path)
  np.testing.assert_array_equal(volume.affine, affine)
  out = tmp_path / "two.nii.gz"
  nifti.write(out, volume)
  again = nifti.read(out)
  assert (again.source.format, again.source.byte_order) == ("nifti2", "little")
  np.testing.assert_array_equal(again.affine, affine)


def test_write_refusals(tmp_path):
  volume = volume_lib.Volume(hounsfield(), AFFINE)
  cases = [
    ((tmp_path / "a.mha", volume), "no NIfTI name"),
    ((tmp_path / "a.nii", hounsfield()), "no geometry"),
    ((tmp_path / "a.nii", hounsfield((2, 3, 4)), volume), "does not fit"),
    ((tmp_path / "a.nii", hounsfield().astype(complex), volume), "complex"),
    ((tmp_path / "no" / "a.nii", volume), "cannot be written"),
  ]
  for arguments, match in cases:
    with pytest.raises(InputError, match=match):
      nifti.write(*arguments)
  assert not list(tmp_path.iterdir())


@QUICK
@given(
  shape=st.tuples(*[st.integers(2, 7)] * 3),
  dtype=st.sampled_from(
    ["?", "u1", "i1", "i2", ">i2", "u2", "i4", "i8", "f2", "f4", ">f4", "f8"]
  ),
  order=st.permutations(range(3)),
  steps=st.tuples(*[st.sampled_from([1, -1, 2, -2])] * 3),
  gz=st.booleans(),
  seed=st.integers(0, 1000),
)
def test_write_read_round_trip(tmp_path, shape, dtype, order, steps, gz, seed):
  rng = np.random.default_rng(seed)
  base = rng.integers(0, 100, [2 * n for n in shape]).astype(dtype)
  # Any strides: transposed, reversed, with gaps.
  voxels = base.transpose(order)[tuple(slice(None, None, s) for s in steps)]
  affine = np.eye(4)
  affine[:3] = rng.normal(0, 1, (3, 4))
  affine[:3, :3] += 3 * np.eye(3)[rng.permutation(3)]
  path = tmp_path / ("a.nii.gz" if gz else "a.nii")
  nifti.write(path, voxels, volume_lib.Grid(voxels.shape, affine))
  again = nifti.read(path)
  np.testing.assert_array_equal(again.voxels, voxels)
  np.testing.assert_array_equal(again.affine, affine.astype(np.float32))
  assert again.warnings == ()
  other = nibabel.load(path)
  np.testing.assert_array_equal(np.asanyarray(other.dataobj), voxels)
  np.testing.assert_array_equal(other.affine, again.affine)
