# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""MetaImage against SimpleITK, and what must be refused."""

from __future__ import annotations

import mmap
import pathlib
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vf_jax import scratch
from vf_jax.errors import InputError, InputWarning
from vf_jax.io import metaimage
from vf_jax.volume import Volume

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
QUICK = settings(
  deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def hounsfield(shape=(5, 4, 3), dtype=np.int16):
  return np.random.default_rng(3).integers(-1000, 1500, shape).astype(dtype)


def rotation(seed):
  turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  return turn


def image(voxels, seed=0):
  """A SimpleITK image with a random geometry, mirrored ones included."""
  rng = np.random.default_rng(seed)
  made = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
  made.SetSpacing(rng.uniform(0.4, 5, 3).tolist())
  made.SetOrigin(rng.uniform(-300, 300, 3).tolist())
  made.SetDirection(rotation(seed).ravel().tolist())
  return made


def affine_of(made):
  affine = np.eye(4)
  affine[:3, :3] = np.array(made.GetDirection()).reshape(3, 3)
  affine[:3, :3] *= made.GetSpacing()
  affine[:3, 3] = made.GetOrigin()
  return FLIP @ affine


def header(**changes):
  """A sound header; a value of None drops its line."""
  lines = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "0.8 0.9 2.5",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
  }
  lines |= changes
  # It ends the header; what follows is data.
  lines["ElementDataFile"] = changes.get("ElementDataFile", "x.raw")
  return "".join(f"{k} = {v}\n" for k, v in lines.items() if v is not None)


def place(folder, data=None, **changes):
  voxels = hounsfield()
  (folder / "x.raw").write_bytes(
    voxels.tobytes(order="F") if data is None else data
  )
  path = folder / "x.mhd"
  path.write_text(header(**changes))
  return path


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
@pytest.mark.parametrize("compress", [False, True])
@QUICK
@given(seed=st.integers(0, 10_000))
def test_reads_what_simpleitk_writes(tmp_path, name, compress, seed):
  voxels = hounsfield()
  made = image(voxels, seed)
  sitk.WriteImage(made, str(tmp_path / name), compress)
  volume = metaimage.read(tmp_path / name)
  np.testing.assert_array_equal(volume.voxels, voxels)
  assert volume.voxels.dtype == np.int16
  # SimpleITK writes 17 digits; the product of two of them rounds.
  np.testing.assert_allclose(volume.affine, affine_of(made), atol=1e-9)
  assert volume.source.format == "metaimage"
  assert volume.source.form == "TransformMatrix"
  assert not volume.warnings


@pytest.mark.parametrize(
  "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
)
@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
def test_simpleitk_reads_what_is_written(tmp_path, dtype, name):
  voxels = (hounsfield() % 120).astype(dtype)
  affine = affine_of(image(voxels, 8))
  metaimage.write(tmp_path / name, Volume(voxels, affine))
  seen = sitk.ReadImage(str(tmp_path / name))
  np.testing.assert_array_equal(sitk.GetArrayFromImage(seen).T, voxels)
  np.testing.assert_allclose(affine_of(seen), affine, atol=1e-9)
  back = metaimage.read(tmp_path / name)
  np.testing.assert_array_equal(back.voxels, voxels)
  np.testing.assert_allclose(back.affine, affine, atol=1e-12)
  assert not back.warnings
  assert back.source.dtype == np.dtype(dtype).name


def test_writes_the_same_bytes_and_no_other_types(tmp_path):
  volume = Volume(hounsfield(), np.diag([1.0, 1.0, 2.0, 1.0]))
  for name in ("a.mha", "b.mha"):
    metaimage.write(tmp_path / name, volume)
  assert (tmp_path / "a.mha").read_bytes() == (tmp_path / "b.mha").read_bytes()
  mask = Volume(hounsfield() > 0, volume.affine)
  metaimage.write(tmp_path / "m.mhd", mask)
  assert metaimage.read_labels(tmp_path / "m.mhd").voxels.dtype == np.uint8
  with pytest.raises(InputError, match="no MetaImage name"):
    metaimage.write(tmp_path / "m.nii", mask)
  with pytest.raises(InputError, match="complex64"):
    metaimage.write(
      tmp_path / "c.mhd",
      Volume(hounsfield().astype(np.complex64), volume.affine),
    )
  assert not list(tmp_path.glob("c.*"))


@pytest.mark.parametrize(
  "key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"]
)
def test_big_endian(tmp_path, key):
  voxels = hounsfield()
  data = voxels.astype(">i2").tobytes(order="F")
  changes = {"BinaryDataByteOrderMSB": None, key: "True"}
  path = place(tmp_path, data, **changes)
  volume = metaimage.read(path)
  np.testing.assert_array_equal(volume.voxels, voxels)
  assert volume.source.byte_order == "big"
  assert volume.voxels.dtype.isnative


def test_header_size_and_windows_line_ends(tmp_path):
  voxels = hounsfield()
  data = b"\xff" * 37 + voxels.tobytes(order="F")
  for size in ("37", "-1"):
    path = place(tmp_path, data, HeaderSize=size)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(metaimage.read(path).voxels, voxels)


def test_lines_of_other_programs_are_passed_over(tmp_path):
  made = image(hounsfield())
  for key, value in {"0008|0060": "CT", "dim[0]": "3", "note": "a"}.items():
    made.SetMetaData(key, value)
  sitk.WriteImage(made, str(tmp_path / "a.mha"))
  assert b"dim[0] = 3" in (tmp_path / "a.mha").read_bytes()
  odd = place(tmp_path, NDims="3\nfree text of somebody")
  for path in (odd, tmp_path / "a.mha"):
    np.testing.assert_array_equal(metaimage.read(path).voxels, hounsfield())


def test_a_volume_of_four_dimensions_is_chosen(tmp_path):
  voxels = hounsfield((5, 4, 3, 2))
  changes = dict(
    NDims="4",
    DimSize="5 4 3 2",
    ElementSpacing="1 1 2 1",
    Offset="0 0 0 0",
    CenterOfRotation="0 0 0 0",
    TransformMatrix=" ".join(str(v) for v in np.eye(4, dtype=int).ravel()),
  )
  for data, flag in (
    (voxels.tobytes(order="F"), "False"),
    (zlib.compress(voxels.tobytes(order="F")), "True"),
  ):
    path = place(tmp_path, data, **changes, CompressedData=flag)
    with pytest.raises(InputError, match="2 volumes"):
      metaimage.read(path)
    with pytest.raises(InputError, match="no volume 2"):
      metaimage.read(path, index=2)
    for index in (0, 1):
      np.testing.assert_array_equal(
        metaimage.read(path, index=index).voxels, voxels[..., index]
      )
  mixed = np.eye(4, dtype=int)
  mixed[0, 3] = 1
  changes["TransformMatrix"] = " ".join(str(v) for v in mixed.ravel())
  with pytest.raises(InputError, match="mixes space"):
    metaimage.read(place(tmp_path, **changes), index=0)


def resident():
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * mmap.PAGESIZE


@pytest.mark.parametrize("dtype", ["<i2", ">i2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_large_volumes_lie_on_the_disk(
  tmp_path, monkeypatch, dtype, compressed
):
  monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
  monkeypatch.setattr(scratch, "ON_DISK", 1 << 20)
  shape = (512, 512, 128)
  layer = hounsfield(shape[:2])
  data = layer.astype(dtype).tobytes(order="F") * shape[2]
  path = place(
    tmp_path,
    zlib.compress(data, 1) if compressed else data,
    DimSize=" ".join(map(str, shape)),
    BinaryDataByteOrderMSB=str(dtype[0] == ">"),
    CompressedData=str(compressed),
  )
  size = len(data)
  del data
  before, seen = resident(), []
  real = scratch.release

  def watched(*arrays):
    seen.append(resident())
    real(*arrays)

  monkeypatch.setattr(metaimage, "release", watched, raising=False)
  monkeypatch.setattr(scratch, "release", watched)
  volume = metaimage.read(path)
  seen.append(resident())
  assert max(seen) - before < size / 4
  np.testing.assert_array_equal(volume.voxels[..., 0], layer)
  np.testing.assert_array_equal(volume.voxels[..., -1], layer)


def test_labels(tmp_path):
  mask = np.zeros((5, 4, 3), np.float32)
  mask[1, 1, 1] = 25
  path = place(tmp_path, mask.tobytes(order="F"), ElementType="MET_FLOAT")
  found = metaimage.read_labels(path)
  assert found.voxels.dtype == np.uint8
  np.testing.assert_array_equal(found.voxels, mask)
  for bad, said in ((0.5, "whole"), (np.nan, "NaN"), (-3, "negative")):
    mask[1, 1, 1] = bad
    place(tmp_path, mask.tobytes(order="F"), ElementType="MET_FLOAT")
    with pytest.raises(InputError, match=said):
      metaimage.read_labels(path)


@pytest.mark.parametrize(
  ("changes", "affine", "said"),
  [
    (dict(AnatomicalOrientation="LPS"), None, "disagrees"),
    (dict(CenterOfRotation="1 0 0"), None, "CenterOfRotation"),
    (dict(TransformMatrix="2 0 0 0 1 0 0 0 1"), (-1.6, -0.9, 2.5), "unit"),
    (dict(ElementSpacing="0.8 -0.9 2.5"), (-0.8, 0.9, 2.5), "negative"),
    (
      dict(TransformMatrix=None, AnatomicalOrientation=None),
      (-0.8, -0.9, 2.5),
      "default",
    ),
  ],
)
def test_what_is_mended_is_told(tmp_path, changes, affine, said):
  if "ElementSpacing" in changes:
    changes = changes | {"AnatomicalOrientation": None}
  with pytest.warns(InputWarning, match=said):
    volume = metaimage.read(place(tmp_path, **changes))
  assert any(said in warning for warning in volume.warnings)
  assert not volume.source.intact
  expected = np.diag([*(affine or (-0.8, -0.9, 2.5)), 1.0])
  expected[:3, 3] = -10, -20, 30
  np.testing.assert_allclose(volume.affine, expected, atol=1e-12)


def test_assumed_orientation_serves_files_without_matrix_only(tmp_path):
  path = place(tmp_path, TransformMatrix=None, AnatomicalOrientation="LPI")
  with pytest.raises(InputError, match="no TransformMatrix"):
    metaimage.read(path)
  with pytest.warns(InputWarning, match="PIR assumed"):
    volume = metaimage.read(path, assume_orientation="PIR")
  assert volume.axis_codes == ("P", "I", "R")
  assert volume.source.form == "assumed"
  with pytest.raises(InputError, match="three different"):
    metaimage.read(path, assume_orientation="LLS")
  plain = metaimage.read(place(tmp_path), assume_orientation="PIR")
  assert plain.axis_codes == ("L", "P", "S")


def test_the_data_file_is_named_whatever_else_the_header_lacks(tmp_path):
  for changes in (
    dict(TransformMatrix=None, AnatomicalOrientation="LPI"),
    dict(ElementType="MET_OTHER"),
  ):
    path = place(tmp_path, **changes)
    with pytest.raises(InputError):
      metaimage.read(path)
    assert metaimage.data_file(path) == tmp_path / "x.raw"
  assert metaimage.data_file(place(tmp_path, ElementDataFile="LOCAL")) is None
  with pytest.raises(InputError, match="leads out"):
    metaimage.data_file(place(tmp_path, ElementDataFile="../x.raw"))


def test_sheared_geometry_is_kept(tmp_path):
  path = place(
    tmp_path,
    TransformMatrix="1 0 0 0 1 0 0 0.3420201 0.9396926",
    AnatomicalOrientation=None,
  )
  steps = metaimage.read(path).affine[:3, :3]
  np.testing.assert_allclose(
    steps[:, 2], (0, -2.5 * 0.3420201, 2.5 * 0.9396926)
  )


REFUSED = [
  (dict(ElementDataFile="y.raw"), "not there"),
  (dict(ElementDataFile="../x.raw"), "leads out"),
  (dict(ElementDataFile="/etc/passwd"), "leads out"),
  (dict(ElementDataFile="sub/../../x.raw"), "leads out"),
  (dict(ElementDataFile="..\\x.raw"), "leads out"),
  (dict(ElementDataFile="C:\\x.raw"), "leads out"),
  (dict(ElementDataFile="LIST\na.raw\nb.raw"), "several files"),
  (dict(ElementDataFile="x%03d.raw 1 3 1"), "several files"),
  (dict(ElementDataFile="LOCAL"), "hold 0"),
  (dict(DimSize="5 4 4"), "its data hold 120"),
  (dict(DimSize="5 4 2"), "its data hold 120"),
  (dict(DimSize="30000 30000 30000"), "its data hold 120"),
  (dict(DimSize="30000 30000 30000", CompressedData="True"), "hold 120"),
  (dict(CompressedData="True"), "damaged"),
  (dict(CompressedData="True", HeaderSize="-1"), "HeaderSize"),
  (dict(CompressedData="yes"), "True or False"),
  (dict(CompressedData="True", CompressedDataSize="500"), "hold 120"),
  (dict(HeaderSize="-2"), "HeaderSize"),
  (dict(HeaderSize="1.5"), "fractions"),
  (dict(DimSize="5 0 3"), "empty axis"),
  (dict(DimSize="5 4"), "3 finite numbers"),
  (dict(DimSize="5 4 x"), "3 finite numbers"),
  (dict(DimSize="60 1 1"), "axis of 1 voxel"),
  (dict(NDims="2", DimSize="5 12"), "2D image"),
  (dict(NDims="5", DimSize="5 3 2 2 1"), "5 finite|singular|dimensions"),
  (dict(NDims="99"), "99 dimensions"),
  (dict(ElementNumberOfChannels="3"), "3 channels"),
  (dict(ElementType="MET_SHORT_ARRAY"), "several numbers"),
  (dict(ElementType="MET_OTHER"), "unknown ElementType MET_OTHER"),
  (dict(ElementType=None), "lacks ElementType"),
  (dict(ElementByteOrderMSB="True"), "two byte orders"),
  (dict(BinaryData="False"), "as text"),
  (dict(TransformMatrix="1 0 0 0 1 0 0 1 0"), "singular"),
  (dict(TransformMatrix="1 0 0 0 1 0 0 nan 1"), "9 finite"),
  (dict(TransformMatrix="0 0 0 0 0 0 0 0 0"), "singular"),
  (dict(ElementSpacing="0 1 1"), "singular"),
  (dict(ElementSpacing="0.001 0.001 0.001"), "plausible"),
  (dict(ElementSpacing=None), "lacks ElementS"),
  (dict(Offset="1 2"), "3 finite"),
  (dict(DistanceUnits="um"), "um"),
  (dict(ElementToIntensityFunctionSlope="2"), "ITK ignores"),
  (dict(ElementToIntensityFunctionOffset="-1024"), "ITK ignores"),
  (dict(ObjectType="Tube"), "Tube"),
  (dict(NDims="3\nNDims = 2"), "twice"),
  (dict(ElementDataFile=None), "no line ElementDataFile"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_refused(tmp_path, changes, said):
  with pytest.raises(InputError, match=said):
    metaimage.read(place(tmp_path, **changes))


def test_limits_and_damage(tmp_path):
  voxels = hounsfield((40, 40, 40))
  data = zlib.compress(voxels.tobytes(order="F"))
  changes = dict(DimSize="40 40 40", CompressedData="True")
  path = place(tmp_path, data, **changes)
  np.testing.assert_array_equal(metaimage.read(path).voxels, voxels)
  with pytest.raises(InputError, match=r"the limit is 1,000\..*crop"):
    metaimage.read(path, max_bytes=1000)
  place(tmp_path, data[:-30], **changes)
  with pytest.raises(InputError, match="cut short"):
    metaimage.read(path)
  place(tmp_path, data[:-1] + bytes([data[-1] ^ 1]), **changes)
  with pytest.raises(InputError, match="damaged"):
    metaimage.read(path)
  # The stream ends sound, with fewer or more voxels than declared.
  for size in ("40 40 41", "40 40 39"):
    place(tmp_path, data, **(changes | {"DimSize": size}))
    with pytest.raises(InputError, match="declared"):
      metaimage.read(path)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"\x89PNG....", "a PNG picture"),
    (b"<html>login", "HTML"),
    (b"version https://git-lfs.github.com/spec/v1", "git-LFS"),
    (b"\x00" * 200, "no MetaImage header"),
    (b"", "empty"),
  ],
)
def test_other_files_are_named(tmp_path, content, said):
  (tmp_path / "x.mhd").write_bytes(content)
  with pytest.raises(InputError, match=said):
    metaimage.read(tmp_path / "x.mhd")
